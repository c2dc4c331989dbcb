"""Several data sets as one, where they lie: rows, labels, provenance, and what can't be joined."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from raymds.config import DataConfig
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.data.verify import verify
from raymds.errors import UsageError
from raymds.ingest.mix import mix
from tests.conftest import silent

import simplejpeg  # isort: skip

Labels = Sequence[Mapping[str, str | None]]


def make(where: Path, attributes: Mapping[str, Sequence[str]], **splits: Labels) -> str:
    """A data set with one row for each of the labels given; the pixels are of the set's name and the row."""
    shards = {}
    for split, labels in splits.items():
        rows = []
        for i, given in enumerate(labels):
            pixels = np.random.default_rng([*where.name.encode(), *split.encode(), i]).integers(0, 255, (16, 16, 3))
            image = simplejpeg.encode_jpeg(pixels.astype(np.uint8))
            rows.append(Row(f"row-{split}-{i}", image, f"{where.name} {split} {i}", given))
        shards[split] = [write_shard(str(where), f"{split}-00000.parquet", rows, attributes)]
    write_manifest(str(where), attributes, shards, {"made_by": f"a test, {where.name}"})
    return str(where)


@pytest.fixture
def drives(tmp_path: Path) -> str:
    attributes = {"weather": ["clear", "foggy"], "scene": ["street", "tunnel"]}
    clear, foggy = {"weather": "clear", "scene": "street"}, {"weather": "foggy", "scene": None}
    return make(tmp_path / "drives", attributes, train=[clear, foggy, clear], val=[clear, foggy], test=[foggy, clear])


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    attributes = {"weather": ["foggy", "snowy", "other"]}
    return make(tmp_path / "pairs", attributes, train=[{"weather": label} for label in ("other", "foggy", "snowy")])


def test_rows_and_vocabularies_are_joined_by_name(drives: str, pairs: str, tmp_path: Path) -> None:
    data = mix([drives, pairs], str(tmp_path / "mixed"))
    assert data.attributes == {"weather": ["clear", "foggy", "snowy", "other"], "scene": ["street", "tunnel"]}
    train = data.load("train")
    assert [train.example(row).caption for row in range(6)] == [
        *(f"drives train {i}" for i in range(3)), *(f"pairs train {i}" for i in range(3)),
    ]  # fmt: skip
    assert train.labels["weather"].tolist() == [0, 1, 0, 3, 1, 2]
    assert train.labels["scene"].tolist() == [0, -1, 0, -1, -1, -1]
    assert (data.count("train", "weather", "foggy"), data.count("train", "scene", "street")) == (2, 2)
    assert len(data.load("test")) == 2
    assert train.where(4) == f"{pairs}/train-00000.parquet row 1"


def test_nothing_is_copied_and_the_parts_stay_visible(drives: str, pairs: str, tmp_path: Path) -> None:
    data = mix([drives, pairs], str(tmp_path / "mixed"))
    files = {path.name for path in (tmp_path / "mixed").iterdir()}
    assert files == {"manifest.json", "labels-train.parquet", "labels-val.parquet", "labels-test.parquet"}
    assert [(part["uri"], part["digest"], part["rows"]) for part in data.parts] == [
        (drives, DataSet.open(drives).digest, {"train": 3, "val": 2, "test": 2}),
        (pairs, DataSet.open(pairs).digest, {"train": 3}),
    ]
    assert data.parts[1]["source"] == {"made_by": "a test, pairs"}
    data.check()


def test_a_mix_verifies_and_a_damaged_part_is_named(drives: str, pairs: str, tmp_path: Path) -> None:
    uri = mix([drives, pairs], str(tmp_path / "mixed")).uri
    assert verify(uri, silent).problems == []  # both have a row-train-0
    shard = Path(pairs, "train-00000.parquet")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert any(str(shard) in problem for problem in verify(uri, silent).problems)
    with pytest.raises(UsageError, match=rf"{shard}: shard is damaged"):
        DataSet.open(uri).check()
    with pytest.raises(UsageError, match=rf"{shard}: shard is damaged"):
        mix([drives, pairs], str(tmp_path / "again"))
    shard.unlink()
    with pytest.raises(UsageError, match=rf"{shard}: shard is missing"):
        DataSet.open(uri).check()


def test_a_mix_can_be_mixed_and_the_same_again_is_the_same(drives: str, pairs: str, tmp_path: Path) -> None:
    first = mix([pairs, drives], str(tmp_path / "first"))
    assert mix([pairs, drives], first.uri).digest == first.digest
    more = make(tmp_path / "more", {"weather": ["clear"]}, val=[{"weather": "clear"}])
    both = mix([first.uri, more], str(tmp_path / "both"))
    assert [len(both.load(split)) for split in ("train", "val", "test")] == [6, 3, 2]
    with pytest.raises(UsageError, match=rf"{first.uri}: already holds another data set"):
        mix([drives, pairs], first.uri)


def test_what_is_read_from_elsewhere_can_be_cached(drives: str, pairs: str, tmp_path: Path) -> None:
    mix([drives, pairs], str(tmp_path / "mixed"))
    reading = DataConfig(cache=str(tmp_path / "cache"))
    assert len(DataSet.open(str(tmp_path / "mixed"), reading).load("train").example(5).image) > 0


def test_what_can_not_be_mixed(drives: str, pairs: str, tmp_path: Path) -> None:
    out = str(tmp_path / "mixed")
    with pytest.raises(UsageError, match="give two data sets or more, here 1"):
        mix([drives], out)
    with pytest.raises(UsageError, match=f"{drives}: is the same data set as {drives}"):
        mix([drives, pairs, f"{drives}/"], out)
    with pytest.raises(UsageError, match=f"--out {drives}: is one of the data sets"):
        mix([drives, pairs], drives)
    with pytest.raises(UsageError, match="no data set there"):
        mix([drives, str(tmp_path / "nothing")], out)
    twin = make(tmp_path / "twin", {"weather": ["Foggy "]}, train=[{"weather": "Foggy "}])
    with pytest.raises(UsageError, match=r"twin: has 'weather:Foggy ', .*drives has 'weather:foggy'"):
        mix([drives, twin], out)
    named = make(tmp_path / "named", {"Weather": ["foggy"]}, train=[{"Weather": "foggy"}])
    with pytest.raises(UsageError, match=r"named: has 'Weather', .*drives has 'weather'"):
        mix([drives, named], out)
    assert not Path(out).exists()


def test_a_mix_is_as_old_as_its_oldest_part(drives: str, pairs: str, tmp_path: Path) -> None:
    def dated(uri: str, created: str | None) -> None:
        manifest = Path(uri, "manifest.json")
        content = json.loads(manifest.read_text())
        content.pop("created")
        manifest.write_text(json.dumps(content if created is None else {**content, "created": created}))

    dated(drives, "2026-03-01T00:00:00Z")
    dated(pairs, "2026-02-01T00:00:00Z")
    assert mix([drives, pairs], str(tmp_path / "mixed")).created == "2026-02-01T00:00:00Z"
    dated(pairs, None)
    assert mix([drives, pairs], str(tmp_path / "again")).created is None


def test_a_data_set_beside_a_mix_that_it_is_in(drives: str, pairs: str, tmp_path: Path) -> None:
    mixed = mix([drives, pairs], str(tmp_path / "mixed")).uri
    with pytest.raises(UsageError, match=f"{mixed}: has rows of {drives} too .* which would count twice"):
        mix([drives, mixed], str(tmp_path / "again"))


def test_a_class_in_two_spellings(drives: str, tmp_path: Path) -> None:
    other = make(tmp_path / "other", {"weather": ["dark-cloudy"]}, train=[{"weather": "dark-cloudy"}])
    third = make(tmp_path / "third", {"weather": ["dark_cloudy"]}, train=[{"weather": "dark_cloudy"}])
    with pytest.raises(UsageError, match=r"has 'weather:dark_cloudy', .* has 'weather:dark-cloudy'"):
        mix([drives, other, third], str(tmp_path / "mixed"))
