"""One split of a data set: labels of all rows in memory, images read as they are needed."""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raymds.data.doubles import Prints
from raymds.data.pinned import Pinned
from raymds.data.reader import Example, File, Reader
from raymds.data.sampler import Blocks, Rows
from raymds.errors import UsageError

_AHEAD = 4  # shards that are fetched at a time, to pin rows of them


@dataclass(frozen=True)
class Split:
    """Rows are numbered through the shards in their order."""

    labels: dict[str, NDArray[np.int32]]  # attribute -> class index, −1 where undefined
    files: Sequence[tuple[File, int]]  # each shard and its number of rows
    reader: Reader
    shard: int  # number of the first shard within the reader
    window: int  # shards whose rows are shuffled together; 0: all
    shuffled: bool = False  # whether each shard is declared to be a random sample of the split
    prints: Prints | None = None  # of the images; None: a data set that was written without
    group: Rows | None = None  # number of each row's group, −1 where it is by itself; None: no row has one
    skip_corrupt: bool = False
    corrupt: set[int] = field(default_factory=set)  # rows whose image could not be decoded, as far as was seen
    pinned: Pinned = field(default_factory=Pinned)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.files else 0

    @cached_property
    def unit(self) -> Rows:
        """Number of each row's unit, which rows of one group and rows of one image share: (n,)."""
        own = np.arange(len(self)) if self.prints is None else self.prints.first
        return own if self.group is None else np.where(self.group < 0, own, len(self) + self.group)

    def rows_of(self, attribute: str, label: int, where: Iterable[tuple[str, int]] = ()) -> Rows:
        """Rows whose attribute has that class, and which have the other classes of `where`, too."""
        same = self.labels[attribute] == label
        for other, its in where:
            same &= self.labels[other] == its
        return np.flatnonzero(same)

    def shard_of(self, rows: Rows | Sequence[int]) -> Rows:
        """The shard, within the split, of each row."""
        return np.searchsorted(self._ends, rows, side="right").astype(np.int64)

    def blocks(self, rows: Rows, pools: int = 1) -> Blocks | None:
        """How a pool of rows is streamed, beside others where there are more `pools`, all of which memory has to hold.

        None where the split fits in memory and is shuffled as a whole.
        """
        if not self.window:
            return None
        return Blocks(self.shard_of(rows), len(self.files), max(1, self.window // pools))

    def where(self, row: int) -> str:
        """Shard and row within it, for messages."""
        file, position = self._locate(row)
        return f"{self.files[file][0].uri} row {position}"

    def example(self, row: int) -> Example:
        """One row, from memory where its shard is there."""
        pinned = self.pinned.example(row)
        if pinned is not None:
            return pinned
        shard, position = self._locate(row)
        rows = self.reader.rows(self.shard + shard)
        return Example(rows.ids[position], rows.images[position], rows.captions[position])

    def ahead(self, rows: Rows | Sequence[int]) -> None:
        """Begin to fetch the shards of rows that will be asked for, given in that order."""
        needed = self.pinned.without(np.asarray(rows))
        self.reader.ahead(self.shard + shard for shard in dict.fromkeys(self.shard_of(needed).tolist()))

    def part(self, rows: Rows, rank: int, ranks: int) -> Iterator[tuple[int, Example]]:
        """A rank's part of some rows, given and coming in ascending order: those of shards that no other rank reads."""
        shards, starts = np.unique(self.shard_of(rows), return_index=True)
        own = slice(rank * len(shards) // ranks, (rank + 1) * len(shards) // ranks)
        coming = self.shard + shards[own]
        for number, group in enumerate(np.split(rows, starts[1:])[own]):
            self.reader.ahead(coming[number : number + _AHEAD].tolist())
            for row in group.tolist():
                yield row, self.example(row)

    def substitute(self, row: int) -> int:
        """The row that stands in for one that can't be decoded: the next with the same labels, round the end."""
        same = np.ones(len(self), dtype=bool)
        for labels in self.labels.values():
            same &= labels == labels[row]
        for other in self._after(np.flatnonzero(same), row):
            if other not in self.corrupt:
                return other
        raise UsageError(f"{self.where(row)}: image can't be decoded, and no other row has the same labels")

    def _after(self, rows: Rows, row: int) -> Iterable[int]:
        position = int(np.searchsorted(rows, row))
        return map(int, np.roll(rows, -position)[1:])

    def _locate(self, row: int) -> tuple[int, int]:
        shard = bisect.bisect_right(self._bounds, row)
        return shard, row - (self._bounds[shard - 1] if shard else 0)

    @cached_property
    def _ends(self) -> Rows:
        return np.cumsum([rows for _, rows in self.files])

    @cached_property
    def _bounds(self) -> list[int]:
        return [int(end) for end in self._ends]  # searched row by row, where a list is ten times faster
