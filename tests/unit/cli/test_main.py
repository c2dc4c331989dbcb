"""What a user sees: exit statuses and messages, before anything expensive starts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from raymds.cli.main import main
from raymds.config import Config
from raymds.data import verify as verifying
from raymds.data.shards import DataSet
from raymds.model import ClipWithHeads, load, pack_weights
from raymds.run import RunDirectory
from tests.conftest import overrides


@pytest.fixture
def settings(data_uri: str, old_weights: str, tmp_path: Path) -> list[str]:
    preset = tmp_path / "mine.yaml"
    preset.write_text("run: {workers: 1}\n")
    return [str(preset), *overrides(data_uri, old_weights, str(tmp_path / "run"))]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean optim.lr?"),
        ("optim.steps=many", "optim.steps: Value 'many'"),
        ("constraints.gamma=2", "constraints.gamma=2.0: has to lie in (0, 1]"),
        ("task.protect=[weather:foggy]", "task.protect: weather:foggy is the target"),
        ("task.protect=[weather:hail]", "'hail' is no class of weather"),
        ("task.target=scene:beach", "'beach' is no class of scene"),
        ("task.classes.weather=[clear, hail]", "task.classes.weather: 'hail' is no class of weather"),
        ("task.phrases.weather.fogy=fog", "task.phrases.weather: 'fogy' is no class of weather's label set"),
        ("objective.head=common", "objective.head=common: has to be own or shared"),
        ("model.name=ViT-B-32", "weights.safetensors says that it is tiny-64 with gelu"),
        ("model.weights=nowhere.safetensors", "nowhere.safetensors: no such file"),
        ("data.uri=nowhere", "data.uri=nowhere: no data set there"),
        ("run.workers=8", "run.workers=8: asks for 8 workers with 1 CPUs each"),
        ("constraints.images_per_task=21", "constraints.images_per_task=21: weather:clear has 20 retained examples"),
        ("constraints.tasks_per_step=14", "constraints.tasks_per_step=14: has to be 13"),
        ("data.image_size=224", "data.image_size=224: tiny-64 takes 64 pixels"),
        ("run.uri=''", "run.uri: has no value"),
    ],
)
def test_a_bad_cycle_ends_with_status_2_and_one_message(
    settings: list[str], override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", *settings, override]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("raymds: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err + captured.out
    assert not ray.is_initialized()


def test_a_cut_or_missing_shard_is_found_before_anything_starts(
    settings: list[str], data_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in Path(data_uri).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    shard = copy / "val-1.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["finetune", *settings, f"data.uri={copy}"]) == 2
    assert f"{shard}: shard is damaged" in capsys.readouterr().err
    shard.unlink()
    assert main(["finetune", *settings, f"data.uri={copy}"]) == 2
    assert f"{shard}: shard is missing" in capsys.readouterr().err
    assert not ray.is_initialized()


def test_a_protected_task_without_examples_is_named(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["rows.train=300", "rows.val=30", "rows.test=30", "frequencies.scene.tunnel=0"]
    assert main(["data", "scenes", str(tmp_path / "set"), *rows]) == 0
    assert main(["finetune", *settings, f"data.uri={tmp_path / 'set'}"]) == 2
    assert "task.protect: scene:tunnel has no examples in the train split" in capsys.readouterr().err
    held = [*settings, f"data.uri={tmp_path / 'set'}", "task.retained=5", "task.without_data=[scene:tunnel]"]
    assert main(["finetune", *held, "--dry-run"]) == 0
    out = capsys.readouterr().out
    (row,) = (line for line in out.splitlines() if "scene:tunnel" in line and "│" in line)
    assert "not certifiable" in row
    assert "No examples of scene:tunnel are used: it is held by what the old model says of 5 new images" in out


def test_scenes_are_the_same_again_and_not_mixed_with_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["rows.train=30", "rows.val=10", "rows.test=10", "rows_per_shard=20"]
    digests = []
    for name in ("one", "two", "one"):
        assert main(["data", "scenes", str(tmp_path / name), "--json", *rows]) == 0
        digests.append(json.loads(capsys.readouterr().out.splitlines()[-1])["digest"])
    assert len(set(digests)) == 1
    assert main(["data", "scenes", str(tmp_path / "one"), *rows, "seed=1"]) == 2
    assert "already holds another data set" in capsys.readouterr().err
    assert main(["data", "scenes", str(tmp_path / "three"), "frequencies.weather.hail=1"]) == 2
    assert "hail" in capsys.readouterr().err


def test_glyphs_are_the_same_again_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["rows.train=30", "rows.val=12", "rows.test=12", "classes=6", "size=32", "frequencies.red plain star=3"]
    digests = []
    for name in ("one", "two"):
        assert main(["data", "glyphs", str(tmp_path / name), "--json", *rows]) == 0
        digests.append(json.loads(capsys.readouterr().out.splitlines()[-1])["digest"])
    assert len(set(digests)) == 1
    assert main(["data", "show", str(tmp_path / "one"), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])["classes"]["thing"]
    assert counts["red plain star"]["train"] > counts["red plain ring"]["train"]
    assert {found["val"] for found in counts.values()} == {2}
    assert main(["data", "glyphs", str(tmp_path / "three"), "frequencies.red plain cube=1"]) == 2
    assert "frequencies.red plain cube: is none of the 320 classes" in capsys.readouterr().err


def test_certify_works_alone(
    settings: list[str], old_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "certificate.json"
    same = ["certify", *settings, "--old", old_weights, "--new", old_weights, "--out", str(out)]
    assert main(same) == 0
    certificate = json.loads(out.read_text())
    assert certificate["devsafety"] == 0.0
    assert all(task["delta"] == task["negative_flips"] == 0 for task in certificate["tasks"])
    assert certificate["digests"]["parent"] == certificate["digests"]["weights"]
    table, said = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    assert "weather:rainy" in table
    assert max(len(line) for line in table.splitlines()) <= 100
    assert said.startswith("The old and the new model are the same file, so nothing can be lost, whatever the verdict")


def test_evaluate_says_what_the_certificate_says_of_a_model(
    settings: list[str], old_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "certificate.json"
    assert main(["certify", *settings, "--old", old_weights, "--new", old_weights, "--out", str(out)]) == 0
    certificate = json.loads(out.read_text())
    capsys.readouterr()
    assert main(["evaluate", *settings, "--weights", old_weights]) == 0
    said = capsys.readouterr().out
    assert "weather:rainy" in said
    assert "val split" in said  # test is for certificates
    assert main(["evaluate", *settings, "--weights", old_weights, "--split", "test", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = [(entry["task"], entry["n"], entry["old"]) for entry in [certificate["target"], *certificate["tasks"]]]
    assert [(entry["task"], entry["n"], entry["accuracy"]) for entry in measured["tasks"]] == expected
    assert measured["digests"]["weights"] == certificate["digests"]["weights"]
    assert main(["evaluate", *settings, "--weights", str(tmp_path / "nothing.safetensors")]) == 2


def test_what_libraries_print_is_no_record(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray prints that a node was lost, in the middle of a run."""

    def verify(uri: str, show: Any) -> verifying.Findings:
        show({"event": "progress", "what": "shards", "done": 1, "total": 2})
        print("(raylet) The node is gone")
        return verifying.Findings()

    monkeypatch.setattr(verifying, "verify", verify)
    assert main(["data", "verify", "data", "--json"]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["event"] for line in captured.out.splitlines()] == ["progress", "result"]
    assert captured.err == "(raylet) The node is gone\n"


def test_certifying_a_worse_model_ends_with_status_3(
    settings: list[str], old_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = load("tiny-64", old_weights, [], 4, 0)
    with torch.no_grad():
        net.clip.visual.proj.mul_(-1)
    worse = tmp_path / "worse.safetensors"
    worse.write_bytes(pack_weights(net))
    command = ["certify", *settings, "--old", old_weights, "--new", str(worse), "select.tolerance=0", "--json"]
    assert main(command) == 3
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["certificate"]["verdict"] == "violated"


@pytest.mark.parametrize(("require", "status"), [("certified", 3), ("retained", 0), ("undecided", 0)])
def test_certify_ends_with_status_3_below_what_is_required(
    settings: list[str], old_weights: str, require: str, status: int
) -> None:
    """A model against itself flips nothing: retained, as no number of images certifies it without a tolerance."""
    wanted = ["select.tolerance=0", f"select.require={require}"]
    assert main(["certify", *settings, "--old", old_weights, "--new", old_weights, *wanted]) == status


@pytest.mark.parametrize("verb", ["finetune", "tune"])
def test_a_dry_run_says_what_there_is_and_writes_nothing(
    settings: list[str], verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main([verb, *settings, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "  target: weather:foggy\n" in out
    assert re.search(r"│ weather:rainy +│ +\d+ │ +\d+ │ +\d+ │ +50 │", out)
    assert "13 protected tasks with " in out
    assert f"run: {tmp_path / 'run'} (new); a dry run writes nothing\n" in out
    assert main([verb, *settings, "--dry-run", "--json", 'select.tolerance={"weather:rainy": 0.02}']) == 0
    prepared = json.loads(capsys.readouterr().out.splitlines()[-1])["prepared"]
    allowed = {task["task"]: task.get("tolerance") for task in prepared["tasks"]}
    assert (allowed["weather:foggy"], allowed["weather:rainy"], allowed["weather:clear"]) == (None, 0.02, 0.0)
    assert prepared["tasks"][0] == {"task": "weather:foggy", **counted(settings, "weather", "foggy")}
    assert sorted(tmp_path.rglob("*")) == before
    assert not ray.is_initialized()


def counted(settings: list[str], attribute: str, label: str) -> dict[str, int]:
    uri = next(item for item in settings if item.startswith("data.uri=")).removeprefix("data.uri=")
    data = DataSet.open(uri)
    return {name: int((data.load(name).labels[attribute] == data.attributes[attribute].index(label)).sum())
            for name in ("train", "val", "test")}  # fmt: skip


@pytest.mark.parametrize("verb", ["finetune", "tune"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key"),
        ("select.tolerance={weather:rany: 0.1}", "select.tolerance: 'weather:rany' is no protected task"),
        ("model.weights=nowhere.safetensors", "nowhere.safetensors: no such file"),
        ("run.workers=8", "run.workers=8: asks for 8 workers with 1 CPUs each"),
        ("objective.batch=2000000000", "objective.batch=2000000000: a step's images are 22,888 GiB for each of 1"),
        ("task.target=weather:foggy@scene:beach", "task.target: 'beach' is no class of scene"),
    ],
)
def test_a_dry_run_ends_with_the_error_of_the_run(
    settings: list[str], verb: str, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = []
    for flag in (["--dry-run"], []):
        assert main([verb, *settings, override, *flag]) == 2
        errors.append(capsys.readouterr().err)
    assert message in errors[0]
    assert errors[0] == errors[1]
    assert not ray.is_initialized()


def test_a_dry_run_finds_a_run_directory_that_can_not_be_had(
    settings: list[str], config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["finetune", *settings, "--dry-run", f"run.uri={tmp_path}/file/run"]) == 2
    assert f"can't be written: {tmp_path}/file is no directory" in capsys.readouterr().err
    RunDirectory(config.run.uri).claim(config)
    assert main(["finetune", *settings, "--dry-run"]) == 0
    assert f"run: {config.run.uri} (begun)" in capsys.readouterr().out
    assert main(["finetune", *settings, "--dry-run", "optim.lr=2e-4"]) == 2
    assert "holds a run with another config" in capsys.readouterr().err


def test_weights_with_other_heads_are_fine_but_another_shape_is_not(
    settings: list[str], old_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(pack_weights(ClipWithHeads("tiny-64", ["a:b"], 2, 0)))
    assert main(["certify", *settings, "--old", old_weights, "--new", str(other)]) in {0, 3}
    content = other.read_bytes()
    other.write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    assert main(["certify", *settings, "--old", old_weights, "--new", str(other)]) == 2
    assert "other.safetensors: damaged" in capsys.readouterr().err


def test_report_of_a_directory_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "raymds: " in capsys.readouterr().err
    for content in ('{"schema": 2}', '{"trials": [1]}'):
        (tmp_path / "tune.json").write_text(content)
        assert main(["report", str(tmp_path)]) == 2
        assert "tune.json: is not that of a search" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb",
    [
        ["demo"],
        ["data", "scenes"],
        ["data", "glyphs"],
        ["data", "show"],
        ["data", "verify"],
        ["pretrain"],
        ["finetune"],
        ["certify"],
        ["gate"],
        ["report"],
    ],
)
def test_every_verb_has_help_with_an_example(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb, "--help"])
    assert ended.value.code == 0
    assert f"example: raymds {' '.join(verb)}" in capsys.readouterr().out


def test_a_data_set_is_shown_and_verified(data_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    assert main(["data", "show", data_uri, "--out", str(out)]) == 0
    assert f"sheet: {out}" in capsys.readouterr().out
    assert out.read_bytes().startswith(b"\x89PNG")
    assert main(["data", "show", data_uri, "--split", "val", "--json"]) == 0
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["rows"] == {"val": 120}
    assert main(["data", "show", data_uri, "--out", "sheet.gif"]) == 2
    assert main(["data", "verify", data_uri]) == 0
    assert "3 splits, 6 shards, 640 images, all as the manifest says\n" in capsys.readouterr().out


def test_a_data_set_with_problems_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["rows.train=30", "rows.val=10", "rows.test=10"]
    uri = tmp_path / "set"
    assert main(["data", "scenes", str(uri), *rows]) == 0
    (uri / "val-00000.parquet").unlink()
    assert main(["data", "verify", str(uri)]) == 2
    assert f"{uri}/val-00000.parquet: no such file\n" in capsys.readouterr().out
    assert main(["data", "verify", str(uri), "--json"]) == 2
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["count"], result["problems"]) == (1, [f"{uri}/val-00000.parquet: no such file"])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["export", "w.safetensors", "--to", ""], "to"),
        (["data", "scenes", ""], "uri"),
        (["data", "mix", "a", "b", "--out="], "out"),
        (["report", ""], "run-uri"),
        (["certify", "demo", "--old", "a", "--new", ""], "new"),
    ],
)
def test_an_empty_argument_is_not_the_root_of_the_file_system(
    arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a variable of the shell gives it that is not set."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f"argument {name}: is empty; give a value" in capsys.readouterr().err
