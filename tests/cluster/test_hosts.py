"""A cycle across hosts with addresses of their own: network namespaces joined by a bridge, one cut off in mid-run."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.cluster.conftest import EVERY, STEPS, wait_for_checkpoint
from tests.conftest import last_checkpoint, records

HOSTS = 3
SWITCH = "raymds-switch"
ADDRESS = "10.213.0.{}"


def ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def inside(host: int) -> tuple[str, ...]:
    return ("ip", "netns", "exec", f"raymds-{host}")


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    """Hosts 0 to 2, each a network namespace with one interface, on a bridge in a namespace of its own."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the command ip")
    if subprocess.run(["ip", "netns", "add", SWITCH], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no network namespaces")
    try:
        ip("-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        ip("-n", SWITCH, "link", "set", "bridge", "up")
        for host in range(HOSTS):
            name = f"raymds-{host}"
            ip("netns", "add", name)
            ip("-n", SWITCH, "link", "add", f"port{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", SWITCH, "link", "set", f"port{host}", "master", "bridge", "up")
            ip("-n", name, "address", "add", f"{ADDRESS.format(host + 1)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        yield
    finally:
        for name in (*(f"raymds-{host}" for host in range(HOSTS)), SWITCH):
            ip("netns", "delete", name, check=False)


@pytest.fixture
def hosts(network: None, local: ModuleType, tmp_path: Path) -> Iterator[tuple[dict[str, str], list[int]]]:
    """A Ray node with one CPU on each host; (the environment of a driver on host 0, process ids of the nodes)."""
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "GLOO_SOCKET_IFNAME": "eth0",  # all hosts have one name here, by which gloo would find the loopback
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    # A node's sockets lie in its folder, and their names have to be short.
    folders = [Path(f"/tmp/raymds-{os.getpid()}-{host}") for host in range(HOSTS)]
    address = f"{ADDRESS.format(1)}:6379"
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for host, folder in enumerate(folders):
            folder.mkdir()
            options = ["--head", "--port", "6379"] if host == 0 else ["--address", address]
            options += ["--node-ip-address", ADDRESS.format(host + 1), "--num-cpus", "1", "--block"]
            own = environment | {"RAY_TMPDIR": str(folder)}
            log = tmp_path / f"node-{host}.log"
            processes.append(local.start_node([*options, "--disable-usage-stats"], own, log, inside(host)))
        yield environment | {"RAY_ADDRESS": address}, [process.pid for process in processes]
    finally:
        local.end(processes)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def test_a_host_that_is_cut_off_changes_nothing(
    hosts: tuple[dict[str, str], list[int]], long: Path, tmp_path: Path
) -> None:
    environment, pids = hosts
    run = tmp_path / "run"
    settings = [f"run.uri={run}", "run.timeout=60"]
    command = [sys.executable, "-m", "raymds.cli", "finetune", str(long / "config.yaml"), *settings, "--json"]
    driver = subprocess.Popen(
        [*inside(0), *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_checkpoint(run, EVERY)
    cut = next(host for host in range(1, HOSTS) if has_a_worker(pids[host]))
    ip("-n", SWITCH, "link", "set", f"port{cut}", "down")
    rest, error = driver.communicate(timeout=400)
    assert driver.returncode in {0, 3}, (rest, error)
    starts = [r["step"] for r in records(run) if r["event"] == "start"]
    assert starts[0] == 0
    assert EVERY <= starts[-1] < STEPS
    assert [r["step"] for r in records(run) if r["event"] == "step"] == list(range(1, STEPS + 1))
    assert last_checkpoint(run, STEPS) == last_checkpoint(long, STEPS)


def has_a_worker(node: int) -> bool:
    family = psutil.Process(node).children(recursive=True)
    return any("RayTrainWorker" in " ".join(process.cmdline()) for process in family)
