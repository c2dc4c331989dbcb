"""The shards of a data set with too many for its manifest to list: a Parquet file per split, `shards-SPLIT.parquet`.

With the classes of each shard a hundred million rows of 364 classes are 2 GB of JSON, more than a minute to read. Here
a shard is named with its attributes alone, and the manifest counts the classes of a split as a whole.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymds.data.reader import File, table_bytes, verified
from raymds.store import uri as storage

Counts = dict[str, dict[str, int]]  # attribute -> class -> rows

MANY = 10_000  # shards; as many are listed in the manifest, where they are easier to look at


def many(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Whether there are too many; one large part makes a mix large, as its shards have no counts of their own."""
    shards = [shard for shards in splits.values() for shard in shards]
    return len(shards) > MANY or not all(isinstance(shard["classes"], dict) for shard in shards)


def name(split: str) -> str:
    """Of the file with a split's entries."""
    return f"shards-{split}.parquet"


def write(uri: str, split: str, shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Publish a split's entries, which have the fields of `shards.Shard`; what the manifest says of their file."""
    columns = {field: [shard[field] for shard in shards] for field in ("file", "rows", "bytes")}
    digests = pa.array([bytes.fromhex(shard["sha256"]) for shard in shards], pa.binary(32))
    attributes = [json.dumps(list(shard["classes"])) for shard in shards]
    data = table_bytes(pa.table({**columns, "sha256": digests, "attributes": attributes}))
    storage.write(storage.join(uri, name(split)), data)
    return {"file": name(split), "bytes": len(data), "sha256": storage.sha256(data)}


def read(uri: str, entry: Mapping[str, Any] | list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The entries of a split, those of a file without counts; UsageError where that is missing or damaged."""
    if isinstance(entry, list):
        yield from entry
        return
    file = File(storage.join(uri, entry["file"]), entry["bytes"], entry["sha256"])
    table = pq.read_table(pa.BufferReader(verified(file, storage.read(file.uri))))
    attributes = {text: json.loads(text) for text in table["attributes"].unique().to_pylist()}
    columns = [table[field].to_pylist() for field in ("file", "rows", "bytes", "sha256", "attributes")]
    for where, rows, size, digest, text in zip(*columns, strict=True):
        yield {"file": where, "rows": rows, "bytes": size, "sha256": digest.hex(), "classes": attributes[text]}


def classes(rows: Sequence[Mapping[str, str | None]], attributes: Mapping[str, Sequence[str]]) -> Counts:
    """Of the rows of a shard, by their labels; classes without rows are left out."""
    found: Counts = {}
    for attribute, vocabulary in attributes.items():
        labels = Counter(row[attribute] for row in rows)
        found[attribute] = {label: labels[label] for label in vocabulary if label in labels}
    return found


def counts(table: Any, attributes: Sequence[str]) -> Counts:
    """As `classes`, of a table of labels."""
    found: Counts = {}
    for attribute in attributes:
        column = table[attribute].drop_null().value_counts()
        found[attribute] = dict(
            zip(column.field("values").to_pylist(), column.field("counts").to_pylist(), strict=True)
        )
    return found


def summed(shards: Iterable[Mapping[str, Any]]) -> Counts:
    """As `classes`, of all shards of a split, which have their own."""
    found: Counts = {}
    for shard in shards:
        for attribute, labels in shard["classes"].items():
            own = found.setdefault(attribute, defaultdict(int))
            for label, rows in labels.items():
                own[label] += rows
    return found
