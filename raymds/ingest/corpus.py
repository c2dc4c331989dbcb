"""A caption corpus in Parquet, read row group by row group, and the images its rows hold or point to."""

import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import dataset

from raymds.data.decode import decode
from raymds.errors import UsageError
from raymds.store import uri as storage

_BUFFER = 8 * 2**20  # bytes read at a time; pyarrow left to itself holds a whole column of a row group
_SECONDS = 10  # a download may take
_LARGEST = 20 * 2**20  # bytes of a download


@dataclass(frozen=True)
class Group:
    """A row group of an open file."""

    name: str  # of the file, below the corpus
    number: int  # of the row group
    first: int  # row of the file it starts with
    _file: Any
    _path: str

    def read(self, columns: list[str], rows: int) -> Iterator[Any]:
        """Record batches of at most `rows` rows; UsageError where the file is damaged."""
        try:
            yield from self._file.iter_batches(rows, row_groups=[self.number], columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{self._path} row group {self.number}: can't be read: {error}") from None


class Corpus:
    """Parquet files, all found, checked and counted before a row of them is read."""

    def __init__(self, uri: str, columns: Mapping[str, str]) -> None:
        """`uri`: a Parquet file or a folder of `*.parquet`, at any depth; `columns`: name → its Arrow type.

        UsageError where there is no file, or one that is not Parquet or lacks a column.
        """
        uri = storage.absolute(uri).rstrip("/")
        self._filesystem, path = storage.resolve(uri)
        try:
            # With a schema given, nothing is opened: this is a listing of the file or the folder.
            found = dataset.dataset(path, schema=pa.schema([]), filesystem=self._filesystem, format="parquet").files
        except OSError as error:
            raise UsageError(f"corpus={uri}: can't be read: {error}") from None
        alone = found == [path]
        self._root = path.rpartition("/")[0] if alone else path
        self.folder = uri.rpartition("/")[0] if alone else uri
        self._paths = sorted(file for file in found if alone or file.endswith(".parquet"))
        if not self._paths:
            raise UsageError(f"corpus={uri}: no *.parquet file there")
        self.rows = sum(self._checked(path, columns) for path in self._paths)

    def groups(self) -> Iterator[Group]:
        """All row groups, in the order of file names."""
        for path in self._paths:
            name, first = path.removeprefix(self._root + "/"), 0
            with self._open(path) as file:
                for number in range(file.num_row_groups):
                    yield Group(name, number, first, file, path)
                    first += file.metadata.row_group(number).num_rows

    def _open(self, path: str) -> Any:
        try:
            return pq.ParquetFile(path, filesystem=self._filesystem, buffer_size=_BUFFER, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path}: can't be read as Parquet: {error}") from None

    def _checked(self, path: str, columns: Mapping[str, str]) -> int:
        """Number of rows of a file that has the columns."""
        with self._open(path) as file:
            schema, rows = file.schema_arrow, int(file.metadata.num_rows)
        for name, kind in columns.items():
            if name not in schema.names:
                raise UsageError(f"{path}: has no column {name!r}; its columns are {', '.join(schema.names)}")
            found = str(schema.field(name).type)
            if found.removeprefix("large_") != kind:
                raise UsageError(f"{path}: column {name!r} is {found}, it has to be {kind}")
        return rows


def fetch(image: bytes | str | None) -> bytes | Exception:
    """An encoded image that decodes, from its bytes, path, URI or http(s) URL; or why there is none."""
    try:
        if not image:
            raise ValueError("the row has no image")
        data = image if isinstance(image, bytes) else _read(image)
        decode(data)
    except Exception as error:  # servers and decoders fail in every way; one row must not end hours of work
        return error
    return data


def _read(where: str) -> bytes:
    if not where.lower().startswith(("http://", "https://")):
        return storage.read(where)
    url = urllib.parse.quote(
        where, safe="%/:=&?~#+!$,;'@()*[]"
    )  # corpora have URLs with spaces and letters of any kind
    request = urllib.request.Request(url, headers={"User-Agent": "raymds"})
    deadline, data = time.monotonic() + _SECONDS, bytearray()
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:
        while part := response.read1(2**16):  # by parts: the timeout alone does not end a server that trickles
            data += part
            if len(data) > _LARGEST or time.monotonic() > deadline:
                raise OSError(f"{where}: more than {_LARGEST} bytes or {_SECONDS} seconds")
    return bytes(data)
