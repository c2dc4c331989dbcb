"""Steps, candidates and checkpoints of a Ray Train worker, and who is heard in between: a stop, a machine that goes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray.train
import torch
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2.api.report_config import CheckpointUploadMode
from ray.train.v2.api.validation_config import ValidationTaskConfig
from torch._dynamo.exc import TorchDynamoException

from raymds.config import Config
from raymds.data import loader
from raymds.data.sampler import Sampler
from raymds.data.split import Split
from raymds.errors import StoppedError, UsageError
from raymds.method import dist
from raymds.method.solvers import BASELINES
from raymds.store import uri as storage
from raymds.train import checkpoint, ending
from raymds.train.emit import Emit
from raymds.train.step import Taken, Training

UNMEASURED = "-unmeasured"  # ends the name of a checkpoint whose candidate was not measured yet, for want of time
RESUME_ONLY = -1e9  # score of a checkpoint that is no candidate: Ray keeps it while it is the last


def _leaving() -> int:
    """How many of the run's workers are on machines that will be taken away, as far as this one was told.

    `ray.train.get_preemption_info` says the same, but waits for all ranks to ask.
    """
    found = get_train_context().preemption_context.preemption_info
    return len(found.preempted_ranks) if found else 0


@dataclass(frozen=True)
class _Spent:
    """A step of this rank that is to be recorded."""

    step: int
    taken: Taken
    waited: float  # seconds, for images
    seconds: float  # in all
    images: int  # of all ranks


class Loop:
    """The steps of a run on this rank, from its last checkpoint on."""

    def __init__(self, config: Config, training: Training, emit: Emit) -> None:
        self._config, self._training, self._emit = config, training, emit
        self._kept = 0  # step of the last checkpoint
        self._step = 0  # taken last
        self._leaving = 0  # workers on machines that go, for whose sake there is a checkpoint already

    def resume(self, tasks: Sequence[str] = ()) -> tuple[int, bool]:
        """Steps already taken, from the last committed checkpoint, whose state is taken over; whether it was measured.

        `tasks` are the constrained ones that the steps' records have values of.
        """
        found, uri = ray.train.get_checkpoint(), ""
        if found is not None:
            uri = ending.uri_of(self._config, found)
            self._step, weights, state = checkpoint.load(uri)
            self._training.model.load_weights(weights, uri)
            self._training.load_state_dict(state)
        self._kept, measured = self._step, not uri.endswith(UNMEASURED)
        begin = {"step": self._step, "steps": self._config.optim.steps, "workers": dist.world_size()}
        about: dict[str, Any] = ({"tasks": tasks} if tasks else {}) | ({} if measured else {"unmeasured": True})
        self._emit({"event": "start", **begin, "time": time.time(), **about})
        return self._step, measured

    def interrupted(self) -> bool:
        """Whether to cut off the measurement of a candidate: for a stop, or as a machine goes and steps are not kept.

        For `stop` of `evaluate`; this rank's answer alone.
        """
        return self._emit.told() or (self._step > self._kept and _leaving() > self._leaving)

    def run(self, train: Split, sampler: Sampler, measure: Callable[[int], dict[str, Any]]) -> None:
        """Steps to `optim.steps`, with `measure(step)` and a checkpoint every `select.every` of them.

        StoppedError after a checkpoint where a stop was asked for. A notice that a machine will be taken away leads to
        a checkpoint too.
        """
        config, training = self._config, self._training
        rank, ranks, steps = dist.rank(), dist.world_size(), config.optim.steps
        threads = max(1, torch.get_num_threads() - 1)
        source = loader.Loader(
            train, lambda step: sampler.batch(step).share(rank, ranks), training.model.preprocess, config.run.seed,
            augment=config.data.augment, threads=threads, read=lambda caption: training.model.whole([caption]),
            pinned=training.model.mean.is_cuda,
        )  # fmt: skip
        before = None
        for step in range(self._step, steps):
            begin = time.perf_counter()
            told = self._emit.beat(step + 1)
            loaded = source.get(step)
            waited = time.perf_counter() - begin
            with _explained(config, len(loaded.pairs) + len(loaded.examples)):
                taken = training.step(loaded)
            self._step = step + 1
            spent = _Spent(step + 1, taken, waited, time.perf_counter() - begin, sampler.batch(step).images)
            # While a GPU computes this step the one before is recorded, so that nobody waits for it.
            stop, leaving = self._over_ranks(told, before)
            before = spent
            measuring, noticed = (step + 1) % config.select.every == 0 or step + 1 == steps, leaving > self._leaving
            if measuring or stop or noticed:
                self._over_ranks(False, before)
                before = None
            if measuring:
                self._candidate(measure)
            elif stop or noticed:
                self.report({"step": step + 1, "score": RESUME_ONLY})
            self._leaving = max(self._leaving, leaving)
            if stop and step + 1 < steps:
                source.close()
                ending.written()
                raise StoppedError(
                    f"stopped after step {step + 1}, in a checkpoint; the same command goes on from there"
                )
        source.close()

    def _candidate(self, measure: Callable[[int], dict[str, Any]]) -> None:
        """Measure a candidate and take its checkpoint; where a stop cuts that off, one that is to be measured yet.

        Where a machine that goes cuts it off, that checkpoint comes first, and the candidate is measured anew.
        """
        try:
            measured = measure(self._step)
        except StoppedError:
            self.report({"step": self._step, "score": RESUME_ONLY}, UNMEASURED)
            ending.written()
            stop, self._leaving = self._over_ranks(self._emit.told(), None)
            if stop:
                raise
            measured = measure(self._step)
        self.report(measured)

    def _over_ranks(self, told: bool, spent: _Spent | None) -> tuple[bool, int]:
        """Record a step with times of all ranks, the longest wait for data and else means.

        Returns whether any of them was told to stop, and of how many workers any knows that their machines go.
        """
        metrics = spent.taken.metrics() if spent else {"seconds": {}}
        times = {"all": spent.seconds, "data": spent.waited, **metrics["seconds"]} if spent else {}
        # Of the CPU, so that it goes past the GPU's queue.
        own = torch.tensor([[float(told), float(_leaving()), *times.values()]], dtype=torch.float64)
        all_RV = dist.all_gather(own, [1] * dist.world_size())
        if spent:
            times_RV = all_RV[:, 2:]
            seconds = dict(zip(times, times_RV.mean(dim=0).tolist(), strict=True))
            seconds["data"] = float(times_RV[:, list(times).index("data")].max())
            metrics["images_per_second"] = spent.images / seconds.pop("all")
            self._emit({"event": "step", "step": spent.step, **metrics, "seconds": seconds})
        return bool(all_RV[:, 0].any()), int(all_RV[:, 1].max())

    def report(self, metrics: dict[str, Any], suffix: str = "") -> None:
        """Take a checkpoint, which a thread writes where Ray keeps them, and tell Ray once it is written.

        A candidate without a record is measured after that beside the training; until then Ray keeps it whatever its
        score.
        """
        begin, step, written = time.perf_counter(), metrics["step"], None
        name = f"step-{step:07d}{suffix}"
        self._emit.flush(seal=True)
        if dist.rank() == 0:
            uri = ending.checkpoint_uri(self._config, name)
            files = checkpoint.pack(step, self._training.model, self._training.state_dict())
            filesystem, path = storage.resolve(uri)
            written = ray.train.Checkpoint(path, filesystem)

        def write(placed: Any, _: str) -> Any:
            checkpoint.write(uri, files)  # a store that is gone is waited for
            return placed

        # Said with the checkpoint alone, so by the rank that has it.
        beside = written is not None and "record" in metrics and metrics["record"] is None
        ray.train.report(
            metrics,
            written,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=write,
            delete_local_checkpoint_after_upload=False,
            validation=beside and ValidationTaskConfig({"step": step, "threads": torch.get_num_threads()}),
        )
        self._emit({"event": "checkpoint", "step": step, "name": name, "seconds": time.perf_counter() - begin})
        self._kept = step


def out_of_memory(error: BaseException) -> bool:
    """Whether a processor, or a GPU, had no memory for something."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def _explained(config: Config, images: int) -> Iterator[None]:
    """Too little memory for a step of so many images, or no compiler, as a UsageError: it would come again."""
    try:
        yield
    except RuntimeError as raised:
        error = getattr(raised, "inner_exception", raised)  # of a compiler
        first = (str(error).strip().splitlines() or [""])[0]
        now = min(config.run.micro_batch or images, images)
        smaller = f"set run.micro_batch={max(1, now // 4)}, which gives the same gradients"
        if now == 1 or config.constraints.solver in BASELINES:
            smaller = "lower objective.batch or constraints.images_per_task, or raise run.workers"
        if out_of_memory(error):
            raise UsageError(
                f"run.micro_batch={config.run.micro_batch}: a worker has no memory for {now} images at a time; "
                f"{smaller}: {first}"
            ) from None
        if isinstance(raised, TorchDynamoException):
            raise UsageError(
                f"run.compile=true: the towers can't be compiled on this machine; leave it out: "
                f"{type(error).__name__}: {first}"
            ) from None
        raise
