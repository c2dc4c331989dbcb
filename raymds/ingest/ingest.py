"""A plan of rows into a data set: one Ray task per shard, the same bytes on any cluster.

Beside its shards the data set's directory gets `ingest/SHARD.json`, one record per finished shard. An ingest that was
killed goes on: a shard is kept if its record is of the same rows, folder of images and settings, and its bytes have
the recorded SHA-256. The records stay there; nothing reads them once the manifest is published.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import ray

from raymds.data.config import IngestConfig
from raymds.data.decode import shrink
from raymds.data.shards import MANIFEST, DataSet, Row, Shard, write_manifest, write_shard
from raymds.errors import RaymdsError, UsageError
from raymds.ingest.sources import Entry, Plan, shuffled
from raymds.ingest.spool import Piece
from raymds.store import objects
from raymds.store import uri as storage

Broken = dict[str, str]  # image as its plan names it (or id of its row) -> where it is and what is wrong with it

_NAMED = 10  # broken images in a message
_READS = 16  # of images at a time, in a task
_QUEUED = 2  # tasks in flight per CPU: one runs, one waits


class Job(NamedTuple):
    """One shard to be."""

    split: str
    name: str
    entries: list[Entry]
    digest: str  # of rows and settings, with images by name where they are named


def run(uri: str, plan: Plan, config: IngestConfig, show: Callable[[dict[str, Any]], None]) -> DataSet:
    """Read, resize and publish all rows of a plan; Ray has to be started. `show` gets progress records.

    All images are tried; UsageError with the broken ones where they are more than `config.max_broken`. A data set that
    is there already is returned if it was made from this plan and config; UsageError if from another.
    """
    uri = storage.absolute(uri)
    jobs = list(_jobs(plan, config))
    digest = storage.sha256("".join(f"{job.name} {job.digest}\n" for job in jobs).encode())
    if storage.exists(storage.join(uri, MANIFEST)):
        found = DataSet.open(uri)
        if found.source.get("plan") != digest:
            raise UsageError(f"{uri}: already holds another data set; give another directory")
        show({"event": "note", "note": f"{uri} is there already, of these rows and settings: no image is read"})
        return found
    done, total = 0, sum(len(job.entries) for job in jobs)
    shards: dict[str, Shard] = {}
    broken: Broken = {}
    for job, (shard, lost) in _results(uri, plan, config, jobs):
        shards[job.name] = shard
        broken |= lost
        done += len(job.entries)
        show({"event": "progress", "what": "images ingested", "done": done, "total": total})
    if len(broken) > config.max_broken:
        raise UsageError(_complaint(broken, total, config.max_broken))
    splits = _by_split(uri, jobs, shards, broken)
    settings = {key: value for key, value in asdict(config).items() if key not in {"max_broken", "storage"}}
    source = {"made_by": f"raymds data ingest {plan.source}", **settings, "plan": digest, "broken": sorted(broken)}
    return write_manifest(uri, plan.attributes, splits, source, shuffled=True)


def _by_split(uri: str, jobs: Sequence[Job], shards: Mapping[str, Shard], broken: Broken) -> dict[str, list[Shard]]:
    """Shards of each split; UsageError where all images of one are broken, whatever `max_broken` allows."""
    splits: dict[str, list[Shard]] = {}
    for job in jobs:
        splits.setdefault(job.split, []).append(shards[job.name])
    empty = next((split for split, found in splits.items() if not any(shard.rows for shard in found)), None)
    if empty:
        raise UsageError(
            f"{uri}: no image of {empty} is left, all are broken, such as {next(iter(broken.values()))}; mend them, or "
            "leave their rows out of the label files"
        )
    return splits


def _jobs(plan: Plan, config: IngestConfig) -> Iterator[Job]:
    """Rows of each split in the order drawn by seed, so that every shard is a random sample of its split."""
    settings = [config.resize, config.quality, plan.attributes]
    for split, entries in plan.splits.items():
        rows = shuffled(entries, config.seed, "order")
        for number, start in enumerate(range(0, len(rows), config.rows_per_shard)):
            part = rows[start : start + config.rows_per_shard]
            content = [row if isinstance(row.image, str) else row._replace(image=row.image.sha256) for row in part]
            digest = storage.sha256(json.dumps([settings, content]).encode())
            yield Job(split, f"{split}-{number:05d}.parquet", part, digest)


def _results(
    uri: str, plan: Plan, config: IngestConfig, jobs: Sequence[Job]
) -> Iterator[tuple[Job, tuple[Shard, Broken]]]:
    """Jobs with what their tasks return, as they finish; a user's error in a task comes out as itself."""
    task: Any = ray.remote(num_cpus=1)(_attempt)
    waiting = list(reversed(jobs))
    running: dict[Any, Job] = {}
    while waiting or running:
        # Asked again each time: a cluster may grow.
        cpus = int(cast(Any, ray).cluster_resources().get("CPU", 1))
        free = _QUEUED * max(1, cpus) - len(running)
        for _ in range(min(free, len(waiting))):
            job = waiting.pop()
            running[task.remote(uri, plan.root, plan.attributes, config, job)] = job
        (finished,), _ = ray.wait(list(running), num_returns=1)
        result = ray.get(finished)
        if isinstance(result, RaymdsError):
            raise result
        yield running.pop(finished), result


def _attempt(*arguments: Any) -> tuple[Shard, Broken] | RaymdsError:
    """A user's error is returned, not raised: Ray would wrap it, and print those of the tasks nobody asks any more."""
    config: IngestConfig = arguments[3]
    objects.configure(config.storage, lambda record: None)  # a store that is gone is waited for
    try:
        return make_shard(*arguments)
    except RaymdsError as error:
        return error


def make_shard(
    uri: str, root: str, attributes: Mapping[str, Sequence[str]], config: IngestConfig, job: Job
) -> tuple[Shard, Broken]:
    """Write one shard and its record, or keep those that are there; returns the images left out, too.

    A shard without some of its images is made again, because they may have been mended.
    """
    record = storage.join(uri, "ingest", job.name.replace(".parquet", ".json"))
    kept = _kept(uri, record, job, root)
    if kept is not None:
        return kept, {}
    rows: list[Row] = []
    broken: Broken = {}
    for entry, (name, where, data) in _images(job.entries, root):
        if data is None:
            broken[name] = f"{where}: no such file"
            continue
        try:
            image = shrink(data, config.resize, config.quality)
        except ValueError as error:
            broken[name] = f"{where}: {error}"
            continue
        labels = dict(zip(attributes, entry.labels, strict=True))
        rows.append(Row(entry.id, image, entry.caption, labels, entry.group))
    shard = write_shard(uri, job.name, rows, attributes)
    storage.write_json(record, {"job": job.digest, "images": root, "shard": asdict(shard), "broken": broken})
    return shard, broken


def _kept(uri: str, record: str, job: Job, root: str) -> Shard | None:
    text = storage.read_or_none(record)
    if text is None:
        return None
    found = json.loads(text)
    if found["job"] != job.digest or found.get("images", root) != root or found["broken"]:
        return None
    shard = Shard(**found["shard"])
    data = storage.read_or_none(storage.join(uri, job.name))
    return shard if data is not None and storage.sha256(data) == shard.sha256 else None


def _images(entries: Sequence[Entry], root: str) -> Iterator[tuple[Entry, tuple[str, str, bytes | None]]]:
    """Entries with their image's name, where it is, and its bytes (None: no such file), read some at a time.

    A disk of a cloud or a store takes milliseconds for each, however small it is.
    """

    def read(entry: Entry) -> tuple[str, str, bytes | None]:
        if isinstance(entry.image, Piece):
            return entry.id, entry.id, entry.image.read()
        where = storage.within(root, entry.image)
        return entry.image, where, _read(where)

    with ThreadPoolExecutor(_READS) as pool:
        for start in range(0, len(entries), _READS):
            part = entries[start : start + _READS]
            yield from zip(part, pool.map(read, part), strict=True)


def _read(uri: str) -> bytes | None:
    """All bytes, None where there is no such file; a storage that fails is not a broken image."""
    try:
        return storage.read(uri)
    except UsageError:
        if storage.exists(uri):
            raise
        return None


def _complaint(broken: Broken, total: int, most: int) -> str:
    named = "".join(f"\n  {broken[name]}" for name in sorted(broken)[:_NAMED])
    more = f"\n  and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return (
        f"{len(broken)} of {total} images are broken, more than max_broken={most}: mend them, or leave them out with "
        f"max_broken={len(broken)}{named}{more}"
    )
