"""A Ray cluster of several nodes on this machine, for trying out; loopback only, with a token.

    python cluster/local.py --nodes 3 --cpus 1 COMMAND...

COMMAND finds the cluster and its token in its environment (`raymds submit`, `ray job submit`, `raymds finetune`); the
cluster ends with it. Without a command it stays until Ctrl-C and prints what to set.
"""

import argparse
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_WAIT = 90.0  # seconds until a node has to answer


class Cluster(NamedTuple):
    """A cluster that is up."""

    variables: dict[str, str]
    """By which clients find it."""
    nodes: "list[subprocess.Popen[bytes]]"
    """The process of each node, the head's first."""
    join: Callable[[], None]
    """Start one more node."""


@contextlib.contextmanager
def cluster(nodes: int, cpus: int, head: Callable[[str], Sequence[str]] = lambda address: ()) -> Iterator[Cluster]:
    """A head and `nodes` − 1 others, `cpus` each; `head(address)` gives more options of the head's `ray start`."""
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raymds-", ignore_cleanup_errors=True)))
        address, dashboard = f"127.0.0.1:{_free_port()}", _free_port()
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        environment = {**os.environ, **variables, "RAY_TMPDIR": str(folder), "RAY_JOB_STOP_WAIT_TIME_S": "60"}
        # Jobs run `python` of the PATH: it has to be the one that has the packages.
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        common = ["--num-cpus", str(cpus), "--block", "--disable-usage-stats"]
        first = ["--head", "--port", address.rpartition(":")[2], "--node-ip-address", "127.0.0.1"]
        first += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), *head(address)]
        stack.callback(end, processes)

        def start(options: list[str]) -> None:
            log = folder / f"node-{len(processes)}.log"
            # The port of a node's agent, through which jobs start, is fixed unless it is given.
            agent = ["--dashboard-agent-listen-port", str(_free_port())]
            processes.append(start_node([*options, *common, *agent], environment, log))

        def join() -> None:
            start(["--address", address])

        start(first)
        for _ in range(nodes - 1):
            join()
        variables |= {"PATH": environment["PATH"], "RAY_ADDRESS": address}
        variables |= {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        yield Cluster(variables, processes, join)


def start_node(
    options: list[str], environment: dict[str, str], log: Path, inside: tuple[str, ...] = ()
) -> "subprocess.Popen[bytes]":
    """A node started by `ray start`, under the command `inside`; its output goes to `log`."""
    ray = str(Path(sys.executable).with_name("ray"))
    with log.open("wb") as file:
        process = subprocess.Popen([*inside, ray, "start", *options], stdout=file, stderr=file, env=environment)
    end_of_patience = time.monotonic() + _WAIT
    while time.monotonic() < end_of_patience and process.poll() is None:
        if "Ray runtime started" in log.read_text(errors="replace"):
            return process
        time.sleep(0.2)
    process.kill()
    sys.exit(f"a node did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """End nodes, the head last."""
    for process in reversed(processes):
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(timeout=60)


def main() -> int:
    """Run the command beside the cluster and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3, help="nodes, the head among them (default: 3)")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of each (default: 1)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the nodes, too
    with cluster(options.nodes, options.cpus) as started:
        if options.command:
            return subprocess.run(options.command, env={**os.environ, **started.variables}, check=False).returncode
        for name, value in started.variables.items():
            print(f"export {name}={value}")
        print("# Ctrl-C ends the cluster", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
