"""A cluster that starts with no machine: Ray's own autoscaler, with nodes that are processes of this machine."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from raymds.config import Config, load, to_yaml
from tests.conftest import records

NODES = 2  # that the autoscaler may start, each with a core and what says that it is a GPU


@pytest.fixture(scope="module")
def from_zero(local: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without a core that starts machines on demand and takes them away when they are idle for a few seconds."""
    path = tmp_path_factory.mktemp("autoscaling") / "cluster.json"

    def options(address: str) -> list[str]:
        node = {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": NODES}
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        config: dict[str, Any] = {
            "cluster_name": "fake_multinode",
            "max_workers": NODES,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.1,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": address,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
            },
            "available_node_types": {"gpu": node, "ray.head.default": head},
            "head_node_type": "ray.head.default",
            "file_mounts_sync_continuously": False,
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{
                name: []
                for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")
            },
            **{f"{who}setup_commands": [] for who in ("", "head_", "worker_")},
            **{f"{who}_start_ray_commands": [] for who in ("head", "worker")},
        }
        path.write_text(json.dumps(config))
        return [f"--autoscaling-config={path}"]

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AUTOSCALER_UPDATE_INTERVAL_S", "1")
        environment.setenv("RAY_FAKE_CLUSTER", "1")
        environment.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")
        with local.cluster(1, 0, options) as cluster:
            yield cluster
            # The nodes that the autoscaler started are its own.
            for process in psutil.Process(cluster.nodes[0].pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()


@pytest.fixture(scope="module")
def preset(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preset") / "preset.yaml"
    path.write_text(to_yaml(load(Config, None, settings)))
    return path


def raymds(nodes: Any, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "raymds.cli", *arguments]
    return subprocess.run(
        command, env={**os.environ, **nodes.variables}, capture_output=True, text=True, timeout=400, check=False
    )


def test_nothing_is_left_open_and_nothing_suggests_none(from_zero: Any, preset: Path, tmp_path: Path) -> None:
    finetune = ["finetune", str(preset), f"run.uri={tmp_path}/run"]
    plain = raymds(from_zero, *finetune, "run.workers=2")
    assert plain.returncode == 2, plain.stderr
    assert "none of them fit" in plain.stderr
    assert "or set run.autoscaling" in plain.stderr
    assert " to 0" not in plain.stderr
    left_open = raymds(from_zero, *finetune, "run.workers=0", "run.gpus_per_worker=0", "run.autoscaling=true")
    assert left_open.returncode == 2, left_open.stderr
    assert "run.workers: can't be left open" in left_open.stderr


def test_a_run_waits_for_its_machines_and_gives_them_back(from_zero: Any, preset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["run.workers=2", "run.gpus_per_worker=0", "run.autoscaling=true"]
    done = raymds(from_zero, "finetune", str(preset), f"run.uri={run}", *settings, "--accept-old", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [r["step"] for r in records(run) if r["event"] == "step"] == list(range(1, 9))
    assert [r["workers"] for r in records(run) if r["event"] == "start"] == [2]
    end = time.monotonic() + 120
    while nodes_of(from_zero):
        assert time.monotonic() < end, "idle machines are kept"
        time.sleep(1)


def nodes_of(cluster: Any) -> list[int]:
    """The raylets beside the head's."""
    raylets = []
    for process in psutil.Process(cluster.nodes[0].pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended since
            raylets += [process.pid] if process.name() == "raylet" else []
    return raylets[1:]
