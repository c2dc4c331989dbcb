"""S3 servers for tests: rclone's, which pip installs, and Ceph's, where Debian's packages are there."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS, SECRET = "AKRAYMDSTEST", "raymds-secret-of-tests"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
BUCKET = "driving"
_CEPH = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """An S3 server on 127.0.0.1 that checks signatures; it can go and come back."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        self.wait()

    def wait(self) -> None:
        """Until it answers and the bucket is there."""
        client = self.client()
        for _ in range(300):
            try:
                client.list_buckets()
                with contextlib.suppress(ClientError):  # it may be there
                    client.create_bucket(Bucket=BUCKET)
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
            else:
                return
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        """As a crash would end it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    stop = kill

    def client(self) -> "boto3.client":
        options = Config(connect_timeout=2, read_timeout=20, retries={"total_max_attempts": 1})
        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=ACCESS, aws_secret_access_key=SECRET,
            region_name="us-east-1", config=options,
        )  # fmt: skip


class Rclone(Server):
    """The embedded server: quick, without conditional writes and nested directories."""

    def command(self) -> list[str]:
        (self.folder / "objects").mkdir(exist_ok=True)
        binary = Path(sys.executable).with_name("rclone")
        options = ["--auth-key", f"{ACCESS},{SECRET}", "--addr", f"127.0.0.1:{self.port}", "--config", os.devnull]
        return [str(binary), "serve", "s3", *options, str(self.folder / "objects")]


class Ceph(Server):
    """One monitor, one OSD on a file, and the gateway, which is what goes and comes back."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._settings = folder / "ceph.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []
        for name in ("mon", "osd", "rgw", "run"):
            (folder / name).mkdir()
        monitor = f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
        self._fsid = str(uuid.uuid4())
        common = {
            "fsid": self._fsid, "mon_host": monitor, "public_addr": "127.0.0.1", "cluster_addr": "127.0.0.1",
            "keyring": f"{folder}/keyring", "log_file": f"{folder}/$name.log", "run_dir": f"{folder}/run",
            "admin_socket": f"{folder}/run/$name.asok", "crash_dir": folder, "mon_data": f"{folder}/mon",
            "osd_data": f"{folder}/osd", "rgw_data": f"{folder}/rgw", "osd_objectstore": "bluestore",
            "bluestore_block_size": 4 << 30, "osd_memory_target": 1 << 30, "osd_pool_default_size": 1,
            "osd_pool_default_min_size": 1, "osd_pool_default_pg_num": 4, "osd_pool_default_pg_autoscale_mode": "off",
            "mon_allow_pool_size_one": "true", "mon_max_pg_per_osd": 500, "mon_data_avail_warn": 1,
            "mon_data_avail_crit": 1,
            "rgw_frontends": f"beast endpoint=127.0.0.1:{self.port} tcp_nodelay=1",
        }  # fmt: skip
        self._settings.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in common.items()))
        self._bootstrap(monitor)

    def command(self) -> list[str]:
        return ["radosgw", "-c", str(self._settings), "-n", "client.rgw", "--no-mon-config", "-f"]

    def shut_down(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()

    def admin(self, *arguments: str) -> str:
        """What Ceph's administrator asks of the gateway."""
        return self._run("radosgw-admin", "-n", "client.rgw", *arguments)

    def _run(self, program: str, *arguments: str) -> str:
        command = [program, "-c", str(self._settings), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=180).stdout

    def _daemon(self, program: str, name: str) -> None:
        with (self.folder / "server.log").open("ab") as log:
            command = [program, "-c", str(self._settings), "-i", name, "-f"]
            self._daemons.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _bootstrap(self, monitor: str) -> None:
        keyring, folder = str(self.folder / "keyring"), self.folder
        everything = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mds", "allow *"]
        for name in ("mon.", "client.admin", "client.rgw", "osd.0"):
            create = ["--create-keyring"] if name == "mon." else []
            subprocess.run(
                ["ceph-authtool", keyring, *create, "--gen-key", "-n", name, *everything, "--cap", "mgr", "allow *"],
                check=True, capture_output=True,
            )  # fmt: skip
        subprocess.run(
            ["monmaptool", "--create", "--addv", "a", monitor, "--fsid", self._fsid, str(folder / "monmap")],
            check=True, capture_output=True,
        )  # fmt: skip
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", str(folder / "monmap"), "--keyring", keyring)
        self._daemon("ceph-mon", "a")
        identity = str(uuid.uuid4())
        self._run("ceph", "osd", "new", identity)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._daemon("ceph-osd", "0")
        for _ in range(240):
            if "1 up" in self._run("ceph", "osd", "stat"):
                break
            time.sleep(0.25)
        keys = f"--access-key={ACCESS}", f"--secret-key={SECRET}"
        self.admin("user", "create", "--uid=tests", "--display-name=tests", *keys)


@contextlib.contextmanager
def running(kind: str, folder: Path) -> Iterator[Server]:
    """A server of a kind, `rclone` or `ceph`; Ceph is skipped where it is not installed."""
    if kind == "ceph" and not all(shutil.which(program) for program in _CEPH):
        pytest.skip("Ceph is not installed (radosgw ceph-mon ceph-osd ceph-common)")
    server: Server = Rclone(folder) if kind == "rclone" else Ceph(folder)
    try:
        server.start()
        yield server
    finally:
        with contextlib.suppress(AssertionError):
            server.stop()
        if isinstance(server, Ceph):
            server.shut_down()
