"""A file that is read in parts, each by a request of its own."""

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa


def in_parts(size: int, part: Callable[[int, int], bytes]) -> Any:
    """A file of pyarrow's whose bytes `part(start, length)` reads; it is never asked for any beyond `size`.

    Nothing stays open between two reads: a store may be gone meanwhile, and its keys may expire.
    """
    return pa.PythonFile(_Parts(size, part), mode="r")


class _Parts(io.RawIOBase):
    def __init__(self, size: int, part: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size, self._part, self._at = size, part, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, length: int = -1) -> bytes:
        left = max(self._size - self._at, 0)
        length = left if length < 0 else min(length, left)
        data = self._part(self._at, length) if length else b""
        self._at += len(data)
        return data
