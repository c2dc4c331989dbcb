"""Data sets as immutable Parquet shards with a manifest that digests every byte.

A data set is a directory: `manifest.json`, `SPLIT-NNNNN.parquet` files with the columns id, image (encoded bytes),
caption, group (null where a row is by itself), those of `doubles.COLUMNS`, and one nullable string column per
attribute, and per split `labels-SPLIT.parquet`, all but the first three of all its shards in order, so that classes are
balanced, and images that stand twice are seen, without reading an image. More than `entries.MANY` shards are listed
beside the manifest. That is written last; without it there is no data set. Readers verify each file's SHA-256 before
they use a row of it.

A mix of data sets has a manifest and labels of its own; its shards are those of the others, where they lie.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymds.config import DataConfig
from raymds.data import doubles, entries, vocabulary
from raymds.data.reader import DiskCache, File, Reader, project, table_bytes, verified
from raymds.data.sampler import Rows
from raymds.data.split import Split
from raymds.errors import UsageError
from raymds.store import uri as storage

SCHEMA, LARGE = 2, 3  # of a manifest that lists its shards; of one beside which they are listed, see `entries`
MANIFEST = "manifest.json"
TIME = "%Y-%m-%dT%H:%M:%SZ"
_ROW_GROUP_BYTES = 6 * 2**20  # reads from object stores were fastest with row groups of 5 to 8 MB
_MEBIBYTE, _GIBIBYTE = 2**20, 2**30
_THREADS = 8  # requests at a time for what is small
_NAMED = 10  # leaks in a message
_SHUFFLING = tuple(f"raymds data {verb}" for verb in ("ingest", "scenes", "glyphs"))


@dataclass(frozen=True)
class Row:
    """One image with its caption and labels; a label is None where the attribute is undefined."""

    id: str
    image: bytes
    caption: str
    attributes: Mapping[str, str | None]
    group: str | None = None  # what it is of, such as a drive: rows of one are alike


@dataclass(frozen=True)
class Shard:
    """A manifest's entry for one file."""

    file: str  # its name in the data set's directory, or its URI where it is another's
    rows: int
    bytes: int
    sha256: str
    # attribute -> class -> rows, in a large data set its attributes alone; a mix may have more of them than a shard
    classes: dict[str, dict[str, int]] | list[str]


@dataclass(frozen=True)
class DataSet:
    """An opened data set: its manifest, read and verified; shards are read on demand."""

    uri: str
    attributes: dict[str, list[str]]  # vocabularies
    splits: dict[str, list[Shard]]
    labels: dict[str, File]  # per split, the file with all its labels
    source: dict[str, Any]  # what made it
    digest: str
    created: str | None  # UTC, as in `TIME`; None where the manifest is of before there were dates
    reading: DataConfig
    counts: dict[str, dict[str, dict[str, int]]] | None = None  # split -> attribute -> class -> rows, of a large one
    shuffled: bool = False  # whether each shard is declared to be a random sample of its split

    @classmethod
    def open(cls, uri: str, reading: DataConfig | None = None) -> "DataSet":
        """Read `uri/manifest.json`; UsageError where it is missing, damaged or of another schema version."""
        where = storage.join(uri, MANIFEST)
        content = storage.read_or_none(where)
        if content is None:
            raise UsageError(f"data.uri={uri}: no data set there ({MANIFEST} is missing); make one with raymds data")
        try:
            manifest = json.loads(content)
            digest, created = manifest.pop("digest"), manifest.pop("created", None)
            schema = manifest["schema"]
            if created is not None:
                datetime.strptime(created, TIME)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise UsageError(f"{where}: damaged: not a manifest of a data set; make the data set again") from None
        if schema not in {SCHEMA, LARGE}:
            raise UsageError(f"{where}: schema version {schema}, this raymds reads 2 and 3; make the data set again")
        if digest != _digest(manifest):
            raise UsageError(f"{where}: damaged: its digest does not match its content; make the data set again")
        splits = {name: [Shard(**shard) for shard in entries.read(uri, s)] for name, s in manifest["splits"].items()}
        labels = {
            name: File(storage.join(uri, entry["file"]), entry["bytes"], entry["sha256"])
            for name, entry in manifest["labels"].items()
        }
        source, reading = manifest["source"], reading or DataConfig()
        counts = manifest.get("counts")
        # What raymds itself made was shuffled before it was said.
        shuffled = manifest.get("shuffled", str(source.get("made_by")).startswith(_SHUFFLING))
        return cls(uri, manifest["attributes"], splits, labels, source, digest, created, reading, counts, shuffled)

    def count(self, split: str, attribute: str, label: str) -> int:
        """Rows of a split that have this class."""
        return self._counts[split].get((attribute, label), 0)

    def split_digest(self, split: str) -> str:
        """Digest of a split's content: the same wherever its shards lie, in whatever order."""
        return storage.sha256("\n".join(sorted(shard.sha256 for shard in self.splits[split])).encode())

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The data sets that a mix is of: uri, digest, rows by split, source; empty where it is none."""
        found: list[dict[str, Any]] = self.source.get("parts", [])
        return found

    def file(self, shard: Shard) -> File:
        """A shard as a reader knows it."""
        return _file(self.uri, shard)

    @property
    def files(self) -> list[File]:
        """Every file that the manifest names: all shards, then the labels of each split."""
        shards = [self.file(shard) for shards in self.splits.values() for shard in shards]
        return [*shards, *self.labels.values()]

    def check(self) -> None:
        """That every file is there and has its size; UsageError naming the first.

        Its digest is proved when it is read: reading all of a data set twice would take too long.
        """
        sizes: dict[str, dict[str, int]] = {}  # by folder
        for file in self.files:
            folder, _, name = file.uri.rpartition("/")
            if folder not in sizes:
                sizes[folder] = storage.sizes(folder)
            found = sizes[folder].get(name)
            if found is None:
                raise UsageError(f"{file.uri}: shard is missing; copy it again or make the data set again")
            if found != file.bytes:
                raise UsageError(
                    f"{file.uri}: shard is damaged: {found} bytes, the manifest says {file.bytes}; copy it again or "
                    "make the data set again"
                )

    def load(self, split: str, vocabularies: Mapping[str, Sequence[str]] | None = None) -> Split:
        """The labels of a split, verified, and access to its rows; `vocabularies` may have another order of classes."""
        if not self.splits.get(split):
            raise UsageError(f"data.uri={self.uri}: no split {split!r}; it has {', '.join(self.splits)}")
        file = self.labels[split]
        table = pq.read_table(pa.BufferReader(verified(file, storage.read(file.uri))))
        labels = {}
        for attribute, classes in (vocabularies or self.attributes).items():
            encoded = pa.compute.index_in(table[attribute], value_set=pa.array(classes, pa.string()))
            labels[attribute] = encoded.fill_null(-1).to_numpy().astype(np.int32)
        shards, total = self.splits[split], sum(shard.bytes for shard in self.splits[split])
        # Half of the memory for this split: two are in use at a time, one to train on and one to evaluate.
        budget = self.reading.memory * _MEBIBYTE // 2
        return Split(
            labels=labels,
            prints=doubles.Prints.of(table),
            group=_groups(table),
            files=[(self.file(shard), shard.rows) for shard in shards],
            reader=self._reader,
            shard=[shard for shards in self.splits.values() for shard in shards].index(shards[0]),
            window=0 if total <= budget else max(1, budget * len(shards) // total),
            shuffled=self.shuffled,
            skip_corrupt=self.reading.on_corrupt == "skip",
        )

    @cached_property
    def _counts(self) -> dict[str, dict[tuple[str, str], int]]:
        """Split -> attribute and class -> rows: a manifest of many shards and classes is gone through once."""
        told = self.counts or {name: entries.summed(map(vars, shards)) for name, shards in self.splits.items()}
        return {
            split: {(attribute, label): rows for attribute, own in found.items() for label, rows in own.items()}
            for split, found in told.items()
        }

    @cached_property
    def _reader(self) -> Reader:
        files = [self.file(shard) for shards in self.splits.values() for shard in shards]
        size = int(self.reading.cache_size * _GIBIBYTE)
        remote = self.reading.cache and any(not storage.is_local(file.uri) for file in files)
        cache = DiskCache(self.reading.cache, size) if remote else None
        return Reader(files, self.reading.memory * _MEBIBYTE, cache)


def write_shard(uri: str, name: str, rows: Iterable[Row], attributes: Mapping[str, Sequence[str]]) -> Shard:
    """Write one shard whole or not at all and return its manifest entry; UsageError naming the row that is wrong."""
    rows = list(rows)
    vocabulary.check_rows(rows, attributes)
    prints = [doubles.fingerprint(row.image) for row in rows]
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "image": pa.array([row.image for row in rows], pa.large_binary()),
        "caption": pa.array([row.caption for row in rows], pa.string()),
        "group": pa.array([row.group for row in rows], pa.string()),
        "pixels": pa.array([pixels for pixels, _ in prints], doubles.COLUMNS["pixels"]),
        "likeness": pa.array([likeness for _, likeness in prints], doubles.COLUMNS["likeness"]),
    } | {name: pa.array([row.attributes[name] for row in rows], pa.string()) for name in attributes}
    image_bytes = max(1, sum(len(row.image) for row in rows))
    data = table_bytes(
        pa.table(columns),
        row_group_size=max(1, len(rows) * _ROW_GROUP_BYTES // image_bytes),
        # Encoded images do not compress, and their dictionary would be the column again.
        compression={column: "NONE" if column == "image" else "ZSTD" for column in columns},
        use_dictionary=["caption", "group", *attributes],
    )
    storage.write(storage.join(uri, name), data)
    classes = entries.classes([row.attributes for row in rows], attributes)
    return Shard(name, len(rows), len(data), storage.sha256(data), classes)


def write_manifest(
    uri: str,
    attributes: Mapping[str, Sequence[str]],
    splits: Mapping[str, Sequence[Shard]],
    source: Mapping[str, Any],
    parts: Sequence[DataSet] = (),
    *,
    shuffled: bool = False,
) -> DataSet:
    """Publish a data set whose shards are all written; `parts` are the data sets that it is a mix of.

    With `shuffled` its maker says that each shard is a random sample of its split. Of a split larger than memory, what
    is retained then comes from few shards, which are all that is read before the first step; else from all over.

    The manifest says when, in UTC. That is no part of its digest: equal data have equal digests, whenever they were
    made. The same data published again keep their date, and a mix has that of its oldest part.
    """
    vocabulary.check_classes(attributes, [shard for shards in splits.values() for shard in shards])
    tables = {name: _labels(uri, shards, list(attributes)) for name, shards in splits.items()}
    _refuse_leaks(uri, splits, tables)
    vocabulary.check_groups(uri, tables)
    manifest = _manifest(uri, attributes, splits, tables, source) | ({"shuffled": True} if shuffled else {})
    digest = _digest(manifest)
    dates = [part.created for part in parts] or [_created(uri, digest)]
    dated = {} if None in dates else {"created": min(filter(None, dates))}
    text = json.dumps({**manifest, **dated, "digest": digest}, indent=1)
    storage.write(storage.join(uri, MANIFEST), text.encode())
    return DataSet.open(uri)


def _manifest(
    uri: str,
    attributes: Mapping[str, Sequence[str]],
    splits: Mapping[str, Sequence[Shard]],
    tables: Mapping[str, Any],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """What a data set's manifest says; publishes what lies beside it."""
    listed = {name: [vars(shard) for shard in shards] for name, shards in splits.items()}
    manifest = {
        "schema": SCHEMA,
        "attributes": {name: list(classes) for name, classes in attributes.items()},
        "splits": listed,
        "labels": {name: _write_labels(uri, name, table) for name, table in tables.items()},
        "source": dict(source),
    }
    if not entries.many(listed):
        return manifest
    beside = {name: entries.write(uri, name, shards) for name, shards in listed.items()}
    counts = {name: entries.counts(table, list(attributes)) for name, table in tables.items()}
    return manifest | {"schema": LARGE, "splits": beside, "counts": counts}


def _created(uri: str, digest: str) -> str | None:
    """The date of the data set with this digest that lies there already, else that of now."""
    try:
        found = DataSet.open(uri)
    except UsageError:  # there is none, or what is made again now
        return datetime.now(UTC).strftime(TIME)
    return found.created if found.digest == digest else datetime.now(UTC).strftime(TIME)


def _labels(uri: str, shards: Sequence[Shard], attributes: list[str]) -> Any:
    """The columns of attributes, groups and doubles of a split's shards, one after the other."""
    others = [pa.field("group", pa.string()), *itertools.starmap(pa.field, doubles.COLUMNS.items())]

    def labels(shard: Shard) -> Any:
        """A shard's columns, without those of attributes that it does not have."""
        own = [name for name in attributes if name in shard.classes]
        return project(_file(uri, shard), [*own, *(field.name for field in others)])

    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(labels, shards))
    schema = pa.schema([*((name, pa.string()) for name in attributes), *others])
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="default")


def _write_labels(uri: str, split: str, table: Any) -> dict[str, Any]:
    """Publish a split's labels in one file; its manifest entry."""
    name, data = f"labels-{split}.parquet", table_bytes(table)
    storage.write(storage.join(uri, name), data)
    return {"file": name, "bytes": len(data), "sha256": storage.sha256(data)}


def _refuse_leaks(uri: str, splits: Mapping[str, Sequence[Shard]], tables: Mapping[str, Any]) -> None:
    """UsageError where an image stands in two splits: what is measured on it would be no measurement."""
    prints = {name: found for name, table in tables.items() if (found := doubles.Prints.of(table))}
    leaks = doubles.same(prints)
    if leaks:
        named = [f"{where(uri, splits, one)} and {where(uri, splits, other)}" for one, other in leaks[:_NAMED]]
        more = f"\n  and {len(leaks) - _NAMED} more" if len(leaks) > _NAMED else ""
        lines = "".join(f"\n  {line}" for line in named)
        raise UsageError(
            f"{uri}: {len(leaks)} images stand in two splits, so it is not published; leave one row of each out:{lines}"
            f"{more}"
        )


def _groups(table: Any) -> Rows | None:
    if "group" not in table.column_names or table["group"].null_count == len(table):
        return None
    codes: Rows = table["group"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    return codes


def where(uri: str, splits: Mapping[str, Sequence[Shard]], found: doubles.Row) -> str:
    """Split, file and row of a row, and its id."""
    row = found.row
    for shard in splits[found.split]:
        if row < shard.rows:
            file = _file(uri, shard)
            name = project(file, ["id"])["id"][row].as_py()
            return f"{found.split}: {file.uri} row {row} (id {name})"
        row -= shard.rows
    raise IndexError(found)


def _file(uri: str, shard: Shard) -> File:
    return File(storage.within(uri, shard.file), shard.bytes, shard.sha256)


def _digest(manifest: Mapping[str, Any]) -> str:
    return storage.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
