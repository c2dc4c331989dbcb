"""A run's numbers where people look for them: TensorBoard's event files and Ray's metrics (dashboard, Grafana)."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.util.metrics import Gauge
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

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
        # Not a SummaryWriter: its thread may still have events to write when its flush returns.
        self._writer: EventsWriter | None = None
        self._gauges = {
            name: Gauge(f"raymds_{name.replace('/', '_')}", description=text, tag_keys=("run", "task"))
            for name, text in _GAUGES.items()
        }

    def add(self, record: Record) -> None:
        """Show a record's numbers; a `start` record hides what an earlier attempt wrote after its step."""
        if record["event"] == "start":
            self._writer = EventsWriter(f"{self._folder.name}/events")
            self._event(record["step"] + 1, session_log=SessionLog(status=SessionLog.START))
            self._tasks = record.get("tasks", ())
        for name, value in self._summary(by_name(record, self._tasks)).items():
            if self._writer is not None:
                self._event(record["step"], summary=scalar(name, value))
            kind, _, task = name.partition("/")
            gauge = self._gauges.get(name) or self._gauges.get(kind)
            if gauge is not None:
                gauge.set(value, {"run": self._run.uri, "task": "" if name in self._gauges else task})

    def _event(self, step: int, **what: Any) -> None:
        assert self._writer is not None
        self._writer.write_event(Event(wall_time=time.time(), step=step, **what))

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
