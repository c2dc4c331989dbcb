"""Results of the old model that cycles share: the same again, never damaged, never another model's."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import StoppedError, UsageError
from raymds.log import records
from raymds.run import RunDirectory
from raymds.tasks import resolve
from raymds.train import ending, worker
from raymds.train.evaluate import Evaluation, evaluate
from raymds.train.net import open_net
from raymds.train.old import OldModel, names
from raymds.train.revisit import diagnose_run
from tests.unit.train.conftest import Recorder, payload_of

VAL = Evaluation(
    labels={"weather": np.array([0, -1])},
    predicted={"weather": np.array([1, 0])},
    loss={"weather": np.array([0.5, np.nan])},
    group=np.array([3, -1]),
)
LOSSES = [torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)]


def opened(config: Config, folder: Path) -> OldModel:
    data = DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    return OldModel(str(folder), config, data, tasks, open_net(config, tasks.heads))


def named(config: Config, data: str = "data") -> tuple[str, str]:
    tasks = resolve(config.task, DataSet.open(config.data.uri).attributes)
    return names(config, data, tasks, open_net(config, tasks.heads))


def never() -> Any:
    raise AssertionError("it is known")


def test_what_was_measured_is_known_bit_for_bit(config: Config, tmp_path: Path) -> None:
    assert opened(config, tmp_path).known_val() is None
    assert opened(config, tmp_path).val(lambda: VAL) is VAL
    assert opened(config, tmp_path).retained(lambda: LOSSES) is LOSSES
    again = opened(config, tmp_path)
    found = again.val(never)
    for part in ("labels", "predicted", "loss"):
        assert np.array_equal(getattr(found, part)["weather"], getattr(VAL, part)["weather"], equal_nan=True)
        assert getattr(found, part)["weather"].dtype == getattr(VAL, part)["weather"].dtype
    assert found.first is None
    assert found.group is not None
    assert found.group.tolist() == [3, -1]
    assert all(torch.equal(one, other) for one, other in zip(again.retained(never), LOSSES, strict=True))


def test_cells_that_measure_at_once_leave_an_index_and_a_file_that_fit(config: Config, tmp_path: Path) -> None:
    """On two kinds of processor, of one name, the last bits may differ."""
    other = [loss + 1e-9 for loss in LOSSES]
    one, two = opened(config, tmp_path), opened(config, tmp_path)

    def meanwhile() -> list[torch.Tensor]:
        two.retained(lambda: other)
        return LOSSES

    one.retained(meanwhile)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert all(torch.equal(a, b) for a, b in zip(two.retained(never), LOSSES, strict=True))


def test_a_flipped_byte_is_named(config: Config, tmp_path: Path) -> None:
    opened(config, tmp_path).val(lambda: VAL)
    [file] = tmp_path.glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UsageError, match=rf"{file.name}: damaged: .*remove it and val-\w+\.json, to measure again"):
        opened(config, tmp_path).val(never)


def test_a_file_without_its_index_is_not_read(config: Config, tmp_path: Path) -> None:
    opened(config, tmp_path).val(lambda: VAL)
    [index] = tmp_path.glob("val-*.json")
    assert set(json.loads(index.read_text())) == {"sha256"}
    index.unlink()
    assert opened(config, tmp_path).known_val() is None


RETAINED: dict[str, Callable[[Config], None]] = {  # what decides the retained examples' values, and not those on val
    "seed": lambda config: setattr(config.run, "seed", 1),
    "precision": lambda config: setattr(config.run, "precision", "bf16"),
    "held out": lambda config: setattr(config.constraints, "held_out", 0.4),
    "loss": lambda config: setattr(config.constraints, "loss", "error"),
    "number": lambda config: setattr(config.task, "retained", 10),
    "streamed": lambda config: setattr(config.data, "memory", 1),
    "another target": lambda config: setattr(config.task, "target", "weather:snowy"),
    "target of another attribute": lambda config: setattr(config.task, "target", "scene:tunnel"),
    "without data": lambda config: setattr(config.task, "without_data", ["weather:snowy"]),
    "fewer tasks": lambda config: setattr(config.task, "protect", ["weather:rainy", "scene", "timeofday"]),
}
BOTH: dict[str, Callable[[Config], None]] = {
    "temperature": lambda config: setattr(config.constraints, "temperature", 0.1),
    "skipped": lambda config: setattr(config.data, "on_corrupt", "skip"),
    "sentences": lambda config: config.task.prompts.update(weather="{} weather"),
    "phrases": lambda config: config.task.phrases.update(scene={"residential": "houses"}),
    "fewer attributes": lambda config: setattr(config.task, "protect", ["weather", "scene"]),
    "order of classes": lambda config: config.task.classes.update(weather=["foggy", "clear", "rainy"]),
}
NEITHER: dict[str, Callable[[Config], None]] = {
    "solver": lambda config: setattr(config.constraints, "solver", "gem"),
    "steps": lambda config: setattr(config.optim, "steps", 100),
    "directory": lambda config: setattr(config.run, "uri", "elsewhere"),
}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        *((name, (True, False)) for name in RETAINED),
        *((name, (False, False)) for name in BOTH),
        *((name, (True, True)) for name in NEITHER),
    ],
)
def test_a_key_says_all_that_its_results_depend_on_and_no_more(
    config: Config, name: str, same: tuple[bool, bool]
) -> None:
    before, other = named(config), deepcopy(config)
    assert named(config) == before
    (RETAINED | BOTH | NEITHER)[name](other)
    assert tuple(a == b for a, b in zip(before, named(other), strict=True)) == same


def test_other_data_and_other_weights_have_other_keys(config: Config, tmp_path: Path) -> None:
    before = named(config)
    assert not set(before) & set(named(config, "other data"))
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(str(config.model.weights)).read_bytes())
    config.model.weights = str(copy)
    assert named(config) == before
    net = open_net(config, [])
    copy.write_bytes(copy.read_bytes()[:-4] + b"\0\0\0\x3f")
    assert not set(before) & set(named(config))
    assert net.identity == open_net(config, []).identity


def test_val_depends_on_neither_seed_nor_target(config: Config) -> None:
    """Which is why its key has neither: the heads that the seed draws add nothing before they are trained."""
    data = DataSet.open(config.data.uri)
    found = []
    for seed, target in ((0, "weather:foggy"), (1, "weather:snowy")):
        config.run.seed, config.task.target = seed, target
        tasks = resolve(config.task, data.attributes)
        val = data.load("val", tasks.vocabularies)
        found.append(evaluate(open_net(config, tasks.heads), val, tasks, config.constraints.temperature))
    for part in ("labels", "predicted", "loss"):
        one, other = (getattr(evaluation, part) for evaluation in found)
        assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one.keys() | other.keys())


def test_the_key_says_which_examples_are_held_out(config: Config) -> None:
    limits = config.constraints
    (_, whole), limits.held_out = named(config), 0.4
    _, held = named(config)
    limits.images_per_task += 1  # each part has a step's draw
    assert len({whole, held, named(config)[1]}) == 3
    limits.solver = "regularize"  # its λ does not come from u: none are held out
    assert named(config)[1] == whole


def test_what_the_old_model_does_is_measured_once(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the run that goes on, that is made again, or that has another seed; to the same bits."""
    config.select.tolerance = 0.0

    def measured() -> int:
        return sum(event.startswith("measuring the old model") for event in recorder.events)

    payload = payload_of(config, recorder)
    recorder.stop_at = 5
    with pytest.raises(StoppedError, match="after step 6"):
        worker.run_cycle(payload)
    assert measured() == 2
    with monkeypatch.context() as patched:
        patched.setattr(worker.ray.train, "get_checkpoint", lambda: recorder.reports[-1].checkpoint)
        recorder.stop_at = 1000
        worker.run_cycle(payload)
    assert measured() == 2

    def outcome(uri: str) -> tuple[Any, bytes]:
        config.run.uri = uri
        recorder.reports.clear()
        result = worker.run_cycle(payload)
        records = [report.metrics for report in recorder.reports]
        final = Path(ending.checkpoint_uri(config, "step-0000008"), "checkpoint.json")
        return (records, {**result, "weights": 0}), final.read_bytes()

    with_it = outcome(str(tmp_path / "again"))
    assert measured() == 2
    payload["old"] = str(tmp_path / "empty")
    assert outcome(str(tmp_path / "without")) == with_it
    assert measured() == 4
    config.run.seed = 1
    worker.run_cycle(payload)
    assert measured() == 5  # other retained examples, the same val


def test_a_task_without_data_is_in_the_log_and_measured_once(
    recorder: Recorder, config: Config, tmp_path: Path
) -> None:
    """Its values stand behind those of the protected tasks: in what is kept of the old model, in every step's lists."""
    config.task.without_data = ["weather:snowy"]
    payload, results = payload_of(config, recorder), []
    for uri in ("first", "again"):
        config.run.uri = str(tmp_path / uri)
        recorder.reports.clear()
        recorder.events.clear()
        diagnosis = worker.run_cycle(payload)["diagnosis"]
        begin, *others = records(config.run.uri)
        steps = [record for record in others if record["event"] == "step"]
        results.append([step[kind] for step in steps for kind in ("h", "u", "lambda")])
        tasks = [task for task in begin["tasks"] if task != "weather:snowy"]
        assert begin["tasks"] == [*tasks, "weather:snowy"]
        evals = [record for record in others if record["event"] == "eval"]
        assert [[task["task"] for task in record["tasks"]] for record in evals] == [tasks] * 3
        assert steps[0]["h"]["weather:snowy"] == 0.0
        assert 0 < steps[-1]["h"]["weather:snowy"] < 1
    assert results[0] == results[1]
    assert "measuring the old model on the retained examples" not in recorder.events
    RunDirectory(config.run.uri).claim(config)
    assert diagnose_run(config.run.uri)["diagnosis"]["h"] == diagnosis["h"]
    assert list(diagnosis["h"]["train"]) == tasks


def test_a_run_measures_each_model_on_val_once(
    recorder: Recorder, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one and two candidates; the diagnosis has the last one's results."""
    config.select.interpolate, measured = False, []

    def noted(net: Any, *given: Any, **more: Any) -> Evaluation:
        measured.append(net)
        return evaluate(net, *given, **more)

    monkeypatch.setattr(worker, "evaluate", noted)
    assert worker.run_cycle(payload_of(config, recorder))["diagnosis"]
    assert len(measured) == 3
