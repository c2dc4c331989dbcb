"""Data sets as immutable Parquet shards with a manifest that digests every byte.

A data set is a directory: `manifest.json` and `SPLIT-NNNNN.parquet` files with the columns id, image (encoded
bytes), caption, and one nullable string column per attribute. The manifest is written last; without it there is no
data set. Readers verify each shard's SHA-256 before they use a row of it.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raymds import storage
from raymds.errors import UsageError

SCHEMA = 1
MANIFEST = "manifest.json"
_ROW_GROUP_BYTES = 6 * 2**20  # reads from object stores were fastest with row groups of 5 to 8 MB


@dataclass(frozen=True)
class Row:
    """One image with its caption and labels; a label is None where the attribute is undefined."""

    id: str
    image: bytes
    caption: str
    attributes: Mapping[str, str | None]


@dataclass(frozen=True)
class Shard:
    """A manifest's entry for one file."""

    file: str
    rows: int
    bytes: int
    sha256: str
    classes: dict[str, dict[str, int]]  # attribute -> class -> rows


@dataclass(frozen=True)
class Split:
    """All rows of a split in memory, images still encoded."""

    ids: list[str]
    images: Any  # pyarrow binary array
    captions: list[str]
    labels: dict[str, NDArray[np.int64]]  # attribute -> class index, −1 where undefined
    shards: list[tuple[str, int]]  # URI and number of rows of each shard, in order

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, attribute: str, label: int) -> NDArray[np.int64]:
        """Rows whose attribute has that class."""
        return np.flatnonzero(self.labels[attribute] == label)

    def where(self, row: int) -> str:
        """Shard, row within it and id, for messages."""
        ends = np.cumsum([rows for _, rows in self.shards])
        shard = int(np.searchsorted(ends, row, side="right"))
        uri, rows = self.shards[shard]
        return f"{uri} row {row - (ends[shard] - rows)}"


@dataclass(frozen=True)
class DataSet:
    """An opened data set: its manifest, read and verified; shards are read on demand."""

    uri: str
    attributes: dict[str, list[str]]  # vocabularies
    splits: dict[str, list[Shard]]
    source: dict[str, Any]  # what made it
    digest: str

    @classmethod
    def open(cls, uri: str) -> "DataSet":
        """Read `uri/manifest.json`; UsageError where it is missing, damaged or of another schema version."""
        where = storage.join(uri, MANIFEST)
        if not storage.exists(where):
            raise UsageError(f"data.uri={uri}: no data set there ({MANIFEST} is missing); make one with raymds data")
        try:
            manifest = json.loads(storage.read(where))
            digest = manifest.pop("digest")
            schema = manifest["schema"]
        except (ValueError, KeyError, AttributeError):
            raise UsageError(f"{where}: damaged: not a manifest of a data set; make the data set again") from None
        if schema != SCHEMA:
            raise UsageError(f"{where}: schema version {schema}, this raymds reads {SCHEMA}; make the data set again")
        if digest != _digest(manifest):
            raise UsageError(f"{where}: damaged: its digest does not match its content; make the data set again")
        splits = {name: [Shard(**shard) for shard in shards] for name, shards in manifest["splits"].items()}
        return cls(uri, manifest["attributes"], splits, manifest["source"], digest)

    def count(self, split: str, attribute: str, label: str) -> int:
        """Rows of a split that have this class."""
        return sum(shard.classes[attribute].get(label, 0) for shard in self.splits[split])

    def verify(self) -> None:
        """Check the bytes of every shard against the manifest; UsageError naming the first missing or damaged one."""
        for shards in self.splits.values():
            for shard in shards:
                self._bytes(shard)

    def load(self, split: str) -> Split:
        """All rows of a split, every shard verified against its digest."""
        if not self.splits.get(split):
            raise UsageError(f"data.uri={self.uri}: no split {split!r}; it has {', '.join(self.splits)}")
        table = pa.concat_tables(self._read(shard) for shard in self.splits[split])
        labels = {}
        for attribute, classes in self.attributes.items():
            encoded = pa.compute.index_in(table[attribute], value_set=pa.array(classes))
            labels[attribute] = encoded.fill_null(-1).to_numpy().astype(np.int64)
        images = table["image"].combine_chunks()
        where = [(storage.join(self.uri, shard.file), shard.rows) for shard in self.splits[split]]
        return Split(table["id"].to_pylist(), images, table["caption"].to_pylist(), labels, where)

    def _read(self, shard: Shard) -> Any:
        return pq.read_table(pa.BufferReader(self._bytes(shard)))

    def _bytes(self, shard: Shard) -> bytes:
        where = storage.join(self.uri, shard.file)
        if not storage.exists(where):
            raise UsageError(f"{where}: shard is missing; copy it again or make the data set again")
        data = storage.read(where)
        found = storage.sha256(data)
        if found != shard.sha256:
            raise UsageError(
                f"{where}: shard is damaged: {len(data)} bytes with SHA-256 {found}, the manifest says {shard.bytes} "
                f"bytes with {shard.sha256}; copy it again or make the data set again"
            )
        return data


def write_shard(uri: str, name: str, rows: Iterable[Row], attributes: Mapping[str, Sequence[str]]) -> Shard:
    """Write one shard whole or not at all and return its manifest entry."""
    rows = list(rows)
    for row in rows:
        for attribute, label in row.attributes.items():
            if label is not None and label not in attributes[attribute]:
                raise UsageError(f"row {row.id}: {attribute}={label!r} is not in the vocabulary")
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "image": pa.array([row.image for row in rows], pa.large_binary()),
        "caption": pa.array([row.caption for row in rows], pa.string()),
    } | {name: pa.array([row.attributes[name] for row in rows], pa.string()) for name in attributes}
    image_bytes = max(1, sum(len(row.image) for row in rows))
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        buffer,
        row_group_size=max(1, len(rows) * _ROW_GROUP_BYTES // image_bytes),
        # Encoded images do not compress, and their dictionary would be the column again.
        compression={column: "NONE" if column == "image" else "ZSTD" for column in columns},
        use_dictionary=[column for column in columns if column not in {"id", "image"}],
        write_page_checksum=True,
    )
    data = buffer.getvalue()
    storage.write(storage.join(uri, name), data)
    return Shard(name, len(rows), len(data), storage.sha256(data), _classes(rows, attributes))


def write_manifest(
    uri: str,
    attributes: Mapping[str, Sequence[str]],
    splits: Mapping[str, Sequence[Shard]],
    source: Mapping[str, Any],
) -> DataSet:
    """Publish a data set whose shards are all written."""
    manifest = {
        "schema": SCHEMA,
        "attributes": {name: list(classes) for name, classes in attributes.items()},
        "splits": {name: [vars(shard) for shard in shards] for name, shards in splits.items()},
        "source": dict(source),
    }
    text = json.dumps({**manifest, "digest": _digest(manifest)}, indent=1)
    storage.write(storage.join(uri, MANIFEST), text.encode())
    return DataSet.open(uri)


def _digest(manifest: Mapping[str, Any]) -> str:
    return storage.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())


def _classes(rows: Sequence[Row], attributes: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    def counts(attribute: str) -> Iterator[tuple[str, int]]:
        labels = [row.attributes[attribute] for row in rows]
        for label in attributes[attribute]:
            if label in labels:
                yield label, labels.count(label)

    return {attribute: dict(counts(attribute)) for attribute in attributes}
