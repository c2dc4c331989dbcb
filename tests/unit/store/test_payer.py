"""Listings of a bucket whose requester pays, page by page; what such a store does, tests/s3 shows."""

from typing import Any

import pytest
from pyarrow import fs as pafs

from raymds.store import aws
from raymds.store.aws import StorageConfig
from raymds.store.payer import Client


def test_a_listing_of_several_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def request(config: StorageConfig, name: str, **asked: Any) -> dict[str, Any]:
        if "ContinuationToken" not in asked:
            return {"Contents": [{"Key": "a/1", "Size": 1}, {"Key": "a/", "Size": 0}], "NextContinuationToken": "more"}
        assert asked["ContinuationToken"] == "more"
        return {"Contents": [{"Key": "a/2", "Size": 2}]}

    monkeypatch.setattr(aws, "request", request)
    found = Client("b", StorageConfig()).get_file_info(pafs.FileSelector("b/a", recursive=True))
    assert [(info.path, info.size) for info in found] == [("b/a/1", 1), ("b/a/2", 2)]
