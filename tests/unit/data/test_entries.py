"""A data set with too many shards for its manifest to list is read, verified and mixed as any other."""

import json
from pathlib import Path
from typing import Any

import pytest

from raymds.data import entries, shards
from raymds.data.look import counts
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.data.verify import verify
from raymds.errors import UsageError
from raymds.ingest.mix import mix

SKY = {"sky": ["clear", "grey", "black"], "road": ["wet"]}


def write(where: Path, number: int) -> DataSet:
    """Three shards of train, of which one has no road, and one of test."""

    def shard(name: str, attributes: dict[str, list[str]], *labels: str | None) -> Any:
        none = dict.fromkeys(attributes)
        images = [bytes([number, i]) * 9 + name.encode() for i in range(len(labels))]
        rows = [
            Row(f"{number}-{name}-{i}", image, "", none | {"sky": sky})
            for i, (image, sky) in enumerate(zip(images, labels, strict=True))
        ]
        return write_shard(str(where), f"{name}.parquet", rows, attributes)

    train = [shard("a", SKY, "grey", "grey", None), shard("b", {"sky": SKY["sky"]}, "clear"), shard("c", SKY, "grey")]
    return write_manifest(str(where), SKY, {"train": train, "test": [shard("t", SKY, "black")]}, {})


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[DataSet, DataSet]:
    """The same shards, listed in the manifest and beside it."""
    small = write(tmp_path / "small", 1)
    monkeypatch.setattr(entries, "MANY", 3)
    return small, write(tmp_path / "large", 1)


def silent(record: dict[str, Any]) -> None:
    """Progress that nobody looks at."""


def test_it_says_the_same(both: tuple[DataSet, DataSet]) -> None:
    small, large = both
    assert {path.name for path in Path(large.uri).iterdir()} - {path.name for path in Path(small.uri).iterdir()} == {
        "shards-train.parquet",
        "shards-test.parquet",
    }
    for split in ("train", "test"):
        assert counts(large, [split]) == counts(small, [split])
        assert large.split_digest(split) == small.split_digest(split)
        assert [(file.bytes, file.sha256, rows) for file, rows in large.load(split).files] == [
            (file.bytes, file.sha256, rows) for file, rows in small.load(split).files
        ]
    assert large.count("train", "sky", "grey") == 3
    assert large.load("train").example(3).id == "1-b-0"
    assert json.loads(Path(small.uri, "manifest.json").read_bytes())["schema"] == 2
    assert write(Path(large.uri), 1).created == large.created  # the same again is the same


def test_its_counts_are_verified(both: tuple[DataSet, DataSet]) -> None:
    *_, large = both
    problems = [line for line in verify(large.uri, silent).problems if "image can't" not in line]
    assert problems == []
    path = Path(large.uri, "manifest.json")
    manifest = json.loads(path.read_bytes())
    manifest["counts"]["train"]["sky"]["grey"] = 4
    del manifest["digest"], manifest["created"]
    path.write_text(json.dumps(manifest | {"digest": shards._digest(manifest)}))
    found = verify(large.uri, silent)
    assert f"{large.uri}: train: sky='grey' in 3 rows, the manifest says 4" in found.problems
    assert found.beside == []


@pytest.mark.parametrize("damage", ["damaged", "can't be read|missing|no such"])
def test_a_damaged_list_is_named(both: tuple[DataSet, DataSet], damage: str) -> None:
    path = Path(both[1].uri, "shards-train.parquet")
    if damage == "damaged":
        path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    else:
        path.unlink()
    with pytest.raises(UsageError, match=rf"shards-train\.parquet.*({damage})"):
        DataSet.open(both[1].uri)


def test_a_mix_with_one_large_part_counts_all(
    both: tuple[DataSet, DataSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "MANY", 100)
    mixed = mix([both[1].uri, write(tmp_path / "other", 2).uri], str(tmp_path / "mixed"))
    assert counts(mixed, ["train"])["classes"] == {
        "sky": {"clear": {"train": 2}, "grey": {"train": 6}, "black": {"train": 0}},
        "road": {"wet": {"train": 0}},
    }
    assert mixed.load("train").example(9).id == "2-c-0"
    assert len(mixed.files) == 10
