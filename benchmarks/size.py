"""What raymds itself costs at the size of real data sets: its start, and its part of a step, beside no model at all.

    python benchmarks/size.py [--classes 5 364 5000] [--rows 10000 100000 1000000 10000000] [--steps 20] [--json FILE]

A manifest and a labels file of random rows are made, without images, and each size has a process of its own, the one
with fewer than 20 rows a class none. Published batches: 256 pairs and all 5 tasks × 10 images, else 64 pairs and 240
tasks × 2 images.

Times are those of the processor, as a busy machine's clock counts what others do.

- start: seconds until the first batch could be drawn: manifest, tasks, counts of all classes, labels, sampler, first
  batch; `labels file` is what reading and decoding that file alone takes, `beyond labels file` all but that; `pinning`
  comes on top for a split that does not fit in data.memory. MiB: the peak, above that of a process that has imported.
- step: medians in milliseconds: of `sampler.batch`; of the constrained step, `whole step` with towers that compute
  nothing, `step` without the calls into model and optimiser; the mean of its records on their way to
  TensorBoard, with the thread that writes them.
- read: one of 8 ranks streams the split through `Loader`, in windows of as many shards as data.memory has by default.
  `GB pinned`: what it fetches before the first step, its part of the shards with positives and retained examples,
  beside what it would fetch `by each for itself`, the share `pinned` of the split. `GB of steps`: in those of two
  windows, dealt by shards, beside those `of slices` of the batch. `fetched/part`: the shards that it fetches by an
  eighth of those that the steps of all ranks use (1: each is fetched by one rank, 8: by all); `fetched/used`: the bytes
  that it fetches by those that it uses, where rows that are pinned lie in every shard.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from raymds.config import Config, load
from raymds.data import loader, shards
from raymds.data.exchange import pin
from raymds.data.loader import Loaded, Loader
from raymds.data.pinned import Pinned
from raymds.data.reader import Columns, Example, File, Reader
from raymds.data.sampler import Batch, Sampler
from raymds.data.shards import DataSet, Shard
from raymds.data.split import Split
from raymds.log import MetricsLog
from raymds.model import ClipWithHeads
from raymds.model.identity import Asked, identify
from raymds.run import RunDirectory
from raymds.store import uri as storage
from raymds.tasks import Tasks, resolve
from raymds.train import cycle, limits, prepared, seeing

CLASSES, ROWS = (5, 364, 5000), (10_000, 100_000, 1_000_000, 10_000_000)
LEAST = 20  # rows of a class
PER_SHARD, SHARD_BYTES = 128, 8 * 10**6  # as images of 60 KB are ingested
RANKS, RANK, STREAMED = 8, 3, 2  # ranks; the one that reads; windows that go by
PRINTS = 24  # bytes of a row's prints in a labels file


def data_set(folder: Path, classes: int, rows: int) -> str:
    """A data set whose shards are nowhere: train of `rows`, val and test of a tenth."""
    dice, kinds = np.random.default_rng(0), np.array([f"kind {k}" for k in range(classes)])
    splits: dict[str, list[Shard]] = {}
    tables: dict[str, Any] = {}
    for split, count in (("train", rows), ("val", rows // 10), ("test", rows // 10)):
        of = np.append(np.arange(classes), dice.integers(classes, size=max(0, count - classes)))
        dice.shuffle(of)
        prints = pa.py_buffer(dice.bytes(PRINTS * len(of)))
        columns = {
            "kind": pa.DictionaryArray.from_arrays(of.astype(np.int32), kinds).cast(pa.string()),
            "group": pa.nulls(len(of), pa.string()),
            "pixels": pa.Array.from_buffers(pa.binary(8), len(of), [None, prints]),
            "likeness": pa.Array.from_buffers(pa.binary(16), len(of), [None, prints]),
        }
        tables[split] = pa.table(columns)
        splits[split] = []
        for number, start in enumerate(range(0, len(of), PER_SHARD)):
            found, counts = np.unique(of[start : start + PER_SHARD], return_counts=True)
            own = {"kind": dict(zip(kinds[found].tolist(), counts.tolist(), strict=True))}
            size = int(counts.sum())
            splits[split].append(Shard(f"{split}-{number:06d}.parquet", size, SHARD_BYTES, 64 * "0", own))
    source = {"made_by": "benchmarks/size.py"}
    manifest = shards._manifest(str(folder), {"kind": kinds.tolist()}, splits, tables, source) | {"shuffled": True}
    content = json.dumps(manifest | {"digest": shards._digest(manifest)}, indent=1)
    (folder / shards.MANIFEST).write_text(content)
    return str(folder)


def configured(uri: str, classes: int) -> Config:
    """A cycle with defaults, but for the published batches."""
    batch, tasks, images = (256, "all", 10) if classes < 240 else (64, 240, 2)
    settings = [
        f"data.uri={uri}",
        "run.uri=none",
        "task.target=kind:kind 0",
        "task.protect=[kind]",
        'task.prompts.kind="a photo of a {}."',
        f"objective.batch={batch}",
        f"constraints.tasks_per_step={tasks}",
        f"constraints.images_per_task={images}",
    ]
    return load(Config, None, settings)


class Clock:
    """Seconds of this process's processors by name: those of a busy machine's clock are other programs', too."""

    def __init__(self) -> None:
        self.within = 0.0
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Note what the body takes."""
        begin = time.process_time()
        yield
        self.seconds.setdefault(name, []).append(time.process_time() - begin)

    def inside(self, thing: Any, *methods: str) -> None:
        """Add up the time in some methods of an object as `self.within`, that of one inside another once."""
        for method in methods:
            setattr(thing, method, self._timed(getattr(thing, method)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            begin, before = time.process_time(), self.within
            found = function(*arguments, **named)
            self.within = before + time.process_time() - begin
            return found

        return timed


class Nothing(nn.Module):
    """An image tower: one row of parameters, the same embedding of every image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.ones(width))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, D)."""
        return self.row.expand(len(pixels_BCHW), -1)


def empty_model(heads: list[str]) -> ClipWithHeads:
    """A model whose towers compute nothing; what is around them is there."""
    about = identify(Asked("tiny-64"), None)
    about = dataclasses.replace(about, model_cfg=about.model_cfg | {"embed_dim": 8})
    net = ClipWithHeads(about, heads, 1, 0)
    net.clip.visual = Nothing(8)
    width = net.clip.text.width
    net._trunk = lambda tokens_UL: torch.ones(len(tokens_UL), width)  # type: ignore[method-assign]
    net.requires_grad_(False).clip.visual.requires_grad_(True)
    return net


def begin(config: Config, clock: Clock) -> tuple[Split, Tasks, Sampler]:
    """Everything until the first batch is drawn."""
    with clock("manifest"):
        data = DataSet.open(config.data.uri)
    with clock("tasks"):
        tasks = resolve(config.task, data.attributes)
    with clock("counts"):
        prepared.check_examples(config, data, tasks)
    with clock("labels"):
        train = data.load("train", tasks.vocabularies)
    with clock("sampler"):
        sampler = limits.build_sampler(train, tasks, config)
    with clock("first batch"):
        sampler.batch(0)
    return train, tasks, sampler


def read_labels(config: Config) -> None:
    """What reading the labels file takes at least."""
    path = Path(config.data.uri, "labels-train.parquet")
    content = path.read_bytes()
    storage.sha256(content)
    pq.read_table(pa.BufferReader(content))


def steps(config: Config, parts: tuple[Split, Tasks, Sampler], count: int, clock: Clock) -> None:
    """The host's part of `count` steps."""
    train, tasks, sampler = parts
    training = cycle.ConstrainedCycle(empty_model(tasks.heads), train, tasks, sampler, config)
    # What a step does with a model: without it the host's part is left.
    clock.inside(training.model, "cosines", "encode_text", "encode_image")
    clock.inside(training._learner, "embed", "descend", "gradient")
    training.old_losses = [torch.zeros(len(rows), dtype=torch.float64) for rows in sampler.seen]
    records: list[dict[str, Any]] = []
    for step in range(count + 2):
        with clock("batch"):
            batch = sampler.batch(step)
        loaded, clock.within = blank(batch), 0.0
        training.model.whole(loaded.captions)  # as the loader's threads read them
        with clock("whole step"):
            metrics = training.step(loaded).metrics()
        clock.seconds.setdefault("step", []).append(clock.seconds["whole step"][-1] - clock.within)
        records.append({"event": "step", "step": step + 1, **metrics})
    with tempfile.TemporaryDirectory() as folder:
        log, boards = MetricsLog(folder), seeing.Boards(RunDirectory(folder))
        start = {"event": "start", "step": 0, "tasks": [task.name for task in tasks.protected]}
        begin = time.process_time()
        for record in [start, *records]:
            log.add(record)
            boards.add(record)
        boards.close()  # waits for its thread
        clock.seconds["records"] = [(time.process_time() - begin) / len(records)]


def blank(batch: Batch) -> Loaded:
    """A batch with images of one pixel."""
    pairs = len(batch.positive) + len(batch.negative)
    pixels = torch.zeros(pairs + 2 * len(batch.example), 3, 1, 1, dtype=torch.uint8)
    example, held = pixels[pairs:].chunk(2)
    captions = [f"photo {row % 1000} of something" for row in [*batch.positive.tolist(), *batch.negative.tolist()]]
    return Loaded(batch, pixels[:pairs], captions, example, [], None if batch.held is None else held)


class Counting(Reader):
    """Fetches nothing, and counts how much that would have been."""

    def __init__(self, files: list[File], memory: int) -> None:
        super().__init__(files, memory)
        self.fetched, self._counting = 0, threading.Lock()

    def _fetch(self, file: File) -> Columns:
        with self._counting:
            self.fetched += file.bytes
        return Columns([""] * PER_SHARD, [memoryview(b" ")] * PER_SHARD, [""] * PER_SHARD)


def streamed(split: Split, sampler: Sampler, clock: Clock) -> dict[str, float]:
    """What one of 8 ranks fetches before the first step and in the steps of two windows, and what it would alone."""

    def emptied(pinned: Pinned) -> tuple[Split, Counting]:
        reader = Counting([file for file, _ in split.files], 2 * split.window * SHARD_BYTES)
        return dataclasses.replace(split, reader=reader, shard=0, pinned=pinned), reader

    fresh = np.ones(len(split), dtype=bool)
    fresh[sampler.recurring] = False  # what is pinned is not fetched again
    (own, alone), (part, shared) = emptied(Pinned()), emptied(Pinned())
    with clock("pinning"):
        pin(own, sampler.recurring)
    for _ in part.part(sampler.recurring, RANK, RANKS):
        pass

    def steps(dealt: bool) -> tuple[int, float, float]:
        """Bytes that are fetched, by the rank's part of the shards that all ranks use, and by the bytes it uses."""
        reading, reader = emptied(own.pinned)

        def share(step: int) -> Batch:
            batch = sampler.batch(step)
            along = batch.negative_along if dealt else None
            return dataclasses.replace(batch, negative_along=along).share(RANK, RANKS)

        source, used, touched = Loader(reading, share, NO_FIT, 0), 0, set[int]()
        for step in range(STREAMED * split.window * PER_SHARD // sampler.negatives):
            used += int(fresh[source.get(step).batch.negative].sum())
            drawn = sampler.batch(step).negative
            touched.update(split.shard_of(drawn[fresh[drawn]]).tolist())
        source.close()
        shards = reader.fetched / SHARD_BYTES
        return reader.fetched, RANKS * shards / max(len(touched), 1), shards * PER_SHARD / max(used, 1)

    (slices, of_slices, _), (fetched, of_part, of_used) = steps(False), steps(True)
    found = {
        "fetched/part": of_part, "fetched/part of slices": of_slices, "fetched/used": of_used,
        "pinned": alone.fetched / (len(split.files) * SHARD_BYTES),
        "GB pinned by each for itself": alone.fetched / 1e9, "GB pinned": shared.fetched / 1e9,
        "GB of slices": slices / 1e9, "GB of steps": fetched / 1e9,
    }  # fmt: skip
    # Where a class has few rows, all of them are pinned, and nothing is left to be fetched.
    return {name: value for name, value in found.items() if value}


class _NoFit:
    size = 1


NO_FIT: Any = _NoFit()


def no_image(split: Split, row: int, *_: Any, **__: Any) -> tuple[np.ndarray, Example]:
    """In place of `loader.load`: asks for the row and makes no pixels of it."""
    return np.zeros((3, 1, 1), np.uint8), split.example(row)


def resident() -> float:
    """MiB of this process at its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def alone(uri: str, classes: int, count: int) -> dict[str, Any]:
    """Everything of one size, in this process."""
    torch.set_num_threads(1)
    config, clock, before = configured(uri, classes), Clock(), resident()
    read_labels(config)  # the first time a library is loaded
    with clock("labels file"):
        read_labels(config)
    parts = begin(config, clock)
    start = {name: taken[0] for name, taken in clock.seconds.items()}
    start["beyond labels file"] = sum(start.values()) - 2 * start["labels file"]
    memory = resident() - before
    steps(config, parts, count, clock)
    read: dict[str, float] = {}
    if parts[0].window:
        loader.load = no_image
        read = streamed(parts[0], parts[2], clock)
        start["pinning"] = clock.seconds["pinning"][0]
    times = {name: [1000 * t for t in clock.seconds[name][2:]] for name in ("batch", "step", "whole step")}
    times["records"] = [1000 * t for t in clock.seconds["records"]]
    return {
        "start": start, "MiB": memory, "step": {name: statistics.median(found) for name, found in times.items()},
        "times": times, "read": read,
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=list(CLASSES))
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--alone", nargs=3, metavar=("URI", "CLASSES", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(alone(options.alone[0], int(options.alone[1]), int(options.alone[2]))))
        return
    result: dict[str, Any] = {}
    for classes in options.classes:
        for rows in (rows for rows in options.rows if rows >= LEAST * classes):
            with tempfile.TemporaryDirectory() as folder:
                arguments = ["--alone", data_set(Path(folder), classes, rows), str(classes), str(options.steps)]
                command = [sys.executable, __file__, *arguments]
                found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
            result[f"{classes} classes, {rows} rows"] = one = json.loads(found.stdout.splitlines()[-1])
            show(f"{classes} classes, {rows:,} rows", one)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def show(title: str, found: Mapping[str, Any]) -> None:
    """Print one size."""
    print(title)
    print("  start", ", ".join(f"{name} {value:.2f} s" for name, value in found["start"].items()), end="; ")
    print(f"{found['MiB']:.0f} MiB")
    print("  step ", ", ".join(f"{name} {value:.2f} ms" for name, value in found["step"].items()))
    print("  read ", ", ".join(f"{name} {value:.2f}" for name, value in found["read"].items()) or "fits", flush=True)


if __name__ == "__main__":
    main()
