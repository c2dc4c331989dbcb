"""How the rows of a step are dealt to ranks: where shards are streamed, each rank takes those of its own shards.

The rows that are shuffled together, a window, lie on a line from 0 to 1, one shard after the other. A rank's own are
those in its part of the line: the same shards in every step of a window, and as many rows as any other rank's in the
mean. In one step they are more or fewer.

Legend of shapes: n rows of the pool, k rows of a step, S shards, R ranks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Along = NDArray[np.float64]  # where rows lie on the line


@dataclass(frozen=True)
class Layout:
    """Where the rows of a pool lie in the windows of one epoch; rows and shards are in ascending order."""

    shard: Rows  # (n,) of each row
    begin: Along  # (S,) where the first row of a shard would lie if it were the pool's first
    spacing: Along  # (S,) from one row of it to the next

    @classmethod
    def of(cls, shard: Rows, place: Rows, window: int) -> "Layout":
        """`place` (S,) is that of each shard in the epoch; as many as `window` follow each other in a window."""
        size = np.bincount(shard, minlength=len(place))
        at_place = size[np.argsort(place)]
        ends, first = np.cumsum(at_place), np.arange(0, len(place), window)
        of_window = np.maximum(np.add.reduceat(at_place, first), 1)[place // window]
        before = (ends - at_place)[place] - (ends - at_place)[first][place // window]  # in its window, of each shard
        in_pool = np.cumsum(size) - size
        return cls(shard, (before - in_pool + 0.5) / of_window, 1 / of_window)

    def along(self, index: Rows) -> Along:
        """Of rows by their numbers in the pool: (k,) → (k,)."""
        shard = self.shard[index]
        along: Along = self.begin[shard] + self.spacing[shard] * index
        return along


def deal(rows: Rows, along: Along, room: list[int]) -> list[Rows]:
    """Each rank's rows, in the order of the line, at most `room` (R,) of them: cuts are moved as far as that takes.

    The neighbours on the line take what a rank has no room for, so that the others need no shard of it.
    """
    order, ranks = np.argsort(along, kind="stable"), len(room)
    wanted = np.searchsorted(along[order], np.arange(1, ranks) / ranks).tolist()
    cuts = [0]
    for rank, end in enumerate(wanted):
        fewest = len(rows) - sum(room[rank + 1 :])  # else those behind it had too many
        cuts.append(min(max(end, fewest, cuts[-1]), cuts[-1] + room[rank]))
    return np.split(rows[order], cuts[1:])


def cut(rows: Rows, sizes: list[int]) -> list[Rows]:
    """Contiguous slices of those sizes."""
    return np.split(rows, np.cumsum(sizes)[:-1])
