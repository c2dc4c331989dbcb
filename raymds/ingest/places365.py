"""Places365 as it is downloaded: with its lists, as copies with other folders, or as folders of classes alone."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from raymds.errors import UsageError
from raymds.ingest.sources import Entry, Images, Plan, Shares, deal
from raymds.store import uri as storage

_LISTS = {"train": ("places365_train_standard.txt", "places365_train_challenge.txt"), "val": ("places365_val.txt",)}
_CATEGORIES = "categories_places365.txt"
_NAMED = 5  # classes in a message
_VAL = ("val", "valid", "validation")


def places365(images: str, labels: str, shares: Shares, wanted: Sequence[str] = ()) -> Plan:
    """Places365 with the attribute scene (METHOD 8).

    `images` holds the images of train and val at any depth, in folders of their classes or as the official val flat;
    `labels` the official lists, at any depth. Without lists the folders are the classes. `wanted`: these classes alone.
    """
    found = Images(images)
    lists = storage.sizes(labels)
    where = {name: path for path in sorted(lists, reverse=True) for name in [path.rpartition("/")[2]]}
    classes, official, said = list[str](), dict[str, list[Entry]](), list[str]()
    if _CATEGORIES in where:
        classes = _categories(storage.join(labels, where[_CATEGORIES]))
        placed = _Placed(found, classes)
        for split, names in _LISTS.items():
            name = next((name for name in names if name in where), None)
            if name is None:
                raise UsageError(f"{storage.join(labels, names[0])}: no such file; copy the official lists whole")
            file = storage.join(labels, where[name])
            official[split], line = _listed(file, split, classes, placed, wanted)
            said.append(line)
    else:
        classes, official = _folders(found, labels)
        said.append(f"no lists: {len(classes):,} classes by the folders of {images}")
        left = len(found.paths) - sum(map(len, official.values()))
        said += [f"left out: {left:,} images that lie in no folder of a class in train or val"] if left else []
    if wanted:
        unknown = next((name for name in wanted if name not in classes), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, classes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"classes: {unknown!r} is no class of {images}{hint}")
        classes = [name for name in classes if name in wanted]
        official = {split: [e for e in entries if e.labels[0] in wanted] for split, entries in official.items()}
    return deal("places365", images, {"scene": classes}, official["train"], official["val"], shares, said)


class _Placed:
    """Images by split, class and name."""

    def __init__(self, images: Images, classes: Sequence[str]) -> None:
        self.images = images
        self._index = {_plain(name): number for number, name in enumerate(classes)}
        self._listed: dict[str, int | None] = {}  # folder of a list -> its class
        of_folder: dict[str, tuple[str, int | None]] = {}
        self._paths: dict[tuple[str, int | None, str], str] = {}
        for path in images.paths:
            folder, _, name = path.rpartition("/")
            if folder not in of_folder:
                of_folder[folder] = _split(folder), _class(folder, self._index)
            self._paths[(*of_folder[folder], name)] = path

    def find(self, split: str, label: int, path: str) -> str | None:
        """An image as a list names it: in its class's folder, or where the list names none, as of val, in any other.

        Train images of all classes have the same names.
        """
        folder, _, name = path.rpartition("/")
        return self._paths.get((split, label, name)) or (None if folder else self._paths.get((split, None, name)))

    def listed(self, path: str) -> int | None:
        """The class of the folder that a list names, None where it names none."""
        folder = path.rpartition("/")[0]
        if folder not in self._listed:
            self._listed[folder] = _class(folder, self._index)
        return self._listed[folder]


def _split(folder: str) -> str:
    parts = [part.casefold() for part in PurePosixPath(folder).parts]
    return "val" if any(part in _VAL or part.startswith("val_") for part in parts) else "train"


def _class(folder: str, index: dict[str, int]) -> int | None:
    """The class whose folder it is: a/airfield, airfield, apartment_building/outdoor, apartment_building-outdoor."""
    parts = PurePosixPath(folder).parts
    tails = (_plain(" ".join(parts[-n:])) for n in (1, 2) if len(parts) >= n)
    return next((index[tail] for tail in sorted(tails, key=len, reverse=True) if tail in index), None)


def _plain(name: str) -> str:
    """A class's name however it is written."""
    return " ".join(name.casefold().replace("/", " ").replace("-", " ").replace("_", " ").split())


def _categories(file: str) -> list[str]:
    classes: list[str] = []
    for where, path, index in _indexed(file):
        name = path.strip("/").partition("/")[2].replace("/", " ").replace("_", " ")
        if index != len(classes) or not name or name in classes:
            raise UsageError(f"{where}: has to be a new category like /a/airfield and its index, here {len(classes)}")
        classes.append(name)
    return classes


def _listed(
    file: str, split: str, classes: Sequence[str], placed: _Placed, wanted: Sequence[str]
) -> tuple[list[Entry], str]:
    """The rows of a list, and what was found of them in a line; UsageError where whole classes are missing."""
    captions = [f"a photo of {_article(name)} {name}." for name in classes]
    labelled = [(name,) for name in classes]  # made once, not once for each of millions of rows
    entries, paths = list[Entry](), list[str | None]()
    there, listed = [0] * len(classes), [0] * len(classes)
    for where, path, index in _indexed(file):
        if not 0 <= index < len(classes):
            raise UsageError(f"{where}: there is no category {index}, the last one is {len(classes) - 1}")
        name = path.lstrip("/")
        of = placed.listed(name)
        if of is not None and of != index:
            raise UsageError(
                f"{where}: {path} lies in the folder of {classes[of]!r}, and {index} is {classes[index]!r}; copy the "
                "official lists whole"
            )
        paths.append(placed.find(split, index, name))
        there[index] += paths[-1] is not None
        listed[index] += 1
        entries.append(Entry(name, paths[-1] or f"{split}/{name}", captions[index], labelled[index]))
    absent = [name for i, name in enumerate(classes) if listed[i] and not there[i] and (not wanted or name in wanted)]
    if not any(there):
        raise UsageError(
            f"--images {placed.images.root}: none of the images of {file}, like {entries[0].id}, is there among "
            f"{len(placed.images.paths)} images; give the folder that they are in"
        )
    if absent:
        named = ", ".join(absent[:_NAMED]) + (", …" if len(absent) > _NAMED else "")
        kept = ", ".join(name for i, name in enumerate(classes) if there[i])
        raise UsageError(
            f"--images {placed.images.root}: no {split} image of {len(absent)} of {len(classes)} classes ({named}); "
            f"copy them, or ingest the others alone with 'classes=[{kept}]'"
        )
    return (
        entries,
        f"{sum(there):,} of {len(entries):,} {split} images in {placed.images.folder(paths)}, labels in {file}",
    )


def _folders(images: Images, labels: str) -> tuple[list[str], dict[str, list[Entry]]]:
    """Classes and rows where the folders say the classes: train/airfield/1.jpg, val/airfield/2.jpg."""
    found: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
    for path in images.paths:
        folder = path.rpartition("/")[0]
        parts = PurePosixPath(folder).parts
        tops = ("val" if part.casefold() in _VAL else part.casefold() for part in parts)
        top, split = next(((i, name) for i, name in enumerate(tops) if name in found), (0, ""))
        inner = parts[top + 1 :]
        inner = inner[1:] if len(inner) > 1 and inner[1][:1].casefold() == inner[0].casefold() else inner  # a/airfield
        if split and inner:
            found[split].append((_plain(" ".join(inner)), path))
    if not all(found.values()):
        raise UsageError(
            f"--labels {labels}: holds no {_CATEGORIES}, and {images.root} no folders like train/airfield and "
            "val/airfield that would say the classes; give the folder of the official lists"
        )
    classes = sorted({name for rows in found.values() for name, _ in rows})
    captions = {name: f"a photo of {_article(name)} {name}." for name in classes}
    return classes, {
        split: [Entry(path, path, captions[name], (name,)) for name, path in rows] for split, rows in found.items()
    }


def _indexed(file: str) -> Iterator[tuple[str, str, int]]:
    """Lines `path index` of a file as (file and line for messages, path, index)."""
    lines = storage.read(file).decode("utf-8-sig", errors="replace").splitlines()
    if not lines:
        raise UsageError(f"{file}: is empty; copy it again")
    for number, line in enumerate(lines, 1):
        cells = line.rsplit(maxsplit=1)  # by a blank, or a tab
        if cells and (len(cells) < 2 or not cells[1].isdecimal()):
            raise UsageError(f"{file} line {number}: has to be a path and an index, like /a/airfield 0")
        if cells:
            yield f"{file} line {number}", cells[0].strip(), int(cells[1])


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" and not name.startswith(("uni", "uti")) else "a"
