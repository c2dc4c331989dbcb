"""Rows at hand: each with its own id, caption and image, in whatever order they came."""

import numpy as np

from raymds.data.pinned import Pinned


def test_each_row_has_its_own_bytes_and_others_are_not_there() -> None:
    pinned, content = Pinned(), "ünicodeSKYb\x00fog".encode()
    assert pinned.without(np.array([3, 3, 1])).tolist() == [3, 3, 1]
    assert pinned.example(3) is None
    pinned.hold(np.array([[7, 8, 0, 3], [3, 1, 1, 3]]), memoryview(content))
    assert pinned.without(np.array([9, 7, 0, 3, 5])).tolist() == [9, 0, 5]
    found = [pinned.example(row) for row in (3, 7)]
    assert [(e.id, e.caption, bytes(e.image)) for e in found if e] == [("b", "\0", b"fog"), ("ünicode", "", b"SKY")]
    assert [pinned.example(row) for row in (0, 4, 8)] == [None] * 3
