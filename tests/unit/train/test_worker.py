"""What a worker reads and when: the test split once, after the choice (invariant 5), and only where there is one."""

import tempfile
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import StoppedError, UsageError
from raymds.method.verdict import refusal
from raymds.model import load, precision
from raymds.run import RunDirectory
from raymds.tasks import resolve
from raymds.train import checkpoint, diagnose, ending, select, worker
from raymds.train import evaluate as evaluations
from raymds.train.conclude import conclude
from raymds.train.emit import Emit
from raymds.train.evaluate import Evaluation, evaluate, paired
from tests.unit.train.conftest import Recorder, payload_of


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_test_split_is_read_once_after_the_choice(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, average: float
) -> None:
    config.select.average = average

    def last(candidates: Any, towards: Any) -> Any:
        candidate, record = candidates[-1]
        assert towards(candidate)(1.0) == record  # the checkpoint holds the candidate that was measured
        return select.Choice(candidate, 1.0, record)

    monkeypatch.setattr(select, "choose", last)
    result = worker.run_cycle(payload_of(config, recorder))
    assert result["choice"]["step"] == 8
    data = DataSet.open(config.data.uri)
    tasks, test = resolve(config.task, data.attributes), data.load("test")
    recorder.events.pop()

    def measured(weights: str) -> Evaluation:
        net = load(config.model.name, weights, tasks.heads, config.model.head_rank, 0)
        return evaluate(net, test, tasks, config.constraints.temperature)

    old, new = measured(config.model.weights), measured(result["weights"]["uri"])
    certificate = result["certificate"]
    for entry, task in zip([certificate["target"], *certificate["tasks"]], tasks.all, strict=True):
        # The old model is the old one, after all that training.
        counts = asdict(paired(old, new, task, "cross_entropy"))
        assert {name: entry[name] for name in counts if name in entry} == {
            n: c for n, c in counts.items() if n in entry
        }
        assert entry["old"] == counts["old_right"] / counts["n"]
    assert recorder.events == [
        "read train",
        "read val",
        "measuring the old model",
        "measuring the old model on the retained examples",
        "diagnosing the last candidate",
        "choosing among candidates",
        "certifying on the test split",
        "read test",
    ]


@pytest.mark.parametrize("require", ["certified", "undecided"])
def test_weights_that_may_not_become_the_outcome_have_another_name(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, require: str
) -> None:
    """The worker names the weights and the driver the outcome, by one decision."""
    config.select.require, config.select.tolerance = require, 0.0
    monkeypatch.setattr(select, "choose", lambda found, towards: select.Choice(found[-1][0], 1.0, found[-1][1]))
    result = worker.run_cycle(payload_of(config, recorder))
    assert result["refused"] == refusal(result["certificate"], require, "gain")
    name = "rejected" if result["refused"] else "weights"
    assert result["weights"]["uri"] == f"{config.run.uri}/{name}.safetensors"
    assert Path(result["weights"]["uri"]).is_file()
    if require == "certified":
        assert result["refused"]  # 120 images can't certify 13 tasks


def test_without_a_choice_the_test_split_is_not_read(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "choose", lambda candidates, towards: None)
    assert worker.run_cycle(payload_of(config, recorder))["choice"] is None
    assert "read test" not in recorder.events


def test_without_a_choice_a_study_has_the_nearest_candidate_measured(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "choose", lambda candidates, towards: None)
    run = RunDirectory(config.run.uri)
    run.claim(config)
    result = worker.run_cycle(payload_of(config, recorder, nearest=True))
    assert recorder.events[-2:] == ["certifying on the test split", "read test"]
    assert result["choice"] is None
    data = DataSet.open(config.data.uri)
    outcome = conclude(config, run, data, result)
    best = max(recorder.reports, key=lambda report: select.score(report.metrics["record"]))
    assert outcome["candidate"] == {"step": best.metrics["step"], "alpha": 1.0}
    assert (outcome["outcome"], outcome["weights"]) == ("old", config.model.weights)
    assert outcome["reason"].startswith("no candidate improved the target and kept every protected task on val")
    certificate = run.read_json("certificate.json")
    assert certificate is not None
    rejected = Path(config.run.uri, "rejected.safetensors")  # whatever test says of it
    assert certificate["digests"]["weights"] == sha256(rejected.read_bytes()).hexdigest()
    assert not Path(config.run.uri, "weights.safetensors").exists()
    tasks = resolve(config.task, data.attributes)
    net = load(config.model.name, str(rejected), tasks.heads, config.model.head_rank, 0)
    name = Path(best.checkpoint.path).name
    weights = ending.candidate_of(config, ending.Candidate(name, 0, {}), net.weights())
    assert all(torch.equal(value, weights[name]) for name, value in net.weights().items())


def test_a_trial_does_not_read_the_test_split_for_its_nearest_candidate(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(select, "choose", lambda candidates, towards: None)
    assert "certificate" not in worker.run_cycle(payload_of(config, recorder, trial=True, nearest=True))
    assert "read test" not in recorder.events


@pytest.mark.parametrize("step", [0, 8])
def test_a_stop_is_heard_before_the_first_step_and_after_the_last(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """While the old model is measured, and while candidates are chosen among."""
    config.select.every = 4
    heard = "choosing among candidates" if step else "measuring the old model"
    monkeypatch.setattr(Emit, "told", lambda emit: recorder.events[-1] == heard)
    with pytest.raises(StoppedError, match="stopped while measuring"):
        worker.run_cycle(payload_of(config, recorder))
    assert recorder.events[-1] == heard
    assert [report.metrics["step"] for report in recorder.reports] == ([4, 8] if step else [])


def test_a_stop_is_heard_while_the_images_of_a_task_without_data_are_measured(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.task.without_data = ["weather:snowy"]
    asked: list[bool] = []
    measure = evaluations.evaluate

    def noted(*given: Any, as_class: Any = None, **more: Any) -> Evaluation:
        asked.append(as_class is not None)
        return measure(*given, as_class=as_class, **more)

    monkeypatch.setattr(evaluations, "evaluate", noted)
    monkeypatch.setattr(Emit, "told", lambda emit: asked == [False, True])
    with pytest.raises(StoppedError, match="stopped while measuring"):
        worker.run_cycle(payload_of(config, recorder))
    assert asked == [False, True]
    assert not list(Path(config.run.uri, "old").glob("retained-*"))


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stop_is_heard_while_the_last_candidate_is_diagnosed(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    """While its losses are measured, and between the gradients of two tasks."""
    seen = []
    changes = diagnose._changes

    def noted(cast: Any, old_losses: Any) -> Any:
        seen.append("losses")
        found = changes(cast, old_losses)
        seen.append("gradients")
        return found

    monkeypatch.setattr(diagnose, "_changes", noted)
    monkeypatch.setattr(Emit, "told", lambda emit: len(seen) > stopped)
    with pytest.raises(StoppedError, match="stopped while measuring"):
        worker.run_cycle(payload_of(config, recorder))
    assert seen == ["losses", "gradients"][: stopped + 1]
    assert recorder.events[-1] == "diagnosing the last candidate"


def test_a_rescue_reads_each_candidate_once(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    load_it = checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda uri: read.append(uri) or load_it(uri))  # type: ignore[func-returns-value]
    compare = select.compare
    monkeypatch.setattr(select, "compare", lambda *given: compare(*given) | {"feasible": False})
    assert worker.run_cycle(payload_of(config, recorder))["choice"] is None
    assert sorted(read) == [ending.checkpoint_uri(config, f"step-000000{step}") for step in (4, 8)]
    assert recorder.events[-1] == "choosing among candidates"


@pytest.mark.parametrize("there", [b"", b"another: run\n", None])
def test_a_run_directory_that_a_worker_does_not_see(recorder: Recorder, config: Config, there: bytes | None) -> None:
    claimed, stored = b"the: driver's\n", Path(config.run.uri, "config.yaml")
    if there is not None:
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(there)
    payload = payload_of(config, recorder, claimed=sha256(claimed).hexdigest())
    with pytest.raises(UsageError, match=r"run\.uri=.*: is a path of the machine .* does not have it; give a URI"):
        worker.run_cycle(payload)
    assert recorder.events == []


@pytest.mark.parametrize("section", ["run", "select"])
def test_a_processor_without_bf16_is_named(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    getattr(config, section).precision = "bf16"
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    message = rf"{section}\.precision=bf16: the processor of .* does not multiply in it; leave it"
    with pytest.raises(UsageError, match=message):
        worker.run_cycle(payload_of(config, recorder))


@pytest.mark.parametrize("where", ["measure_old", "begin"])
def test_too_little_memory_beside_the_steps_ends_a_run_at_once(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def nothing_left(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(worker.cycle.ConstrainedCycle, where, nothing_left)
    with pytest.raises(UsageError, match=r"a worker has no memory for the model .* each: CUDA out of memory\..*GiB$"):
        worker.run_cycle(payload_of(config, recorder))


@pytest.mark.parametrize("stop_at", [2, 1000])
def test_event_files_are_left_in_the_run_directory_alone(
    recorder: Recorder, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    recorder.stop_at = stop_at
    with suppress(StoppedError):
        worker.run_cycle(payload_of(config, recorder))
    assert list(temporary.glob("raymds-*")) == []
    assert len(list(Path(config.run.uri, "tensorboard").iterdir())) == 1
