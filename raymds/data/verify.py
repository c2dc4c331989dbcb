"""Every digest, count, schema, label and image of a data set; what is wrong is named by file and row.

Each file is read once, whole, a few at a time. Beside those, memory holds 12 bytes a row to find ids that come twice,
and four for each of its labels.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raymds.data import doubles, entries
from raymds.data.decode import decode
from raymds.data.reader import verified
from raymds.data.shards import MANIFEST, DataSet, Shard, where
from raymds.errors import UsageError
from raymds.store import uri as storage

Labels = Mapping[str, NDArray[np.int32]]  # attribute -> class index of each row, −1 where undefined

_MOST = 50  # problems that are printed; all are counted
_NAMED = 10  # files beside the data set that are named
_THREADS = 4  # shards read at a time
_COLUMNS = {"id": pa.string(), "image": pa.large_binary(), "caption": pa.string()}
_LATER = {"group": pa.string(), **doubles.COLUMNS}  # shards of earlier versions lack them
_UNREADABLE = (ValueError, OSError, KeyError, pa.ArrowException)  # pyarrow's, of a file that is damaged or another


@dataclass
class Findings:
    """What is wrong with a data set, in words."""

    summary: str = ""
    count: int = 0  # of all problems
    files: list[str] = field(default_factory=list)  # the first problems of whole files
    rows: list[str] = field(default_factory=list)  # the first problems of rows
    beside: list[str] = field(default_factory=list)  # files that the manifest does not name, which is no problem
    alike: int = 0  # pairs of rows of two splits that look alike, which people have to judge
    near: list[str] = field(default_factory=list)  # the first of them
    pairs: list[tuple[doubles.Row, doubles.Row, int]] = field(default_factory=list)  # likewise, and bits that differ

    def add(self, files: Sequence[str] = (), rows: Sequence[str] = ()) -> None:
        """Count problems, and keep the first of them."""
        self.count += len(files) + len(rows)
        self.files += files[: _MOST - len(self.files)]
        self.rows += rows[: _MOST - len(self.rows)]

    @property
    def problems(self) -> list[str]:
        """The first of them, those of whole files before those of rows."""
        return [*self.files, *self.rows][:_MOST]

    def lines(self) -> list[str]:
        """Everything for people, the summary last."""
        left = self.count - len(self.problems)
        named = ", ".join(self.beside[:_NAMED]) + (", …" if len(self.beside) > _NAMED else "")
        notes = [f"and {left} more"] if left else []
        notes += [f"warning: {line}" for line in self.near[:_NAMED]]
        notes += [f"warning: and {self.alike - _NAMED} more that look alike"] if self.alike > _NAMED else []
        notes += [f"note: not of the data set: {named} ({len(self.beside)} in all)"] if self.beside else []
        return [*self.problems, *notes, self.summary]


def verify(uri: str, show: Callable[[dict[str, Any]], None]) -> Findings:
    """Read every file of a data set and check all that its manifest says; `show` gets progress records.

    UsageError where the manifest itself is missing or damaged; everything else is a finding.
    """
    data = DataSet.open(uri)
    found, there = Findings(), storage.sizes(uri)
    jobs: list[tuple[Shard, Labels]] = []
    for split, shards in data.splits.items():
        labels, end = _labels(data, split, found) if shards else {}, 0
        found.add(_miscounted(data, split, labels))
        for shard in shards:
            start, end = end, end + shard.rows
            jobs.append((shard, {attribute: column[start:end] for attribute, column in labels.items()}))
    done, total = 0, sum(shard.rows for shard, _ in jobs)
    checks = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for check in pool.map(lambda job: _check(data, *job), jobs):
            checks.append(check)
            found.add(check.files, check.rows)
            check.rows.clear()
            done += check.shard.rows
            show({"event": "progress", "what": "images verified", "done": done, "total": total})
    found.add(rows=list(_duplicates(checks)))
    prints = {split: seen for split in data.splits if (seen := _prints(data, split))}
    for one, other in doubles.same(prints):
        found.add(rows=[f"{where(uri, data.splits, other)}: is the image of {where(uri, data.splits, one)}"])
    pairs = doubles.near(prints)
    found.alike = len(pairs)
    found.pairs = pairs[:_MOST]
    found.near = [
        f"{where(uri, data.splits, other)}: looks like {where(uri, data.splits, one)} ({bits} of 128 bits differ)"
        for one, other, bits in found.pairs
    ]
    known = [MANIFEST, *(check.shard.file for check in checks), *(_name(file.uri) for file in data.labels.values())]
    known += [entries.name(split) for split in data.splits if data.counts]
    found.beside = sorted(file for file in there.keys() - known if not file.startswith(("ingest/", "retrieve/")))
    verdict = f"{found.count} problem{'s' * (found.count > 1)}" if found.count else "all as the manifest says"
    found.summary = f"{uri}: {len(data.splits)} splits, {len(jobs)} shards, {total} images, {verdict}"
    return found


def _prints(data: DataSet, split: str) -> doubles.Prints | None:
    """What a split's labels file tells of its images; None where it can't be used, which is told elsewhere."""
    try:
        return data.load(split).prints
    except (UsageError, *_UNREADABLE):
        return None


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _true(mask: NDArray[np.bool_]) -> list[int]:
    return [int(row) for row in np.flatnonzero(mask)]


def _labels(data: DataSet, split: str, found: Findings) -> Labels:
    """A split's labels from their own file; none, and a finding, where it can't be used."""
    uri, rows = data.labels[split].uri, sum(shard.rows for shard in data.splits[split])
    try:
        labels = data.load(split).labels
    except UsageError as error:
        found.add([str(error)])
        return {}
    except _UNREADABLE as error:
        found.add([f"{uri}: can't be read as labels: {error}"])
        return {}
    lengths = {len(column) for column in labels.values()}
    if lengths - {rows}:
        found.add([f"{uri}: {max(lengths)} rows, the manifest says {rows}"])
        return {}
    return labels


def _miscounted(data: DataSet, split: str, labels: Labels) -> list[str]:
    """What the manifest of a large data set, which counts for all shards of a split together, counts wrongly."""
    problems = []
    for attribute, column in labels.items() if data.counts else ():
        rows = np.bincount(column[column >= 0], minlength=len(data.attributes[attribute])).tolist()
        for name, found in zip(data.attributes[attribute], rows, strict=True):
            if found != (told := data.count(split, attribute, name)):
                problems.append(f"{data.uri}: {split}: {attribute}={name!r} in {found} rows, the manifest says {told}")
    return problems


class _Check:
    """One shard against its manifest entry and its part of the labels file."""

    def __init__(self, uri: str, shard: Shard, attributes: Mapping[str, Sequence[str]], labels: Labels) -> None:
        self.uri, self.shard = uri, shard
        self.files: list[str] = []  # problems of the file
        self.rows: list[str] = []  # problems of its rows
        self.hashes = np.empty(0, np.uint64)  # of its ids
        self.numbers = np.empty(0, np.int32)  # of the rows that have them
        self._attributes, self._labels = attributes, labels
        self._counts = {attribute: np.zeros(len(classes), np.int64) for attribute, classes in attributes.items()}

    def read(self, parquet: Any) -> None:
        """Check all rows that can be read."""
        columns, rows = self._schema(parquet.schema_arrow), parquet.metadata.num_rows
        if rows != self.shard.rows:
            self.files.append(f"{self.uri}: {rows} rows, the manifest says {self.shard.rows}")
            self._labels = {}
        complete, start = True, 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            try:
                table = parquet.read_row_group(group, columns=columns)
                table.validate(full=True)
            except _UNREADABLE as error:
                self.rows.append(f"{self.uri} rows {start} to {start + rows - 1}: can't be read: {error}")
                complete = False
            else:
                self._check_rows(table, start)
            start += rows
        if complete:
            self._check_counts(columns)

    def _schema(self, schema: Any) -> list[str]:
        """The columns that are as they have to be."""
        wanted = _COLUMNS | _LATER | dict.fromkeys(self.shard.classes, pa.string())
        found = dict(zip(schema.names, schema.types, strict=True))
        for name, kind in wanted.items():
            if name not in found and name in _LATER:
                continue
            if name not in found:
                self.files.append(f"{self.uri}: column {name} is missing")
            elif found[name] != kind:
                self.files.append(f"{self.uri}: column {name} is {found[name]}, has to be {kind}")
        self.files += [f"{self.uri}: column {name} is not of the data set" for name in found if name not in wanted]
        return [name for name, kind in wanted.items() if found.get(name) == kind]

    def _check_rows(self, table: Any, start: int) -> None:
        ids = table["id"].to_pylist() if "id" in table.column_names else [None] * table.num_rows

        def say(row: int, what: str) -> None:
            named = f" (id {ids[row]})" if ids[row] else ""
            self.rows.append(f"{self.uri} row {start + row}{named}: {what}")

        for name in (name for name in _COLUMNS if name in table.column_names):
            for row in _true(table[name].is_null().to_numpy()):
                say(row, f"{name} is null")
        for row in _true(np.array([name == "" for name in ids])):
            say(row, "id is empty")
        self._hash(ids, start)
        for attribute in (attribute for attribute in self._attributes if attribute in table.column_names):
            self._check_labels(table[attribute], attribute, start, say)
        told = [table[name].to_pylist() for name in doubles.COLUMNS if name in table.column_names]
        for row, image in enumerate(table["image"] if "image" in table.column_names else []):
            try:
                if image.is_valid:
                    pixels = decode(image.as_py())
                    if len(told) == len(doubles.COLUMNS) and told[0][row] != doubles.digest(pixels):
                        say(row, "column pixels is not the digest of its image")
            except ValueError as error:
                say(row, f"image {error}")

    def _hash(self, ids: Sequence[str | None], start: int) -> None:
        rows = [row for row, name in enumerate(ids) if name]
        folder = self.uri.rpartition("/")[0]
        digests = b"".join(hashlib.blake2b(f"{folder} {ids[row]}".encode(), digest_size=8).digest() for row in rows)
        self.hashes = np.concatenate([self.hashes, np.frombuffer(digests, np.uint64)])
        self.numbers = np.concatenate([self.numbers, np.array(rows, np.int32) + np.int32(start)])

    def _check_labels(self, column: Any, attribute: str, start: int, say: Callable[[int, str], None]) -> None:
        classes = self._attributes[attribute]
        found = pa.compute.index_in(column, value_set=pa.array(classes, pa.string())).fill_null(-1).to_numpy()
        self._counts[attribute] += np.bincount(found[found >= 0], minlength=len(classes))
        for row in _true((found < 0) & column.is_valid().to_numpy()):
            say(row, f"{attribute}={column[row].as_py()!r} is not in the vocabulary")
        if attribute in self._labels:
            told = self._labels[attribute][start : start + len(found)]
            for row in _true(told != found):
                other = classes[told[row]] if told[row] >= 0 else None
                say(row, f"{attribute}={column[row].as_py()!r}, the labels file says {other!r}")

    def _check_counts(self, columns: Sequence[str]) -> None:
        if not isinstance(self.shard.classes, dict):
            return
        for attribute in (attribute for attribute in self._attributes if attribute in columns):
            for name, found in zip(self._attributes[attribute], self._counts[attribute].tolist(), strict=True):
                told = self.shard.classes.get(attribute, {}).get(name, 0)
                if found != told:
                    self.files.append(f"{self.uri}: {attribute}={name!r} in {found} rows, the manifest says {told}")


def _check(data: DataSet, shard: Shard, labels: Labels) -> _Check:
    """Read one shard; what can still be read of a damaged one is checked, too."""
    file = data.file(shard)
    check = _Check(file.uri, shard, data.attributes, labels)
    try:
        content = storage.read(file.uri)
    except UsageError as error:
        check.files.append(str(error))
        return check
    try:
        verified(file, content)
    except UsageError as error:
        check.files.append(str(error))
    try:
        parquet = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    except _UNREADABLE as error:
        check.files.append(f"{file.uri}: can't be read as Parquet: {error}")
        return check
    check.read(parquet)
    return check


def _duplicates(checks: Sequence[_Check]) -> Iterator[str]:
    """Rows whose id an earlier row of the same folder has: data sets that are mixed may each have a row 0.

    Ids are told apart by 64 bits: in ten million, two agree with chance 3e-6.
    """
    hashes = np.concatenate([np.empty(0, np.uint64), *(check.hashes for check in checks)])
    ends = np.cumsum([len(check.hashes) for check in checks])
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])

    def where(position: int) -> str:
        number = int(np.searchsorted(ends, position, side="right"))
        check = checks[number]
        return f"{check.uri} row {check.numbers[position - ends[number]]}"

    for later, earlier in sorted(zip(order[again + 1].tolist(), order[again].tolist(), strict=True)):
        yield f"{where(later)}: has the id of {where(earlier)}"
