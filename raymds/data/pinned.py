"""The rows of a split that are kept at hand, however far their shards lie apart; `exchange` reads them.

Legend of shapes: n rows that are kept, k rows asked for.
"""

import numpy as np
from numpy.typing import NDArray

from raymds.data.reader import Example
from raymds.data.sampler import Rows


class Pinned:
    """None at first."""

    def __init__(self) -> None:
        self._rows: Rows = np.empty(0, np.int64)  # (n,) ascending
        self._ends: Rows = np.empty((0, 4), np.int64)  # (n, 4) where id, caption and image begin, and the image ends
        self._content = memoryview(b"")

    def hold(self, heads: Rows, content: memoryview) -> None:
        """Keep these rows: of each its number and the bytes of id, caption and image, (n, 4); those, row after row."""
        ends = np.cumsum(heads[:, 1:]).reshape(-1, 3)
        order = np.argsort(heads[:, 0])
        self._rows, self._content = heads[order, 0], content
        self._ends = np.column_stack([ends[:, 0] - heads[:, 1], ends])[order]

    def without(self, rows: Rows) -> Rows:
        """Those of some rows that are not kept, in their order: (k,) → (…,)."""
        return rows[~self._find(rows)[1]]

    def example(self, row: int) -> Example | None:
        """One row; None where it is not kept."""
        (position,), (found,) = self._find(np.array([row]))
        if not found:
            return None
        name, caption, image, end = self._ends[position].tolist()
        text = bytes(self._content[caption:image]).decode()
        return Example(bytes(self._content[name:caption]).decode(), self._content[image:end], text)

    def _find(self, rows: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """Where rows are among those kept, and whether they are: (k,), (k,)."""
        if not len(self._rows):
            return np.zeros(len(rows), np.int64), np.zeros(len(rows), dtype=bool)
        position = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
        return position, self._rows[position] == rows
