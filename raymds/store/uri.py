"""One URI language for data, weights and runs: `/path`, `relative/path`, `file://`, `s3://`, `gs://`.

A file is published whole or not at all: local writes go to a temporary name that is renamed last, an object store
publishes an object when its upload is closed. What an object store does on a bad day is in `objects.py`.
"""

import contextlib
import functools
import hashlib
import json
import mmap
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from pyarrow import fs as pafs

from raymds.errors import UsageError
from raymds.store import errors as store_errors
from raymds.store import names, objects
from raymds.store.parts import in_parts

T = TypeVar("T")

_SCHEME = re.compile(r"\s*(s3|gs|file):", re.IGNORECASE)  # of what would be a path with one slash too few


def resolve(uri: str) -> tuple[Any, str]:
    """A pyarrow file system and the path within it."""
    if not uri:
        raise UsageError("empty URI: give a path, s3://bucket/prefix or gs://bucket/prefix")
    if "\0" in uri:
        raise UsageError(f"{uri!r}: not a URI that can be read: it holds a NUL character")
    if not uri.isascii() and uri.encode(errors="ignore").decode() != uri:
        raise UsageError(f"{uri!r}: not a URI that can be read: it is no text in UTF-8")
    if "://" in uri:
        names.check_scheme(uri)
    if "://" not in uri or uri.startswith("file://"):
        return pafs.LocalFileSystem(), str(_local(uri))
    return objects.filesystem(uri)


def join(uri: str, *names: str) -> str:
    """`uri` with path components appended."""
    scheme, mark, path = uri.rpartition("://")
    return "/".join([scheme + mark + path.rstrip("/"), *names])


def _local(path: str) -> Path:
    """A path, or the one of a file:// URI, made absolute, with ~ as the home directory."""
    if path.startswith("file:///"):
        return Path(unquote(path.removeprefix("file://")))
    slipped = _SCHEME.match(path)
    if slipped:
        raise UsageError(f"{path}: has to begin with {slipped[1].lower()}:{'/' * (2 + (slipped[1].lower() == 'file'))}")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"{path}: {error}".rstrip(".")) from None


def within(folder: str, name: str) -> str:
    """The URI of a file that is named by a path relative to a folder, or absolutely."""
    return name if "://" in name or name.startswith("/") else join(folder, name)


def absolute(uri: str) -> str:
    """`uri` with a relative local path made absolute, so that it means the same in every process."""
    return uri if "://" in uri and not uri.startswith("file://") else str(_local(uri))


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine."""
    return isinstance(resolve(uri)[0], pafs.LocalFileSystem)


def size(uri: str) -> int | None:
    """Bytes of a file, None where there is none."""
    filesystem, path = resolve(uri)
    try:
        info = filesystem.get_file_info(path)
    except OSError as error:
        raise _unreadable(uri, error) from None
    if info.type == pafs.FileType.File:
        return int(info.size)
    objects.diagnose(uri)
    return None


def exists(uri: str) -> bool:
    """Whether there is a file."""
    return size(uri) is not None


def sizes(uri: str) -> dict[str, int]:
    """Bytes of every file below a directory, by its path within it; empty where there is no directory."""
    filesystem, path = resolve(uri)
    path = path.rstrip("/")
    try:
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
        return {info.path[len(path) + 1 :]: int(info.size) for info in found if info.type == pafs.FileType.File}
    except NotADirectoryError:
        raise UsageError(f"{uri}: is a file; give the folder that it is in") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri}: the name of {error.object!r} is not UTF-8; rename it") from None
    except OSError as error:
        raise _unreadable(uri, error) from None


def read(uri: str) -> bytes:
    """All bytes of a file; UsageError naming it where it can't be read."""
    filesystem, path = resolve(uri)

    def content() -> bytes:
        # The size is asked for first: reading a stream to its end was four times slower.
        with filesystem.open_input_file(path) as file:
            data: bytes = file.read()
        return data

    return _reading(uri, content)


def read_range(uri: str, start: int, length: int) -> bytes:
    """`length` bytes of a file from `start` on, fewer at its end; UsageError naming it where it can't be read."""

    def content() -> bytes:
        with filesystem.open_input_file(path) as file:
            data: bytes = file.read_at(length, start)
        return data

    filesystem, path = resolve(uri)
    return _reading(uri, content)


def open_file(uri: str) -> Any:
    """A file of pyarrow's to be read in parts, each as by `read_range`; UsageError naming it where there is none."""
    found = size(uri)
    if found is None:
        raise UsageError(f"{uri}: no such file")
    return in_parts(found, functools.partial(read_range, uri))


def _reading(uri: str, content: Callable[[], T]) -> T:
    try:
        return objects.patiently(uri, content)
    except FileNotFoundError:
        objects.diagnose(uri)
        raise UsageError(f"{uri}: no such file") from None
    except OSError as error:
        raise _unreadable(uri, error) from None


def read_or_none(uri: str) -> bytes | None:
    """All bytes of a file, None where there is none."""
    return read(uri) if exists(uri) else None


def write(uri: str, data: bytes | mmap.mmap) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    filesystem, path = resolve(uri)
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            _write_local(Path(path), data)
        else:
            objects.patiently(uri, lambda: objects.upload(filesystem, path, data))
    except OSError as error:
        objects.diagnose(uri)
        raise _unwritable(uri, error) from None


def delete(uri: str) -> None:
    """Remove a file, if it is there."""
    filesystem, path = resolve(uri)
    try:
        filesystem.delete_file(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{uri}: can't be deleted: {store_errors.reason(error)}") from None


def create(uri: str, data: bytes) -> bool:
    """Write a file unless it is there already; whether it was written.

    Exact where the store has conditional writes (S3, Ceph) or the file system hard links; elsewhere two writers at the
    same moment may both succeed, and the later content stays.
    """
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            _write_local(temporary, data)
        except OSError as error:
            raise _unwritable(uri, error) from None
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError:  # file systems without hard links, such as exFAT and gcsfuse
            if target.exists():
                return False
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return True
    if exists(uri):
        return False
    if uri.startswith("s3://"):
        return objects.create(path, data)
    write(uri, data)
    return True


def exclusive(folder: str) -> bool:
    """Whether `create` is exact in a folder: found out by a hard link, of an S3 service by a file written twice."""
    filesystem, path = resolve(folder)
    if isinstance(filesystem, pafs.LocalFileSystem):
        return _has_links(folder, Path(path))
    if not folder.startswith("s3://"):
        return False
    probe = join(folder, ".probe")  # one name for all: where deleting is forbidden, one file stays
    where = resolve(probe)[1]
    objects.create(where, b"first")
    try:
        return not objects.create(where, b"second")
    finally:
        with contextlib.suppress(UsageError):
            delete(probe)


def _has_links(folder: str, path: Path) -> bool:
    """Whether a local folder's file system has hard links."""
    probe = path / f".probe-{uuid.uuid4().hex}"
    link = probe.with_suffix(".link")
    try:
        _write_local(probe, b"")
        os.link(probe, link)
    except OSError as error:
        if not probe.exists():
            raise _unwritable(folder, error) from None
        return False
    finally:
        for made in (link, probe):
            made.unlink(missing_ok=True)
    return True


def check_writable(uri: str) -> None:
    """UsageError where files below a local directory, there or not yet, could not be written. Writes nothing.

    Of a bucket that can't be known without writing.
    """
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return
    found = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
    if not found.is_dir():
        raise UsageError(f"{uri}: can't be written: {found} is no directory")
    if not os.access(found, os.W_OK | os.X_OK):
        raise UsageError(f"{uri}: can't be written: no permission to write in {found}")


def read_json(uri: str) -> dict[str, Any] | None:
    """A JSON object, None where there is no file; UsageError where it is none, or has a name twice."""
    data = read_or_none(uri)
    if data is None:
        return None
    try:
        content = json.loads(data, object_pairs_hook=named_once)
    except RecursionError:
        raise UsageError(f"{uri}: damaged: JSON nested too deeply; copy it again") from None
    except ValueError as error:
        raise UsageError(f"{uri}: damaged: not valid JSON: {error}; copy it again") from None
    if not isinstance(content, dict):
        raise UsageError(f"{uri}: damaged: not a JSON object; copy it again")
    return content


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a name that stands twice, one reader would take the first value and another the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return found


def write_json(uri: str, content: dict[str, Any]) -> None:
    """Publish a JSON file."""
    write(uri, (json.dumps(content, indent=1) + "\n").encode())


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def _unreadable(uri: str, error: OSError) -> UsageError:
    objects.diagnose(uri)
    return UsageError(f"{uri}: can't be read: {store_errors.reason(error)}")


def _unwritable(uri: str, error: OSError) -> UsageError:
    # Of a folder that is to be made, it is a file that exists.
    file = isinstance(error, FileExistsError) and error.filename
    return UsageError(f"{uri}: can't be written: {f'{file} is no directory' if file else store_errors.reason(error)}")


def _write_local(target: Path, data: bytes | mmap.mmap) -> None:
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
