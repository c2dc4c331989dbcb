"""The files of `ray up`: Ray's validator, the clouds' own schemas, and the commands that Ray makes of them."""

import copy
import functools
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from ray.autoscaler._private.command_runner import DockerCommandRunner
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.unit.cluster.files import LAUNCHER, document

DRIVER = 580  # that CUDA 13 needs


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_cluster_launcher_takes_them(name: str) -> None:
    config = document(name)
    validate_config(prepare_config(copy.deepcopy(config)))
    assert "spot" in str(config["available_node_types"]["gpu"]["node_config"]).lower()
    assert "spot" not in str(config["available_node_types"]["head"]["node_config"]).lower()


@pytest.mark.parametrize("name", LAUNCHER)
@pytest.mark.parametrize("at", [(), ("docker",), ("available_node_types", "gpu"), ("available_node_types", "head")])
def test_a_typo_is_found(name: str, at: tuple[str, ...]) -> None:
    config = document(name)
    inner = config
    for key in at:
        inner = inner[key]
    inner["max_wrokers"] = 3
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(config))


def problems_on_aws(machine: Any) -> str:
    """What Amazon's description of RunInstances says of a node_config."""
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    return str(ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **machine}, shape).generate_report())


@functools.cache
def google() -> Any:
    """Google's description of Compute Engine, as its client has it."""
    folder = files("googleapiclient.discovery_cache.documents")
    return json.loads(folder.joinpath("compute.v1.json").read_text())["schemas"]


def problems_on_gcp(value: Any, schema: Any, at: str) -> Iterator[str]:
    """What Google's description of an instance says of a node_config."""
    schema = google()[schema["$ref"]] if "$ref" in schema else schema
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in schema.get("properties", {}):
                yield from problems_on_gcp(inner, schema["properties"][key], f"{at}.{key}")
            else:
                yield f"{at}.{key} is no field"
    elif isinstance(value, list):
        yield from (problem for inner in value for problem in problems_on_gcp(inner, schema["items"], at))
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value} is none of its values"


def problems(name: str, machine: Any) -> str:
    if name == "aws.yaml":
        return problems_on_aws(machine)
    return "\n".join(problems_on_gcp(machine, {"$ref": "Instance"}, "instance"))


@pytest.mark.parametrize("name", LAUNCHER)
@pytest.mark.parametrize("kind", ["head", "gpu"])
def test_the_cloud_knows_each_field_of_a_machine(name: str, kind: str) -> None:
    assert problems(name, document(name)["available_node_types"][kind]["node_config"]) == ""


@pytest.mark.parametrize(
    ("name", "at", "key"),
    [
        ("aws.yaml", ("BlockDeviceMappings", 0, "Ebs"), "VolumeSiz"),
        ("aws.yaml", ("InstanceMarketOptions",), "MarketTyp"),
        ("aws.yaml", (), "InstanceTyp"),
        ("gcp.yaml", ("disks", 0, "initializeParams"), "diskTyp"),
        ("gcp.yaml", ("scheduling",), "provisioningModle"),
        ("gcp.yaml", (), "machineTyp"),
    ],
)
def test_a_typo_in_a_machine_is_found(name: str, at: tuple[str | int, ...], key: str) -> None:
    machine = document(name)["available_node_types"]["gpu"]["node_config"]
    inner = machine
    for step in at:
        inner = inner[step]
    inner[key] = "x"
    assert key in problems(name, machine)


class Machine:
    """Stands for a machine that is reached by ssh; keeps what is run there."""

    cluster_name, ssh_user = "raymds", "ubuntu"

    def __init__(self) -> None:
        self.commands: list[str] = []

    def run(self, command: str, **_: Any) -> bytes:
        self.commands.append(command)
        answers = {
            ".Config.Env": b'["HOME=/home/ray"]',
            "Runtimes": b"nvidia-container-runtime",
            "printenv": b"/home/ray",
        }
        return next((answer for part, answer in answers.items() if part in command), b"")


def container(name: str, as_head: bool) -> str:
    """The command with which Ray starts a machine's container."""
    config = prepare_config(document(name))
    runner = DockerCommandRunner(
        config["docker"], log_prefix="", node_id="1", provider=None, auth_config=config["auth"], cluster_name="raymds",
        process_runner=None, use_internal_ip=False,
    )  # fmt: skip
    machine = Machine()
    runner.ssh_command_runner = machine  # type: ignore[assignment]
    runner.run_init(as_head=as_head, file_mounts=config["file_mounts"], sync_run_yet=True)
    (started,) = (command for command in machine.commands if command.startswith("docker run"))
    return started


@pytest.mark.parametrize("name", LAUNCHER)
def test_workers_containers_have_gpus_and_every_one_has_a_token_and_memory_to_share(name: str) -> None:
    worker, head = container(name, as_head=False), container(name, as_head=True)
    assert "--gpus all" in worker and "--gpus" not in head
    for started in (worker, head):
        assert started.count("--shm-size") == 1 and "--shm-size=4g" in started
        assert "--env RAY_AUTH_MODE=token" in started
        assert ":/home/ray/.ray/auth_token " in started


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_object_store_is_smaller_than_its_memory(name: str) -> None:
    config = document(name)
    for kind in ("head", "worker"):
        (start,) = (line for line in config[f"{kind}_start_ray_commands"] if "ray start" in line)
        (size,) = (word.partition("=")[2] for word in start.split() if word.startswith("--object-store-memory="))
        assert int(size) < 4 * 2**30


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_token_that_is_opened_to_the_containers_user_is_the_one_that_is_mounted(name: str) -> None:
    config = document(name)
    (mounted,) = config["file_mounts"]
    for commands in (
        config["initialization_commands"],
        config["available_node_types"]["gpu"]["initialization_commands"],
    ):
        token = shlex.split(commands[-1])
        assert f"{token[1]}/{token[6]}" == f"/tmp/ray_tmp_mount/{config['cluster_name']}{mounted}"
        assert any("docker" in command and config["docker"]["image"].split("/")[0] in command for command in commands)


def shell_commands() -> list[Any]:
    found = []
    for name in LAUNCHER:
        config = document(name)
        lists = {key: value for key, value in config.items() if key.endswith("_commands")}
        lists["gpu"] = config["available_node_types"]["gpu"]["initialization_commands"]
        found += [pytest.param(c, id=f"{name}-{key}-{i}") for key, value in lists.items() for i, c in enumerate(value)]
    return found


@pytest.mark.parametrize("command", shell_commands())
def test_a_command_is_one_of_a_shell_as_ray_wraps_it(command: str) -> None:
    for text in (command, f"source ~/.bashrc; export OMP_NUM_THREADS=1 && ({command})"):
        checked = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


def program(folder: Path, name: str, text: str) -> None:
    """A program of that name, for a PATH that begins with the folder."""
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def run(command: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    variables = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), **environment}
    return subprocess.run(
        ["bash", "-c", command], env=variables, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("name", LAUNCHER)
@pytest.mark.parametrize(
    ("driver", "good", "said"),
    [
        ("echo 580.95.05", True, ""),
        ("echo 610.1", True, ""),
        ("echo 550.90.07", False, "this machine has: 550.90.07"),
        ("exit 9", False, "this machine has: none"),
        ("echo NVIDIA-SMI has failed", False, "this machine has: NVIDIA-SMI has failed"),
        # Not there at first: the driver is being installed.
        ("if [ -e installed ]; then echo 580.1; else touch installed; exit 9; fi", True, ""),
    ],
)
def test_workers_wait_for_a_driver_that_is_new_enough(
    name: str, driver: str, good: bool, said: str, tmp_path: Path
) -> None:
    program(tmp_path, "nvidia-smi", f"cd {tmp_path}; {driver}")
    waiting = document(name)["available_node_types"]["gpu"]["initialization_commands"][0]
    assert f"-ge {DRIVER}" in waiting
    ended = run(waiting.replace("timeout 600", "timeout 2").replace("sleep 5", "sleep 0.1"), tmp_path)
    assert (ended.returncode == 0) is good
    assert said in ended.stderr


@pytest.mark.parametrize("name", LAUNCHER)
def test_workers_watch_for_spot_notices_and_decode_with_all_their_cores(name: str, tmp_path: Path) -> None:
    program(tmp_path, "python", 'echo "$@" "$RAY_ADDRESS" > seen')
    program(tmp_path, "ray", 'echo "$@" "${OMP_NUM_THREADS:-unset}" >> started')
    commands = document(name)["worker_start_ray_commands"]
    for command in commands:
        here = f"export OMP_NUM_THREADS=1 && cd {tmp_path} && ({command.replace('/tmp/', f'{tmp_path}/')})"
        assert run(here, tmp_path, RAY_HEAD_IP="10.0.0.1").returncode == 0
    assert (tmp_path / "started").read_text().splitlines()[-1].endswith("unset")
    for _ in range(100):  # it goes on by itself
        if (tmp_path / "seen").exists() and (tmp_path / "seen").read_text():
            break
        subprocess.run(["sleep", "0.1"], check=True)
    cloud = name.partition(".")[0]
    assert (tmp_path / "seen").read_text().split() == ["/opt/raymds/spot_watch.py", cloud, "10.0.0.1:6379"]
