"""What label files and tables become: a plan of rows, and how rows are dealt to splits.

A plan names images and does not open them. Splits and order are functions of (seed, id), not of the order in which a
label file lists its images. Both known sets keep their test labels to themselves, so their official val becomes the
split `test`, which is read once, and `val` is held out from their train; or all rows are dealt anew. Every error is a
UsageError.
"""

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from raymds.errors import UsageError
from raymds.ingest.spool import Piece
from raymds.store import uri as storage
from raymds.store.names import is_note

SPLITS = ("train", "val", "test")


class Entry(NamedTuple):
    """One row to be: a label is None where the attribute is undefined."""

    id: str
    image: str | Piece  # a path relative to the plan's root, an absolute path or URI; or what a table held
    caption: str
    labels: tuple[str | None, ...]  # in the order of the plan's attributes
    group: str | None = None  # what it is of, such as a drive: rows of one are alike, and go to one split


@dataclass(frozen=True)
class Plan:
    """Every row of a data set before its image is read."""

    source: str  # bdd100k, places365 or table
    root: str  # folder that relative images are in
    attributes: dict[str, list[str]]  # vocabularies
    splits: dict[str, list[Entry]]  # none is empty
    said: tuple[str, ...] = ()  # what was found where, for people

    def __post_init__(self) -> None:
        seen: set[str] = set()
        groups: dict[str, tuple[str, str]] = {}  # group -> split and id of its first
        for split, entries in self.splits.items():
            for entry in entries:
                if entry.id in seen:
                    raise UsageError(f"{entry.id}: is listed twice in the label files; leave one of the two out")
                seen.add(entry.id)
                first, there = groups.setdefault(entry.group, (split, entry.id)) if entry.group else (split, "")
                if first != split:
                    raise UsageError(
                        f"{entry.id}: its group {entry.group!r} is in {split}, and with {there} in {first}; a group's "
                        "rows are alike, so all of it has to be in one split"
                    )


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


@dataclass(frozen=True)
class Shares:
    """How rows are dealt to splits; by default the official split stays, and val is held out from its train."""

    test: float = 0.0  # share that becomes the test split; 0: the official one
    val: float = 0.1
    least: int = 40  # rows of every class in test and in val, as far as that leaves each of them a third at most
    seed: int = 0


def resplit(entries: Iterable[Entry], shares: Shares) -> dict[str, list[Entry]]:
    """Train, val and test drawn anew, each class by its share and its least number; a group stays together.

    So do the rows of one image, such as those of its captions. UsageError where that leaves none to train on.
    """
    entries = list(entries)
    unit_of = _units(entries)
    units: dict[str, list[Entry]] = {}
    for entry in shuffled(entries, shares.seed, "resplit"):
        units.setdefault(unit_of[entry.id], []).append(entry)
    total = Counter(label for unit in units.values() for entry in unit for label in _classes(entry))
    found: dict[str, list[Entry]] = {}
    for split, share in (("test", shares.test), ("val", shares.val)):
        wanted = {label: min(max(round(share * n), shares.least), n // 3) if share else 0 for label, n in total.items()}
        found[split] = []
        # The rarest class first: its rows count for the others too.
        for label in sorted(wanted, key=lambda label: (wanted[label], label)):
            have = sum(label in _classes(entry) for entry in found[split])
            for name in [name for name, unit in units.items() if any(label in _classes(entry) for entry in unit)]:
                if have >= wanted[label]:
                    break
                have += sum(label in _classes(entry) for entry in units[name])
                found[split] += units.pop(name)
        plain = [name for name, unit in units.items() if not any(_classes(entry) for entry in unit)]
        for name in plain[: round(share * len(plain))]:  # rows without any class
            found[split] += units.pop(name)
    if entries and not units:
        raise UsageError(
            f"{len(set(unit_of.values()))} groups are too few to be dealt to train, val and test, as a group's rows "
            f"stay together ({entries[0].id} is of {entries[0].group!r}); give splits, or another column of groups"
        )
    return {"train": [entry for unit in units.values() for entry in unit], "val": found["val"], "test": found["test"]}


def _units(entries: Sequence[Entry]) -> dict[str, str]:
    """Id of each row -> id of the first row that it can't be parted from: of its group, of its image, or theirs."""
    parent = {entry.id: entry.id for entry in entries}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    first: dict[tuple[bool, str | None], str] = {}
    for entry in entries:
        image = entry.image if isinstance(entry.image, str) else entry.image.sha256
        image = image and posixpath.normpath(image)  # ./1.jpg is 1.jpg
        for key in ((False, image), (True, entry.group)):
            if key[1]:
                parent[root(entry.id)] = root(first.setdefault(key, entry.id))
    return {entry.id: root(entry.id) for entry in entries}


def _classes(entry: Entry) -> list[tuple[int, str]]:
    return [(attribute, label) for attribute, label in enumerate(entry.labels) if label is not None]


def spelling(label: str) -> str:
    """What all spellings of a label have in common.

    No two classes differ in case, blanks, hyphens and underscores between words, accents' encoding, characters that
    nobody sees, or a 1 that is 1.0, as pandas writes it beside missing ones.
    """
    seen = "".join(c for c in unicodedata.normalize("NFKC", label) if unicodedata.category(c) != "Cf")
    plain = " ".join(re.sub(r"(?<=\w)[-_\u2010-\u2015](?=\w)|_", " ", seen).casefold().split())
    return re.sub(r"^(-?\d+)\.0+$", r"\1", plain)


def one_spelling(attribute: str, labels: Sequence[str]) -> list[str]:
    """The labels; UsageError where two are spellings of one class, as of `spelling`."""
    plain: dict[str, str] = {}
    for label in labels:
        before = plain.setdefault(spelling(label), label)
        if before != label:
            named = map(repr if before.isascii() and label.isascii() else ascii, (before, label))  # they may look alike
            raise UsageError(f"{attribute}: has {' and '.join(named)}, one class in two spellings; write it in one")
    return list(labels)


def deal(
    source: str,
    root: str,
    attributes: dict[str, list[str]],
    train: list[Entry],
    official_val: list[Entry],
    shares: Shares,
    said: Sequence[str],
) -> Plan:
    """The plan of a set whose official val becomes the test split, unless a share of all rows does."""
    if shares.test:
        return planned(source, root, attributes, *resplit([*train, *official_val], shares).values(), said=said)
    if any(entry.group for entry in train):
        dealt = resplit(train, shares)
        kept, held = dealt["train"], dealt["val"]
    else:
        kept, held = hold_out(train, shares.val, shares.seed)
    return planned(source, root, attributes, kept, held, official_val, said=said)


def planned(
    source: str, root: str, attributes: dict[str, list[str]], *splits: list[Entry], said: Sequence[str] = ()
) -> Plan:
    """A plan of its splits, in the order of `SPLITS`; UsageError where there is no row."""
    filled = {name: entries for name, entries in zip(SPLITS, splits, strict=True) if entries}
    if not filled:
        raise UsageError(f"{root}: {source} has no rows")
    return Plan(source, storage.absolute(root), attributes, filled, tuple(said))


_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif")


class Images:
    """The image files at any depth of a folder."""

    def __init__(self, root: str) -> None:
        """Lists them; UsageError where there are none."""
        self.root = root
        self.paths = sorted(
            name for name in storage.sizes(root) if name.lower().endswith(_ENDINGS) and not is_note(name)
        )
        if not self.paths:
            raise UsageError(f"--images {root}: no images there; give the folder that they are in, at any depth")

    def named(self, name: str) -> list[str]:
        """Paths below the root of the files of this name."""
        return self._by_name.get(name, [])

    def folder(self, paths: Iterable[str | None]) -> str:
        """The folder that all these lie in."""
        parents = {path.rpartition("/")[0] for path in paths if path is not None}
        return storage.join(self.root, os.path.commonpath(parents)) if parents and all(parents) else self.root

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self.paths:
            found.setdefault(path.rpartition("/")[2], []).append(path)
        return found
