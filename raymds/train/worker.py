"""The loop on one Ray Train worker: steps, evaluations, checkpoints, and for a cycle choice and certificate data."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.report_config import CheckpointUploadMode
from torch import Tensor

from raymds import model
from raymds.config import Config
from raymds.data import loader
from raymds.data.sampler import Batch, Sampler
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.errors import StoppedError
from raymds.method import dist
from raymds.method.certificate import certify
from raymds.method.verdict import refusal
from raymds.model.files import tensors_digest
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import Tasks, resolve
from raymds.train import checkpoint, cycle, flips, pretrain, select
from raymds.train import old as old_model
from raymds.train.emit import Emit
from raymds.train.evaluate import Evaluation, evaluate, evidence, paired
from raymds.train.net import open_net
from raymds.train.step import Training

_NOTICE = 10  # steps between looks for a machine that is about to be taken away
_RESUME_ONLY = -1e9  # score of a checkpoint that is no candidate: Ray keeps it while it is the last


def run_pretraining(payload: dict[str, Any]) -> dict[str, Any]:
    """Ray Train entry of `raymds pretrain`; `payload` holds `config` and `monitor`."""
    with _started(payload) as (config, emit, device):
        train = DataSet.open(config.data.uri, config.data).load("train")
        net = open_net(config, []).to(device)
        parent = storage.sha256(storage.read(config.model.weights)) if config.model.weights else None
        sampler = pretrain.build_sampler(train, config)
        training = pretrain.Pretraining(net, sampler, config)
        start = _resume(config, training, emit)
        _loop(config, training, train, sampler, start, emit, lambda step: {"step": step})
        weights = _publish(config, net, net.weights(), "weights.safetensors", net.describe({}, parent))
        return {"weights": weights, "skipped_images": _skipped({"train": train})}


def run_cycle(payload: dict[str, Any]) -> dict[str, Any]:
    """Ray Train entry of `raymds finetune`; rank 0 returns what outcome.json and certificate.json are made of.

    `payload["shared"]` is the directory of the old model's results where the cycle is a trial of a search. Its
    candidate is chosen on val alone: the test split is for the search's winner.
    """
    with _started(payload) as (config, emit, device):
        shared: str | None = payload["shared"]
        data = DataSet.open(config.data.uri, config.data)
        tasks = resolve(config.task, data.attributes)
        train, val = data.load("train"), data.load("val")
        net = _old_net(config, tasks, device)
        w_old = net.weights()
        sampler = cycle.build_sampler(train, tasks, config)
        train.pin(np.unique(np.concatenate([sampler.positive, *sampler.retained])))
        training = cycle.ConstrainedCycle(net, train, tasks, sampler, config)

        def measure(split: Split, weights: dict[str, Tensor] | None = None) -> Evaluation:
            if weights is not None:
                net.load_weights(weights, "candidate")
            return evaluate(net, split, tasks, config.constraints.temperature)

        name = old_model.key(config, data.digest, device) if shared else ""
        known = old_model.recall(shared, name, device) if shared else None
        if known is None:
            emit({"event": "phase", "phase": "measuring the old model"})
        old = known[0] if known else measure(val)
        start = _resume(config, training, emit)
        if start == 0:
            if known:
                training.old_losses = known[1]
            else:
                training.measure_old()
            emit({"event": "eval", "step": 0, **select.compare(old, old, tasks, config.select.tolerance)})
            if shared and known is None and dist.rank() == 0:
                old_model.keep(shared, name, old, training.old_losses)

        def candidate(step: int) -> dict[str, Any]:
            new = evaluate(training.candidate, val, tasks, config.constraints.temperature)
            record = select.compare(old, new, tasks, config.select.tolerance)
            emit({"event": "eval", "step": step, **record})
            return {"step": step, "record": record, "score": select.score(record)}

        _loop(config, training, train, sampler, start, emit, candidate)
        emit({"event": "phase", "phase": "choosing among candidates"})
        tolerance = config.select.tolerance
        choice = _choose(config, w_old, lambda weights: select.compare(old, measure(val, weights), tasks, tolerance))
        if choice is None:
            candidates = [report.metrics for report in _candidates()]
            return {"choice": None, "candidates": candidates, "skipped_images": _skipped({"train": train, "val": val})}
        weights = select.interpolate(w_old, _weights(config, choice.candidate), choice.alpha)
        chosen = {"step": choice.candidate.metrics["step"], "alpha": choice.alpha, "record": choice.record}
        if shared:
            published = _publish(config, net, weights, "weights.safetensors", _developed(config, net, tasks))
            return {"choice": chosen, "weights": published, "skipped_images": _skipped({"train": train, "val": val})}
        certified = _certified(config, data, tasks, net, w_old, weights, emit)
        certified["skipped_images"] |= _skipped({"train": train, "val": val})
        return {"choice": chosen, **certified}


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
        return _certified(config, data, tasks, net, net.weights(), weights, emit)


def _old_net(config: Config, tasks: Tasks, device: torch.device) -> model.ClipWithHeads:
    return open_net(config, tasks.heads).to(device)


def _certified(
    config: Config,
    data: DataSet,
    tasks: Tasks,
    net: model.ClipWithHeads,
    w_old: dict[str, Tensor],
    weights: dict[str, Tensor],
    emit: Emit,
) -> dict[str, Any]:
    """The one measurement of the test split: certificate, why the old model stays (None: it does not), a few pictures.

    Publishes the weights, under another name where the old model stays.
    """
    emit({"event": "phase", "phase": "certifying on the test split"})
    test = data.load("test")

    temperature = config.constraints.temperature

    def measure(name: str, state: dict[str, Tensor]) -> tuple[Evaluation, str]:
        net.load_weights(state, name)
        return evaluate(net, test, tasks, temperature), tensors_digest(net.weights())

    (before, old), (after, new) = measure("old", w_old), measure("candidate", weights)
    certificate = certify(
        paired(before, after, tasks.target),
        [paired(before, after, task) for task in tasks.protected],
        tolerance=config.select.tolerance,
        confidence=config.select.confidence,
        digests={},  # the driver's, who knows the run directory
    ) | evidence(tasks, temperature, old, new)
    refused = refusal(certificate, config.select.require, config.select.require_target)
    name = "rejected.safetensors" if refused else "weights.safetensors"
    return {
        "certificate": certificate,
        "refused": refused,
        "weights": _publish(config, net, weights, name, _developed(config, net, tasks)),
        "flips": flips.pictures(test, before, after, tasks),
        "skipped_images": _skipped({"test": test}),
    }


@contextmanager
def _started(payload: dict[str, Any]) -> Iterator[tuple[Config, Emit, torch.device]]:
    config: Config = payload["config"]
    objects.configure(config.storage)
    with Emit(config, payload["monitor"]) as emit:
        objects.configure(config.storage, emit.aside)
        yield config, emit, torch.device(ray.train.torch.get_device())


def _resume(config: Config, training: Training, emit: Emit) -> int:
    """Steps already taken, from the last committed checkpoint, whose state is taken over."""
    found, step = ray.train.get_checkpoint(), 0
    if found is not None:
        uri = _uri(config, found)
        step, weights, state = checkpoint.load(uri)
        training.model.load_weights(weights, uri)
        training.load_state_dict(state)
    workers = dist.world_size()
    emit({"event": "start", "step": step, "steps": config.optim.steps, "workers": workers, "time": time.time()})
    return step


def _loop(
    config: Config,
    training: Training,
    train: Split,
    sampler: Sampler,
    start: int,
    emit: Emit,
    measure: Callable[[int], dict[str, Any]],
) -> None:
    """Steps `start` … `optim.steps`, with `measure(step)` and a checkpoint every `select.every` of them.

    StoppedError after a checkpoint where a stop was asked for. A notice that a machine will be taken away leads to a
    checkpoint too.
    """
    rank, ranks, steps = dist.rank(), dist.world_size(), config.optim.steps
    threads = max(1, torch.get_num_threads() - 1)
    source = loader.Loader(
        train, lambda step: sampler.batch(step).share(rank, ranks), training.model.preprocess, config.run.seed,
        threads=threads,
    )  # fmt: skip
    noticed = False
    for step in range(start, steps):
        begin = time.perf_counter()
        told = emit.beat(step + 1)
        loaded = source.get(step)
        waited = time.perf_counter() - begin
        metrics = training.step(loaded)
        metrics["seconds"] = {"data": waited, **metrics["seconds"]}
        stop = _over_ranks(metrics, told, time.perf_counter() - begin, sampler.batch(step), training.model.mean.device)
        emit({"event": "step", "step": step + 1, **metrics})
        notice = None if noticed or step % _NOTICE else ray.train.get_preemption_info()
        if (step + 1) % config.select.every == 0 or step + 1 == steps:
            _report(config, training, emit, measure(step + 1))
        elif stop or notice:
            _report(config, training, emit, {"step": step + 1, "score": _RESUME_ONLY})
        noticed = noticed or notice is not None
        if stop and step + 1 < steps:
            source.close()
            ray.train.get_all_reported_checkpoints()  # returns when the last one is written
            raise StoppedError(f"stopped after step {step + 1}, in a checkpoint; the same command goes on from there")
    source.close()


def _over_ranks(metrics: dict[str, Any], told: bool, seconds: float, batch: Batch, device: torch.device) -> bool:
    """Make `metrics` those of all ranks, the longest wait for data and else means; whether any was told to stop."""
    parts: dict[str, float] = metrics["seconds"]
    own = torch.tensor([[float(told), seconds, *parts.values()]], dtype=torch.float64, device=device)
    all_RV = dist.all_gather(own, [1] * dist.world_size()).cpu()
    mean = all_RV.mean(dim=0).tolist()
    metrics["seconds"] = dict(zip(parts, mean[2:], strict=True)) | {"data": float(all_RV[:, 2].max())}
    metrics["images_per_second"] = (len(batch.positive) + len(batch.negative) + len(batch.example)) / mean[1]
    return float(mean[0]) > 0


def _report(config: Config, training: Training, emit: Emit, metrics: dict[str, Any]) -> None:
    """Take a checkpoint, which a thread writes where Ray keeps them, and tell Ray once it is written."""
    begin, step, written = time.perf_counter(), metrics["step"], None
    emit.flush()
    if dist.rank() == 0:
        uri = checkpoint_uri(config, f"step-{step:07d}")
        files = checkpoint.pack(step, training.model, training.state_dict())
        filesystem, path = storage.resolve(uri)
        written = ray.train.Checkpoint(path, filesystem)

    def write(placed: Any, _: str) -> Any:
        checkpoint.write(uri, files)  # a store that is gone is waited for
        return placed

    ray.train.report(
        metrics,
        written,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=write,
        delete_local_checkpoint_after_upload=False,
    )
    emit({"event": "checkpoint", "step": step, "seconds": time.perf_counter() - begin})


def _candidates() -> list[Any]:
    """The checkpoints kept that were measured on val, with their metrics."""
    return [report for report in ray.train.get_all_reported_checkpoints() if "record" in report.metrics]


def checkpoint_uri(config: Config, name: str) -> str:
    """Where a checkpoint lies in the run directory."""
    return storage.join(config.run.uri, "checkpoints", "train", name)


def _uri(config: Config, found: Any) -> str:
    return checkpoint_uri(config, PurePosixPath(found.path).name)


def _skipped(splits: dict[str, Split]) -> dict[str, int]:
    """Images of each split that could not be decoded, as far as any rank saw them."""
    counts = {}
    for name, split in splits.items():
        seen = torch.zeros(len(split), dtype=torch.int32)
        seen[list(split.corrupt)] = 1
        device = torch.device(ray.train.torch.get_device())
        counts[name] = int((dist.all_reduce_sum(seen.to(device)) > 0).sum())
    return counts


def _choose(
    config: Config, w_old: dict[str, Tensor], measure: Callable[[dict[str, Tensor]], select.Record]
) -> select.Choice[Any] | None:
    """The choice among the checkpoints that were kept, interpolating where the config allows it."""

    def evaluate_at(candidate: Any, alpha: float) -> select.Record:
        return measure(select.interpolate(w_old, _weights(config, candidate), alpha))

    candidates = [(report, report.metrics["record"]) for report in _candidates()]
    return select.choose(candidates, evaluate_at if config.select.interpolate else None)


def _weights(config: Config, candidate: Any) -> dict[str, Tensor]:
    _, weights, state = checkpoint.load(_uri(config, candidate.checkpoint))
    return cycle.candidate_weights(weights, state)


def _developed(config: Config, net: model.ClipWithHeads, tasks: Tasks) -> model.Identity:
    """What a model that this cycle developed says of itself."""
    prompts = {a: {label: [text] for label, text in texts.items()} for a, texts in tasks.label_sets.items()}
    return net.describe(prompts, storage.sha256(storage.read(str(config.model.weights))))


def _publish(
    config: Config, net: model.ClipWithHeads, weights: dict[str, Tensor], name: str, identity: model.Identity
) -> dict[str, str]:
    """Write weights into the run directory; their URI and digest."""
    data = model.pack_weights(net, weights, identity)
    uri = storage.join(config.run.uri, name)
    if dist.rank() == 0:
        storage.write(uri, data)
    return {"uri": uri, "sha256": storage.sha256(data)}
