"""Shards fetched ahead, verified byte for byte, and kept in bounded memory; on request also on the local disk.

A shard is the unit of reading: its SHA-256 is in the manifest, so nothing of it is used before all of it is proved.
"""

import contextlib
import fcntl
import functools
import io
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymds.errors import UsageError
from raymds.store import uri as storage

_THREADS = 4  # requests at a time


@dataclass(frozen=True)
class File:
    """A shard as the manifest knows it."""

    uri: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Example:
    """One row: its id, encoded image and caption."""

    id: str
    image: memoryview
    caption: str


@dataclass(frozen=True)
class Columns:
    """The rows of a shard, an image encoded."""

    ids: list[str]
    images: list[memoryview]
    captions: list[str]


class DiskCache:
    """Shards on the local disk, named by their digests, shared by the processes of a machine.

    What is in it is trusted no more than what is fetched: readers check the digest of either.
    """

    def __init__(self, directory: str, size: int) -> None:
        """`size` in bytes; where a new shard needs room, those not used for longest go first.

        UsageError where nothing can be written in the directory.
        """
        storage.check_writable(directory)
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
        self._read: dict[int, Columns] = {}  # what of that is there already
        self._lock = threading.RLock()  # a future that is done at once calls back within it
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")

    def ahead(self, shards: Iterable[int]) -> None:
        """Begin to fetch shards that will be asked for, the nearest first, as many as fit; what is held now gives way.

        Called with all that is needed, again and again: a shard that was named before and is not named now goes first.
        """
        room, fitting = self._memory, list[int]()
        for shard in shards:
            room -= self._files[shard].bytes
            if room < 0 and fitting:
                break
            fitting.append(shard)
        with self._lock:
            for shard in fitting:
                self._begin(shard)
            for shard in reversed(fitting):
                self._held.move_to_end(shard)
            self._make_room()

    def rows(self, shard: int) -> Columns:
        """The rows of a shard; UsageError naming it and its digests where its bytes are not those of the manifest."""
        with self._lock:
            columns = self._read.get(shard)  # asked for image by image, and futures are slow to tell what they have
            if columns is not None:
                self._held.move_to_end(shard)
                return columns
            future, begun = self._begin(shard)
            self._held.move_to_end(shard)
            if begun:
                self._make_room()
        return future.result()

    def _begin(self, shard: int) -> tuple[Future[Columns], bool]:
        future = self._held.get(shard)
        if future is not None and not (future.done() and future.exception()):
            return future, False
        future = self._held[shard] = self._pool.submit(self._fetch, self._files[shard])
        future.add_done_callback(functools.partial(self._take, shard))
        return future, True

    def _take(self, shard: int, future: Future[Columns]) -> None:
        """What was fetched is there, unless it has given way meanwhile."""
        with self._lock:
            if self._held.get(shard) is future and not future.exception():
                self._read[shard] = future.result()

    def _make_room(self) -> None:
        total = sum(self._files[held].bytes for held in self._held)
        while total > self._memory and len(self._held) > 1:
            oldest, _ = self._held.popitem(last=False)
            self._read.pop(oldest, None)
            total -= self._files[oldest].bytes

    def _fetch(self, file: File) -> Columns:
        cached = self._cache and not storage.is_local(file.uri)
        data = self._cache.get(file) if self._cache and cached else storage.read(file.uri)
        # In this thread: those that fetch are enough. The row groups stay apart: to combine them would copy the images.
        parquet = pq.ParquetFile(pa.BufferReader(verified(file, data)))
        table = parquet.read(columns=["id", "image", "caption"], use_threads=False)
        images = [image for chunk in table["image"].chunks for image in _views(chunk)]
        return Columns(table["id"].to_pylist(), images, table["caption"].to_pylist())


def _views(chunk: Any) -> Iterator[memoryview]:
    """The values of a large_binary array without nulls, in the array's own memory; quicker than by its scalars."""
    _, offsets, content = chunk.buffers()
    ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
    whole = memoryview(content)
    return (whole[start:end] for start, end in itertools.pairwise(ends))


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
    """Those of some columns that a shard has, without reading the others; their page checksums are verified."""
    filesystem, path = storage.resolve(file.uri)
    with pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True) as shard:
        return shard.read([name for name in columns if name in shard.schema_arrow.names])


def table_bytes(table: Any, *, compression: Any = "ZSTD", **options: Any) -> bytes:
    """A table as the bytes of a Parquet file, the same for the same table."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression, write_page_checksum=True, **options)
    return buffer.getvalue()
