"""A run's log: parts while it goes on, one file at its end, and whatever moment it is killed at, every record once."""

import itertools
import json
import math
import multiprocessing
import os
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymds import log as module
from raymds.errors import UsageError
from raymds.log import MetricsLog, Summary, found_beside, join, measured_beside, records, scalars
from raymds.store import uri as storage

TASKS = ["w:a", "w:b", "w:c"]
LAST = 6


def start(step: int, tasks: list[str] = TASKS) -> dict[str, Any]:
    return {"event": "start", "step": step, "steps": LAST, "tasks": tasks}


def stepped(step: int) -> dict[str, Any]:
    """Of three tasks two are sampled, and u of the third is not known at step 1."""
    sampled = {task: 0.1 * step for k, task in enumerate(TASKS) if (step + k) % 3}
    known = dict.fromkeys(TASKS if step > 1 else TASKS[:2], -0.5)
    return {
        "event": "step",
        "step": step,
        "loss": 1.0 / step,
        "h": sampled,
        "u": known,
        "lambda": dict.fromkeys(TASKS, 0.0),
    }


def in_order(record: dict[str, Any], tasks: list[str] = TASKS) -> dict[str, Any]:
    """As a run has it: arrays of all tasks, NaN where there is no value."""
    named = {kind: values for kind, values in record.items() if isinstance(values, dict)}
    return record | {kind: np.array([v.get(task, math.nan) for task in tasks]) for kind, v in named.items()}


def work(
    run: str, begin: int, reached: Callable[[int], None] = lambda step: None, late: Callable[[str], None] | None = None
) -> None:
    """What a run's process does with its log: a checkpoint, `reached`, every third step, and other flushes between.

    Where there is `late`, the first candidate is measured beside the training, at step 5 or at the end.
    """
    log = MetricsLog(run)
    log.add(start(begin))
    for step in range(begin + 1, LAST + 1):
        log.add(in_order(stepped(step)))
        log.flush()
        if step == 3:
            log.add({"event": "pause", "seconds": 2.0})
        if step == 5 and late:
            late(run)
        if step % 3 == 0:
            if step == LAST or late is None:
                log.add({"event": "eval", "step": step, "devsafety": 0.0})
            log.flush(seal=True)
            reached(step)
            log.add({"event": "checkpoint", "step": step})
    log.flush()
    if late:
        late(run)
    join(run)


def beside(run: str) -> None:
    """Measure the candidate of step 3, where that was not done before."""
    if ("eval", 3) not in told(run):
        measured_beside(run, {"event": "eval", "step": 3, "devsafety": 0.0})


def told(run: str) -> list[tuple[str, int]]:
    return [(record["event"], record["step"]) for record in records(run) if record["event"] in {"step", "eval"}]


ALL = [found for step in range(1, LAST + 1) for found in [("step", step)] + [("eval", step)] * (step % 3 == 0)]


def files(run: str | Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in Path(run).rglob("*") if path.is_file())


def test_a_finished_run_has_one_file_whose_records_are_those_that_were_added(tmp_path: Path) -> None:
    work(str(tmp_path), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert told(str(tmp_path)) == ALL
    found = [record for record in records(str(tmp_path)) if record["event"] == "step"]
    assert found == [stepped(step) for step in range(1, LAST + 1)]


@pytest.mark.parametrize("joined", [False, True])
def test_an_evaluation_that_is_to_be_made_again_is_there_once(tmp_path: Path, joined: bool) -> None:
    """A run is cut off after it measured a candidate, and goes on from the checkpoint before that."""
    run = str(tmp_path)
    log = MetricsLog(run)
    log.add({"event": "start", "step": 0, "tasks": TASKS})
    for step in range(1, 4):
        log.add(in_order(stepped(step)))
    log.flush(seal=True)
    log.add({"event": "checkpoint", "step": 3})
    log.add({"event": "eval", "step": 3, "devsafety": 0.0})
    log.flush(seal=True)
    if joined:
        join(run)
    MetricsLog(run).add({"event": "start", "step": 3, "tasks": TASKS, "unmeasured": True})
    assert told(run) == [("step", 1), ("step", 2), ("step", 3)]


def test_names_of_tasks_are_written_once(tmp_path: Path) -> None:
    work(str(tmp_path), 0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (lines[0]["tasks"], lines[1]["h"], lines[1]["u"]) == (TASKS, [0.1, 0.1, None], [-0.5, -0.5, None])
    assert (tmp_path / "metrics.jsonl").read_text().count("w:a") == 1


def test_a_part_is_written_while_it_is_open_and_then_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, bytes]] = []
    write = storage.write

    def noted(uri: str, data: bytes) -> None:
        written.append((Path(uri).name, bytes(data)))
        write(uri, data)

    monkeypatch.setattr(storage, "write", noted)
    work(str(tmp_path), 0)
    names = [name for name, _ in written]
    assert list(dict.fromkeys(names)) == [
        "0000000.jsonl",
        "0000003.jsonl",
        "0000006.jsonl",
        "metrics.jsonl",
    ]
    assert names == sorted(names)
    for (name, before), (again, after) in itertools.pairwise(written):
        assert name != again or after.startswith(before)
    parts = dict(written[:-1])
    assert written[-1][1] == b"".join(parts.values())


def test_what_is_read_of_a_run_that_goes_on_is_what_it_published(tmp_path: Path) -> None:
    seen: list[list[tuple[str, int]]] = []
    work(str(tmp_path), 0, lambda step: seen.append(told(str(tmp_path))))
    assert seen == [ALL[: ALL.index(("eval", step)) + 1] for step in (3, 6)]
    assert told(str(tmp_path / "nothing")) == []


class KilledError(BaseException):
    """The process ends here."""


def killed_at(monkeypatch: pytest.MonkeyPatch, moment: int, run: Callable[[], None]) -> bool:
    """Whether the process was killed: before its write or deletion of this number."""
    left = [moment]
    with monkeypatch.context() as patched:
        for name in ("write", "delete"):
            action = getattr(storage, name)

            def counted(*given: Any, action: Any = action) -> None:
                if left[0] == 0:
                    raise KilledError
                left[0] -= 1
                action(*given)

            patched.setattr(storage, name, counted)
        try:
            run()
        except KilledError:
            return True
    return False


def older(run: str, last: int) -> None:
    """What an older version left: one file, with names in every record."""
    lines = [{"event": "start", "step": 0}, *map(stepped, range(1, last + 1))]
    storage.write(storage.join(run, "metrics.jsonl"), "".join(json.dumps(line) + "\n" for line in lines).encode())


@pytest.mark.parametrize("begun", ["here", "older"])
def test_killed_at_any_moment_and_again_it_has_every_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    """Killed twice: at every moment of a run, and at every moment of the one that goes on from its last checkpoint."""
    monkeypatch.setattr(module, "_PART", 250)  # several parts between two checkpoints
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of files
    first = 0
    while True:
        second, over = 0, False
        while not over:
            run = str(tmp_path / f"{first}-{second}")
            last = [0]
            if begun == "older":
                older(run, 4)
                last = [3]

            def reached(step: int, last: list[int] = last) -> None:
                last[0] = step

            survived = not killed_at(monkeypatch, first, lambda run=run, last=last: work(run, last[0], reached))
            seen = [step for event, step in told(run) if event == "step"]
            assert seen == list(range(1, len(seen) + 1))  # whoever looks now
            assert len(seen) >= last[0]
            if survived:
                return
            over = not killed_at(monkeypatch, second, lambda run=run, last=last: work(run, last[0], reached))
            seen = [step for event, step in told(run) if event == "step"]
            assert seen == list(range(1, len(seen) + 1))
            assert len(seen) >= last[0]
            work(run, last[0])
            assert files(run) == ["metrics.jsonl"]
            assert [found for found in told(run) if found[0] == "step"] == [("step", n) for n in range(1, LAST + 1)]
            expected = [("eval", step) for step in (3, 6)][begun == "older" :]
            assert [found for found in told(run) if found[0] == "eval"] == expected
            second += 1
        first += 1


def test_killed_at_any_moment_what_was_measured_beside_the_training_is_there_once_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment, killed = 0, True
    while killed:
        run, last = str(tmp_path / str(moment)), [0]
        killed = killed_at(
            monkeypatch, moment, lambda run=run, last=last: work(run, 0, lambda step: last.__setitem__(0, step), beside)
        )
        work(run, last[0], late=beside)
        assert files(run) == ["metrics.jsonl"]
        assert told(run) == ALL
        moment += 1
    assert moment > 10


def test_what_is_measured_beside_the_training_is_found_until_the_steps_that_led_to_it_are_dropped(
    tmp_path: Path,
) -> None:
    run, record = str(tmp_path), {"event": "eval", "step": 3, "devsafety": 0.1}
    log = MetricsLog(run)
    log.add(start(0))
    for step in range(1, 4):
        log.add(in_order(stepped(step)))
    log.flush(seal=True)
    for _ in range(2):  # a process that was killed before it could say so does it again
        measured_beside(run, record)
    assert found_beside(run) == [record]
    assert found_beside(run, {3}) == []
    log.add(in_order(stepped(4)))
    log.flush()
    assert told(run) == [*ALL[:3], ("eval", 3), ("step", 4)]
    for step, kept in ((3, [record]), (2, [])):
        MetricsLog(run).add(start(step))
        assert found_beside(run) == kept


def test_what_a_kill_left_beside_the_whole_log_is_no_part_of_it(tmp_path: Path) -> None:
    work(str(tmp_path), 0)
    part = "".join(json.dumps(record) + "\n" for record in (start(0), stepped(1)))
    storage.write(str(tmp_path / "metrics" / "0000000.jsonl"), part.encode())
    assert told(str(tmp_path)) == ALL
    join(str(tmp_path))
    assert told(str(tmp_path)) == ALL
    assert files(tmp_path) == ["metrics.jsonl"]


def test_a_run_that_starts_over_drops_everything(tmp_path: Path) -> None:
    work(str(tmp_path), 0)
    log = MetricsLog(str(tmp_path))
    log.add(start(0))
    log.flush()
    assert files(tmp_path) == ["metrics/0000000.jsonl"]
    assert [record["event"] for record in records(str(tmp_path))] == ["start"]


def test_a_pause_says_no_step_and_stays_where_it_was(tmp_path: Path) -> None:
    run = str(tmp_path)
    log = MetricsLog(run)
    for record in (
        start(0),
        stepped(1),
        {"event": "pause", "seconds": 1.0},
        stepped(2),
        {"event": "pause", "seconds": 2.0},
    ):
        log.add(in_order(record))
    log.flush()
    again = MetricsLog(run)
    again.add(start(1))
    again.flush()
    assert [record["event"] for record in records(run)] == ["start", "step", "pause", "start"]


def test_a_record_that_comes_while_a_part_is_written_is_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread tells of a pause, or the store itself is gone while the log is published."""
    run, write = str(tmp_path), storage.write
    log = MetricsLog(run)
    log.add(start(0))
    log.add(in_order(stepped(1)))

    def slow(uri: str, data: bytes) -> None:
        log.add({"event": "pause", "seconds": 1.0})
        write(uri, data)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "write", slow)
        log.flush(seal=True)
    log.flush()
    assert files(run) == ["metrics/0000000.jsonl", "metrics/0000001.jsonl"]
    assert [record["event"] for record in records(run)] == ["start", "step", "pause"]


def test_where_deleting_is_forbidden_nothing_is_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(uri: str) -> None:
        raise UsageError(f"{uri}: can't be deleted: ACCESS_DENIED")

    monkeypatch.setattr(storage, "delete", forbidden)
    work(str(tmp_path), 0)
    assert told(str(tmp_path)) == ALL
    work(str(tmp_path), 3)
    assert told(str(tmp_path)) == ALL
    work(str(tmp_path), 0)
    assert told(str(tmp_path)) == ALL


def test_records_of_an_older_version_are_read_beside_those_of_this_one(tmp_path: Path) -> None:
    run = str(tmp_path)
    older(run, 4)
    work(run, 3)
    found = [record for record in records(run) if record["event"] == "step"]
    assert found == [stepped(step) for step in range(1, LAST + 1)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [b'{"event": "start", "step": 0}', b'{"event": "st'],
            r"metrics\.jsonl, line 2 is broken: .*; copy the file again",
        ),
        ([b"[1]"], r"metrics\.jsonl, line 1 is broken: not an object with an `event`"),
        (
            [b'{"event": "step", "step": 4, "u": [1.0]}'],
            r"metrics\.jsonl, step 4: `u` has 1 values, the start .* 0 tasks",
        ),
    ],
)
def test_a_damaged_log_is_named_by_file_and_line(tmp_path: Path, lines: list[bytes], message: str) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, b""]))
    with pytest.raises(UsageError, match=message):
        list(records(str(tmp_path)))


def long_log(run: str) -> tuple[int, int]:
    """Values of u that a log of 500 steps and 364 tasks gives back, and the peak of memory meanwhile."""
    tasks = [f"scene:place {k}" for k in range(364)]
    values = {kind: {task: 1 / (k + 3) for k, task in enumerate(tasks)} for kind in ("h", "u", "lambda")}
    tracemalloc.start()
    log = MetricsLog(run)
    log.add(start(0, tasks))
    for step in range(1, 501):
        log.add(in_order({"event": "step", "step": step, "loss": 0.5, **values}, tasks))
        if step % 100 == 0:
            log.flush()
    log.flush()
    join(run)
    count = sum(len(record["u"]) for record in records(run) if record["event"] == "step")
    return count, tracemalloc.get_traced_memory()[1]


def test_hundreds_of_tasks_over_thousands_of_steps_take_little_memory(tmp_path: Path) -> None:
    """m = 364: a record of a step is 55 KB by name and 23 KB without; none is kept."""
    # In a process of its own: what is counted is all of a process, also what threads of Ray and servers allocate.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        count, peak = process.submit(long_log, str(tmp_path)).result()
    size = (tmp_path / "metrics.jsonl").stat().st_size
    assert count == 364 * 500
    assert size > 10e6
    assert peak < size


STEP = {"event": "step", "step": 3, "loss": 0.5, "seconds": {"data": 0.1}, "h": {"w:a": 0.0}, "lambda": {"w:a": 2.0}}
EVAL = {
    "event": "eval", "step": 3, "devsafety": -0.1, "feasible": False,
    "target": {"task": "w:t", "new": 0.75, "delta": 0.25}, "tasks": [{"task": "w:a", "new": 0.5, "delta": -0.1}],
}  # fmt: skip


def test_steps_and_evaluations_have_numbers() -> None:
    assert scalars(STEP) == {"loss": 0.5, "seconds/data": 0.1, "h/w:a": 0.0, "lambda/w:a": 2.0}
    assert scalars(EVAL) == {
        "accuracy/w:t": 0.75, "accuracy/w:a": 0.5, "delta/w:t": 0.25, "delta/w:a": -0.1, "devsafety": -0.1,
    }  # fmt: skip
    assert scalars({"event": "pause", "seconds": 3.0}) == {}
    summary = Summary()
    assert [summary(record) for record in (STEP, EVAL)] == [scalars(STEP), scalars(EVAL)]


def test_of_many_tasks_there_are_quantiles_and_those_that_lost_most() -> None:
    tasks = [f"w:{k}" for k in range(101)]
    lost = {"w:7": -0.9, "w:70": -0.8, "w:71": -0.7, "w:72": -0.6, "w:73": -0.5, "w:74": -0.4}
    entries = [{"task": task, "new": 0.5, "delta": lost.get(task, 0.0)} for task in tasks]
    # Of a step that samples few tasks, too: what is shown of one step is shown of the others.
    step = STEP | {"h": {"w:7": 1.0, "w:9": 3.0}, "lambda": {task: float(k) for k, task in enumerate(tasks)}}
    summary, alone = Summary(), {"loss": 0.5, "seconds/data": 0.1}
    assert summary(step) == alone | {
        "h/min": 1.0, "h/p10": 1.2, "h/median": 2.0, "h/p90": 2.8, "h/max": 3.0,
        "lambda/min": 0.0, "lambda/p10": 10.0, "lambda/median": 50.0, "lambda/p90": 90.0, "lambda/max": 100.0,
    }  # fmt: skip
    shown = summary(EVAL | {"tasks": entries})
    assert {name: value for name, value in shown.items() if name.startswith("delta/w:")} == {
        "delta/w:t": 0.25, "delta/w:7": -0.9, "delta/w:70": -0.8, "delta/w:71": -0.7, "delta/w:72": -0.6,
        "delta/w:73": -0.5,
    }  # fmt: skip
    assert (shown["delta/min"], shown["accuracy/median"], shown["devsafety"]) == (-0.9, 0.5, -0.1)
    after = summary(step)
    assert {name for name in after if ":" in name} == {"h/w:7", *(f"lambda/w:{k}" for k in (7, 70, 71, 72, 73))}
