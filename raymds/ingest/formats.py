"""The formats of tables: CSV, TSV, JSON lines, Parquet, each also with gzip, read as Arrow columns."""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymds.errors import UsageError
from raymds.store import uri as storage

_ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
_BUFFER = 2**22  # bytes of a column that are read ahead
_TOGETHER = 16  # images in memory
_NOTE = re.compile(r"sep=(.)\r?\n")  # that Excel reads, and leaves out, at the beginning of a CSV file

Read = tuple[list[str], Any, Iterator[Any] | None]  # names of all columns, those asked for, encoded images if any


def read(file: str, columns: Sequence[str], image: str) -> Read:
    """The columns of a table; images that are in it are none of them, but come one by one."""
    ending = next((end for end in _ENDINGS if file.lower().removesuffix(".gz").endswith(end)), None)
    if ending is None:
        raise UsageError(f"--rows {file}: has to end in {', '.join(_ENDINGS)}, or one of those and .gz")
    with _named(file):
        zipped = storage.read_range(file, 0, 2) == b"\x1f\x8b"
        if ending == ".parquet":
            return _parquet(io.BytesIO(gzip.decompress(storage.read(file))) if zipped else file, columns, image, file)
        data = storage.read(file)
        read = _json if "json" in ending else _csv
        content = read(gzip.decompress(data) if zipped else data, columns)
        return content.column_names, content, None


@contextmanager
def _named(file: str) -> Iterator[None]:
    """What makes a table unreadable, as a UsageError that names it."""
    try:
        yield
    except UsageError:  # which is a ValueError too, and names the file
        raise
    except UnicodeDecodeError as error:
        raise UsageError(f"--rows {file}: can't be read: {error}; save it as UTF-8") from None
    except RecursionError:
        raise UsageError(f"--rows {file}: can't be read: its JSON is nested too deeply") from None
    except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"--rows {file}: can't be read: {error}") from None


def _decoded(data: bytes) -> str:
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _csv(data: bytes, columns: Sequence[str]) -> Any:
    csv.field_size_limit(sys.maxsize)  # a column of polygons that nobody asks for may be long
    text = _decoded(data)
    mark = _mark(text, columns)
    # Beside what most write: a quote within quotes with a backslash before it (Spark, databases), tabs without quoting.
    ways: list[dict[str, Any]] = [{}]
    ways += [{"doublequote": False, "escapechar": "\\"}] if '\\"' in text else []
    ways += [{"quoting": csv.QUOTE_NONE}] if mark == "\t" else []
    failure = None
    for way in ways:
        try:
            names, kept = _cells(text, mark, way)
            break
        except ValueError as error:
            failure = failure or error
    else:
        raise failure or ValueError
    by_column = list(zip(*kept, strict=True)) or [()] * len(names)
    return pa.table([pa.array(column, pa.string()) for column in by_column], names=names)


def _mark(text: str, columns: Sequence[str]) -> str:
    """What stands between cells: as Excel's note says, else what parts most of the columns, or most of the names."""
    told = _NOTE.match(text)
    if told:
        return told[1]
    first = re.sub(r'"[^"]*"', "", text).partition("\n")[0]  # a name in quotes may have any of the marks

    def parts(mark: str) -> tuple[int, int]:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True), [])
        return len({name.strip() for name in names} & set(columns)), first.count(mark)

    return max("\t;,|", key=parts)


def _cells(text: str, mark: str, way: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Names and rows; a line with nothing in its cells, as Excel leaves some at the end, is none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True, strict=True, **way)
    kept: list[list[str]] = []
    try:
        names = next(reader, [])
        names = [name.strip() for name in (next(reader, []) if _NOTE.match(text) else names)]
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(names):
                raise ValueError(f"line {reader.line_num} has {len(cells)} columns, the first line {len(names)}")
            kept.append(cells)
    except csv.Error as error:
        raise ValueError(f"{error}, in line {reader.line_num}") from None
    return names, kept


def _json(data: bytes, columns: Sequence[str]) -> Any:
    """One object a line, or a list of them."""
    text = _decoded(data)
    rows = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("has to be an object a line, or a list of objects")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table(
        {name: _texts(rows, name) for name in names if name in columns}
        | dict.fromkeys((name for name in names if name not in columns), pa.nulls(len(rows)))
    )


def _lines(text: str) -> list[Any]:
    rows = []
    # Not splitlines: a text may hold U+2028 and others that are line ends to Python.
    for number, line in enumerate(text.split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            where = f"line {number}: {error}".replace(": line 1 column", ": column")
            raise ValueError(f"{where}; has to be an object a line, or a list of objects") from None
    return rows


def _texts(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """A column as texts, or as lists or structs, such as the hub's; ValueError where rows hold now this, now that."""
    found: list[Any] = []
    kinds: dict[type, int] = {}  # and the first row of each
    for number, row in enumerate(rows):
        value = row.get(name)
        found.append(value if value is None or isinstance(value, str | list | dict) else json.dumps(value))
        if value is not None:
            kinds.setdefault(type(found[-1]), number)
    if len(kinds) > 1:
        (kind, first), (other, number) = list(kinds.items())[:2]
        what: dict[type, str] = {str: "a text or number", list: "a list", dict: "an object"}
        raise ValueError(
            f"{name!r} is {what[kind]} in row {first}, counted from 0, and {what[other]} in row {number}; write all in "
            "one form"
        )
    return found


def _parquet(source: Any, columns: Sequence[str], image: str, name: str) -> Read:
    """Images are read page by page: a row group of them may be larger than memory."""
    file = storage.open_file(source) if isinstance(source, str) else source
    opened = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)  # else what was read stays in memory
    schema = opened.schema_arrow
    kind = schema.field(image).type if schema.names.count(image) == 1 else pa.string()
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    binaries = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    encoded = pa.types.is_struct(kind) or any(of(held) for of in binaries)
    kept = [column for column in dict.fromkeys(columns) if column in schema.names and not (encoded and column == image)]

    def images() -> Iterator[Any]:
        with _named(name):
            for batch in opened.iter_batches(_TOGETHER, columns=[image], use_threads=False):
                yield from batch.column(0).to_pylist()

    return schema.names, opened.read(columns=kept), images() if encoded else None
