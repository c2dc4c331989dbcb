"""Object stores: how they are reached, and how a run waits for one that is gone.

Credentials come from the AWS environment (`aws`), for gs:// from Google's, and from nowhere else, so no config, log or
run directory can hold them.
"""

import contextlib
import functools
import io
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs as pafs

from raymds.errors import UsageError
from raymds.store import aws, names, payer
from raymds.store import errors as store_errors
from raymds.store.aws import StorageConfig

T = TypeVar("T")
Record = dict[str, Any]

_LONGEST = 5.0  # seconds between two tries while waiting
_GOOGLE = 4.0  # seconds for a request's tries; pyarrow's own limit is a quarter of an hour, even to find credentials


class _State:
    """Settings of this process, seconds that it waits for a store that is gone, and who hears of it."""

    config = StorageConfig()
    patience = 0.0
    tell: Callable[[Record], None] | None = None


def configure(config: StorageConfig, tell: Callable[[Record], None] | None = None) -> None:
    """Use these settings in this process.

    With `tell`, a store that is gone is waited for, and `tell` gets a `phase` record when that begins and a `pause`
    record with its seconds when it is over. Without, it is an error at once: right for what precedes a run.
    """
    if config.endpoint:
        names.check_endpoint("storage.endpoint", config.endpoint)
    _State.config, _State.tell, _State.patience = config, tell, config.patience if tell else 0.0
    aws.forget()
    _gcs.cache_clear()
    _probe.cache_clear()


def filesystem(uri: str) -> tuple[Any, str]:
    """The file system of an s3:// or gs:// URI, and bucket/key."""
    scheme, bucket, path = names.parse(uri)
    placed = _State.config
    if scheme == "gs":
        opened: Callable[[], Any] = functools.partial(_gcs, _State.config.anonymous)
    else:
        placed = replace(placed, endpoint=aws.endpoint(placed))
        opened = functools.partial(payer.Client if placed.requester_pays else aws.pyarrow, bucket, placed)
    opened()  # what is wrong with the settings is said now
    return pafs.PyFileSystem(_Objects(opened, scheme, _State.patience, placed)), path


def patiently(
    uri: str, action: Callable[[], T], patience: float | None = None, config: StorageConfig | None = None
) -> T:
    """`action()`, again and again for `patience` seconds while the store is gone; else with this process's settings."""
    patience = _State.patience if patience is None else patience
    begin, tries, tell = time.monotonic(), 0, _State.tell or (lambda record: None)
    while True:
        try:
            result = action()
        except OSError as error:
            over = _expired(uri, error, config or _State.config)
            if not (over or store_errors.transient(error)) or time.monotonic() - begin >= patience:
                raise
            if tries == 0:
                why = store_errors.EXPIRED if over else store_errors.reason(error)
                tell({"event": "phase", "phase": f"waiting for {uri}: {why}"})
            if over:
                aws.forget()  # the profile's file may have new keys
            time.sleep(min(0.25 * 2**tries, _LONGEST))
            tries += 1
        else:
            if tries:
                tell({"event": "pause", "uri": uri, "seconds": time.monotonic() - begin})
            return result


def _expired(uri: str, error: OSError, config: StorageConfig) -> bool:
    """Whether a request was refused because its session token has expired."""
    if not uri.startswith("s3://") or not store_errors.unexplained(error):
        return store_errors.expired(error)
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:  # the answer to a HEAD request has no body, which would say why
        aws.boto(config).list_objects_v2(Bucket=names.parse(uri)[1], MaxKeys=1)
    except ClientError as found:
        return store_errors.expired(OSError(str(found)))
    except BotoCoreError:
        pass
    return False


def upload(store: Any, path: str, data: bytes | mmap.mmap) -> None:
    """One attempt to publish an object; it is there when its stream is closed."""
    inner = store.handler.inner if isinstance(store, pafs.PyFileSystem) else store
    with inner.open_output_stream(path) as stream:
        stream.write(data)


def create(path: str, data: bytes) -> bool:
    """Publish an object at bucket/key unless there is one; whether it was published."""
    bucket, _, key = path.partition("/")

    def put() -> bool:
        try:
            aws.request(_State.config, "put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except FileExistsError:
            return False
        except NotImplementedError:
            upload(aws.pyarrow(bucket, _State.config), path, data)
        return True

    try:
        return patiently(f"s3://{path}", put)
    except OSError as error:
        raise UsageError(f"s3://{path}: can't be written: {store_errors.reason(error)}") from None


def _delete(path: str, config: StorageConfig) -> None:
    """Remove an object; by botocore, as pyarrow would leave a directory in its place, which some stores can't make."""
    bucket, _, key = path.partition("/")
    aws.request(config, "delete_object", Bucket=bucket, Key=key)


@functools.lru_cache(maxsize=2)
def _gcs(anonymous: bool) -> Any:
    anonymous = anonymous or "CLOUD_STORAGE_EMULATOR_ENDPOINT" in os.environ  # which has no credentials
    return pafs.GcsFileSystem(anonymous=anonymous, retry_time_limit=timedelta(seconds=_GOOGLE))


def diagnose(uri: str) -> None:
    """UsageError where the reason for a failure is that a bucket can't be used at all: pyarrow's errors don't tell."""
    if _State.patience or not uri.startswith(("s3://", "gs://")):
        return
    scheme, bucket, _ = names.parse(uri)
    if scheme == "s3":
        _probe(bucket)
    else:
        with contextlib.suppress(OSError):  # to look at a bucket may be forbidden
            if _gcs(_State.config.anonymous).get_file_info(bucket).type == pafs.FileType.NotFound:
                raise UsageError(f"gs://{bucket}: no such bucket; check its name")


@functools.lru_cache(maxsize=32)
def _probe(bucket: str) -> None:
    """List the bucket; a policy that forbids that is no reason."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError  # noqa: PLC0415

    service = aws.endpoint(_State.config)
    where = f"s3://{bucket}" + (f" at {service}" if service else "")
    try:
        aws.boto(_State.config).list_objects_v2(Bucket=bucket, MaxKeys=1)
    except NoCredentialsError:
        raise UsageError(
            f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.profile, or "
            "storage.anonymous=true for a public bucket"
        ) from None
    except ClientError as error:
        meaning = {
            "NoSuchBucket": "no such bucket; check its name and storage.endpoint",
            "InvalidAccessKeyId": "the access key is not known there; check AWS_ACCESS_KEY_ID and storage.profile",
            "ExpiredToken": store_errors.EXPIRED,
            "RequestTimeTooSkewed": store_errors.SKEWED,
            "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY and storage.profile",
        }.get(error.response["Error"]["Code"])
        if meaning:
            raise UsageError(f"{where}: {meaning}") from None
    except BotoCoreError as error:
        raise UsageError(f"{where}: can't be reached; check storage.endpoint and the network: {error}") from None


class _Upload(io.BytesIO):
    """Bytes that are uploaded when they are complete."""

    def __init__(self, publish: Callable[[bytes], None]) -> None:
        super().__init__()
        self._publish = publish

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self._publish(data)


class _Objects(pafs.FileSystemHandler):  # type: ignore[misc]
    """An object store for pyarrow and Ray: patient, and without directories, which some stores can't make."""

    def __init__(self, opened: Callable[[], Any], scheme: str, patience: float, config: StorageConfig) -> None:
        """`opened` gives pyarrow's own client; it travels to other processes in its stead, which would hold keys.

        `config` goes along: such a process may have no settings of its own.
        """
        self._opened, self._scheme, self._patience, self._config = opened, scheme, patience, config

    @property
    def inner(self) -> Any:
        """pyarrow's own client, with the keys of this moment."""
        return self._opened()

    def _call(self, name: str, path: Any, *rest: Any) -> Any:
        first = path.base_dir if isinstance(path, pafs.FileSelector) else path
        return self._wait(first, lambda: getattr(self.inner, name)(path, *rest))

    def _wait(self, path: str, action: Callable[[], T]) -> T:
        return patiently(f"{self._scheme}://{path}", action, self._patience, self._config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Objects) and self.inner.equals(other.inner)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._scheme)

    def get_type_name(self) -> str:
        return self._scheme

    def normalize_path(self, path: str) -> str:
        return str(self.inner.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> Any:
        return [self._call("get_file_info", path) for path in paths]

    def get_file_info_selector(self, selector: Any) -> Any:
        return self._call("get_file_info", selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing: a prefix is there as soon as an object is."""

    def delete_dir(self, path: str) -> None:
        self.delete_dir_contents(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = True) -> None:
        for info in self.get_file_info_selector(pafs.FileSelector(path, recursive=True, allow_not_found=True)):
            if info.type == pafs.FileType.File:
                self.delete_file(info.path)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("a bucket is not emptied")

    def delete_file(self, path: str) -> None:
        if self._scheme == "s3":
            self._wait(path, lambda: _delete(path, self._config))
        else:
            self._call("delete_file", path)

    def move(self, src: str, dest: str) -> None:
        self._call("move", src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._call("copy_file", src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self._call("open_input_stream", path)

    def open_input_file(self, path: str) -> Any:
        return self._call("open_input_file", path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        stream = _Upload(lambda data: self._wait(path, lambda: upload(self.inner, path, data)))
        return pa.PythonFile(stream, mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError("objects are not appended to")
