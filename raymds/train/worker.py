"""What one Ray Train worker does: a pretraining, a cycle with its choice and certificate data, a certification."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import Tensor

from raymds import model
from raymds.config import Config
from raymds.data import exchange
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.model import precision
from raymds.run import RunDirectory
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import Tasks, resolve
from raymds.train import checkpoint, cycle, ending, pretrain, select
from raymds.train.diagnose import Cast, diagnose
from raymds.train.emit import Emit
from raymds.train.evaluate import Evaluation, evaluate
from raymds.train.limits import build_sampler
from raymds.train.loop import RESUME_ONLY, Loop, out_of_memory
from raymds.train.net import open_net
from raymds.train.old import OldModel


def run_pretraining(payload: dict[str, Any]) -> dict[str, Any]:
    """Ray Train entry of `raymds pretrain`; `payload` holds `config` and `monitor`."""
    with _started(payload) as (config, emit, device):
        train = DataSet.open(config.data.uri, config.data).load("train")
        net = open_net(config, []).to(device)
        parent = storage.sha256(storage.read(config.model.weights)) if config.model.weights else None
        sampler = pretrain.build_sampler(train, config)
        training = pretrain.Pretraining(net, sampler, config)
        loop = Loop(config, training, emit)
        loop.resume()
        loop.run(train, sampler, lambda step: {"step": step})
        weights = ending.publish(config, net, net.weights(), "weights.safetensors", net.describe({}, parent))
        return {"weights": weights, "skipped_images": ending.skipped({"train": train})}


def run_cycle(payload: dict[str, Any]) -> dict[str, Any]:
    """Ray Train entry of `raymds finetune`; rank 0 returns what outcome.json and certificate.json are made of.

    `payload["old"]` is the folder of the old model's results. The candidate of a `payload["trial"]` is chosen on val
    alone: the test split is for the search's winner. With `payload["nearest"]` the candidate nearest to a choice is
    measured on test where there is none, for a study of what a method does. With `payload["beside"]` all candidates
    but the last are measured beside the training (`aside`), from their checkpoints.
    """
    with _started(payload) as (config, emit, device):
        trial: bool = payload["trial"]
        data = DataSet.open(config.data.uri, config.data)
        tasks = resolve(config.task, data.attributes)
        train, val = (data.load(split, tasks.vocabularies) for split in ("train", "val"))
        net = _old_net(config, tasks, device)
        w_old = net.weights()
        sampler = build_sampler(train, tasks, config)
        exchange.pin(train, sampler.recurring, device)
        training = cycle.ConstrainedCycle(net, train, tasks, sampler, config)
        last: Evaluation | None = None  # of the last candidate

        def measure(which: model.ClipWithHeads, stop: Callable[[], bool] = emit.told) -> Evaluation:
            return evaluate(which, val, tasks, config.constraints.temperature, diverging=True, stop=stop)

        def compare(before: Evaluation, after: Evaluation) -> select.Record:
            return select.compare(before, after, tasks, config.select.tolerance, config.constraints.loss)

        known = OldModel(payload["old"], config, data, tasks, net, emit.phase)
        old = known.val(lambda: measure(net))
        loop = Loop(config, training, emit)
        start, measured = loop.resume([task.name for task in tasks.constrained])
        if start == 0:
            training.old_losses = known.retained(lambda: training.measure_old(emit.told))
            training.begin()
            emit({"event": "eval", "step": 0, **compare(old, old)})

        def candidate(step: int) -> dict[str, Any]:
            nonlocal last
            if payload["beside"] and step < config.optim.steps:
                emit.board_beside()
                return {"step": step, "record": None, "score": RESUME_ONLY}
            begin = time.perf_counter()
            last = measure(training.candidate, loop.interrupted)
            record = compare(old, last)
            emit(ending.evaluation(step, record, time.perf_counter() - begin))
            return {"step": step, "record": record, "score": select.score(record)}

        if not measured:
            loop.report(candidate(start))
        loop.run(train, sampler, candidate)
        emit.phase("diagnosing the last candidate")
        diagnosis = None
        if not trial:
            net.load_weights(training.candidate.weights(), "candidate")
            new = last or measure(net)
            cast = Cast(config, tasks, net, sampler, train, val, emit.told)
            diagnosis = diagnose(cast, w_old, training.old_losses, training.named(training.multiplier), old, new)
        emit.phase("choosing among candidates")

        def between(weights: dict[str, Tensor]) -> select.Record:
            net.load_weights(weights, "candidate")
            return compare(old, measure(net))

        candidates = ending.candidates(config, w_old, between, emit)
        if payload["beside"]:
            emit.board_beside()
        choice = ending.choose(config, candidates, w_old, between)
        skipped = ending.skipped({"train": train, "val": val})
        kind = {"trial": trial, "nearest": payload["nearest"]}
        result = ending.delivered(config, data, tasks, net, w_old, candidates, choice, emit, **kind)
        return result | {"diagnosis": diagnosis, "skipped_images": result.get("skipped_images", {}) | skipped}


def run_certification(payload: dict[str, Any]) -> dict[str, Any]:
    """Ray Train entry for the winner of a search: `payload["winner"]` (weights, or a checkpoint) on the test split."""
    with _started(payload) as (config, emit, device):
        data = DataSet.open(config.data.uri, config.data)
        tasks = resolve(config.task, data.attributes)
        net = _old_net(config, tasks, device)
        winner: str = payload["winner"]
        if winner.endswith(".safetensors"):
            weights = model.read_weights(winner).tensors
        else:
            _, weights, state = checkpoint.load(winner)
            weights = cycle.candidate_weights(weights, state)
        return ending.certified(config, data, tasks, net, net.weights(), weights, emit)


def _old_net(config: Config, tasks: Tasks, device: torch.device) -> model.ClipWithHeads:
    return open_net(config, tasks.heads).to(device)


@contextmanager
def _started(payload: dict[str, Any]) -> Iterator[tuple[Config, Emit, torch.device]]:
    config: Config = payload["config"]
    objects.configure(config.storage)
    _require_shared(config, payload)
    device = torch.device(ray.train.torch.get_device())
    precision.require({"run.precision": config.run.precision, "select.precision": config.select.precision}, device)
    with Emit(config, payload["monitor"]) as emit:
        objects.configure(config.storage, emit.aside)
        try:
            yield config, emit, device
        except RuntimeError as error:  # a step's is explained where it is taken
            if not out_of_memory(error):
                raise
            first = str(error).strip().splitlines()[0]
            raise UsageError(
                "a worker has no memory for the model and the images that it measures at a time; give it a GPU or a "
                f"machine with more, or fewer of run.workers on each: {first}"
            ) from None


def _require_shared(config: Config, payload: dict[str, Any]) -> None:
    """UsageError where this machine doesn't see the run directory that the driver claimed."""
    claimed: str | None = payload.get("claimed")  # digest of its config.yaml
    if claimed is not None and storage.sha256(RunDirectory(config.run.uri).read("config.yaml") or b"") != claimed:
        raise UsageError(
            f"run.uri={config.run.uri}: is a path of the machine that the command runs on; {socket.gethostname()}, "
            "where a worker runs, does not have it; give a URI of a bucket, or a path that all machines mount"
        )
