"""What is wrong with rows and vocabularies is said before a file is written."""

from pathlib import Path
from typing import Any

import pytest

from raymds.data.shards import Row, write_manifest, write_shard
from raymds.errors import UsageError

ATTRIBUTES = {"weather": ["clear"], "scene": ["street"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": {"weather": "hail", "scene": None}}, "weather='hail' is not in the vocabulary"),
        ({"attributes": {"weather": None, "scene": None, "lane": "x"}}, "lane='x' is not in the vocabulary"),
        ({"attributes": {"weather": None}}, "has no scene; give a label, None where it is undefined"),
        ({"caption": None}, "id, caption and group .* have to be text"),
        ({"image": "a.jpg"}, "the image encoded bytes"),
        ({"group": 7}, "id, caption and group .* have to be text"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    bad: Any = {"id": "id-7", "image": b"x", "caption": "c", "attributes": {"weather": None, "scene": None}} | change
    with pytest.raises(UsageError, match=f"row id-7: .*{message}"):
        write_shard(str(tmp_path), "x.parquet", [Row(**bad)], ATTRIBUTES)
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_has_each_class_once_and_all_of_the_shards(tmp_path: Path) -> None:
    """Labels outside it would be read as undefined; an attribute `id` would take its column's place."""
    shard = write_shard(str(tmp_path), "x.parquet", [Row("1", b"x", "c", {"sky": "blue"})], {"sky": ["blue"]})
    for classes, message in (
        (["red"], r"x\.parquet: has sky='blue', which"),
        (["blue", "blue"], "sky has 'blue' twice"),
    ):
        with pytest.raises(UsageError, match=message):
            write_manifest(str(tmp_path), {"sky": classes}, {"train": [shard]}, {})
    for name in ("id", "image", "group", "pixels"):
        with pytest.raises(UsageError, match=f"attributes: '{name}' can't name an attribute"):
            write_shard(str(tmp_path), "y.parquet", [], {name: ["a"]})
