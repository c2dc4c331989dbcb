"""Tables of images as people have them: CSV, TSV, JSON lines, Parquet of the Hugging Face hub, one file or several."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raymds.data.vocabulary import RESERVED
from raymds.errors import UsageError
from raymds.ingest import formats
from raymds.ingest.sources import SPLITS, Entry, Plan, Shares, one_spelling, planned, resplit
from raymds.ingest.spool import Piece, Spool
from raymds.store import uri as storage
from raymds.tasks import OTHER

_BLANK = {"", "nan", "none", "null", "<na>", "n/a", "#n/a", "\\n"}  # what tables write for no value
UNDEFINED = _BLANK | {"undefined"}  # for no class, or no group
_UNSURE = {"na", "unknown", "missing", "?", "-"}  # classes that may stand for none, too
_SPLITS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
_KEYS = ("image", "attributes", "caption", "split", "group")  # of a map; the first two have to be there
_TEST = 0.2  # share of the rows that becomes the test split, where a table has none and no share is given
_NAME = re.compile(r"\{([^{}]*)\}")  # of an attribute, in a caption
_HUB = re.compile(r"(train|validation|valid|val|dev|test)-\d{5}-of-\d{5}")  # how the hub names a file
_PART = re.compile(r"(?<![a-z0-9])(train|val|test|training|validation|valid|dev|testing)(?![a-z0-9])")  # in a name

Column = list[Any]


def table(rows: Sequence[str], map_file: str, spool: Spool, images: str = "", shares: Shares | None = None) -> Plan:
    """Tables, each `FILE` or `SPLIT=FILE`; a map names their columns.

    An image is a path (relative to `images`, or else to its table's folder), a URI, an encoded image, or the hub's
    struct of both; encoded ones go to the spool, all else is held in memory. A caption may be left out, or be a
    sentence with {ATTRIBUTE}. Where nothing says splits, neither a column nor the names of several files, they are
    drawn by `shares`. Rows of one group never go to two splits. What is wrong is a UsageError that names file and row.
    """
    columns, shares = _columns(map_file), shares or Shares()
    parts = _parts(rows, "split" in columns, shares)
    unsplit = "split" not in columns and not any(split for split, _ in parts)
    _check_parts(parts, unsplit or "split" in columns, shares, unsplit)
    found: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    said = list[str]()
    for number, (split, file) in enumerate(parts):
        prefix = f"row-{number}-" if len(parts) > 1 else "row-"
        root = images or storage.absolute(file).rpartition("/")[0]
        before = sum(map(len, found.values()))
        for row, values in enumerate(_rows(file, columns, map_file)):
            where = f"{file} row {row}, counted from 0"
            own = split or ("train" if unsplit else _split(values["split"], f"{where}: {columns['split']}"))
            image = _image(values["image"], spool, root if len(parts) > 1 else "", f"{where}: {columns['image']}")
            entry = _entry(f"{prefix}{row:07d}", image, values, columns, where)
            found[own].append(entry._replace(group=_group(values.get("group") or "")))
        how = f"all {split}" if split else "dealt anew" if unsplit else f"splits by their column {columns['split']}"
        said.append(f"{sum(map(len, found.values())) - before:,} rows in {file}, {how}")
    spool.flush()
    vocabularies = {}
    for index, name in enumerate(columns["attributes"]):
        labels = {entry.labels[index] for entries in found.values() for entry in entries}
        vocabularies[name] = one_spelling(name, sorted(label for label in labels if label))
        if any(found.values()) and not vocabularies[name]:
            raise UsageError(f"{map_file}: attributes: {name} is undefined in every row; leave it out")
        said += _remarks(name, vocabularies[name])
    if unsplit:
        found = resplit(found["train"], shares if shares.test else replace(shares, test=_TEST))
    root = images or storage.absolute(parts[0][1]).rpartition("/")[0]
    return planned("table", root, vocabularies, *found.values(), said=said)


def _parts(rows: Sequence[str], column: bool, shares: Shares) -> list[tuple[str, str]]:
    """Split and file of each table.

    The split is empty where a column says it, or nothing does. Where no column does, and rows are not to be dealt anew,
    names of the hub say it, and those of several files or their folders (train.csv, test.csv) that name several splits.
    """
    parts = [_split_of(given) for given in rows]
    if column or shares.test:
        return parts
    named = [_named(file) for _, file in parts]
    told = any(split or _HUB.match(PurePosixPath(file).name) for split, file in parts)
    if told or ("" not in named and len(set(named)) > 1):
        return [(split or name, file) for (split, file), name in zip(parts, named, strict=True)]
    return parts


def _split_of(given: str) -> tuple[str, str]:
    """Split and file of `SPLIT=FILE`; of a file alone the split is empty."""
    split, equals, file = given.partition("=")
    if equals and "/" not in split and "." not in split:
        return _split(split, f"--rows {given}"), file
    return "", given


def _named(file: str) -> str:
    """The split that a file is named by, or else its folder; empty where that is none, or several."""
    folder, name = PurePosixPath(storage.absolute(file).casefold()).parts[-2:]
    splits = {_SPLITS.get(word, word) for word in _PART.findall(name)}
    if not splits and _PART.fullmatch(folder.removeprefix("split=")):
        splits = {_SPLITS.get(word, word) for word in _PART.findall(folder)}
    return splits.pop() if len(splits) == 1 else ""


def _remarks(attribute: str, labels: Sequence[str]) -> list[str]:
    """What people may not mean by their classes."""
    found = [
        f"{attribute}: {label!r} is a class like any other; where it stands for none, leave the cell empty"
        for label in labels
        if label.casefold() in _UNSURE
    ]
    if OTHER in labels:
        found.append(
            f"{attribute}: rows of {OTHER!r} are negatives of a cycle, and no task; to have it as a class, list it in "
            f"task.classes.{attribute}"
        )
    return found


def _check_parts(parts: Sequence[tuple[str, str]], told: bool, shares: Shares, unsplit: bool) -> None:
    """UsageError where a table comes twice, has no split beside others that do, or is to be dealt in spite of one."""
    files = [storage.absolute(file) for _, file in parts]
    for number, (split, file) in enumerate(parts):
        if files[number] in files[:number]:
            raise UsageError(f"--rows {file}: is given twice, so its rows would count twice; leave one of the two out")
        if not split and not told:
            raise UsageError(
                f"--rows {file}: nothing says the split of its rows, and others have one; give --rows SPLIT={file}"
            )
    if shares.test and not unsplit:
        raise UsageError(
            f"test_share={shares.test}: the rows have their splits already; to deal them anew leave split out of the "
            "map, and SPLIT= out of --rows"
        )


def _group(text: str) -> str | None:
    """A group's name, None where a row is by itself; whole numbers as pandas writes them beside missing ones, too."""
    name = re.sub(r"^(-?\d+)\.0+$", r"\1", unicodedata.normalize("NFC", text).strip())
    return None if name.casefold() in UNDEFINED else name


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
    path = path if "://" in path else path.replace("\\", "/")  # written on Windows
    return storage.within(root, path) if root else path


def _entry(name: str, image: str | Piece, values: Mapping[str, Any], columns: Mapping[str, Any], where: str) -> Entry:
    """A row of the table as a row to be."""
    labels = tuple(values["attributes"])
    known = dict(zip(columns["attributes"], labels, strict=True))
    caption = values["caption"] if "caption" in values else _caption(columns.get("caption", ""), known, where)
    if isinstance(caption, list):
        caption = next((text for text in caption if not _blank(text)), "")
    if _blank(caption):
        raise UsageError(f"{where}: {columns['caption']} is empty")
    return Entry(name, image, caption.strip(), labels)


def _blank(text: str | None) -> bool:
    return text is None or text.strip().casefold() in _BLANK


def _caption(template: str, known: Mapping[str, str | None], where: str) -> str:
    """A caption made of the classes of a row."""
    if not template:
        said = ", ".join(f"the {attribute} is {label}" for attribute, label in known.items() if label)
        return f"a photo, {said}." if said else "a photo."

    def word(name: re.Match[str]) -> str:
        attribute = name[1]
        if not known[attribute]:
            raise UsageError(
                f"{where}: {attribute} is undefined, and the map's caption needs it; give a column of captions"
            )
        return str(known[attribute])

    return _NAME.sub(word, template)


def _columns(map_file: str) -> dict[str, Any]:
    """The map, checked: key -> column, `attributes` -> columns."""
    content = storage.read(map_file)
    try:
        # Its reader refuses a key that stands twice, of which YAML by itself takes the last.
        given: Any = OmegaConf.to_container(OmegaConf.create(content.decode()))
    except (AssertionError, OmegaConfBaseException):  # of a number, or what refers to itself
        given = None
    except RecursionError:
        raise UsageError(f"{map_file}: not YAML, nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
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
        if name in RESERVED or set(":@") & set(name) or given["attributes"].count(name) > 1:
            raise UsageError(f"{map_file}: attributes: {name!r} can't name an attribute, or is there twice; rename it")
    unknown = next((name for name in _NAME.findall(given.get("caption", "")) if name not in given["attributes"]), None)
    if unknown is not None:
        raise UsageError(
            f"{map_file}: caption: {{{unknown}}} is none of the attributes, {', '.join(given['attributes'])}"
        )
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
    names, content, encoded = formats.read(file, [*wanted.values(), *columns["attributes"]], columns["image"])
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
    if key == "split":
        return _labels(content, name, file)
    if (key == "image" and pa.types.is_struct(kind)) or (key == "caption" and _texts(kind)):
        return _python(content[name], file, name)
    return _python(_text(content[name], file, name), file, name)


def _labels(content: Any, name: str, file: str) -> Column:
    """Classes by row, None where undefined; integers that the hub's schema has names for have those."""
    names, column = _class_names(content.schema, name), content[name]
    if names and pa.types.is_floating(column.type):  # of integers beside missing ones
        column = _cast(column, pa.int64(), file, name)
    if names and pa.types.is_integer(column.type):
        indices = _python(column, file, name)
        wrong = next((i for i in indices if i is not None and not -1 <= i < len(names)), None)
        if wrong is not None:
            raise UsageError(f"{file}: column {name!r} has class {wrong}, and the schema names {len(names)} classes")
        values = [names[i] if i is not None and i >= 0 else None for i in indices]
    else:
        values = _python(_text(column, file, name), file, name)
    labels = [" ".join(value.split()) if value else "" for value in values]
    return [None if label.casefold() in UNDEFINED else label for label in labels]


def _class_names(schema: Any, name: str) -> list[str]:
    """Names of a ClassLabel of the hub, out of the schema's metadata; none where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[name]["names"]
        return names if isinstance(names, list) and all(isinstance(label, str) for label in names) else []
    except (KeyError, TypeError, ValueError):
        return []


def _texts(kind: Any) -> bool:
    """Whether a type is that of lists of texts."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    inner = kind.value_type if any(of(kind) for of in lists) else kind
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return inner is not kind and any(of(inner) for of in strings)


def _text(column: Any, file: str, name: str) -> Any:
    return _cast(column, pa.string(), file, name)


def _cast(column: Any, kind: Any, file: str, name: str) -> Any:
    try:
        return column.cast(kind)
    except pa.ArrowException:
        holds = "text" if kind == pa.string() else "whole numbers, which the schema has names for"
        raise UsageError(f"{file}: column {name!r} of type {column.type} has to hold {holds}") from None


def _python(column: Any, file: str, name: str) -> Column:
    try:
        values: Column = column.to_pylist()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: column {name!r} holds text that is not UTF-8: {error}; write it as UTF-8") from None
    return values
