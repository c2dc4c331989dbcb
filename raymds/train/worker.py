"""The loop on one Ray Train worker: steps, evaluations, checkpoints, and for a cycle choice and certificate data."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.report_config import CheckpointUploadMode
from ray.train.v2.api.validation_config import ValidationTaskConfig
from torch import Tensor

from raymds import model
from raymds.config import Config
from raymds.data import exchange, loader
from raymds.data.sampler import Sampler
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.errors import StoppedError, UsageError
from raymds.method import dist
from raymds.method.solvers import BASELINES
from raymds.run import RunDirectory
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import Tasks, resolve
from raymds.train import checkpoint, cycle, ending, pretrain, select
from raymds.train.diagnose import Cast, diagnose
from raymds.train.emit import Emit
from raymds.train.evaluate import Evaluation, evaluate
from raymds.train.limits import build_sampler
from raymds.train.net import open_net
from raymds.train.old import OldModel
from raymds.train.step import Taken, Training

_NOTICE = 5.0  # seconds between looks for a machine that is about to be taken away
_UNMEASURED = "-unmeasured"  # ends the name of a checkpoint whose candidate was not measured yet, for want of time
_RESUME_ONLY = -1e9  # score of a checkpoint that is no candidate: Ray keeps it while it is the last


def run_pretraining(payload: dict[str, Any]) -> dict[str, Any]:
    """Ray Train entry of `raymds pretrain`; `payload` holds `config` and `monitor`."""
    with _started(payload) as (config, emit, device):
        train = DataSet.open(config.data.uri, config.data).load("train")
        net = open_net(config, []).to(device)
        parent = storage.sha256(storage.read(config.model.weights)) if config.model.weights else None
        sampler = pretrain.build_sampler(train, config)
        training = pretrain.Pretraining(net, sampler, config)
        start, _ = _resume(config, training, emit)
        _loop(config, training, train, sampler, start, emit, lambda step: {"step": step})
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

        def measure(which: model.ClipWithHeads) -> Evaluation:
            return evaluate(which, val, tasks, config.constraints.temperature, diverging=True, stop=emit.told)

        def compare(before: Evaluation, after: Evaluation) -> select.Record:
            return select.compare(before, after, tasks, config.select.tolerance, config.constraints.loss)

        known = OldModel(payload["old"], config, data, tasks, net, emit.phase)
        old = known.val(lambda: measure(net))
        start, measured = _resume(config, training, emit, [task.name for task in tasks.constrained])
        if start == 0:
            training.old_losses = known.retained(lambda: training.measure_old(emit.told))
            training.begin()
            emit({"event": "eval", "step": 0, **compare(old, old)})

        def candidate(step: int) -> dict[str, Any]:
            nonlocal last
            if payload["beside"] and step < config.optim.steps:
                emit.board_beside()
                return {"step": step, "record": None, "score": _RESUME_ONLY}
            begin = time.perf_counter()
            last = measure(training.candidate)
            record = compare(old, last)
            emit(ending.evaluation(step, record, time.perf_counter() - begin))
            return {"step": step, "record": record, "score": select.score(record)}

        if not measured:
            _report(config, training, emit, candidate(start))
        _loop(config, training, train, sampler, start, emit, candidate)
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
    with Emit(config, payload["monitor"]) as emit:
        objects.configure(config.storage, emit.aside)
        yield config, emit, torch.device(ray.train.torch.get_device())


def _require_shared(config: Config, payload: dict[str, Any]) -> None:
    """UsageError where this machine doesn't see the run directory that the driver claimed."""
    claimed: str | None = payload.get("claimed")  # digest of its config.yaml
    if claimed is not None and storage.sha256(RunDirectory(config.run.uri).read("config.yaml") or b"") != claimed:
        raise UsageError(
            f"run.uri={config.run.uri}: is a path of the machine that the command runs on; {socket.gethostname()}, "
            "where a worker runs, does not have it; give a URI of a bucket, or a path that all machines mount"
        )


def _resume(config: Config, training: Training, emit: Emit, tasks: Sequence[str] = ()) -> tuple[int, bool]:
    """Steps already taken, from the last committed checkpoint, whose state is taken over; whether it was measured.

    `tasks` are the constrained ones that the steps' records have values of.
    """
    found, step, uri = ray.train.get_checkpoint(), 0, ""
    if found is not None:
        uri = ending.uri_of(config, found)
        step, weights, state = checkpoint.load(uri)
        training.model.load_weights(weights, uri)
        training.load_state_dict(state)
    workers = dist.world_size()
    begin = {"step": step, "steps": config.optim.steps, "workers": workers, "time": time.time()}
    emit({"event": "start", **begin, **({"tasks": tasks} if tasks else {})})
    return step, not uri.endswith(_UNMEASURED)


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
        augment=config.data.augment, threads=threads, read=lambda caption: training.model.whole([caption]),
    )  # fmt: skip
    noticed, looked, before = False, time.monotonic(), None
    for step in range(start, steps):
        begin = time.perf_counter()
        told = emit.beat(step + 1)
        loaded = source.get(step)
        waited = time.perf_counter() - begin
        with _memory(config, len(loaded.pairs) + len(loaded.examples)):
            taken = training.step(loaded)
        spent = _Spent(step + 1, taken, waited, time.perf_counter() - begin, sampler.batch(step).images)
        wishes = told, time.monotonic() - looked >= _NOTICE
        # While a GPU computes this step the one before is recorded, so that nobody waits for it.
        stop, look = _over_ranks(wishes, before, emit)
        before = spent
        notice = None
        if look and not noticed:  # all ranks ask at once, or none
            notice, looked = ray.train.get_preemption_info(), time.monotonic()
        measuring = (step + 1) % config.select.every == 0 or step + 1 == steps
        if measuring or stop or notice:
            _over_ranks((False, False), before, emit)
            before = None
        if measuring:
            _candidate(config, training, emit, step + 1, measure)
        elif stop or notice:
            _report(config, training, emit, {"step": step + 1, "score": _RESUME_ONLY})
        noticed = noticed or notice is not None
        if stop and step + 1 < steps:
            source.close()
            ending.written()
            raise StoppedError(f"stopped after step {step + 1}, in a checkpoint; the same command goes on from there")
    source.close()


def _candidate(
    config: Config, training: Training, emit: Emit, step: int, measure: Callable[[int], dict[str, Any]]
) -> None:
    """Measure a candidate and take its checkpoint; where a stop comes meanwhile, one that is to be measured yet."""
    try:
        measured = measure(step)
    except StoppedError:
        _report(config, training, emit, {"step": step, "score": _RESUME_ONLY}, _UNMEASURED)
        ending.written()
        raise
    _report(config, training, emit, measured)


@contextmanager
def _memory(config: Config, images: int) -> Iterator[None]:
    """Too little memory for a step of so many images as a UsageError: it would come again after a restart."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        now = min(config.run.micro_batch or images, images)
        smaller = f"set run.micro_batch={max(1, now // 4)}, which gives the same gradients"
        if now == 1 or config.constraints.solver in BASELINES:
            smaller = "lower objective.batch or constraints.images_per_task, or raise run.workers"
        raise UsageError(
            f"run.micro_batch={config.run.micro_batch}: a worker has no memory for {now} images at a time; {smaller}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from None


@dataclass(frozen=True)
class _Spent:
    """A step of this rank that is to be recorded."""

    step: int
    taken: Taken
    waited: float  # seconds, for images
    seconds: float  # in all
    images: int  # of all ranks


def _over_ranks(wishes: tuple[bool, bool], spent: _Spent | None, emit: Emit) -> tuple[bool, bool]:
    """Record a step with times of all ranks, the longest wait for data and else means; which wishes any of them has."""
    metrics = spent.taken.metrics() if spent else {"seconds": {}}
    times = {"all": spent.seconds, "data": spent.waited, **metrics["seconds"]} if spent else {}
    # Of the CPU, so that it goes past the GPU's queue.
    own = torch.tensor([[*map(float, wishes), *times.values()]], dtype=torch.float64)
    all_RV = dist.all_gather(own, [1] * dist.world_size())
    stop, look, *means = all_RV.mean(dim=0).tolist()
    if spent:
        seconds = dict(zip(times, means, strict=True)) | {"data": float(all_RV[:, 3].max())}
        metrics["images_per_second"] = spent.images / seconds.pop("all")
        emit({"event": "step", "step": spent.step, **metrics, "seconds": seconds})
    return stop > 0, look > 0


def _report(config: Config, training: Training, emit: Emit, metrics: dict[str, Any], suffix: str = "") -> None:
    """Take a checkpoint, which a thread writes where Ray keeps them, and tell Ray once it is written.

    A candidate without a record is measured after that beside the training; until then Ray keeps it whatever its score.
    """
    begin, step, written = time.perf_counter(), metrics["step"], None
    name = f"step-{step:07d}{suffix}"
    emit.flush(seal=True)
    if dist.rank() == 0:
        uri = ending.checkpoint_uri(config, name)
        files = checkpoint.pack(step, training.model, training.state_dict())
        filesystem, path = storage.resolve(uri)
        written = ray.train.Checkpoint(path, filesystem)

    def write(placed: Any, _: str) -> Any:
        checkpoint.write(uri, files)  # a store that is gone is waited for
        return placed

    left = written is not None and "record" in metrics and metrics["record"] is None  # said with the checkpoint alone
    ray.train.report(
        metrics,
        written,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=write,
        delete_local_checkpoint_after_upload=False,
        validation=left and ValidationTaskConfig({"step": step, "threads": torch.get_num_threads()}),
    )
    emit({"event": "checkpoint", "step": step, "name": name, "seconds": time.perf_counter() - begin})
