"""Commands in the comments of cluster/: programs, options, files and objects that they name exist, and each one waits
for what it needs."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from ray.scripts.scripts import cli as ray

from raymds.cli import main as raymds
from raymds.cli import submit
from raymds.cli.data import CYCLE_KEYS
from raymds.config import Config, load
from tests.unit.cluster.files import CLUSTER, KUBERAY, ROOT, commands, document, documents

FILES = sorted(path for path in CLUSTER.iterdir() if path.suffix == ".yaml" or path.name == "Dockerfile")
ALL = [pytest.param(line, id=f"{path.name}-{i}") for path in FILES for i, line in enumerate(commands(path))]
PROGRAMS = {"aws", "curl", "docker", "export", "kubectl", "ray", "raymds"}


def simple(command: str) -> list[list[str]]:
    """The simple commands of a line, as words."""
    found: list[list[str]] = [[]]
    for word in shlex.split(command, comments=True):
        if word in {"&", "&&", "|"}:
            found.append([])
        else:
            found[-1].append(word)
    return [part for part in found if part]


def test_each_file_says_how_it_is_used() -> None:
    for path in FILES:
        assert any(f"cluster/{path.name}" in command for command in commands(path)), path.name


@pytest.mark.parametrize("command", ALL)
def test_a_command_is_one_of_a_shell_and_names_programs_and_files_that_are_there(command: str) -> None:
    checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert command.removeprefix("until ").split()[0] in PROGRAMS
    for name in re.findall(r"(?<![\w/.:])(?:cluster|jobs)/[\w./-]+", command):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("command", [entry for entry in ALL if str(entry.values[0]).startswith("ray ")])
def test_ray_has_the_command_and_its_options(command: str) -> None:
    _, verb, *rest = simple(command)[0]
    found = ray.commands[verb]
    known = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known
    assert isinstance(found, click.Command)


@pytest.mark.parametrize("command", [entry for entry in ALL if str(entry.values[0]).startswith("raymds ")])
def test_raymds_takes_the_command_and_its_preset_is_complete(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (words,) = simple(command)
    options = raymds._parse(words[1:])
    config = load(Config, options.preset, options.overrides, submit._SUBMITTED[options.verb])
    assert "my-bucket" in config.run.uri and config.run.autoscaling
    assert options.address == "http://127.0.0.1:8265"


def test_the_jobs_entrypoint_is_a_command_of_raymds(tmp_path: Path) -> None:
    entrypoint = document("kuberay-job.yaml")["spec"]["entrypoint"].split()
    options = raymds._parse(entrypoint[1:])
    assert options.accept_old
    (mount,) = (
        entry["mountPath"]
        for entry in document("kuberay-job.yaml")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"][
            "containers"
        ][0]["volumeMounts"]
        if entry["name"] == "preset"
    )
    assert options.preset == f"{mount}/preset.yaml"
    (configmap,) = (line for line in commands(CLUSTER / "kuberay-job.yaml") if "configmap" in line)
    (source,) = re.findall(r"--from-file=preset.yaml=(\S+)", configmap)
    load(Config, str(ROOT / source), options.overrides, CYCLE_KEYS)


def objects(name: str) -> set[str]:
    """What a file's commands may name: its own objects, what KubeRay makes of them, and what a header makes."""
    made = {f"{content['kind'].lower()}/{content['metadata']['name']}" for content in documents(name)}
    cluster = document(name)["metadata"]["name"]
    made |= {f"service/{cluster}-head-svc", f"secret/{cluster}", f"job/{cluster}"}
    for line in commands(CLUSTER / name):
        words = shlex.split(line)
        if words[:2] == ["kubectl", "create"]:
            kind, *rest = [word for word in words[2:] if word != "generic"]
            made.add(f"{kind}/{rest[0]}")
    return made


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_objects_that_commands_name_are_made(name: str) -> None:
    known = objects(name)
    for line in commands(CLUSTER / name):
        for inner in [line, *re.findall(r"\$\(([^|)]*)", line)]:
            words = shlex.split(inner, comments=True)
            if words[0] != "kubectl" or words[1] in {"apply", "delete", "create"}:
                continue
            named = [word for word in words[2:] if not word.startswith("-") and "=" not in word]
            one = named[0] if "/" in named[0] else "/".join(named[:2])
            assert one in known, line


def test_the_account_and_the_preset_that_pods_name_are_made() -> None:
    made = {entry for name in KUBERAY for entry in objects(name)}
    for name in KUBERAY:
        text = (CLUSTER / name).read_text()
        assert {f"serviceaccount/{account}" for account in re.findall(r"serviceAccountName: (\S+)", text)} <= made
    assert "configmap/raymds-preset" in made


def test_nothing_is_asked_of_what_may_not_be_there_yet() -> None:
    waits = commands(CLUSTER / "kuberay-job.yaml")
    logs = waits.index("kubectl logs -f job/raymds-foggy")
    assert all(line.startswith("kubectl wait --for=") and "job/raymds-foggy" in line for line in waits[logs - 2 : logs])
    assert all("--timeout=" in line for line in waits if line.startswith("kubectl wait"))
    for path in FILES:
        for before, after in zip(commands(path), commands(path)[1:], strict=False):
            # What runs beside the shell is waited for. Ray's ssh has a terminal, at which a shell would stop it there.
            if before.split("#")[0].rstrip().endswith("&"):
                assert after.startswith("until "), path.name
                assert "< /dev/null" in before or not before.startswith("ray "), path.name


@pytest.mark.parametrize("path", [*FILES, CLUSTER / "grafana.json"], ids=lambda path: path.name)
def test_no_credential_is_in_a_file(path: Path) -> None:
    text = path.read_text()
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "aws_secret", "password: "):
        assert name not in text
