"""Files in real object stores: whole or not at all, clear errors, patience."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs as pafs

from raymds.cli import main as cli
from raymds.config import Config, load
from raymds.data.reader import DiskCache, File, Reader
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.errors import UsageError
from raymds.store import objects
from raymds.store import uri as storage
from raymds.store.aws import StorageConfig
from tests.s3.servers import BUCKET, SECRET, Ceph, Server, free_port

ATTRIBUTES = {"weather": ("clear", "foggy")}


@pytest.fixture
def root(server: Server, request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name.partition('[')[0]}"


def test_what_is_written_is_read(root: str) -> None:
    uri = storage.join(root, "deeply", "nested", "file")
    assert not storage.exists(uri)
    assert storage.read_or_none(uri) is None
    storage.write(uri, b"one")
    storage.write(uri, b"two")
    large = np.random.default_rng(0).bytes(12_000_000)
    storage.write(storage.join(root, "large"), large)
    assert (storage.read(uri), storage.size(uri)) == (b"two", 3)
    assert storage.read(storage.join(root, "large")) == large
    assert {name: size for name, size in storage.sizes(root).items() if size} == {
        "deeply/nested/file": 3, "large": 12_000_000,
    }  # fmt: skip
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)
    assert storage.sizes(storage.join(root, "nothing")) == {}


def test_a_preset_is_read_from_a_bucket(root: str) -> None:
    storage.write(f"{root}/preset.yaml", b"optim: {lr: 0.25}")
    assert load(Config, f"{root}/preset.yaml", []).optim.lr == 0.25
    with pytest.raises(UsageError, match=r"none\.yaml: no such file"):
        load(Config, f"{root}/none.yaml", [])


def test_a_file_is_created_once(root: str) -> None:
    uri = storage.join(root, "claim")
    assert storage.create(uri, b"mine")
    assert not storage.create(uri, b"yours")
    assert storage.read(uri) == b"mine"


def test_of_many_that_create_a_file_at_once_one_succeeds(server: Server, root: str) -> None:
    if not isinstance(server, Ceph):
        pytest.skip("rclone has no conditional writes")
    contents = [f"writer {number}".encode() for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda data: storage.create(storage.join(root, "claim"), data), contents))
    assert sum(created) == 1
    assert storage.read(storage.join(root, "claim")) == contents[created.index(True)]


def test_the_file_system_works_for_others(root: str, tmp_path: Path) -> None:
    """As Ray uses it: nested directories that need not be made, whole trees that are deleted."""
    filesystem, path = storage.resolve(root)
    filesystem.create_dir(f"{path}/a/b", recursive=True)
    with filesystem.open_output_stream(f"{path}/a/b/c") as stream:
        stream.write(b"written")
    assert storage.read(f"{root}/a/b/c") == b"written"
    pafs.copy_files(f"{path}/a", str(tmp_path), source_filesystem=filesystem)
    assert (tmp_path / "b" / "c").read_bytes() == b"written"
    filesystem.delete_dir(f"{path}/a")
    assert filesystem.get_file_info(f"{path}/a/b/c").type == pafs.FileType.NotFound


@pytest.mark.parametrize(
    ("variables", "settings", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, [], "s3://driving at .*the secret key is wrong; check AWS_SECRET"),
        ({"AWS_ACCESS_KEY_ID": "AKNOBODYATALL"}, [], "the access key is not known there; check AWS_ACCESS_KEY_ID"),
        ({}, ["storage.endpoint=http://127.0.0.1:{free}"], "can't be reached; check storage.endpoint and the network"),
        ({}, ["storage.endpoint=elsewhere"], "storage.endpoint=elsewhere: has to be a URL"),
        ({}, ["data.uri=s3://nobodys-bucket/x"], "s3://nobodys-bucket at .*no such bucket; check its name"),
        ({}, [], r"data.uri=s3://driving/nothing: no data set there"),
        ({}, ["data.uri=s3://AKME:{secret}@driving/x"], "s3://…driving/x.*: a URI holds bucket and key alone"),
        ({}, ["data.uri=s3://"], "names no bucket"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    variables: dict[str, str], settings: list[str], message: str,
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = [setting.format(free=free_port(), secret=SECRET) for setting in settings]
    common = ["model.name=tiny-64", "model.weights=x", "task.target=weather:foggy", "run.uri=s3://driving/run"]
    assert cli.main(["finetune", "demo", "data.uri=s3://driving/nothing", *common, *given]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert SECRET not in error


def test_a_store_that_goes_and_comes_back_is_waited_for(server: Server, root: str) -> None:
    uri = storage.join(root, "file")
    storage.write(uri, b"content")
    heard: list[dict[str, Any]] = []
    waits = threading.Event()

    def hear(record: dict[str, Any]) -> None:
        heard.append(record)
        waits.set()

    def come_back() -> None:
        assert waits.wait(60)
        server.start()

    objects.configure(StorageConfig(timeout=2.0, patience=60.0), hear)
    server.kill()
    back = threading.Thread(target=come_back)
    back.start()
    assert storage.read(uri) == b"content"
    back.join()
    assert [record["event"] for record in heard] == ["phase", "pause"]
    assert heard[0]["phase"].startswith(f"waiting for {uri}: the store can't be reached")
    assert (heard[1]["uri"], heard[1]["seconds"] > 0) == (uri, True)


def test_patience_ends(server: Server, root: str) -> None:
    heard: list[dict[str, Any]] = []
    config = StorageConfig(endpoint=f"http://127.0.0.1:{free_port()}", retries=1, patience=5)
    objects.configure(config, heard.append)
    with pytest.raises(UsageError, match="file: can't be read: the store can't be reached"):
        storage.read(storage.join(root, "file"))
    assert [record["event"] for record in heard] == ["phase"]


def rows(start: int, count: int) -> list[Row]:
    return [
        Row(f"id-{i}", np.random.default_rng(i).bytes(5000), f"caption {i}", {"weather": ATTRIBUTES["weather"][i % 2]})
        for i in range(start, start + count)
    ]


@pytest.fixture
def data(root: str) -> DataSet:
    shards = [write_shard(root, f"train-{part}.parquet", rows(20 * part, 20), ATTRIBUTES) for part in range(4)]
    return write_manifest(root, ATTRIBUTES, {"train": shards}, {"made_by": "tests"})


def test_a_data_set_is_read_and_a_flipped_byte_found(server: Server, data: DataSet) -> None:
    split = data.load("train")
    assert bytes(split.example(67).image) == rows(67, 1)[0].image
    data.check()
    key = f"{data.uri.removeprefix(f's3://{BUCKET}/')}/train-2.parquet"
    content = bytearray(storage.read(f"s3://{BUCKET}/{key}"))
    content[len(content) // 2] ^= 4
    server.client().put_object(Bucket=BUCKET, Key=key, Body=bytes(content))
    again = DataSet.open(data.uri)
    again.check()  # its size is right
    split = again.load("train")
    assert split.example(10).id == "id-10"
    with pytest.raises(UsageError, match=rf"{data.uri}/train-2\.parquet: shard is damaged: .* the manifest says"):
        split.example(45)
    server.client().put_object(Bucket=BUCKET, Key=key, Body=bytes(content[:-1]))
    with pytest.raises(UsageError, match=r"train-2\.parquet: shard is damaged"):
        again.check()
    server.client().delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(UsageError, match=r"train-2\.parquet: shard is missing"):
        again.check()


def files(data: DataSet) -> list[File]:
    return [data.file(shard) for shard in data.splits["train"]]


def test_the_cache_serves_without_the_store_and_repairs_itself(
    server: Server, data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = files(data)[:2]
    cache = DiskCache(str(tmp_path), 10**9)
    content = cache.get(first)
    assert cache.get(second) != content
    (tmp_path / second.sha256).write_bytes(b"altered")
    assert storage.sha256(cache.get(second)) == second.sha256
    monkeypatch.setattr(storage, "read", lambda uri: pytest.fail(f"{uri} is in the cache"))
    assert DiskCache(str(tmp_path), 10**9).get(first) == content


def test_the_cache_keeps_its_size_and_what_was_used_last(server: Server, data: DataSet, tmp_path: Path) -> None:
    shards = files(data)
    cache = DiskCache(str(tmp_path), shards[0].bytes + shards[1].bytes + shards[2].bytes // 2)
    for file in (shards[0], shards[1]):
        cache.get(file)
        time.sleep(0.02)
    cache.get(shards[0])
    time.sleep(0.02)
    cache.get(shards[2])
    held = {path.name for path in tmp_path.iterdir() if not path.name.startswith("lock-")}
    assert held == {shards[0].sha256, shards[2].sha256}


def test_a_reader_fetches_each_shard_once_and_forgets_the_oldest(
    server: Server, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, fetched = storage.read, []

    def counted(uri: str) -> bytes:
        fetched.append(uri.rpartition("/")[2])
        return read(uri)

    monkeypatch.setattr(storage, "read", counted)
    shards = files(data)
    reader = Reader(shards, memory=2 * max(file.bytes for file in shards))
    reader.ahead([0, 1])
    assert [reader.rows(shard).ids[0] for shard in (0, 1, 0)] == ["id-0", "id-20", "id-0"]
    assert sorted(fetched) == ["train-0.parquet", "train-1.parquet"]
    reader.rows(2)
    reader.rows(0)
    assert len(fetched) == 3
    reader.rows(1)
    assert fetched[3:] == ["train-1.parquet"]
