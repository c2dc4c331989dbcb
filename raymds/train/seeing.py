"""A run's numbers where people look for them: TensorBoard's event files and Ray's metrics (dashboard, Grafana)."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ray.util.metrics import Gauge
from tensorboardX import SummaryWriter

from raymds.log import Record, Summary, by_name
from raymds.run import RunDirectory
from raymds.store import uri as storage

_GAUGES = {
    "u": "running mean of a protected task's loss difference",
    "lambda": "multiplier of a protected task",
    "delta": "change of a task's accuracy on val",
    "devsafety": "worst change of a protected task's accuracy on val",
    "images_per_second": "images that a step takes, all workers together",
    "seconds/data": "longest wait of a worker for its images in a step",
}


class Boards:
    """Takes rank 0's records, whose numbers are those of all ranks."""

    def __init__(self, run: RunDirectory) -> None:
        self._run, self._summary = run, Summary()
        self._tasks: Sequence[str] = ()
        self._folder = tempfile.TemporaryDirectory(prefix="raymds-events-")
        self._writer: SummaryWriter | None = None
        self._gauges = {
            name: Gauge(f"raymds_{name.replace('/', '_')}", description=text, tag_keys=("run", "task"))
            for name, text in _GAUGES.items()
        }

    def add(self, record: Record) -> None:
        """Show a record's numbers; a `start` record hides what an earlier attempt wrote after its step."""
        if record["event"] == "start":
            self._writer = SummaryWriter(self._folder.name, purge_step=record["step"] + 1)
            self._tasks = record.get("tasks", ())
        for name, value in self._summary(by_name(record, self._tasks)).items():
            if self._writer is not None:
                self._writer.add_scalar(name, value, record["step"])
            kind, _, task = name.partition("/")
            gauge = self._gauges.get(name) or self._gauges.get(kind)
            if gauge is not None:
                gauge.set(value, {"run": self._run.uri, "task": "" if name in self._gauges else task})

    def flush(self) -> None:
        """Publish the event file in the run directory."""
        if self._writer is not None:
            self._writer.flush()
            for file in Path(self._folder.name).iterdir():
                storage.write(self._run.path(f"tensorboard/{file.name}"), file.read_bytes())

    def close(self) -> None:
        """Remove this machine's event file; the run directory has what was flushed."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._folder.cleanup()
