"""The readers that `loader.py` measures beside raymds, each used as its documentation has it, and what they read.

`loader.py` runs this file in a process of its own for every measurement, by an interpreter that need not have raymds:

    python readers.py write|read NAME JOB       (JOB: the fields of `Job` as JSON; prints JSON)

The exit status is 3 where the reader's library is not installed. Linux alone, for the peak of resident memory.
"""

# ruff: noqa: PLC0415 - a process imports its own reader's library alone

import io
import itertools
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NOT_INSTALLED = 3
REQUESTS = 16  # at a time, where every image is an object
BUFFER = 2**20  # bytes that a stream reads ahead

Images = Iterable[tuple[int, int]]  # as they arrive: how many, and the bytes of all of them


@dataclass(frozen=True)
class Job:
    """What a process reads and with what."""

    directory: str  # that the server serves; each format has its folder in the bucket
    images: int
    batch: int
    shard_bytes: int
    size: int  # pixels a side of a tensor
    threads: int
    memory: int  # MiB that raymds keeps
    data: str = "raymds"  # folder of the data set that raymds reads

    @property
    def bucket(self) -> Path:
        """The folder that is the bucket."""
        return Path(self.directory) / BUCKET

    def names(self, folder: str, pattern: str) -> list[str]:
        """Bucket/key of a format's files, in order; listing is not what is measured."""
        return sorted(str(path.relative_to(self.directory)) for path in (self.bucket / folder).glob(pattern))

    def shards(self) -> Iterator[tuple[int, list[Path]]]:
        """The images shard by shard, in order: ten shards at least, so that even few images are streamed."""
        paths = sorted((self.bucket / "images").iterdir())
        count = max(1, self.shard_bytes // (sum(path.stat().st_size for path in paths) // len(paths)))
        count = min(count, -(-len(paths) // 10))
        yield from ((number, paths[i : i + count]) for number, i in enumerate(range(0, len(paths), count)))


BUCKET = "bucket"
Opened = Callable[[], Images]  # opens the data set and reads all of it


def pyarrow_store() -> Any:
    """The server as pyarrow's file system; pyarrow takes the endpoint from no variable."""
    from pyarrow import fs

    parts = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    return fs.S3FileSystem(endpoint_override=parts.netloc, scheme=parts.scheme, allow_delayed_open=True)


def boto3_client() -> Any:
    """The server as a boto3 client that has a connection for each thread."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(max_pool_connections=REQUESTS))


def objects_boto3(job: Job) -> Opened:
    """One object per image, by boto3's get_object in threads."""
    client = boto3_client()

    def get(name: str) -> tuple[int, int]:
        bucket, _, key = name.partition("/")
        return 1, len(client.get_object(Bucket=bucket, Key=key)["Body"].read())

    return lambda: _in_threads(get, job.names("images", "*.jpg"))


def objects_pyarrow(job: Job) -> Opened:
    """One object per image, by pyarrow in threads."""
    store = pyarrow_store()

    def get(name: str) -> tuple[int, int]:
        with store.open_input_file(name) as file:
            return 1, len(file.read())

    return lambda: _in_threads(get, job.names("images", "*.jpg"))


def _in_threads(get: Callable[[str], tuple[int, int]], names: list[str]) -> Images:
    with ThreadPoolExecutor(REQUESTS) as pool:
        yield from pool.map(get, names)


def _webdataset(job: Job) -> Any:
    import webdataset as wds

    def opened(url: str, *_: Any) -> _Buffered:
        client, parts = boto3_client(), urlsplit(url)
        return _Buffered(client.get_object(Bucket=parts.netloc, Key=parts.path[1:])["Body"])

    wds.gopen_schemes["s3"] = opened
    return wds.WebDataset([f"s3://{name}" for name in job.names("webdataset", "*.tar")], shardshuffle=False)


class _Buffered:
    """A botocore stream read a mebibyte at a time, as tarfile asks for a few kilobytes."""

    def __init__(self, body: Any) -> None:
        self._body, self._held = body, io.BytesIO()

    def read(self, size: int) -> bytes:
        data = self._held.read(size)
        while len(data) < size and (more := self._body.read(max(BUFFER, size))):
            self._held = io.BytesIO(more)
            data += self._held.read(size - len(data))
        return data

    def close(self) -> None:
        self._body.close()


def webdataset(job: Job) -> Opened:
    """Tar shards, streamed one after the other in this process."""
    pipeline = _webdataset(job)
    return lambda: ((1, len(sample["jpg"])) for sample in pipeline)


def webdataset_workers(job: Job) -> Opened:
    """Tar shards, streamed by worker processes of a torch DataLoader."""
    return _by_workers(_webdataset(job), job, "jpg")


def _mosaic(job: Job) -> Any:
    from streaming import StreamingDataset

    # A fresh local folder, so that every byte comes from the server.
    local = tempfile.mkdtemp(dir=job.directory)
    return StreamingDataset(remote=f"s3://{BUCKET}/mosaic", local=local, shuffle=False, batch_size=job.batch)


def mosaic(job: Job) -> Opened:
    """MDS shards, fetched by the threads of mosaicml-streaming, read in this process."""
    import streaming  # noqa: F401 - imported before the clock starts

    return lambda: ((1, len(sample["jpg"])) for sample in _mosaic(job))


def mosaic_workers(job: Job) -> Opened:
    """MDS shards, fetched and read by worker processes of a torch DataLoader."""
    import streaming  # noqa: F401

    def images() -> Images:
        return _by_workers(_mosaic(job), job, "jpg")()

    return images


def _by_workers(dataset: Any, job: Job, key: str) -> Opened:
    """In lists of a batch, which cost less between processes than images one by one."""
    from torch.utils.data import DataLoader

    def images() -> Images:
        loader = DataLoader(dataset, batch_size=job.batch, num_workers=job.threads, collate_fn=list)
        return ((len(samples), sum(len(sample[key]) for sample in samples)) for samples in loader)

    return images


def ray_data(job: Job) -> Opened:
    """Parquet files, read by Ray Data in a Ray of this machine, started before the clock."""
    import aiohttp  # noqa: F401 - Ray Data's list of files needs it
    import ray

    cpus = len(os.sched_getaffinity(0))
    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    store, names = pyarrow_store(), job.names("parquet", "*.parquet")

    def images() -> Images:
        data = ray.data.read_parquet(names, filesystem=store, columns=["image"])
        for table in data.iter_batches(batch_size=job.batch, batch_format="pyarrow"):
            yield len(table), sum(len(image.as_buffer()) for image in table["image"])

    return images


def write_webdataset(job: Job) -> None:
    """Tar files of images."""
    for number, paths in job.shards():
        with tarfile.open(job.bucket / "webdataset" / f"{number:05d}.tar", "w") as tar:
            for path in paths:
                tar.add(path, path.name)


def write_mosaic(job: Job) -> None:
    """MDS files, uncompressed as JPEGs don't compress."""
    from streaming import MDSWriter

    out = str(job.bucket / "mosaic")
    with MDSWriter(out=out, columns={"jpg": "bytes"}, size_limit=job.shard_bytes, exist_ok=True) as writer:
        for path in itertools.chain.from_iterable(paths for _, paths in job.shards()):
            writer.write({"jpg": path.read_bytes()})


def write_parquet(job: Job) -> None:
    """Parquet files with one column, as a user of Ray Data would have them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, paths in job.shards():
        table = pa.table({"image": pa.array([path.read_bytes() for path in paths], pa.large_binary())})
        target = job.bucket / "parquet" / f"{number:05d}.parquet"
        pq.write_table(table, target, compression="NONE", use_dictionary=False)


READERS: dict[str, Callable[[Job], Opened]] = {
    "webdataset": webdataset,
    "webdataset, DataLoader workers": webdataset_workers,
    "mosaicml-streaming": mosaic,
    "mosaicml-streaming, DataLoader workers": mosaic_workers,
    "Ray Data": ray_data,
    "one object per image, boto3": objects_boto3,
    "one object per image, pyarrow": objects_pyarrow,
}
WRITERS = {"webdataset": write_webdataset, "mosaic": write_mosaic, "parquet": write_parquet}


def resident(peak: bool = False) -> int:
    """Bytes of this process in memory, now or at most so far; getrusage would count the parent's, too."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(opened: Opened) -> dict[str, float]:
    """Read everything once: seconds from before the data set is opened, and memory."""
    images, size, first, batch, before = 0, 0, 0.0, 0, resident()
    begin, used = time.perf_counter(), time.process_time()
    for count, bytes_ in opened():
        if not images:
            first, batch = time.perf_counter() - begin, count
        images += count
        size += bytes_
    seconds = time.perf_counter() - begin
    return {
        "images": images,
        "bytes": size,
        "seconds": seconds,
        "first": first,
        "batch": batch,  # images that came first
        "cpu": time.process_time() - used,  # of all threads
        "before": before,
        "peak": resident(peak=True),
    }


def main() -> None:
    """One measurement, or one data set."""
    action, name, fields = sys.argv[1:]
    job = Job(**json.loads(fields))
    try:
        if action == "write":
            WRITERS[name](job)
        else:
            print(json.dumps(measure(READERS[name](job))))
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_INSTALLED)


if __name__ == "__main__":
    main()
