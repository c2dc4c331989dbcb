"""What is known of a run's ranks from outside, and which errors end it at once."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

from raymds.config import RunConfig
from raymds.errors import DivergedError, RaymdsError
from raymds.train import follow
from raymds.train.entry import EndAtOnce, Starts
from raymds.train.watch import Monitor


class WrappedError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a worker failed")
        self.cause = cause


def test_the_rank_that_is_behind_is_named() -> None:
    monitor = Monitor()
    assert monitor.late([]) == "no rank had begun a step"
    assert monitor.step() == 0
    for rank, step in ((0, 7), (1, 6), (2, 7)):
        assert not monitor.beat(rank, step)
    assert monitor.late([0, 2]) == "last heard of rank 1: step 6, 0 s ago"
    assert monitor.step() == 7
    monitor.beat(1, 7)
    assert "rank 0" in monitor.late([])
    assert "rank 2" in monitor.late([])
    assert monitor.late([0, 2]) == "last heard of rank 1: step 7, 0 s ago"  # it alone did not fail of waiting


def test_a_wish_to_stop_reaches_every_rank() -> None:
    monitor = Monitor()
    monitor.stop()
    assert monitor.beat(0, 3)
    assert monitor.beat(1, 3)


def test_errors_that_would_come_again_end_a_run() -> None:
    callback, collateral = EndAtOnce(), RuntimeError("connection closed by peer")
    callback.after_exception(None, {0: collateral, 1: WrappedError(OSError("disk"))})
    with pytest.raises(DivergedError, match="step 3"):
        callback.after_exception(None, {0: collateral, 1: WrappedError(DivergedError("step 3"))})


class Told:
    """Stands in for the monitor's handle."""

    def __init__(self) -> None:
        self.workers: list[int] = []
        self.staff = SimpleNamespace(remote=self.workers.append)


def test_broken_starts_end_a_run_and_machines_that_do_not_come_do_not() -> None:
    told = Told()
    starts = Starts(told)
    for _ in range(50):
        with pytest.raises(WorkerGroupStartupTimeoutError), starts.on_worker_group_start():
            raise WorkerGroupStartupTimeoutError(num_workers=2)
    for _ in range(3):
        with pytest.raises(WorkerGroupStartupFailedError), starts.on_worker_group_start():
            raise WorkerGroupStartupFailedError("first line\nno module named raymds")
    with starts.on_worker_group_start():
        starts.after_worker_group_start(SimpleNamespace(get_workers=lambda: ["a", "b"]))
    for _ in range(3):
        with pytest.raises(WorkerGroupStartupFailedError), starts.on_worker_group_start():
            raise WorkerGroupStartupFailedError("a node was lost")
    message = "the workers did not start, 4 times: no module named raymds"
    with pytest.raises(RaymdsError, match=message), starts.on_worker_group_start():
        raise WorkerGroupStartupFailedError("first line\nno module named raymds")
    starts.after_worker_group_shutdown(None)
    assert told.workers == [2, 0]


def test_a_run_without_workers_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"workers": 0}
    monitor = SimpleNamespace(
        drain=SimpleNamespace(remote=lambda: []), workers=SimpleNamespace(remote=lambda: there["workers"])
    )
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(follow, "_REMIND", 0.05)
    monkeypatch.setattr(follow, "_POLL", 0.01)
    monkeypatch.setattr(follow.ray, "get", lambda answer: answer)
    monkeypatch.setattr(follow.ray, "available_resources", lambda: {"CPU": 1.0})
    run = RunConfig(workers=4, min_workers=2, cpus_per_worker=4, gpus_per_worker=1)
    with follow.Follower(monitor, shown.append, run):
        time.sleep(0.3)
        there["workers"] = 2
        time.sleep(0.1)
        said = len(shown)
        time.sleep(0.3)
    assert said == len(shown)
    assert said > 1
    expected = "waiting for 2 workers with 4 CPUs and 1 GPUs each; 1 CPUs and 0 GPUs are free now"
    assert shown[0] == {"event": "phase", "phase": expected}
