"""The images that a person points at: files, folders, prefixes of a bucket, data sets, named one by one and read."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from raymds.data.shards import MANIFEST, DataSet
from raymds.data.split import Split
from raymds.errors import UsageError
from raymds.store import uri as storage
from raymds.store.names import is_note

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


class Item(NamedTuple):
    """One image, of a file or of a data set."""

    place: str  # URI of the file, or of the data set
    split: str = ""  # of the data set
    row: int = -1  # of the split


def find(places: Sequence[str], split: str | None) -> list[Item]:
    """The images of files, folders, prefixes and data sets in the order in which they are given, folders' by name.

    Of data sets `split` alone, or all where it is None. UsageError where a place has none.
    """
    found: list[Item] = []
    sets = 0
    for place in map(storage.absolute, places):
        if storage.exists(place):
            found.append(Item(place))
        elif storage.exists(storage.join(place, MANIFEST)):
            sets += 1
            names = [split] if split else list(DataSet.open(place).splits)
            found += [Item(place, name, row) for name in names for row in range(len(_split(place, name)))]
        else:
            files = sorted(name for name in storage.sizes(place) if _is_image(name))
            if not files:
                raise UsageError(
                    f"{place}: no such file, no data set, and no folder with images in it ({', '.join(ENDINGS)})"
                )
            found += [Item(storage.join(place, name)) for name in files]
    if split and not sets:
        raise UsageError(f"--split {split}: none of the given places is a data set; leave it out")
    return found


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not is_note(name)


def ahead(items: Sequence[Item]) -> None:
    """Begin to fetch the shards of a data set's rows that will be asked for."""
    rows: dict[tuple[str, str], list[int]] = {}
    for item in items:
        if item.split:
            rows.setdefault((item.place, item.split), []).append(item.row)
    for (place, split), numbers in rows.items():
        _split(place, split).ahead(numbers)


def read(item: Item) -> tuple[str, bytes | memoryview]:
    """An image's name, a path, a URI or the id of its row, and its encoded bytes; UsageError where it can't be read."""
    if not item.split:
        return item.place, storage.read(item.place)
    example = _split(item.place, item.split).example(item.row)
    return example.id, example.image


@lru_cache
def _split(place: str, split: str) -> Split:
    return DataSet.open(place).load(split)
