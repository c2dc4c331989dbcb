"""Steps and checkpoints: where a stop, a machine that goes or too little memory finds them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from raymds.config import Config
from raymds.errors import StoppedError, UsageError
from raymds.train import checkpoint, ending, loop, worker
from raymds.train.emit import Emit
from tests.unit.train.conftest import Recorder, candidates, payload_of


def test_a_stop_leaves_a_checkpoint_that_is_no_candidate(recorder: Recorder, config: Config) -> None:
    recorder.stop_at = 2
    with pytest.raises(StoppedError, match="stopped after step 3, in a checkpoint"):
        worker.run_cycle(payload_of(config, recorder))
    [report] = recorder.reports
    assert report.metrics == {"step": 3, "score": -1e9}
    assert checkpoint.load(ending.checkpoint_uri(config, "step-0000003"))[0] == 3
    assert not any("record" in report.metrics for report in ending.written())


def test_a_stop_while_a_candidate_is_measured_loses_neither_step_nor_candidate(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    payload = payload_of(config, recorder)
    with monkeypatch.context() as patched:
        patched.setattr(Emit, "told", lambda emit: emit._step == 4)
        with pytest.raises(StoppedError, match="stopped while measuring; the same command goes on"):
            worker.run_cycle(payload)
    [report] = recorder.reports
    assert report.metrics == {"step": 4, "score": -1e9}
    assert ending.uri_of(config, report.checkpoint) == ending.checkpoint_uri(config, "step-0000004-unmeasured")
    monkeypatch.setattr(worker.ray.train, "get_checkpoint", lambda: report.checkpoint)
    worker.run_cycle(payload)
    assert candidates(recorder) == [4, 8]
    stopped = recorder.reports[1:]

    monkeypatch.setattr(worker.ray.train, "get_checkpoint", lambda: None)
    recorder.reports.clear()
    config.run.uri = str(tmp_path / "undisturbed")
    worker.run_cycle(payload)
    assert [report.metrics for report in stopped] == [report.metrics for report in recorder.reports]


def test_a_notice_that_a_machine_goes_leads_to_one_checkpoint(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a second one to one more."""
    taken: list[int] = []
    step = worker.cycle.ConstrainedCycle.step

    def counted(training: Any, loaded: Any) -> Any:
        taken.append(loaded.batch.step)
        return step(training, loaded)

    monkeypatch.setattr(worker.cycle.ConstrainedCycle, "step", counted)
    monkeypatch.setattr(loop, "_leaving", lambda: (len(taken) >= 3) + (len(taken) >= 6))
    worker.run_cycle(payload_of(config, recorder))
    assert [report.metrics["step"] for report in recorder.reports] == [3, 4, 6, 8]
    assert candidates(recorder) == [4, 8]


@pytest.mark.parametrize("lost", [False, True])
def test_a_notice_while_a_candidate_is_measured_leads_to_a_checkpoint_before_it(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: bool
) -> None:
    """With the same candidates in the end, whether the machine lasts until it is measured or not."""
    payload = payload_of(config, recorder)
    worker.run_cycle(payload)
    undisturbed = [report.metrics for report in recorder.reports]
    recorder.reports.clear()

    config.run.uri = str(tmp_path / "noticed")
    asked = iter([False] * 3)  # of each step before the candidate; then it is measured
    monkeypatch.setattr(loop, "_leaving", lambda: int(not recorder.ended and next(asked, True)))
    with monkeypatch.context() as patched:
        if lost:
            patched.setattr(loop.ending, "written", lambda: (_ for _ in ()).throw(SystemExit))
            with pytest.raises(SystemExit):
                worker.run_cycle(payload)
        else:
            worker.run_cycle(payload)
    first = recorder.reports[0]
    assert first.metrics == {"step": 4, "score": loop.RESUME_ONLY}
    assert first.checkpoint.path.endswith("step-0000004-unmeasured")
    if lost:
        recorder.ended = True  # on another machine, which stays
        monkeypatch.setattr(loop.ray.train, "get_checkpoint", lambda: first.checkpoint)
        worker.run_cycle(payload)
    assert [report.metrics for report in recorder.reports[1:]] == undisturbed


def test_towers_that_cant_be_compiled_are_said(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(*_: object) -> None:
        raise RuntimeError("no working compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    config.run.compile = True
    with pytest.raises(
        UsageError, match=r"run\.compile=true: .* on this machine; leave it out: RuntimeError: no working compiler"
    ):
        worker.run_cycle(payload_of(config, recorder))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_step_without_memory_says_which_number_to_lower(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A user's error, which ends a run at once: it would come again."""

    def step(*_: object) -> None:
        raise error

    monkeypatch.setattr(worker.cycle.ConstrainedCycle, "step", step)
    said = r"run\.micro_batch=0: a worker has no memory for 55 images at a time; set run\.micro_batch=13, "
    with pytest.raises(UsageError, match=said):
        worker.run_cycle(payload_of(config, recorder))
