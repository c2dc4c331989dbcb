"""Encoded images out of a table, put aside in files that are read by ranges: a table need not fit in memory.

A shard is a random sample of its split, so its images lie all over the table. Reading the table once into files of
whole images makes each of them one short read for the task that writes its shard, on whichever machine that runs.
"""

from typing import NamedTuple, Self

from raymds.store import uri as storage

_FILE = 2**25  # bytes of a file, which memory holds until it is written


class Piece(NamedTuple):
    """Where an image lies."""

    file: str
    start: int
    size: int
    sha256: str

    def read(self) -> bytes:
        """The encoded image."""
        return storage.read_range(self.file, self.start, self.size)


class Spool:
    """Images put aside below a directory as long as the context is open, in files written one after the other."""

    def __init__(self, uri: str) -> None:
        self._uri = storage.absolute(uri)
        self._files = 0
        self._waiting: list[bytes] = []
        self._start = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove the files, also those of an ingest that was killed."""
        for name in storage.sizes(self._uri):
            storage.delete(storage.join(self._uri, name))

    def add(self, image: bytes) -> Piece:
        """Put an image aside; it can be read after `flush`."""
        if self._start >= _FILE:
            self.flush()
        piece = Piece(self._file(), self._start, len(image), storage.sha256(image))
        self._waiting.append(image)
        self._start += len(image)
        return piece

    def flush(self) -> None:
        """Write the images that are still in memory."""
        if self._waiting:
            storage.write(self._file(), b"".join(self._waiting))
            self._files, self._waiting, self._start = self._files + 1, [], 0

    def _file(self) -> str:
        return storage.join(self._uri, f"{self._files:05d}.images")
