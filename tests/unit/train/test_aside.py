"""Candidates measured beside the training, in a process of their own, or by the workers at last where that fails."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import TaskCancelledError

from raymds import log
from raymds.config import Config
from raymds.train import aside, ending, entry, loop, worker
from raymds.train.emit import Emit
from raymds.train.seeing import Boards
from raymds.train.watch import Monitor
from tests.unit.train.conftest import Recorder, payload_of


def answering(recorder: Recorder, payload: dict[str, Any], steps: tuple[int, ...]) -> None:
    """Validation as Ray Train does it, of candidates of these steps."""

    def validate(found: Any, given: dict[str, Any]) -> dict[str, Any]:
        return entry.validate(found, settings=payload, **given) if given["step"] in steps else {}

    recorder.validate = validate


@pytest.mark.parametrize(("steps", "average"), [((2, 4, 6), 0.9), ((4,), 0.0), ((), 0.9)])
def test_whoever_measures_the_candidates_the_run_is_the_same(
    recorder: Recorder,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    steps: tuple[int, ...],
    average: float,
) -> None:
    config.select.every, config.select.average = 2, average
    boarded: list[int] = []
    monkeypatch.setattr(Boards, "add", lambda boards, r: boarded.append(r["step"]) if r["event"] == "eval" else None)
    ends = []
    for beside in (False, True):
        config.run.uri = str(tmp_path / f"beside-{beside}")
        recorder.reports.clear()
        recorder.events.clear()
        boarded.clear()
        payload = payload_of(config, recorder, beside=beside)
        answering(recorder, payload, steps)
        result = worker.run_cycle(payload)
        logged = [record for record in log.records(config.run.uri) if record["event"] in {"step", "eval"}]
        log.join(config.run.uri)
        joined = [record for record in log.records(config.run.uri) if record["event"] in {"step", "eval"}]
        assert logged == joined
        evaluations = [(r["step"], ending.record_of(r)) for r in logged if r["event"] == "eval"]
        order = [(r["event"], r["step"]) for r in logged]
        ends.append((result["choice"], result["diagnosis"], order, evaluations, sorted(boarded)))
    assert ends[1] == ends[0]
    assert [r["step"] for r in logged if r.get("beside")] == list(steps)
    left = [f"measuring the candidate of step {step}" for step in (2, 4, 6) if step not in steps]
    assert [event for event in recorder.events if event.startswith("measuring the candidate")] == left
    assert recorder.ended == bool(left)
    assert recorder.notes == []


@pytest.fixture
def made(recorder: Recorder, config: Config) -> dict[str, Any]:
    """A run whose first candidate is not measured."""
    payload = payload_of(config, recorder, beside=True)
    recorder.stop_at = 5
    with pytest.raises(Exception, match="stopped after step 6"):
        worker.run_cycle(payload)
    recorder.stop_at = 1000
    assert recorder.reports[0].metrics == {"step": 4, "record": None, "score": loop.RESUME_ONLY}
    return payload


def test_a_candidate_is_measured_once_with_the_threads_of_a_worker(
    recorder: Recorder, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = aside.validate(recorder.reports[0].checkpoint, made, 4, 2)
    assert torch.get_num_threads() == 2
    assert set(found) == {"record", "score"}
    monkeypatch.setattr(aside, "evaluate", None)  # the process is killed before Ray hears of it, and started again
    assert aside.validate(recorder.reports[0].checkpoint, made, 4, 2) == found


def test_a_run_that_stops_or_ends_leaves_a_candidate_to_the_workers(recorder: Recorder, made: dict[str, Any]) -> None:
    recorder.ended = True
    with pytest.raises(TaskCancelledError, match="step 4: the workers measure val at the end"):
        aside.validate(recorder.reports[0].checkpoint, made, 4, 1)
    assert log.found_beside(made["config"].run.uri) == []
    assert recorder.notes == []


@pytest.mark.parametrize("lacking", ["old", "val"])
def test_what_can_not_be_measured_is_said_and_left_to_the_workers(
    recorder: Recorder, made: dict[str, Any], lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another processor than theirs; of what fails there, which they will name if it fails again."""
    said = "this machine's processor is another than the workers'"
    if lacking == "old":
        made["old"] = f"{made['old']}-of-another-processor"
    else:
        said = "no memory"
        monkeypatch.setattr(aside, "evaluate", lambda *_, **__: (_ for _ in ()).throw(MemoryError(said)))
    with pytest.raises(TaskCancelledError):
        aside.validate(recorder.reports[0].checkpoint, made, 4, 1)
    [note] = recorder.notes
    assert note.startswith("step 4: the workers measure val at the end, as beside the training it failed: ")
    assert said in note


def test_of_all_candidates_those_remain_that_ray_keeps_where_each_is_measured_at_once(
    recorder: Recorder, config: Config
) -> None:
    """The five with the highest scores, of equal ones the later, and the last."""

    def report(step: int, new: float) -> Any:
        record = {"feasible": True, "margin": 0.0, "target": {"delta": new, "new": new}}
        path = ending.checkpoint_uri(config, f"step-{step:07d}")
        return SimpleNamespace(checkpoint=SimpleNamespace(path=path), metrics={"step": step, "record": record})

    gains = [0.3, 0.1, 0.2, 0.1, 0.4, 0.5, 0.6, 0.05]
    recorder.reports = [report(step, new) for step, new in enumerate(gains, 1)]
    with Emit(config, recorder) as emit:
        found = ending.candidates(config, {}, lambda weights: {}, emit)
    assert [candidate.step for candidate in found] == [8, 3, 1, 5, 6, 7]
    assert found[0].record == recorder.reports[7].metrics["record"]


def test_nothing_is_measured_beside_a_run_that_stops_or_ends() -> None:
    for end in (Monitor.stop, Monitor.end_beside):
        monitor = Monitor()
        assert monitor.beside()
        end(monitor)
        assert not monitor.beside()
