"""What an ingest publishes of the shards that its tasks wrote."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from raymds.data.config import IngestConfig
from raymds.data.shards import Shard
from raymds.errors import UsageError
from raymds.ingest.ingest import Job, _by_split, make_shard
from raymds.ingest.sources import Entry


def test_a_split_without_any_image_is_not_published() -> None:
    jobs = [Job("train", "train-00000.parquet", [], ""), Job("test", "test-00000.parquet", [], "")]
    shards = {job.name: Shard(job.name, rows, 9, "", {}) for job, rows in zip(jobs, (5, 0), strict=True)}
    with pytest.raises(UsageError, match=r"data/x: no image of test is left, all are broken, such as a\.jpg: no such"):
        _by_split("data/x", jobs, shards, {"a.jpg": "a.jpg: no such file"})
    shards["test-00000.parquet"] = Shard("test-00000.parquet", 1, 9, "", {})
    assert {split: len(found) for split, found in _by_split("data/x", jobs, shards, {}).items()} == {
        "train": 1,
        "test": 1,
    }


def test_an_ingest_that_goes_on_with_other_images_of_the_same_names_reads_those(tmp_path: Path) -> None:
    job = Job("train", "train-00000.parquet", [Entry("1", "1.png", "c", ("x",))], "digest")
    for folder, value in (("a", 10), ("b", 200)):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8), value).save(tmp_path / folder / "1.png")
        make_shard(str(tmp_path), str(tmp_path / folder), {"sky": ["x"]}, IngestConfig(), job)
        (image,) = pq.read_table(tmp_path / job.name)["image"].to_pylist()
        assert Image.open(io.BytesIO(image)).getpixel((0, 0)) == value
