"""How Ray is joined or started, and what is said where it is not."""

import os
import re
import signal
import socket
import sys
from types import SimpleNamespace

import pytest
import ray

from raymds.errors import RaymdsError, UsageError
from raymds.train.cluster import cpus, start_ray
from raymds.train.stop import on_sigterm


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("http://127.0.0.1:8265", UsageError, r"RAY_ADDRESS=http://127\.0\.0\.1:8265: is for jobs or clients"),
        ("ray://head:10001", UsageError, r"RAY_ADDRESS=ray://head:10001: is for jobs or clients"),
        (
            "10.0.0.1:6379",
            UsageError,
            r"RAY_ADDRESS=10\.0\.0\.1:6379: no cluster of it can be joined: timed out and",
        ),
        ("", RaymdsError, r"Ray does not start: timed out and more; its logs are in "),
    ],
)
def test_a_ray_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, address: str, kind: type[Exception], message: str
) -> None:
    def init(**_: object) -> None:
        raise Exception("timed out\nand more")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(kind, match=message):
        start_ray(lambda record: None)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "nowhere.invalid"])
def test_where_nothing_answers_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"{host}:{closed.getsockname()[1]}"
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UsageError, match=rf"RAY_ADDRESS={re.escape(address)}: .* as nothing answers there \(.+\)"):
            start_ray(lambda record: None)


def test_a_command_keeps_its_way_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> SimpleNamespace:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as Ray does
        return SimpleNamespace(address_info={"session_dir": "/tmp/ray"})

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    heard: list[str] = []
    with on_sigterm(lambda: heard.append("stop")):
        start_ray(lambda record: None)
        signal.raise_signal(signal.SIGTERM)
    assert heard == ["stop"]


@pytest.mark.parametrize(("bound", "quota", "cores"), [(8, 2.0, 2), (2, 8.0, 2), (8, 0.5, 1), (None, 3.0, 3)])
def test_cores_are_those_of_the_process_and_of_its_containers_quota(
    monkeypatch: pytest.MonkeyPatch, bound: int | None, quota: float, cores: int
) -> None:
    """`bound` None: macOS, which can't bind a process to cores."""
    monkeypatch.delenv("RAY_USE_MULTIPROCESSING_CPU_COUNT", raising=False)
    monkeypatch.setattr("ray._private.utils._get_docker_cpus", lambda: quota)
    if bound is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(bound)), raising=False)
    assert cpus() == cores
