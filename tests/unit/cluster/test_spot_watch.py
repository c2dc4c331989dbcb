"""The watcher for spot notices, against a metadata service of this machine and a `ray` that keeps what it is told."""

import runpy
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ray.scripts.scripts import drain_node

from tests.unit.cluster.files import CLUSTER
from tests.unit.cluster.test_launcher import program

SCRIPT = str(CLUSTER / "spot_watch.py")
Answer = Callable[[str, str, dict[str, str]], tuple[int, str]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], None]]:
    """Starts a metadata service that answers by a function of method, path and headers."""
    servers = []

    def start(answer: Answer) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                status, text = answer(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nobody there: it must not be asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Runs the watcher on a machine with one raylet, and gives its exit status."""
    own = tmp_path / "proc" / "17"
    own.mkdir(parents=True)
    (own / "cmdline").write_bytes(b"/usr/lib/ray/raylet\0--node_id=abc123\0--node_ip_address=10.0.0.2\0")
    (tmp_path / "proc" / "18").mkdir()  # one that has ended meanwhile
    (tmp_path / "proc" / "19").mkdir()
    (tmp_path / "proc" / "19" / "cmdline").write_bytes(b"python\0agent.py\0--node_id=other\0")
    program(tmp_path, "ray", f'echo "$@" >> {tmp_path}/told')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def run(cloud: str) -> int:
        monkeypatch.setattr(sys, "argv", [SCRIPT, cloud])
        return int(module(tmp_path / "proc").main())

    return run


def module(processes: Path) -> types.SimpleNamespace:
    """The script as a module, in a hurry, on a machine with these processes."""
    names = runpy.run_path(SCRIPT)
    own = names["main"].__globals__
    own["_PROCESSES"] = processes
    own["CLOUDS"] = {name: cloud._replace(every=0.01) for name, cloud in own["CLOUDS"].items()}
    return types.SimpleNamespace(**own)


class Aws:
    """IMDSv2: a token first, which every other question has to show; 404 until there is a notice."""

    def __init__(self, before: list[tuple[int, str]]) -> None:
        self.before, self.notice = before, '{"action": "terminate", "time": "2026-12-01T08:22:00Z"}'

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if (method, path) == ("PUT", "/latest/api/token"):
            assert 1 <= int(headers["x-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
            return 200, "secret"
        if headers.get("x-aws-ec2-metadata-token") != "secret":
            return 401, ""
        assert (method, path) == ("GET", "/latest/meta-data/spot/instance-action")
        return self.before.pop(0) if self.before else (200, self.notice)


class Gcp:
    """A value that turns TRUE, for those who show the header."""

    def __init__(self, before: list[tuple[int, str]]) -> None:
        self.before = before

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if headers.get("metadata-flavor") != "Google":
            return 403, ""
        assert (method, path) == ("GET", "/computeMetadata/v1/instance/preempted")
        return self.before.pop(0) if self.before else (200, "TRUE\n")


def told(folder: Path) -> list[dict[str, str]]:
    """The options of each `ray drain-node`, which Ray's own parser takes."""
    found = []
    for line in (folder / "told").read_text().splitlines():
        words = line.replace("spot notice", "spot-notice").split()
        assert words[0] == "drain-node"
        drain_node.make_context("drain-node", words[1:])  # raises where an option is unknown, missing or wrong
        found.append(dict(zip(words[1::2], words[2::2], strict=True)))
    return found


SEVERAL = {
    "aws": (Aws, [(404, ""), (500, "<html>"), (404, "")], (90, 100)),
    "gcp": (Gcp, [(200, "FALSE"), (503, ""), (200, "<html>"), (200, "FALSE\n")], (15, 25)),
}


@pytest.mark.parametrize("cloud", SEVERAL)
def test_a_notice_drains_the_node(
    cloud: str, serve: Callable[[Answer], None], watch: Callable[[str], int], tmp_path: Path
) -> None:
    service, before, (least, most) = SEVERAL[cloud]
    serve(answer := service(list(before)))
    assert watch(cloud) == 0
    assert answer.before == []  # what came before was no notice
    (options,) = told(tmp_path)
    assert options["--node-id"] == "abc123"
    assert options["--reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert least <= int(options["--deadline-remaining-seconds"]) <= most


def test_ray_is_told_again_until_it_accepts(
    serve: Callable[[Answer], None], watch: Callable[[str], int], tmp_path: Path
) -> None:
    serve(Gcp([]))
    program(tmp_path, "ray", f'echo "$@" >> {tmp_path}/told; [ "$(wc -l < {tmp_path}/told)" -ge 2 ]')
    assert watch("gcp") == 0
    first, second = (int(options["--deadline-remaining-seconds"]) for options in told(tmp_path))
    assert second < first


def test_a_service_that_is_not_there_is_said_once_and_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    watcher = module(tmp_path)
    own = watcher.main.__globals__
    left = iter(range(3))

    def sleep(_: float) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    own["time"] = types.SimpleNamespace(sleep=sleep, monotonic=own["time"].monotonic)
    monkeypatch.setattr(sys, "argv", [SCRIPT, "gcp"])
    with pytest.raises(KeyboardInterrupt):
        watcher.main()
    assert capsys.readouterr().err.count("the metadata service does not answer") == 1


@pytest.mark.parametrize("arguments", [[], ["azure"], ["aws", "gcp"], ["--help"]])
def test_bad_usage_is_said(arguments: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    assert "spot_watch.py aws|gcp" in ended.stderr and "Traceback" not in ended.stderr


def test_a_raylet_of_this_machine_is_found() -> None:
    """Among real processes: one that is named as Ray's is."""
    command = ["/x/raylet", "-c", "read line", "--node_id=feed"]
    with subprocess.Popen(command, executable="/bin/bash", stdin=subprocess.PIPE) as process:
        found = module(Path("/proc")).nodes()
        process.communicate(b"\n")
    assert "feed" in found
