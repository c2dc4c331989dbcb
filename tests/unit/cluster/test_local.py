"""A cluster of this machine ends with the command that started it, however that ends; without Ray."""

import subprocess
import sys

import pytest

from tests.unit.cluster.files import CLUSTER

# The nodes are left out: what starts and ends them says so.
PROGRAM = """
import contextlib, sys
sys.path.insert(0, sys.argv.pop(1))
import local

@contextlib.contextmanager
def cluster(nodes, cpus):
    try:
        print("started", flush=True)
        yield local.Cluster({}, [], lambda: None)
    finally:
        print("ended", flush=True)

local.cluster = cluster
sys.exit(local.main())
"""


@pytest.mark.parametrize("command", [[], ["sleep", "60"]])
def test_its_nodes_end_with_it(command: list[str]) -> None:
    run = [sys.executable, "-c", PROGRAM, str(CLUSTER), *command]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.terminate()
        assert process.stdout.read().endswith("ended\n")
    assert process.returncode == 143
