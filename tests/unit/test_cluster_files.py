"""The files in cluster/ and jobs/, by every validator that needs no network."""

import copy
import runpy
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from raymds.config import Config, load

ROOT = Path(__file__).parents[2]
KUBERAY = ["kuberay-cluster.yaml", "kuberay-job.yaml"]


def cluster_file(name: str) -> Any:
    return yaml.safe_load((ROOT / "cluster" / name).read_text())


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_cluster_launcher_takes_them(name: str) -> None:
    config = cluster_file(name)
    validate_config(prepare_config(copy.deepcopy(config)))
    assert "spot" in str(config["available_node_types"]["gpu"]["node_config"]).lower()
    assert "spot" not in str(config["available_node_types"]["head"]["node_config"]).lower()
    config["max_wrokers"] = 3
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(config))


def ray_clusters(content: Any) -> dict[str, Any]:
    spec = content["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def groups(content: Any) -> Iterator[Any]:
    spec = ray_clusters(content)
    yield spec["headGroupSpec"]
    yield from spec["workerGroupSpecs"]


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_are_valid_to_kubernetes(name: str) -> None:
    for group in groups(cluster_file(name)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.37", strict=True)
        pod["spec"]["containers"][0]["imagePullPollicy"] = "Always"
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, "1.37", strict=True)


@pytest.mark.parametrize("name", KUBERAY)
def test_nodes_start_with_options_that_ray_has_and_ask_for_a_token(name: str) -> None:
    content = cluster_file(name)
    options = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    for group in groups(content):
        assert set(group["rayStartParams"]) <= options
    spec = ray_clusters(content)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert spec["rayVersion"] == pinned["ray"]
    assert spec["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("path", sorted((ROOT / "cluster").glob("*.yaml")), ids=lambda path: path.name)
def test_no_credential_is_in_a_file(path: Path) -> None:
    text = path.read_text()
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "aws_secret", "password: "):
        assert name not in text


def test_the_dockerfile_has_no_known_flaw() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, ROOT / "cluster" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


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


@pytest.mark.parametrize("verb", ["ingest", "pretrain", "finetune", "tune", "evaluate", "certify", "report"])
def test_a_script_hands_over_to_its_verb(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{verb}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "jobs" / f"{verb}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert verb in capsys.readouterr().out.split("\n")[0]


def test_a_job_takes_no_data_along(tmp_path: Path) -> None:
    """By Ray's own packager: what the program needs goes along, data, models and runs do not, wherever they lie."""
    checkout, package = tmp_path / "checkout", tmp_path / "package.zip"
    kept = ["jobs/finetune.py", "jobs/presets/foggy.yaml", "raymds/run.py", "raymds/report/page.html.j2", "my/own.yaml"]
    kept += ["raymds/architectures/tiny-64.json", "raymds/data/shards.py", "raymds/model/clip.py"]
    left = [
        "data/train-0.parquet",
        "models/old.safetensors",
        "my/old.safetensors",
        "my/fog/1.jpg",
        "runs/a/config.yaml",
    ]
    left += ["demo/old/config.yaml", "my/labels.csv", ".venv/bin/python", "raymds/__pycache__/run.pyc", "ViT-B-16.pt"]
    for name in (*kept, *left):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"x")
    excludes = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())["excludes"]
    create_package(str(checkout), package, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(package) as found:
        assert sorted(name for name in found.namelist() if not name.endswith("/")) == sorted(kept)


def test_a_job_takes_this_checkout_whole(tmp_path: Path) -> None:
    excludes = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())["excludes"]
    create_package(str(ROOT), tmp_path / "package.zip", include_gitignore=True, excludes=excludes)
    needed = {str(path.relative_to(ROOT)) for folder in ("raymds", "jobs") for path in (ROOT / folder).rglob("*.*")}
    with zipfile.ZipFile(tmp_path / "package.zip") as found:
        assert {name for name in needed if "__pycache__" not in name} - set(found.namelist()) == set()
        assert sum(entry.file_size for entry in found.infolist()) < 10 * 2**20
