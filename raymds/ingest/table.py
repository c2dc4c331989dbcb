"""Tables of images as people have them: CSV, TSV, JSON lines, Parquet of the Hugging Face hub, one file or several."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from raymds.data import doubles
from raymds.errors import UsageError
from raymds.ingest.sources import SPLITS, Entry, Plan, Shares, one_spelling, planned, resplit
from raymds.ingest.spool import Piece, Spool
from raymds.store import uri as storage

UNDEFINED = {"", "undefined", "nan", "none", "null", "<na>"}  # what tables write for no class, or no group
_SPLITS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
_KEYS = ("image", "attributes", "caption", "split", "group")  # of a map; the first two have to be there
_TEST = 0.2  # share of the rows that becomes the test split, where a table has none and no share is given
_RESERVED = {"id", "image", "caption", "group", *doubles.COLUMNS}  # columns of a shard

Column = list[Any]


def table(rows: Sequence[str], map_file: str, spool: Spool, images: str = "", shares: Shares | None = None) -> Plan:
    """Tables, each `FILE` or `SPLIT=FILE`; a map names their columns.

    An image is a path (relative to `images`, or else to its table's folder), a URI, an encoded image, or the hub's
    struct of both; encoded ones go to the spool, all else is held in memory. A caption may be left out, or be a
    sentence with {ATTRIBUTE}. Where nothing says splits, they are drawn by `shares`. Rows of one group never go to two
    splits. What is wrong is a UsageError that names file and row.
    """
    columns = _columns(map_file)
    parts = [_split_of(given) for given in rows]
    found: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    unsplit = "split" not in columns and not any(split for split, _ in parts)
    for number, (split, file) in enumerate(parts):
        prefix = f"row-{number}-" if len(parts) > 1 else "row-"
        root = images or storage.absolute(file).rpartition("/")[0]
        for row, values in enumerate(_rows(file, columns, map_file)):
            where = f"{file} row {row}, counted from 0"
            own = split or ("train" if unsplit else _split(values["split"], f"{where}: {columns['split']}"))
            image = _image(values["image"], spool, root if len(parts) > 1 else "", f"{where}: {columns['image']}")
            entry = _entry(f"{prefix}{row:07d}", image, values, columns, where)
            group = (values.get("group") or "").strip()
            found[own].append(entry._replace(group=None if group.casefold() in UNDEFINED else group))
    spool.flush()
    vocabularies = {}
    for index, name in enumerate(columns["attributes"]):
        labels = {entry.labels[index] for entries in found.values() for entry in entries}
        vocabularies[name] = one_spelling(name, sorted(label for label in labels if label))
    if unsplit:
        drawn = shares or Shares()
        drawn = drawn if drawn.test else replace(drawn, test=_TEST)
        found = resplit(found["train"], drawn)
    root = images or storage.absolute(parts[0][1]).rpartition("/")[0]
    return planned("table", root, vocabularies, *found.values())


def _split_of(given: str) -> tuple[str, str]:
    """Split and file of `SPLIT=FILE`; of a file alone the split is empty, or what a file of the hub is named by."""
    split, equals, file = given.partition("=")
    if equals and "/" not in split and "." not in split:
        return _split(split, f"--rows {given}"), file
    hub = re.match(r"(train|validation|test)-\d{5}-of-\d{5}", PurePosixPath(given).name)
    return (_split(hub[1], given) if hub else ""), given


def _split(value: Any, where: str) -> str:
    name = str(value).strip().casefold()
    split = _SPLITS.get(name, name)
    if split not in SPLITS:
        raise UsageError(f"{where}={value!r} has to be {', '.join(SPLITS)}")
    return split


def _image(given: Any, spool: Spool, root: str, where: str) -> str | Piece:
    """Where an image is; `root` is what a path is relative to, where that differs from row to row."""
    if isinstance(given, dict):  # the hub's: the image itself, or the path that it had
        given = given.get("bytes") or given.get("path")
    if isinstance(given, bytes) and given:
        return spool.add(given)
    if given and not isinstance(given, str):
        raise UsageError(f"{where} has to hold an encoded image or a path, and holds {given!r}")
    path = (given or "").strip()
    if not path:
        raise UsageError(f"{where} is empty")
    path = path.replace("\\", "/") if "/" not in path else path  # written on Windows
    return storage.within(root, path) if root else path


def _entry(name: str, image: str | Piece, values: Mapping[str, Any], columns: Mapping[str, Any], where: str) -> Entry:
    """A row of the table as a row to be."""
    labels = tuple(values["attributes"])
    known = dict(zip(columns["attributes"], labels, strict=True))
    caption = values["caption"] if "caption" in values else _caption(columns.get("caption", ""), known, where)
    if isinstance(caption, list):
        caption = next((text for text in caption if text), "")
    if not caption or not caption.strip():
        raise UsageError(f"{where}: {columns['caption']} is empty")
    return Entry(name, image, caption.strip(), labels)


def _caption(template: str, known: Mapping[str, str | None], where: str) -> str:
    """A caption made of the classes of a row."""
    if not template:
        said = ", ".join(f"the {attribute} is {label}" for attribute, label in known.items() if label)
        return f"a photo, {said}." if said else "a photo."
    missing = next(
        (attribute for attribute, label in known.items() if f"{{{attribute}}}" in template and not label), ""
    )
    if missing:
        raise UsageError(f"{where}: {missing} is undefined, and the map's caption needs it; give a column of captions")
    for attribute, label in known.items():
        template = template.replace(f"{{{attribute}}}", str(label))
    return template


def _columns(map_file: str) -> dict[str, Any]:
    """The map, checked: key -> column, `attributes` -> columns."""
    try:
        given = yaml.safe_load(storage.read(map_file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{map_file}: not YAML: {error}") from None
    if not isinstance(given, dict) or not {"image", "attributes"} <= given.keys() <= set(_KEYS):
        raise UsageError(
            f"{map_file}: has to have the keys image (a column) and attributes (a list of columns), and may have "
            "caption, split, group (columns)"
        )
    for key, names in given.items():
        several = key == "attributes"
        listed = names if several and isinstance(names, list) else [names]
        if not listed or (several and listed is not names) or not all(isinstance(n, str) and n for n in listed):
            raise UsageError(f"{map_file}: {key}: has to be {'a list of columns' if several else 'a column'}")
    for name in given["attributes"]:
        if name in _RESERVED or set(":@") & set(name) or given["attributes"].count(name) > 1:
            raise UsageError(f"{map_file}: attributes: {name!r} can't name an attribute, or is there twice; rename it")
    others = [given.get("caption"), given.get("split"), given.get("group"), *given["attributes"]]
    if given["image"] in others:
        raise UsageError(f"{map_file}: image: {given['image']!r} is named for something else too; give its own column")
    return {key: given[key] for key in _KEYS if key in given}


def _rows(file: str, columns: Mapping[str, Any], map_file: str) -> Iterator[dict[str, Any]]:
    """The rows of a table: by key of the map a value, of `attributes` classes and None."""
    template = "{" in columns.get("caption", "")
    wanted = {
        key: column for key, column in columns.items() if key != "attributes" and not (key == "caption" and template)
    }
    names, content, encoded = _read(file, [*wanted.values(), *columns["attributes"]], columns["image"])
    for key, name in [*wanted.items(), *(("attributes", name) for name in columns["attributes"])]:
        if names.count(name) != 1:
            raise UsageError(f"{map_file}: {key}: {file} has to have one column {name!r}; it has {', '.join(names)}")
    texts = wanted if encoded is None else {key: name for key, name in wanted.items() if key != "image"}
    values = {key: _values(content, name, file, key) for key, name in texts.items()}
    labels = [_labels(content, name, file) for name in columns["attributes"]]
    for row in range(content.num_rows):
        image = {} if encoded is None else {"image": next(encoded)}
        found = {key: column[row] for key, column in values.items()}
        yield found | image | {"attributes": [column[row] for column in labels]}


def _values(content: Any, name: str, file: str, key: str) -> Column:
    kind = content.schema.field(name).type
    texts = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _textual(kind.value_type)
    if (key == "image" and pa.types.is_struct(kind)) or (key == "caption" and texts):
        return _python(content[name], file, name)
    return _python(_text(content[name], file, name), file, name)


def _labels(content: Any, name: str, file: str) -> Column:
    """Classes by row, None where undefined; integers that the hub's schema has names for have those."""
    names = _class_names(content.schema, name)
    if names and pa.types.is_integer(content.schema.field(name).type):
        indices = _python(content[name], file, name)
        wrong = next((i for i in indices if i is not None and not -1 <= i < len(names)), None)
        if wrong is not None:
            raise UsageError(f"{file}: column {name!r} has class {wrong}, and the schema names {len(names)} classes")
        return [names[i] if i is not None and i >= 0 else None for i in indices]
    values = [
        " ".join(value.split()) if value else "" for value in _python(_text(content[name], file, name), file, name)
    ]
    return [None if value.casefold() in UNDEFINED else value for value in values]


def _class_names(schema: Any, name: str) -> list[str]:
    """Names of a ClassLabel of the hub, out of the schema's metadata; none where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[name]["names"]
        return names if all(isinstance(label, str) for label in names) else []
    except (KeyError, TypeError, ValueError):
        return []


def _textual(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _text(column: Any, file: str, name: str) -> Any:
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        raise UsageError(f"{file}: column {name!r} of type {column.type} has to hold text") from None


def _python(column: Any, file: str, name: str) -> Column:
    try:
        values: Column = column.to_pylist()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: column {name!r} holds text that is not UTF-8: {error}; write it as UTF-8") from None
    return values


Read = tuple[list[str], Any, Iterator[Any] | None]  # names of all columns, those asked for, encoded images if any


def _read(file: str, columns: Sequence[str], image: str) -> Read:
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
    except (pa.ArrowException, OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise UsageError(f"--rows {file}: can't be read: {error}") from None


def _csv(data: bytes, columns: Sequence[str]) -> Any:
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    mark = max("\t;,", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True, strict=True)
    names = [name.strip() for name in next(reader, [])]
    kept: list[list[str]] = []
    for cells in reader:
        if len(cells) != len(names) and cells:
            raise ValueError(f"line {reader.line_num} has {len(cells)} columns, the first line {len(names)}")
        kept += [cells] if cells else []
    by_column = list(zip(*kept, strict=True)) or [()] * len(names)
    return pa.table([pa.array(column, pa.string()) for column in by_column], names=names)


def _json(data: bytes, columns: Sequence[str]) -> Any:
    """One object a line, or a list of them."""
    text = data.decode("utf-8-sig")
    whole = text.lstrip().startswith("[")
    rows = json.loads(text) if whole else [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("has to be an object a line, or a list of objects")
    names = list(dict.fromkeys(name for row in rows for name in row))

    def value(given: Any) -> Any:
        return given if given is None or isinstance(given, str | list | dict) else json.dumps(given)

    return pa.table(
        {name: [value(row.get(name)) for row in rows] for name in names if name in columns}
        | dict.fromkeys((name for name in names if name not in columns), pa.nulls(len(rows)))
    )


def _parquet(source: Any, columns: Sequence[str], image: str, name: str) -> Read:
    """Images are read page by page: a row group of them may be larger than memory."""
    file = storage.open_file(source) if isinstance(source, str) else source
    opened = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)  # else what was read stays in memory
    schema = opened.schema_arrow
    kind = schema.field(image).type if schema.names.count(image) == 1 else pa.string()
    encoded = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)
    kept = [column for column in dict.fromkeys(columns) if column in schema.names and not (encoded and column == image)]

    def images() -> Iterator[Any]:
        with _named(name):
            for batch in opened.iter_batches(_TOGETHER, columns=[image], use_threads=False):
                yield from batch.column(0).to_pylist()

    return schema.names, opened.read(columns=kept), images() if encoded else None


_ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
_BUFFER = 2**22  # bytes of a column that are read ahead
_TOGETHER = 16  # images in memory
