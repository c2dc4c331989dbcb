"""Shards and manifest: what is written is read; what is missing or altered is named, never used."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raymds.config import DataConfig
from raymds.data import shards
from raymds.data.reader import DiskCache
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.errors import UsageError
from raymds.store import uri as storage

ATTRIBUTES = {"weather": ("clear", "foggy"), "scene": ("street", "tunnel")}


def rows(start: int, count: int) -> list[Row]:
    return [
        Row(
            f"id-{i}",
            bytes([i % 256]) * 50,
            f"caption {i}",
            {"weather": ("clear", "foggy", None)[i % 3], "scene": "street"},
        )
        for i in range(start, start + count)
    ]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    where = str(tmp_path / "set")
    splits = {
        "train": [write_shard(where, f"train-{p}.parquet", rows(10 * p, 10), ATTRIBUTES) for p in range(2)],
        "test": [write_shard(where, "test-0.parquet", rows(100, 4), ATTRIBUTES)],
    }
    write_manifest(where, ATTRIBUTES, splits, {"made_by": "tests"})
    return where


def test_what_is_written_is_read(uri: str) -> None:
    split = DataSet.open(uri).load("train")
    assert len(split) == 20
    example = split.example(13)
    assert (example.id, bytes(example.image), example.caption) == ("id-13", bytes([13]) * 50, "caption 13")
    assert split.labels["weather"].tolist() == [(0, 1, -1)[i % 3] for i in range(20)]
    assert split.rows_of("weather", 1).tolist() == list(range(1, 20, 3))
    assert split.where(13) == f"{uri}/train-1.parquet row 3"
    assert split.where(9) == f"{uri}/train-0.parquet row 9"


def test_manifest_counts_and_digests(uri: str) -> None:
    data = DataSet.open(uri)
    assert data.count("train", "weather", "foggy") == 7
    assert data.count("train", "scene", "tunnel") == 0
    shard = data.splits["train"][0]
    content = Path(uri, shard.file).read_bytes()
    assert (shard.rows, shard.bytes) == (10, len(content))
    data.check()


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    one = write_shard(str(tmp_path / "a"), "x.parquet", rows(0, 10), ATTRIBUTES)
    two = write_shard(str(tmp_path / "b"), "x.parquet", rows(0, 10), ATTRIBUTES)
    assert one == two


def test_images_are_stored_plain_with_page_checksums(uri: str) -> None:
    column = pq.ParquetFile(Path(uri, "train-0.parquet")).metadata.row_group(0).column(1)
    assert (column.path_in_schema, column.compression) == ("image", "UNCOMPRESSED")
    assert "RLE_DICTIONARY" not in column.encodings


def test_one_flipped_byte_is_found_and_named(uri: str) -> None:
    path = Path(uri, "train-1.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"train-1\.parquet: shard is damaged: .*the manifest says"):
        DataSet.open(uri).load("train").example(13)


def test_before_a_run_begins_no_shard_is_read(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are compared; a flipped byte is found where its shard is used, as above."""
    path = Path(uri, "train-1.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    data, read = DataSet.open(uri), list[str]()
    monkeypatch.setattr(storage, "read", read.append)
    data.check()
    assert read == []


def test_a_missing_or_cut_shard_is_named(uri: str) -> None:
    path = Path(uri, "train-1.parquet")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UsageError, match=r"train-1\.parquet: shard is damaged"):
        DataSet.open(uri).check()
    path.unlink()
    with pytest.raises(UsageError, match=r"train-1\.parquet: shard is missing"):
        DataSet.open(uri).check()


def test_without_manifest_there_is_no_data_set(tmp_path: Path) -> None:
    write_shard(str(tmp_path), "train-0.parquet", rows(0, 3), ATTRIBUTES)
    with pytest.raises(UsageError, match=r"no data set there \(manifest\.json is missing\)"):
        DataSet.open(str(tmp_path))


def test_an_altered_manifest_is_found(uri: str) -> None:
    path = Path(uri, "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"][0]["rows"] = 11
    path.write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="its digest does not match"):
        DataSet.open(uri)
    path.write_text("[" * 100_000)
    with pytest.raises(UsageError, match="damaged: not a manifest"):
        DataSet.open(uri)
    path.write_text("{}")
    with pytest.raises(UsageError, match="damaged"):
        DataSet.open(uri)


def test_a_later_schema_is_refused(uri: str) -> None:
    path = Path(uri, "manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(UsageError, match="schema version 99"):
        DataSet.open(uri)


def test_a_split_that_is_not_there(uri: str) -> None:
    with pytest.raises(UsageError, match="no split 'val'; it has train, test"):
        DataSet.open(uri).load("val")


def test_labels_keep_the_order_of_the_manifest(uri: str) -> None:
    data = DataSet.open(uri)
    assert data.attributes == {name: list(classes) for name, classes in ATTRIBUTES.items()}
    assert np.array_equal(data.load("test").labels["scene"], np.zeros(4))


def test_memory_decides_what_is_streamed(tmp_path: Path) -> None:
    where = str(tmp_path / "large")
    big = [Row(f"id-{i}", np.random.default_rng(i).bytes(100_000), "c", {"weather": "clear"}) for i in range(24)]
    attributes = {"weather": ("clear", "foggy")}
    shards = [write_shard(where, f"train-{p}.parquet", big[6 * p : 6 * p + 6], attributes) for p in range(4)]
    write_manifest(where, attributes, {"train": shards}, {})
    small = DataSet.open(where, DataConfig(memory=2)).load("train")
    blocks = small.blocks(np.arange(24))
    assert blocks is not None
    assert (blocks.shards, blocks.window, blocks.shard.tolist()) == (4, 1, [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6)
    fits = DataSet.open(where, DataConfig(memory=8)).load("train")
    assert (fits.window, fits.blocks(np.arange(20))) == (0, None)
    assert small.substitute(23) == 0
    assert small.substitute(3) == 4


def test_a_data_set_says_when_it_was_made_which_is_no_part_of_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        day = 1

        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(2026, 1, cls.day, 12, tzinfo=tz)

    monkeypatch.setattr(shards, "datetime", Clock)
    made = []
    for place, day in (("a", 1), ("b", 2), ("a", 3)):
        Clock.day, where = day, str(tmp_path / place)
        written = {"train": [write_shard(where, "train-0.parquet", rows(0, 3), ATTRIBUTES)]}
        made.append(write_manifest(where, ATTRIBUTES, written, {}))
    assert len({data.digest for data in made}) == 1
    assert [data.created for data in made] == ["2026-01-01T12:00:00Z", "2026-01-02T12:00:00Z", "2026-01-01T12:00:00Z"]
    other = write_manifest(str(tmp_path / "a"), ATTRIBUTES, written, {"made_by": "another"})
    assert other.created == "2026-01-03T12:00:00Z"


def test_a_manifest_without_a_date_is_read_and_one_with_none_is_damaged(uri: str) -> None:
    path = Path(uri, "manifest.json")
    manifest = json.loads(path.read_text())
    for created in ("yesterday", 1, {}):
        path.write_text(json.dumps({**manifest, "created": created}))
        with pytest.raises(UsageError, match="damaged"):
            DataSet.open(uri)
    del manifest["created"]
    path.write_text(json.dumps(manifest))
    assert DataSet.open(uri).created is None


def test_classes_are_counted_as_their_labels_say(uri: str) -> None:
    data = DataSet.open(uri)
    for split in data.splits:
        labels = data.load(split).labels
        for attribute, classes in data.attributes.items():
            for number, label in enumerate([*classes, "no such class"]):
                assert data.count(split, attribute, label) == (labels[attribute] == number).sum()


def test_a_cache_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UsageError, match=rf"^{tmp_path}/file/cache: can't be written: {tmp_path}/file is no directory$"
    ):
        DiskCache(f"{tmp_path}/file/cache", 10)
