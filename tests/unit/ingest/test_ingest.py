"""What an ingest publishes of the shards that its tasks wrote."""

import pytest

from raymds.data.shards import Shard
from raymds.errors import UsageError
from raymds.ingest.ingest import Job, _by_split


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
