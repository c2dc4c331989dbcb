"""Files in a bucket of Google's store, from an emulator over HTTP."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.store import objects
from raymds.store import uri as storage
from raymds.store.aws import StorageConfig
from tests.conftest import write_scenes
from tests.s3.servers import BUCKET, free_port


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a user of the emulator sets."""
    port, folder = free_port(), tmp_path_factory.mktemp("gs")
    command = [str(Path(sys.executable).with_name("gcp-storage-emulator")), "start", "--host=127.0.0.1", "--in-memory"]
    with (folder / "log").open("wb") as log, pytest.MonkeyPatch.context() as environment:
        server = subprocess.Popen(
            [*command, f"--port={port}", f"--default-bucket={BUCKET}"], stdout=log, stderr=log, cwd=folder
        )
        environment.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{port}")
        objects.configure(StorageConfig())
        for _ in range(300):
            try:
                storage.exists(f"gs://{BUCKET}/anything")
                break
            except UsageError:
                time.sleep(0.1)
        yield
        server.kill()
        server.wait()
    objects.configure(StorageConfig())


@pytest.mark.usefixtures("emulator")
def test_what_is_written_is_read() -> None:
    root = f"gs://{BUCKET}/deeply/nested"
    uri, large = f"{root}/file", os.urandom(3_000_000)
    assert storage.read_or_none(uri) is None
    storage.write(uri, b"one")
    storage.write(uri, b"two")
    storage.write(f"{root}/large", large)
    assert (storage.read(uri), storage.size(uri)) == (b"two", 3)
    assert storage.read(f"{root}/large") == large
    assert storage.sizes(root) == {"file": 3, "large": 3_000_000}
    assert not storage.create(uri, b"three")
    storage.delete(uri)
    storage.delete(uri)
    assert storage.create(uri, b"three")
    assert storage.read(uri) == b"three"
    assert storage.sizes(f"gs://{BUCKET}/nothing") == {}


@pytest.mark.usefixtures("emulator")
def test_a_data_set_is_read() -> None:
    uri = f"gs://{BUCKET}/scenes"
    write_scenes(uri)
    data = DataSet.open(uri)
    data.check()
    split = data.load("val")
    split.ahead(range(len(split)))
    assert [split.example(row).id for row in (0, 119)] == ["row-400", "row-519"]


@pytest.mark.usefixtures("emulator")
def test_what_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=rf"gs://{BUCKET}/none: no such file"):
        storage.read(f"gs://{BUCKET}/none")
    with pytest.raises(UsageError, match=r"gs://elsewhere: no such bucket; check its name"):
        storage.read("gs://elsewhere/none")
    with pytest.raises(UsageError, match=r"gs://elsewhere: no such bucket; check its name"):
        storage.write("gs://elsewhere/none", b"")


def test_a_store_that_is_gone_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    objects.configure(StorageConfig())
    with pytest.raises(UsageError, match=r"gs://driving/file: can't be read: the store can't be reached; check"):
        storage.read("gs://driving/file")
    objects.configure(StorageConfig())
