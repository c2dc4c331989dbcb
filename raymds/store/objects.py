"""Object stores: how they are reached, and how a run waits for one that is gone.

Credentials come from the standard AWS environment (variables, profile, instance role), for gs:// from Google's, and
from nowhere else, so no config, log or run directory can hold them.
"""

import contextlib
import functools
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs as pafs

from raymds.errors import UsageError
from raymds.store import errors as store_errors
from raymds.store import names

# Newer AWS clients add checksums that Ceph, rclone and Swift refuse or get wrong. Read when a client is made.
os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")

T = TypeVar("T")
Record = dict[str, Any]

_CONNECT = 3.0  # seconds, at most, for a connection
_LONGEST = 5.0  # seconds between two tries while waiting
_GOOGLE = 4.0  # seconds for a request's tries; pyarrow's own limit is a quarter of an hour, even to find credentials


@dataclass
class StorageConfig:
    """How an object store is reached; credentials come from the AWS environment."""

    endpoint: str | None = None  # URL of an S3 service; null: AWS_ENDPOINT_URL, or Amazon's
    region: str | None = None  # null: AWS_REGION, or where the bucket is
    profile: str | None = None  # of ~/.aws; null: AWS_PROFILE
    anonymous: bool = False  # requests without a signature, for public buckets
    timeout: float = 10.0  # seconds without an answer until a request is given up
    retries: int = 3  # tries of a request before the store counts as gone
    patience: float = 300.0  # seconds that a run waits for a store that is gone


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
    if config.profile:
        os.environ["AWS_PROFILE"] = config.profile
    _State.config, _State.tell, _State.patience = config, tell, config.patience if tell else 0.0
    _s3.cache_clear()
    _gcs.cache_clear()
    _client.cache_clear()
    _probe.cache_clear()


def filesystem(uri: str) -> tuple[Any, str]:
    """The file system of an s3:// or gs:// URI, and bucket/key."""
    scheme, bucket, path = names.parse(uri)
    if scheme == "gs":
        return pafs.PyFileSystem(_Objects(_gcs(), "gs", _State.patience)), path
    return pafs.PyFileSystem(_Objects(_s3(bucket), "s3", _State.patience)), path


def patiently(uri: str, action: Callable[[], T], patience: float | None = None) -> T:
    """`action()`, again and again for `patience` seconds (this process's, unless given) while the store is gone."""
    patience = _State.patience if patience is None else patience
    begin, tries, tell = time.monotonic(), 0, _State.tell or (lambda record: None)
    while True:
        try:
            result = action()
        except OSError as error:
            if not store_errors.transient(error) or time.monotonic() - begin >= patience:
                raise
            if tries == 0:
                tell({"event": "phase", "phase": f"waiting for {uri}: {store_errors.reason(error)}"})
            time.sleep(min(0.25 * 2**tries, _LONGEST))
            tries += 1
        else:
            if tries:
                tell({"event": "pause", "uri": uri, "seconds": time.monotonic() - begin})
            return result


def upload(store: Any, path: str, data: bytes) -> None:
    """One attempt to publish an object; it is there when its stream is closed."""
    inner = store.handler.inner if isinstance(store, pafs.PyFileSystem) else store
    with inner.open_output_stream(path) as stream:
        stream.write(data)


def create(path: str, data: bytes) -> bool:
    """Publish an object at bucket/key unless there is one; whether it was published."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - only stores need botocore

    bucket, _, key = path.partition("/")
    try:
        _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
            return False
        if code not in {"NotImplemented", "501"}:
            raise UsageError(f"s3://{path}: can't be written: {code}") from None
        upload(_s3(bucket), path, data)
    except BotoCoreError as error:
        raise UsageError(f"s3://{path}: can't be written: {error}") from None
    return True


def _delete(path: str) -> None:
    """Remove an object; by boto3, as pyarrow would leave a directory in its place, which some stores can't make."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    bucket, _, key = path.partition("/")
    try:
        _client().delete_object(Bucket=bucket, Key=key)
    except BotoCoreError as error:
        raise OSError(f"NETWORK_CONNECTION: {error}") from None
    except ClientError as error:
        raise OSError(f"{error.response['Error']['Code']}: {error}") from None


def _endpoint() -> str | None:
    if _State.config.endpoint:
        return _State.config.endpoint
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            return names.check_endpoint(name, os.environ[name])
    return None


def _region() -> str | None:
    names = ("AWS_REGION", "AWS_DEFAULT_REGION")
    return _State.config.region or next((os.environ[name] for name in names if os.environ.get(name)), None)


@functools.lru_cache(maxsize=32)
def _s3(bucket: str) -> Any:
    """A pyarrow client for a bucket, with this process's settings."""
    config, endpoint = _State.config, _endpoint()
    options: dict[str, Any] = {"region": _region()}
    if endpoint:
        parts = urlsplit(endpoint)
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        options["region"] = options["region"] or "us-east-1"
    elif options["region"] is None:
        options["region"] = _resolved(bucket)
    return pafs.S3FileSystem(
        anonymous=config.anonymous,
        connect_timeout=min(_CONNECT, config.timeout),
        request_timeout=config.timeout,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=config.retries),
        allow_delayed_open=True,  # one request for a small object
        **options,
    )


def _resolved(bucket: str) -> str:
    """The region that Amazon says a bucket is in."""
    try:
        region: str = pafs.resolve_s3_region(bucket)
    except OSError as error:
        raise UsageError(
            f"s3://{bucket}: its region can't be found out: {store_errors.reason(error)}; give storage.region, or "
            "storage.endpoint of another store than Amazon's"
        ) from None
    return region


@functools.lru_cache(maxsize=1)
def _gcs() -> Any:
    anonymous = _State.config.anonymous or "CLOUD_STORAGE_EMULATOR_ENDPOINT" in os.environ  # which has no credentials
    return pafs.GcsFileSystem(anonymous=anonymous, retry_time_limit=timedelta(seconds=_GOOGLE))


@functools.lru_cache(maxsize=1)
def _client() -> Any:
    """A boto3 client with the same settings, for what pyarrow lacks."""
    import boto3  # noqa: PLC0415 - takes a third of a second, and only object stores need it
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    signing = {"signature_version": UNSIGNED} if _State.config.anonymous else {}
    options = Config(connect_timeout=2.0, read_timeout=5.0, retries={"total_max_attempts": 2}, **signing)
    return boto3.Session().client("s3", endpoint_url=_endpoint(), region_name=_region() or "us-east-1", config=options)


def diagnose(uri: str) -> None:
    """UsageError where the reason for a failure is that a bucket can't be used at all: pyarrow's errors don't tell."""
    if _State.patience or not uri.startswith(("s3://", "gs://")):
        return
    scheme, bucket, _ = names.parse(uri)
    if scheme == "s3":
        _probe(bucket)
    else:
        with contextlib.suppress(OSError):  # to look at a bucket may be forbidden
            if _gcs().get_file_info(bucket).type == pafs.FileType.NotFound:
                raise UsageError(f"gs://{bucket}: no such bucket; check its name")


@functools.lru_cache(maxsize=32)
def _probe(bucket: str) -> None:
    """List the bucket; a policy that forbids that is no reason."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError  # noqa: PLC0415

    where = f"s3://{bucket}" + (f" at {_endpoint()}" if _endpoint() else "")
    try:
        _client().list_objects_v2(Bucket=bucket, MaxKeys=1)
    except NoCredentialsError:
        raise UsageError(
            f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.profile, or "
            "storage.anonymous=true for a public bucket"
        ) from None
    except ClientError as error:
        meaning = {
            "NoSuchBucket": "no such bucket; check its name and storage.endpoint",
            "InvalidAccessKeyId": "the access key is not known there; check AWS_ACCESS_KEY_ID and storage.profile",
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

    def __init__(self, inner: Any, scheme: str, patience: float) -> None:
        self.inner, self._scheme, self._patience = inner, scheme, patience

    def _call(self, name: str, path: Any, *rest: Any) -> Any:
        first = path.base_dir if isinstance(path, pafs.FileSelector) else path
        return self._wait(first, lambda: getattr(self.inner, name)(path, *rest))

    def _wait(self, path: str, action: Callable[[], T]) -> T:
        return patiently(f"{self._scheme}://{path}", action, self._patience)

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
            self._wait(path, lambda: _delete(path))
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
