"""Where the records of a run's workers go: its log, its boards, and whoever watches."""

import math
import time
from typing import Any, Self

import ray

from raymds.config import Config
from raymds.errors import StoppedError
from raymds.log import PER_TASK, MetricsLog, found_beside, measured_beside
from raymds.method import dist
from raymds.run import RunDirectory
from raymds.train.seeing import Boards

_FLUSH = 10.0  # seconds between publications of the log, beside those that precede each checkpoint
_FLUSH_SHARE = 50  # at least so many times what a publication takes
_STEPS = 2000  # records of steps that a run's log has, where `run.log_every` is auto


class Emit:
    """Rank 0's records: to the run's log, and to the monitor for whoever watches."""

    def __init__(self, config: Config, monitor: Any) -> None:
        self._monitor, self._config = monitor, config
        run = RunDirectory(config.run.uri)
        self._log = MetricsLog(run.uri) if dist.rank() == 0 else None
        self._boards = Boards(run) if dist.rank() == 0 else None
        self._flushed, self._interval = time.monotonic(), _FLUSH
        self._beat: Any = None
        self._told = False  # to stop
        self._step = 0
        self._run, self._boarded = run.uri, set[int]()  # steps of those measured beside the training

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        try:
            if failure in {None, StoppedError}:
                self.flush()
        finally:
            if self._boards is not None:
                self._boards.close()

    def __call__(self, record: dict[str, Any]) -> None:
        """Record something; phases and some of the steps are shown, not logged."""
        if self._log is None:
            return
        self.aside(record)
        if time.monotonic() - self._flushed > self._interval:
            self.flush()

    def phase(self, what: str) -> None:
        """Show what is done now."""
        self({"event": "phase", "phase": what})

    def aside(self, record: dict[str, Any]) -> None:
        """Record something from a background thread, or while the log is being published.

        Whoever watches is not told the numbers of hundreds of tasks at every step.
        """
        self._monitor.push.remote({name: value for name, value in record.items() if name not in PER_TASK})
        if self._log is not None and self._boards is not None and logged(record, self._config):
            self._log.add(record)
            self._boards.add(record)

    def beside(self, record: dict[str, Any]) -> None:
        """Record the evaluation of a candidate that was to be measured beside the training, where that log is."""
        if self._log is not None:
            self._monitor.push.remote(record)
            measured_beside(self._run, record)
            self.board_beside()

    def board_beside(self) -> None:
        """Show on the boards what was measured beside the training meanwhile; of a run that goes on, again."""
        if self._log is not None and self._boards is not None:
            for record in found_beside(self._run, self._boarded):
                self._boards.add(record)
                self._boarded.add(record["step"])

    def end_beside(self) -> None:
        """Nothing is measured beside the training any more: the workers do what is left."""
        self._monitor.end_beside.remote()

    def flush(self, seal: bool = False) -> None:
        """Publish the log. Before a checkpoint is committed, so that a run resumed from it has all that led to it.

        With `seal` what comes next begins a new part of the log: before a checkpoint, so that the parts are bounded.
        """
        if self._log is not None and self._boards is not None:
            begin = time.monotonic()
            self._log.flush(seal)
            self._boards.flush()
            self._flushed = time.monotonic()
            self._interval = max(_FLUSH, _FLUSH_SHARE * (self._flushed - begin))

    def beat(self, step: int) -> bool:
        """Every rank says that it begins a step; whether somebody wishes the run to stop, as far as is known."""
        if self._beat is not None and ray.wait([self._beat], timeout=0)[0]:
            self._told = self._told or bool(ray.get(self._beat))
        self._step = step
        self._beat = self._monitor.beat.remote(dist.rank(), step)
        return self._told

    def told(self) -> bool:
        """As `beat`, while a rank measures."""
        return self.beat(self._step)


def logged(record: dict[str, Any], config: Config) -> bool:
    """Whether a record goes to the log and the boards: of steps every `run.log_every`-th, the first, and candidates."""
    if record["event"] != "step":
        return bool(record["event"] != "phase")
    step, steps, every = record["step"], config.optim.steps, config.run.log_every
    every = math.ceil(steps / _STEPS) if every == "auto" else every
    return step in {1, steps} or step % every == 0 or step % config.select.every == 0
