"""What an ingest is made from: BDD100K, Places365 (METHOD 8) or any table, read into a plan of rows.

A plan names images and does not open them. Splits and order are functions of (seed, id), not of the order in which a
label file lists its images. Both known sets keep their test labels to themselves, so their official val becomes the
split `test`, which is read once, and `val` is held out from their train. Every error is a UsageError.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import yaml

from raymds.errors import UsageError
from raymds.store import uri as storage

SPLITS = ("train", "val", "test")


class Entry(NamedTuple):
    """One row to be: a label is None where the attribute is undefined."""

    id: str
    image: str | bytes  # a path relative to the plan's root, an absolute path or URI; or the encoded image itself
    caption: str
    labels: tuple[str | None, ...]  # in the order of the plan's attributes


@dataclass(frozen=True)
class Plan:
    """Every row of a data set before its image is read."""

    source: str  # bdd100k, places365 or table
    root: str  # folder that relative images are in
    attributes: dict[str, list[str]]  # vocabularies
    splits: dict[str, list[Entry]]  # none is empty

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for entries in self.splits.values():
            for entry in entries:
                if entry.id in seen:
                    raise UsageError(f"{entry.id}: is listed twice in the label files; leave one of the two out")
                seen.add(entry.id)


def shuffled(entries: Iterable[Entry], seed: int, purpose: str) -> list[Entry]:
    """Entries in an order drawn by (seed, purpose, id), whatever order they come in."""
    return sorted(entries, key=lambda entry: storage.sha256(f"{purpose} {seed} {entry.id}".encode()))


def hold_out(entries: Iterable[Entry], share: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """(rest, held out): `share` of every group of equal labels, and of a group of two or more at least one."""
    groups: dict[tuple[str | None, ...], list[Entry]] = {}
    for entry in shuffled(entries, seed, "val"):
        groups.setdefault(entry.labels, []).append(entry)
    rest, held = [], []
    for group in groups.values():
        count = min(max(1, round(share * len(group))), len(group) - 1)
        held += group[:count]
        rest += group[count:]
    return rest, held


# Attribute -> class -> how a caption says it. `undefined` is no class: METHOD 8.
_BDD100K = {
    "weather": {name: name for name in ("clear", "partly cloudy", "overcast", "rainy", "snowy", "foggy")},
    "scene": {
        "city street": "a city street",
        "highway": "a highway",
        "residential": "a residential area",
        "parking lot": "a parking lot",
        "gas stations": "a gas station",
        "tunnel": "a tunnel",
    },
    "timeofday": {"daytime": "in the daytime", "dawn/dusk": "at dawn or dusk", "night": "at night"},
}
_BDD100K_FOLDERS = ("{}/", "100k/{}/", "images/100k/{}/", "bdd100k/images/100k/{}/")
_BDD100K_LABELS = ("bdd100k_labels_images_{}.json", "det_20/det_{}.json", "det_{}.json", "{}.json")


def bdd100k(images: str, labels: Sequence[str], seed: int, val_share: float) -> Plan:
    """BDD100K with the attributes weather, scene and timeofday (METHOD 8).

    `images` is the folder of `train/` and `val/`, or one above it up to the official layout; `labels` is one folder or
    the two files of train and val. METHOD 8 lists `gas stations` as a scene like any other, so it is a class here;
    it has a few dozen images, and a cycle that does not protect it lists the other scenes one by one.
    """
    official = {}
    for split, file in zip(("train", "val"), _bdd100k_files(labels), strict=True):
        folders = [folder.format(split) for folder in _BDD100K_FOLDERS]
        official[split] = _in_folder(_bdd100k_entries(file), images, folders, file)
    train, val = hold_out(official["train"], val_share, seed)
    vocabularies = {attribute: list(phrases) for attribute, phrases in _BDD100K.items()}
    return _plan("bdd100k", images, vocabularies, train, val, official["val"])


def _bdd100k_files(labels: Sequence[str]) -> list[str]:
    if len(labels) == 2:
        return list(labels)
    if len(labels) != 1:
        raise UsageError(f"--labels: give one folder, or the label files of train and val; there are {len(labels)}")
    found = []
    for split in ("train", "val"):
        names = [name.format(split) for name in _BDD100K_LABELS]
        there = [name for name in names if storage.exists(storage.join(labels[0], name))]
        if not there:
            raise UsageError(f"--labels {labels[0]}: no labels of {split} in it; looked for {', '.join(names)}")
        found.append(storage.join(labels[0], there[0]))
    return found


def _bdd100k_entries(file: str) -> list[Entry]:
    content = storage.read(file)
    needed = {"frames", "name", "attributes", *_BDD100K}
    try:
        # Boxes and polygons fill gigabytes of the official files: what is not needed is dropped while it is parsed.
        parsed = json.loads(content, object_hook=lambda found: {key: found[key] for key in needed & found.keys()})
    except ValueError as error:
        raise UsageError(f"{file}: not JSON: {error}") from None
    listed = parsed.get("frames") if isinstance(parsed, dict) else parsed
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{file}: has to be a JSON list of labelled images, or an object with that list under frames")
    return [_bdd100k_entry(item, f"{file}: entry {number}, counted from 0,") for number, item in enumerate(listed)]


def _bdd100k_entry(item: Any, where: str) -> Entry:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or not name:
        raise UsageError(f"{where} has no name (the image's file name)")
    given = item.get("attributes")
    labels: dict[str, str | None] = {}
    for attribute, phrases in _BDD100K.items():
        value = given.get(attribute) if isinstance(given, dict) else None
        if value is None:
            raise UsageError(f"{where} ({name}) has no attributes.{attribute}")
        if value not in (*phrases, "undefined"):
            raise UsageError(f"{where} ({name}): {attribute}={value!r} is none of {', '.join(phrases)}, undefined")
        labels[attribute] = None if value == "undefined" else value
    weather, scene, timeofday = (labels[attribute] for attribute in _BDD100K)
    caption = "a dashcam photo"
    caption += f" of {_BDD100K['scene'][scene]}" if scene else ""
    caption += f" {_BDD100K['timeofday'][timeofday]}" if timeofday else ""
    caption += f", the weather is {weather}" if weather else ""
    return Entry(name, name, f"{caption}.", tuple(labels.values()))


_PLACES365_TRAIN = ("data_256/", "data_large/", "data_256_standard/", "data_large_standard/", "train/", "")
_PLACES365_VAL = ("val_256/", "val_large/", "val/", "")


def places365(images: str, labels: str, seed: int, val_share: float) -> Plan:
    """Places365 with the attribute scene (METHOD 8): every class of two or more images has some in val.

    `images` holds the official folders (`data_256`, `val_256`, …), or `train` and `val`; `labels` holds
    `categories_places365.txt`, `places365_train_standard.txt` and `places365_val.txt`.
    """
    file = storage.join(labels, "categories_places365.txt")
    classes: list[str] = []
    for where, path, index in _indexed(file):
        name = path.strip("/").partition("/")[2].replace("/", " ").replace("_", " ")
        if index != len(classes) or not name or name in classes:
            raise UsageError(f"{where}: has to be a new category like /a/airfield and its index, here {len(classes)}")
        classes.append(name)
    captions = [f"a photo of {_article(name)} {name}." for name in classes]
    labelled = [(name,) for name in classes]  # made once, not once for each of millions of rows

    def listed(list_name: str, folders: Sequence[str]) -> list[Entry]:
        file = storage.join(labels, list_name)
        entries = []
        for where, path, index in _indexed(file):
            if not 0 <= index < len(classes):
                raise UsageError(f"{where}: there is no category {index}, the last one is {len(classes) - 1}")
            entries.append(Entry(path.lstrip("/"), path.lstrip("/"), captions[index], labelled[index]))
        return _in_folder(entries, images, folders, file)

    train, val = hold_out(listed("places365_train_standard.txt", _PLACES365_TRAIN), val_share, seed)
    return _plan("places365", images, {"scene": classes}, train, val, listed("places365_val.txt", _PLACES365_VAL))


def _indexed(file: str) -> Iterator[tuple[str, str, int]]:
    """Lines `path index` of a file as (file and line for messages, path, index)."""
    lines = storage.read(file).decode(errors="replace").splitlines()
    if not lines:
        raise UsageError(f"{file}: is empty; copy it again")
    for number, line in enumerate(lines, 1):
        path, _, index = line.rpartition(" ")
        if not path.strip() or not index.isdecimal():
            raise UsageError(f"{file} line {number}: has to be a path and an index, like /a/airfield 0")
        yield f"{file} line {number}", path.strip(), int(index)


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" and not name.startswith(("uni", "uti")) else "a"


def table(rows: str, map_file: str) -> Plan:
    """A CSV or Parquet table, read whole: its columns are named by `image`, `caption`, `split`, `attributes` of a map.

    An image is a path relative to the table's folder, a URI, or (binary column) the encoded image; a split is train,
    val or test; an attribute's classes are its values, and an empty one is undefined.
    """
    columns = _columns(map_file)
    attributes = columns["attributes"]
    content = _read_table(rows, [name for names in columns.values() for name in names])
    for key, names in columns.items():
        for name in names:
            if content.column_names.count(name) != 1:
                there = ", ".join(content.column_names)
                raise UsageError(f"{map_file}: {key}: {rows} has to have one column {name!r}; it has {there}")
    (images,) = (_values(content, name, rows, binary=True) for name in columns["image"])
    captions, splits, *labels = (
        _values(content, name, rows) for key in ("caption", "split", "attributes") for name in columns[key]
    )
    found: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for row, (image, caption, split, *values) in enumerate(zip(images, captions, splits, *labels, strict=True)):
        where = f"{rows} row {row}, counted from 0"
        if not image or not caption:
            raise UsageError(f"{where}: {columns['caption' if image else 'image'][0]} is empty")
        if split not in SPLITS:
            raise UsageError(f"{where}: {columns['split'][0]}={split!r} has to be {', '.join(SPLITS)}")
        found[split].append(Entry(f"row-{row:07d}", image, caption, tuple(value or None for value in values)))
    vocabularies = {
        name: sorted({value for value in column if value}) for name, column in zip(attributes, labels, strict=True)
    }
    folder = storage.absolute(rows).rpartition("/")[0]
    return _plan("table", folder, vocabularies, *found.values())


def _columns(map_file: str) -> dict[str, list[str]]:
    """Key of the map -> names of columns."""
    try:
        given = yaml.safe_load(storage.read(map_file))
    except yaml.YAMLError as error:
        raise UsageError(f"{map_file}: not YAML: {error}") from None
    keys = {"image", "caption", "split", "attributes"}
    if not isinstance(given, dict) or given.keys() != keys:
        raise UsageError(f"{map_file}: has to have the keys image, caption, split (columns) and attributes (a list)")
    columns = {key: given[key] if key == "attributes" else [given[key]] for key in sorted(keys)}
    for key, names in columns.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UsageError(
                f"{map_file}: {key}: has to be {'a list of columns' if key == 'attributes' else 'a column'}"
            )
    for name in columns["attributes"]:
        if name in {"id", "image", "caption"} or ":" in name or columns["attributes"].count(name) > 1:
            raise UsageError(f"{map_file}: attributes: {name!r} can't name an attribute, or is there twice; rename it")
    return columns


def _read_table(rows: str, columns: Sequence[str]) -> Any:
    content = pa.BufferReader(storage.read(rows))
    try:
        if rows.endswith(".parquet"):
            return pq.read_table(content)
        if rows.endswith(".csv"):
            return pacsv.read_csv(
                content,
                parse_options=pacsv.ParseOptions(newlines_in_values=True),
                # Every value as it is written: a class called 1 or NA stays that.
                convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
            )
    except pa.ArrowException as error:
        raise UsageError(f"--rows {rows}: can't be read: {error}") from None
    raise UsageError(f"--rows {rows}: has to end in .csv or .parquet")


def _values(content: Any, name: str, rows: str, *, binary: bool = False) -> list[Any]:
    column = content[name]
    if binary and (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        values: list[Any] = column.to_pylist()
        return values
    try:
        values = column.cast(pa.string()).to_pylist()
    except pa.ArrowException:
        raise UsageError(f"{rows}: column {name!r} of type {column.type} has to hold text") from None
    return values


def _plan(source: str, root: str, attributes: dict[str, list[str]], *splits: list[Entry]) -> Plan:
    filled = {name: entries for name, entries in zip(SPLITS, splits, strict=True) if entries}
    if not filled:
        raise UsageError(f"{root}: {source} has no rows")
    return Plan(source, storage.absolute(root), attributes, filled)


_LOOKED_FOR = 20  # images: the first ones may be missing


def _in_folder(entries: list[Entry], images: str, folders: Sequence[str], file: str) -> list[Entry]:
    """Entries whose image names the folder, of `folders`, in which images of theirs are found."""
    for folder in folders:
        if any(storage.exists(storage.join(images, f"{folder}{entry.image!s}")) for entry in entries[:_LOOKED_FOR]):
            return [entry._replace(image=f"{folder}{entry.image!s}") for entry in entries]
    places = ", ".join(folder or "the folder itself" for folder in folders)
    raise UsageError(f"--images {images}: no images of {file}; looked for {entries[0].id} and more in {places}")
