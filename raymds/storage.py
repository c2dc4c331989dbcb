"""One URI language for data, weights and runs: `/path`, `relative/path`, `file://`, `s3://`, `gs://`.

A file is published whole or not at all: local writes go to a temporary name that is renamed last, an object store
publishes an object when its upload is closed.
"""

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from raymds.errors import UsageError


def resolve(uri: str) -> tuple[Any, str]:
    """A pyarrow file system and the path within it."""
    if not uri:
        raise UsageError("empty URI: give a path, s3://bucket/prefix or gs://bucket/prefix")
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise UsageError(f"{uri}: not a URI that can be read: {error}") from None
    return filesystem, path


def join(uri: str, *names: str) -> str:
    """`uri` with path components appended."""
    return "/".join([uri.rstrip("/"), *names])


def absolute(uri: str) -> str:
    """`uri` with a relative local path made absolute, so that it means the same in every process."""
    return uri if "://" in uri else str(Path(uri).absolute())


def size(uri: str) -> int | None:
    """Bytes of a file, None where there is none."""
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    return int(info.size) if info.type == pafs.FileType.File else None


def exists(uri: str) -> bool:
    """Whether there is a file."""
    return size(uri) is not None


def read(uri: str) -> bytes:
    """All bytes of a file; UsageError naming it where it can't be read."""
    filesystem, path = resolve(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        raise UsageError(f"{uri}: no such file") from None
    except OSError as error:
        raise UsageError(f"{uri}: can't be read: {error}") from None


def read_or_none(uri: str) -> bytes | None:
    """All bytes of a file, None where there is none."""
    return read(uri) if exists(uri) else None


def write(uri: str, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)
        return
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{uri}: can't be written: {error.strerror}") from None


def write_json(uri: str, content: dict[str, Any]) -> None:
    """Publish a JSON file."""
    write(uri, (json.dumps(content, indent=1) + "\n").encode())


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()
