"""Reads from buckets whose requester pays, which every request has to say: botocore's can, pyarrow's can't."""

from typing import Any

from pyarrow import fs as pafs

from raymds.store import aws
from raymds.store.aws import StorageConfig
from raymds.store.parts import in_parts


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
        bucket, _, key = path.partition("/")
        where = {"Bucket": bucket, "Key": key}

        def part(start: int, length: int) -> bytes:
            asked = f"bytes={start}-{start + length - 1}"
            data: bytes = aws.request(self._config, "get_object", **where, Range=asked)["Body"]
            return data

        size = int(aws.request(self._config, "head_object", **where)["ContentLength"])
        return in_parts(size, part)

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
