"""Shards fetched ahead, verified byte for byte, and kept in bounded memory; on request also on the local disk.

A shard is the unit of reading: its SHA-256 is in the manifest, so nothing of it is used before all of it is proved.
"""

import contextlib
import fcntl
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymds import storage
from raymds.errors import UsageError

_THREADS = 4  # requests at a time


@dataclass(frozen=True)
class File:
    """A shard as the manifest knows it."""

    uri: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Columns:
    """The rows of a shard: pyarrow arrays of ids, encoded images and captions."""

    ids: Any
    images: Any
    captions: Any


class DiskCache:
    """Shards on the local disk, named by their digests, shared by the processes of a machine.

    What is in it is trusted no more than what is fetched: readers check the digest of either.
    """

    def __init__(self, directory: str, size: int) -> None:
        """`size` in bytes; where a new shard needs room, those not used for longest go first."""
        self._directory, self._size = Path(directory), size
        self._directory.mkdir(parents=True, exist_ok=True)

    def get(self, file: File) -> bytes:
        """The file's bytes, fetched by one process of the machine while the others wait."""
        path = self._directory / file.sha256
        with self._locked(file.sha256):
            if path.is_file():
                data = path.read_bytes()
                if storage.sha256(data) == file.sha256:
                    os.utime(path)
                    return data
                path.unlink()
            data = storage.read(file.uri)
            if storage.sha256(data) == file.sha256:
                self._make_room(len(data))
                storage.write(str(path), data)
        return data

    @contextlib.contextmanager
    def _locked(self, digest: str) -> Iterator[None]:
        with (self._directory / f"lock-{digest[:2]}").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_room(self, needed: int) -> None:
        def stat(path: Path) -> tuple[float, int, Path] | None:
            with contextlib.suppress(FileNotFoundError):  # another process made room too
                found = path.stat()
                return found.st_mtime, found.st_size, path
            return None

        listed = [stat(path) for path in self._directory.iterdir() if not path.name.startswith(("lock-", "."))]
        held = sorted(entry for entry in listed if entry)
        total = sum(size for _, size, _ in held)
        for _, size, path in held:
            if total + needed <= self._size:
                break
            path.unlink(missing_ok=True)
            total -= size


class Reader:
    """Gives the rows of shards; those used last stay in memory, as many as fit."""

    def __init__(self, files: Sequence[File], memory: int, cache: DiskCache | None = None) -> None:
        """`memory` in bytes of shards kept; the shards being fetched come on top."""
        self._files, self._memory, self._cache = files, memory, cache
        self._held: OrderedDict[int, Future[Columns]] = OrderedDict()
        self._used: set[int] = set()  # those that were asked for since they were fetched
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")

    def ahead(self, shards: Iterable[int]) -> None:
        """Begin to fetch shards that will be asked for, as many as fit beside others that wait for that."""
        with self._lock:
            for shard in shards:
                if shard not in self._held and self._make_room(self._files[shard].bytes, self._used):
                    self._held[shard] = self._pool.submit(self._fetch, self._files[shard])

    def rows(self, shard: int) -> Columns:
        """The rows of a shard; UsageError naming it and its digests where its bytes are not those of the manifest."""
        with self._lock:
            future = self._held.get(shard)
            if future is None or (future.done() and future.exception()):
                self._make_room(self._files[shard].bytes, {*self._held})
                future = self._held[shard] = self._pool.submit(self._fetch, self._files[shard])
            self._held.move_to_end(shard)
            self._used.add(shard)
        return future.result()

    def _make_room(self, needed: int, droppable: set[int]) -> bool:
        """Drop shards, those used longest ago first, until there is room; whether there is."""
        total = needed + sum(self._files[held].bytes for held in self._held)
        for shard in [held for held in self._held if held in droppable]:
            if total <= self._memory:
                break
            total -= self._files[shard].bytes
            del self._held[shard]
            self._used.discard(shard)
        return total <= self._memory

    def _fetch(self, file: File) -> Columns:
        data = self._cache.get(file) if self._cache else storage.read(file.uri)
        table = pq.read_table(pa.BufferReader(verified(file, data)), columns=["id", "image", "caption"])
        return Columns(*(table[name].combine_chunks() for name in ("id", "image", "caption")))


def verified(file: File, data: bytes) -> bytes:
    """`data`, if it is what the manifest says; UsageError naming the file and both digests."""
    found = storage.sha256(data)
    if found != file.sha256:
        raise UsageError(
            f"{file.uri}: shard is damaged: {len(data)} bytes with SHA-256 {found}, the manifest says {file.bytes} "
            f"bytes with {file.sha256}; copy it again or make the data set again"
        )
    return data


def project(file: File, columns: list[str]) -> Any:
    """Some columns of a shard as a table, without reading the others; their page checksums are verified."""
    filesystem, path = storage.resolve(file.uri)
    return pq.read_table(path, columns=columns, filesystem=filesystem, page_checksum_verification=True)


def table_bytes(table: Any, *, compression: Any = "ZSTD", **options: Any) -> bytes:
    """A table as the bytes of a Parquet file, the same for the same table."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression, write_page_checksum=True, **options)
    return buffer.getvalue()
