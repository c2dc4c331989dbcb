"""Reads from buckets whose requester pays, which every request has to say: botocore's can, pyarrow's can't."""

import io
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from raymds.store import aws
from raymds.store.aws import StorageConfig


class Client:
    """What of pyarrow's client of a bucket is used here; pyarrow itself writes, and says nothing of paying."""

    def __init__(self, bucket: str, config: StorageConfig) -> None:
        self._bucket, self._config = bucket, config

    def equals(self, other: object) -> bool:
        """Whether another client reads the same."""
        return isinstance(other, Client) and self._config == other._config

    def normalize_path(self, path: str) -> str:
        """The path, as none has two spellings."""
        return path

    def get_file_info(self, asked: Any) -> Any:
        """Of bucket/key what is there; of a selector all that is below its directory."""
        if isinstance(asked, pafs.FileSelector):
            return self._listed(asked)
        bucket, _, key = asked.partition("/")
        if key:
            try:
                found = aws.request(self._config, "head_object", Bucket=bucket, Key=key)
            except FileNotFoundError:
                pass
            else:
                return pafs.FileInfo(asked, pafs.FileType.File, size=found["ContentLength"])
        prefix = f"{key.rstrip('/')}/" if key else ""
        page = aws.request(self._config, "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        there = "Contents" in page or not key
        return pafs.FileInfo(asked, pafs.FileType.Directory if there else pafs.FileType.NotFound)

    def open_input_file(self, path: str) -> Any:
        """An object to be read in parts, a request for each; FileNotFoundError where there is none."""
        return pa.PythonFile(_Object(path, self._config), mode="r")

    open_input_stream = open_input_file

    def open_output_stream(self, path: str) -> Any:
        """What is there when it is closed."""
        return aws.pyarrow(self._bucket, self._config).open_output_stream(path)

    def _listed(self, asked: Any) -> list[Any]:
        bucket, _, key = asked.base_dir.partition("/")
        prefix = f"{key.rstrip('/')}/" if key else ""
        options = {"Bucket": bucket, "Prefix": prefix} | ({} if asked.recursive else {"Delimiter": "/"})
        found: list[Any] = []
        page = {"NextContinuationToken": ""}
        while "NextContinuationToken" in page:
            token = page["NextContinuationToken"]
            more = {"ContinuationToken": token} if token else {}
            page = aws.request(self._config, "list_objects_v2", **options, **more)
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    found.append(pafs.FileInfo(f"{bucket}/{item['Key']}", pafs.FileType.File, size=item["Size"]))
            for item in page.get("CommonPrefixes", ()):
                found.append(pafs.FileInfo(f"{bucket}/{item['Prefix'].rstrip('/')}", pafs.FileType.Directory))
        if not found and not asked.allow_not_found:
            raise FileNotFoundError(f"{asked.base_dir}: no such directory")
        return found


class _Object(io.RawIOBase):
    """An object, whose size is asked for first."""

    def __init__(self, path: str, config: StorageConfig) -> None:
        super().__init__()
        bucket, _, key = path.partition("/")
        self._where, self._config, self._at = {"Bucket": bucket, "Key": key}, config, 0
        self._size = int(aws.request(config, "head_object", **self._where)["ContentLength"])

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
        end = self._size if length < 0 else min(self._at + length, self._size)
        if end <= self._at:
            return b""
        data: bytes = aws.request(self._config, "get_object", **self._where, Range=f"bytes={self._at}-{end - 1}")[
            "Body"
        ]
        self._at += len(data)
        return data
