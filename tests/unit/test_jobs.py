"""The files in jobs/: they run the verbs, and bring what these need."""

import runpy
import shlex
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package

from raymds.config import Config, load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("preset", ["demo", "foggy", "overcast", "tunnel", "dressing_room"])
def test_a_preset_opens_with_the_command_that_runs_it(preset: str) -> None:
    path = ROOT / "jobs" / "presets" / f"{preset}.yaml"
    command = shlex.split(path.read_text().splitlines()[0].removeprefix("# "))
    assert command[:5] == ["ray", "job", "submit", "--runtime-env", "jobs/runtime_env.yaml"]
    assert command[5:9] == ["--", "python", "jobs/finetune.py", f"jobs/presets/{preset}.yaml"]
    config = load(Config, str(path), command[9:])
    assert config.run.uri.startswith("s3://")
    for file in (command[4], *command[7:9]):
        assert (ROOT / file).is_file()


@pytest.mark.parametrize("verb", sorted(path.stem for path in (ROOT / "jobs").glob("*.py")))
def test_a_script_hands_over_to_its_verb(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{verb}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "jobs" / f"{verb}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert verb in capsys.readouterr().out.split("\n")[0]


def test_a_job_brings_what_it_needs_and_no_more(tmp_path: Path) -> None:
    """Packed by Ray itself, of a checkout in which the README's commands have been run."""
    environment = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())
    assert environment["working_dir"] == "."
    checkout = tmp_path / "checkout"
    made = ["data/mine/train-0.parquet", "runs/foggy/outcome.json", "demo/old/weights.safetensors", "real/run/a"]
    made += ["models/weather.safetensors", "export/open_clip_model.safetensors", "search/tune.json", "studies/a"]
    made += [".venv/bin/python", ".git/config", "labels.parquet", "weather.pt", "demo-s3/driving/a", "demo1/run/a"]
    made += ["my/old.safetensors", "my/fog/1.jpg", "my/labels.csv", "my/rows.csv.gz", "raymds/__pycache__/run.pyc"]
    needed = ["raymds/cli/main.py", "raymds/data/shards.py", "raymds/search/space.py", "raymds/presets/demo.yaml"]
    needed += ["jobs/finetune.py", "jobs/presets/foggy.yaml", "jobs/studies/scenes.yaml"]
    needed += ["my/own.yaml", "raymds/report/page.html.j2", "raymds/model/clip.py"]
    for name in [*made, *needed]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    (checkout / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True, excludes=environment["excludes"])
    assert {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")} == {*needed, ".gitignore"}


def test_a_job_brings_the_whole_program(tmp_path: Path) -> None:
    excludes = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())["excludes"]
    create_package(str(ROOT), tmp_path / "package.zip", include_gitignore=True, excludes=excludes)
    files = {str(path.relative_to(ROOT)) for folder in ("raymds", "jobs") for path in (ROOT / folder).rglob("*.*")}
    with zipfile.ZipFile(tmp_path / "package.zip") as found:
        assert {name for name in files if "__pycache__" not in name} - set(found.namelist()) == set()
        assert sum(entry.file_size for entry in found.infolist()) < 10 * 2**20
