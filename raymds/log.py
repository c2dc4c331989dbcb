"""A run's log: records of its steps and evaluations, in parts while it goes on, in one `metrics.jsonl` at its end.

A part is `metrics/STEP.jsonl`, named by the step at which it begins; only the last one is ever written again. What is
measured beside the training has a file of its own, `metrics/STEP-val.jsonl`, and comes when it comes: its place in the
log is behind the part that the checkpoint of its step closed. Where there is a `metrics.jsonl` it is the whole log, and
parts beside it are what a kill left of them.
"""

import contextlib
import json
import math
import mmap
import re
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymds.errors import UsageError
from raymds.store import uri as storage

Record = dict[str, Any]

_JOINED, _PARTS = "metrics.jsonl", "metrics"
_FILE = re.compile(r"(\d+)(-val)?\.jsonl")  # of a part, or of an evaluation beside the training
_PART = 4 << 20  # bytes from which on a part is closed, whatever step it is
_CHUNK = 1 << 20  # bytes that are read at a time
PER_TASK = ("h", "u", "lambda")  # of a step: in the log a list in the order of the start record's `tasks`
_FEW = 50  # protected tasks that boards show one by one
_WORST = 5  # that they show of more
_QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


class MetricsLog:
    """Writes the log of the run whose directory is `run`. It has the lines of the open part alone in memory.

    A run that goes on from a checkpoint drops what was logged after it, one that starts over drops everything.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._begin = self._step = 0  # step at which the open part begins; of the last record
        self._lines: list[bytes] = []  # of the open part

    def add(self, record: Record) -> None:
        """Append a record; a `start` record drops what lies after its step, and names the tasks of those to come.

        Theirs have arrays, (m,), of tasks in that order: NaN where one has no value. With `unmeasured` the candidate of
        that step is measured again, so its evaluation is dropped, too.
        """
        if record["event"] == "start":
            self._go_on(record["step"], bool(record.get("unmeasured")))
        lists = {kind: _listed(record[kind]) for kind in PER_TASK if kind in record}
        self._append(json.dumps({**record, **lists}).encode() + b"\n", record)

    def flush(self, seal: bool = False) -> None:
        """Publish what was added; with `seal`, or where it is large, what comes next goes into another part."""
        lines, step = self._lines[:], self._step  # a record may come while this is written
        if not lines:
            return
        storage.write(_part(self._run, self._begin), b"".join(lines))
        large = sum(map(len, lines)) >= _PART
        if (seal or large) and step > self._begin:  # parts of one step would have one name
            self._begin = step
            del self._lines[: len(lines)]

    def _append(self, line: bytes, record: Mapping[str, Any]) -> None:
        self._lines.append(line)
        self._step = record.get("step", self._step)  # a pause has none

    def _go_on(self, step: int, unmeasured: bool) -> None:
        """Drop what was logged after a step, all of it at step 0; parts from the last on, so that none is missing."""

        def gone(record: Record) -> bool:
            return unmeasured and record["event"] == "eval" and record["step"] == step

        joined, files = storage.join(self._run, _JOINED), _files(self._run)
        whole = bool(storage.size(joined))
        kept = [] if whole or step == 0 else [file for file in files if file.step <= step]
        for file in reversed(files[len(kept) :]):
            _remove(file.uri)
        parts = [file.step for file in kept if not file.beside]
        self._lines, self._begin = [], parts[-1] if parts else 0
        if parts:
            for line, record in _until(step, _part(self._run, parts[-1])):
                if not gone(record):
                    self._append(line, record)
            self.flush(seal=True)  # an evaluation of this step, that may come yet, is before what comes next
        elif whole and step:  # of a run that was killed at its very end, or begun by an older version
            size = 0
            for line, record in _until(step, joined):
                if gone(record):
                    continue
                self._append(line, record)
                size += len(line)
                if size >= _PART:
                    self.flush()
                    size = sum(map(len, self._lines))
            self.flush()
        if whole:
            _remove(joined)


def join(run: str) -> None:
    """Make one file of a run's parts, at its end. A part at a time is in memory, all of them in a temporary file."""
    parts, joined = [file.uri for file in _files(run)], storage.join(run, _JOINED)
    if not parts:
        return
    if not storage.size(joined):
        with tempfile.TemporaryFile() as file:
            for part in parts:
                file.write(storage.read(part))
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                storage.write(joined, whole)
    for part in reversed(parts):
        _remove(part)
    if storage.is_local(run):
        with contextlib.suppress(OSError):  # a write that was killed left a file there
            Path(storage.resolve(storage.join(run, _PARTS))[1]).rmdir()


def measured_beside(run: str, record: Record) -> None:
    """Publish the evaluation of a candidate that was measured beside the training; at once, and again as itself."""
    line = json.dumps(record).encode() + b"\n"
    storage.write(storage.join(run, _PARTS, f"{record['step']:07d}-val.jsonl"), line)


def found_beside(run: str, known: Container[int] = ()) -> list[Record]:
    """The evaluations that were made beside the training of a run that goes on, without those of `known` steps."""
    files = [file for file in _files(run) if file.beside and file.step not in known]
    return [record for file in files for _, record in _parsed(file.uri)]


def records(run: str) -> Iterator[Record]:
    """The records of the run in a directory, going on or ended, of this version or an older one, one after another.

    What a step says of tasks (`h`, `u`, `lambda`) is by name, without those that have no value. Nothing comes where
    nothing was logged yet; UsageError naming file and line where one is broken.
    """
    parts = _files(run)  # before the other is looked for: they go when it is there
    joined = storage.join(run, _JOINED)
    files = [joined] if storage.size(joined) else [part.uri for part in parts]
    tasks: Sequence[str] = ()
    for file in files:
        for _, record in _parsed(file):
            if record["event"] == "start":
                tasks = record.get("tasks", ())
            for kind in PER_TASK:
                if isinstance(record.get(kind), list):
                    record[kind] = _named(record[kind], tasks, f"{file}, step {record.get('step')}: `{kind}`")
            yield record


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a step or an evaluation by name: `loss`, `u/weather:clear`, `delta/weather:clear`."""
    kinds = _numbers(record).items()
    return {f"{kind}/{name}" if kind else name: value for kind, numbers in kinds for name, value in numbers.items()}


class Summary:
    """As `scalars`, of record after record; of more than 50 protected tasks quantiles, and five tasks by name.

    Those five lost most on val at the last evaluation, so that their lines go on from one evaluation to the next.
    """

    def __init__(self) -> None:
        self._worst: list[str] = []

    def __call__(self, record: Mapping[str, Any]) -> dict[str, float]:
        """The numbers to show of a record."""
        kinds = _numbers(record)
        if "delta" in kinds and record["step"] > 0:
            self._worst = sorted(kinds["delta"], key=kinds["delta"].__getitem__)[:_WORST]
        if max(map(len, kinds.values()), default=0) <= _FEW:
            return scalars(record)
        found: dict[str, float] = {}
        for kind, numbers in kinds.items():
            if kind in {"", "seconds"}:
                found |= {f"{kind}/{name}" if kind else name: value for name, value in numbers.items()}
            elif numbers:
                quantiles = np.quantile(list(numbers.values()), list(_QUANTILES.values())).tolist()
                found |= {f"{kind}/{name}": value for name, value in zip(_QUANTILES, quantiles, strict=True)}
                found |= {f"{kind}/{task}": numbers[task] for task in self._worst if task in numbers}
        return found


def _numbers(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The numbers of a record by kind and then by protected task or part of a step; those of neither under ''."""
    if record["event"] == "eval":
        kinds, target = {"accuracy": "new", "delta": "delta"}, record["target"]
        alone = {f"{kind}/{target['task']}": target[key] for kind, key in kinds.items()}
        alone["devsafety"] = record["devsafety"]
        return {"": alone} | {kind: {t["task"]: t[key] for t in record["tasks"]} for kind, key in kinds.items()}
    if record["event"] != "step":
        return {}
    several = {kind: dict(numbers) for kind, numbers in record.items() if isinstance(numbers, Mapping)}
    return {"": {name: value for name, value in record.items() if isinstance(value, float)}} | several


def _part(run: str, step: int) -> str:
    return storage.join(run, _PARTS, f"{step:07d}.jsonl")


class _File(NamedTuple):
    step: int
    beside: bool
    uri: str


def _files(run: str) -> list[_File]:
    """The parts, by the steps at which they begin, and what was measured beside the training, in the log's order."""
    found = filter(None, map(_FILE.fullmatch, storage.sizes(storage.join(run, _PARTS))))
    files = [_File(int(match[1]), bool(match[2]), storage.join(run, _PARTS, match[0])) for match in found]
    return sorted(files, key=lambda file: (file.step, not file.beside))


def _remove(uri: str) -> None:
    try:
        storage.delete(uri)
    except UsageError:  # a bucket may forbid it; what is empty says nothing
        storage.write(uri, b"")


def by_name(record: Record, tasks: Sequence[str]) -> Record:
    """A step's record with what it says of tasks, arrays as `MetricsLog.add` takes, by name."""
    found = {kind: zip(tasks, record[kind].tolist(), strict=True) for kind in PER_TASK if kind in record}
    return record | {kind: {task: v for task, v in pairs if not math.isnan(v)} for kind, pairs in found.items()}


def _listed(values: NDArray[np.float64]) -> list[float | None]:
    """As JSON has it; names of hundreds of tasks in every step would be most of a log."""
    return [None if math.isnan(value) else value for value in values.tolist()]


def _named(values: Sequence[float | None], tasks: Sequence[str], where: str) -> dict[str, float]:
    if len(values) != len(tasks):
        raise UsageError(
            f"{where} has {len(values)} values, the start record before it {len(tasks)} tasks; copy the file again"
        )
    return {task: value for task, value in zip(tasks, values, strict=True) if value is not None}


def _until(step: int, file: str) -> Iterator[tuple[bytes, Record]]:
    """The lines before the first that was logged after a step; they are in the order of steps."""
    for line, record in _parsed(file):
        if record.get("step", 0) > step:
            return
        yield line, record


def _parsed(file: str) -> Iterator[tuple[bytes, Record]]:
    """Line by line what it is and what it says; a last one that is cut short, as by copying, is left out."""
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "event" not in record:
                raise ValueError("not an object with an `event`")
        except (ValueError, RecursionError) as error:
            if not line.endswith(b"\n"):
                return
            raise UsageError(f"{file}, line {number} is broken: {error}; copy the file again") from None
        yield line, record


def _lines(file: str) -> Iterator[bytes]:
    size, at, rest = storage.size(file), 0, b""
    if size is None:
        raise UsageError(f"{file}: is gone: the run has just ended, and its log is {_JOINED} now; read it again")
    while at < size:
        found = storage.read_range(file, at, _CHUNK)
        if not found:
            break
        at += len(found)
        *lines, rest = (rest + found).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest
