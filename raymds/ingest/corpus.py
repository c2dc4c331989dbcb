"""A caption corpus in Parquet, read row group by row group, and the images its rows hold or point to."""

import http.client
import ipaddress
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import dataset

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


def mended(column: Any) -> tuple[Any, int]:
    """A column of strings with what is no UTF-8 replaced, as Spark may write it, and in how many rows that was."""
    try:
        column.validate(full=True)
        return column, 0
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
    texts = [None if value is None else value.decode(errors="replace") for value in values]
    broken = sum((text or "").encode() != (value or b"") for value, text in zip(values, texts, strict=True))
    return pa.array(texts, column.type), broken


def fetch(image: bytes | str | None, folder: str, *, anywhere: bool) -> bytes:
    """An encoded image, from its bytes, path, URI or URL; OSError, ValueError or UsageError where there is none.

    Unless `anywhere`, a path or URI has to lie within `folder`, and no server may have an address of a private network:
    whoever wrote a corpus is nobody that this machine trusts.
    """
    if not image:
        raise ValueError("the row has no image")
    if isinstance(image, bytes):
        return image
    if image.lower().startswith(("http://", "https://")):
        return _download(image, anywhere)
    where = storage.within(folder, image)
    if not anywhere and (not where.startswith(f"{folder}/") or ".." in where.split("/")):
        raise ValueError(f"{image}: lies outside the corpus's folder; columns.local=true allows that")
    return storage.read(where)


def _download(where: str, anywhere: bool) -> bytes:
    # Corpora have URLs with spaces and letters of any kind.
    url = urllib.parse.quote(where, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(url, headers={"User-Agent": "raymds"})
    deadline, data = time.monotonic() + _SECONDS, bytearray()
    with _opener(anywhere).open(request, timeout=_SECONDS) as response:
        while part := response.read1(2**16):  # by parts: the timeout alone does not end a server that trickles
            data += part
            if len(data) > _LARGEST or time.monotonic() > deadline:
                raise OSError(f"{where}: more than {_LARGEST} bytes or {_SECONDS} seconds")
    return bytes(data)


@cache
def _opener(anywhere: bool) -> urllib.request.OpenerDirector:
    """http and https alone, also after a redirect; each connection looks at the address that it has reached."""
    opener = urllib.request.OpenerDirector()
    proxies = urllib.request.getproxies()
    trusted = {urllib.parse.urlsplit(proxy).hostname for proxy in proxies.values()}

    def look(connection: http.client.HTTPConnection) -> None:
        found = ipaddress.ip_address(connection.sock.getpeername()[0])
        if not anywhere and not found.is_global and connection.host not in trusted:
            connection.close()
            raise OSError(f"{connection.host} has the private address {found}; columns.local=true allows that")

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            look(self)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            look(self)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Plain, req)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Secure, req)

    for handler in (
        urllib.request.ProxyHandler(), PlainHandler(), SecureHandler(), urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(), urllib.request.UnknownHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener
