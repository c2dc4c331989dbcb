"""A data set of rendered driving scenes: the same shards for the same config, on any number of processes."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from typing import Any

import simplejpeg

from raymds.data.config import ScenesConfig
from raymds.data.shards import MANIFEST, DataSet, Row, Shard, write_manifest, write_shard
from raymds.errors import UsageError
from raymds.scenes import render as scenes
from raymds.store import objects
from raymds.store import uri as storage


def make(uri: str, config: ScenesConfig, processes: int, show: Callable[[dict[str, Any]], None]) -> DataSet:
    """Render all splits into shards and publish them; `show` gets progress records.

    A data set that is there already is returned if it was made by this config; UsageError if by another.
    """
    settings = {key: value for key, value in asdict(config).items() if key != "storage"}
    source = {"made_by": "raymds data scenes", **settings}
    objects.configure(config.storage)
    if storage.exists(storage.join(uri, MANIFEST)):
        found = DataSet.open(uri)
        if found.source != source:
            raise UsageError(f"{uri}: already holds another data set; give another directory")
        return found
    for frequencies in (config.frequencies, config.balanced):
        scenes.draw_attributes(0, 0, _complete(frequencies, scenes.BALANCED))  # bad names are found before a start
    jobs = _jobs(uri, config)
    total, done = sum(len(job[3]) for job in jobs), 0
    shards: dict[str, Shard] = {}
    # Spawned, not forked: the parent may hold threads (and their locks) of the libraries that encode images.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_render, *job): job for job in jobs}
        for future in as_completed(futures):
            shard = future.result()
            shards[shard.file] = shard
            done += shard.rows
            show({"event": "progress", "what": "images rendered", "done": done, "total": total})
    splits: dict[str, list[Shard]] = {}
    for _, split, name, _, _ in jobs:
        splits.setdefault(split, []).append(shards[name])
    return write_manifest(uri, scenes.ATTRIBUTES, splits, source)


Job = tuple[str, str, str, range, ScenesConfig]


def _jobs(uri: str, config: ScenesConfig) -> list[Job]:
    """One job per shard; indices run on over the splits, so that no scene is in two of them."""
    jobs: list[Job] = []
    first = 0
    for split, rows in asdict(config.rows).items():
        for number, start in enumerate(range(0, rows, config.rows_per_shard)):
            stop = min(start + config.rows_per_shard, rows)
            jobs.append((uri, split, f"{split}-{number:05d}.parquet", range(first + start, first + stop), config))
        first += rows
    return jobs


def _render(uri: str, split: str, name: str, indices: range, config: ScenesConfig) -> Shard:
    objects.configure(config.storage, lambda record: None)  # a store that is gone is waited for
    default = scenes.LONG_TAILED if split == "train" else scenes.BALANCED
    frequencies = _complete(config.frequencies if split == "train" else config.balanced, default)
    rows = []
    for index in indices:
        scene = scenes.render(config.seed, index, config.size, frequencies)
        image = simplejpeg.encode_jpeg(scene.pixels, quality=config.quality, colorsubsampling="444")
        rows.append(Row(f"scene-{config.seed}-{index:07d}", image, scene.caption, scene.attributes))
    return write_shard(uri, name, rows, scenes.ATTRIBUTES)


def _complete(given: dict[str, dict[str, float]], default: Any) -> dict[str, dict[str, float]]:
    """`given` weights over `default` ones, class by class."""
    return {name: {**default.get(name, {}), **given.get(name, {})} for name in {**default, **given}}
