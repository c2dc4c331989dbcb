"""Tells Ray that this spot machine will be taken away, so that runs write a checkpoint and the loss is no failure.

    python spot_watch.py aws|gcp

Under `ray up` nobody else does (on Kubernetes a pod is told to go). The machine's metadata service is asked every few
seconds; at a notice the machine's node of Ray is drained, and this ends. A service that does not answer is asked again.
"""

import http.client
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

_PROCESSES = Path("/proc")
_ANSWER = 2.0  # seconds that the service may take
# The service is a neighbour: no proxy leads there.
_OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def on_aws() -> bool:
    """Whether this machine has a notice. Raises what urllib does where the service does not answer."""
    server = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
    token = _ask(f"{server}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    try:
        _ask(f"{server}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}, "GET")
    except urllib.error.HTTPError as error:
        if error.code == 404:  # what it says of a machine that stays
            return False
        raise
    return True


def on_gcp() -> bool:
    """Whether this machine has a notice. Raises what urllib does where the service does not answer."""
    server = os.environ.get("GCE_METADATA_HOST", "169.254.169.254")
    url = f"http://{server}/computeMetadata/v1/instance/preempted"
    return _ask(url, {"Metadata-Flavor": "Google"}, "GET") == "TRUE"


class Cloud(NamedTuple):
    """How a cloud tells of what it takes away."""

    has_notice: Callable[[], bool]
    every: float
    """Seconds between two questions."""
    left: int
    """Seconds from a notice to the end, less some to be sure: of 120 on AWS, of 30 on Google Cloud."""


CLOUDS = {"aws": Cloud(on_aws, 5.0, 100), "gcp": Cloud(on_gcp, 1.0, 25)}


def nodes() -> list[str]:
    """The ids of the nodes of Ray on this machine, as their raylets were started with."""
    found = []
    for file in _PROCESSES.glob("[0-9]*/cmdline"):
        try:
            command, *options = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if Path(command).name == "raylet":
            found += [option.partition("=")[2] for option in options if option.startswith("--node_id=")]
    return found


def drain(seconds: int) -> bool:
    """Have every node of this machine drained, which will be gone in `seconds`; whether Ray accepted it in time."""
    end = time.monotonic() + seconds
    waiting = nodes()
    while waiting and (left := int(end - time.monotonic())) > 0:
        if _accepted(waiting[0], left):
            waiting.pop(0)
        else:
            time.sleep(1)
    return not waiting


def _accepted(node: str, left: int) -> bool:
    command = ["ray", "drain-node", "--node-id", node, "--deadline-remaining-seconds", str(left)]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    try:
        return subprocess.run(command, check=False, timeout=left).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"ray drain-node: {error}", file=sys.stderr, flush=True)
        return False


def main() -> int:
    """Wait for a notice; 0: Ray knows it, 1: it could not be told, 2: bad usage."""
    cloud = CLOUDS.get(sys.argv[1]) if len(sys.argv) == 2 else None
    if cloud is None:
        print(__doc__, file=sys.stderr)
        return 2
    said = ""
    while True:
        try:
            if cloud.has_notice():
                break
            problem = ""
        except (OSError, ValueError, http.client.HTTPException) as error:  # no answer, or one of another kind
            problem = f"the metadata service does not answer: {error}"
        if problem and problem != said:
            print(problem, file=sys.stderr, flush=True)
        said = problem
        time.sleep(cloud.every)
    print(f"spot notice: draining nodes {', '.join(nodes()) or '(there are none)'}", flush=True)
    return 0 if drain(cloud.left) else 1


def _ask(url: str, headers: Mapping[str, str], method: str) -> str:
    with _OPEN(urllib.request.Request(url, headers=dict(headers), method=method), timeout=_ANSWER) as answer:
        return bytes(answer.read(1000)).decode(errors="replace").strip()


if __name__ == "__main__":
    sys.exit(main())
