"""Data sets of pictures made by a program: the same shards for the same config, on any number of processes."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from typing import Any, NamedTuple

import simplejpeg
from numpy.typing import NDArray

from raymds.data.config import GlyphsConfig, ScenesConfig
from raymds.data.shards import MANIFEST, DataSet, Row, Shard, write_manifest, write_shard
from raymds.errors import UsageError
from raymds.scenes import glyphs
from raymds.scenes import render as scenes
from raymds.store import objects
from raymds.store import uri as storage

Show = Callable[[dict[str, Any]], None]
Config = ScenesConfig | GlyphsConfig


class Kind(NamedTuple):
    """What is drawn."""

    verb: str  # of `raymds data`
    attributes: Mapping[str, Sequence[str]]  # vocabularies
    row: Callable[[Any, str, int, int], Row]  # of the config, a split, a picture's index, its place in the split


class Job(NamedTuple):
    """One shard to be."""

    uri: str
    kind: Kind
    config: Config
    split: str
    name: str
    first: int  # index of the split's first picture
    places: range  # of the shard's pictures in the split


def make(uri: str, config: ScenesConfig, processes: int, show: Show) -> DataSet:
    """Render driving scenes into shards and publish them; `show` gets progress records.

    A data set that is there already is returned if it was made by this config; UsageError if by another.
    """
    for frequencies in (config.frequencies, config.balanced):
        scenes.draw_attributes(0, 0, _complete(frequencies, scenes.BALANCED))  # bad names are found before a start
    return _make(uri, Kind("scenes", scenes.ATTRIBUTES, _scene), config, processes, show)


def make_glyphs(uri: str, config: GlyphsConfig, processes: int, show: Show) -> DataSet:
    """The same with things in many classes, `glyphs`: drawn by their frequencies in train, in turn in val and test."""
    classes = glyphs.things(config.classes)
    glyphs.check(config.seed, 0, config.size)
    glyphs.draw_thing(config.seed, 0, classes, config.frequencies)
    return _make(uri, Kind("glyphs", {glyphs.ATTRIBUTE: classes}, _glyph), config, processes, show)


def _make(uri: str, kind: Kind, config: Config, processes: int, show: Show) -> DataSet:
    settings = {key: value for key, value in asdict(config).items() if key != "storage"}
    source = {"made_by": f"raymds data {kind.verb}", **settings}
    objects.configure(config.storage)
    if storage.exists(storage.join(uri, MANIFEST)):
        found = DataSet.open(uri)
        if found.source != source:
            raise UsageError(f"{uri}: already holds another data set; give another directory")
        return found
    jobs = _jobs(uri, kind, config)
    total, done = sum(len(job.places) for job in jobs), 0
    shards: dict[str, Shard] = {}
    # Spawned, not forked: the parent may hold threads (and their locks) of the libraries that encode images.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_render, job) for job in jobs]):
            shard = future.result()
            shards[shard.file] = shard
            done += shard.rows
            show({"event": "progress", "what": "images rendered", "done": done, "total": total})
    splits: dict[str, list[Shard]] = {}
    for job in jobs:
        splits.setdefault(job.split, []).append(shards[job.name])
    return write_manifest(uri, kind.attributes, splits, source, shuffled=True)


def _jobs(uri: str, kind: Kind, config: Config) -> list[Job]:
    """One job per shard; indices run on over the splits, so that no picture is in two of them."""
    jobs: list[Job] = []
    first = 0
    for split, rows in asdict(config.rows).items():
        for number, start in enumerate(range(0, rows, config.rows_per_shard)):
            places = range(start, min(start + config.rows_per_shard, rows))
            jobs.append(Job(uri, kind, config, split, f"{split}-{number:05d}.parquet", first, places))
        first += rows
    return jobs


def _render(job: Job) -> Shard:
    objects.configure(job.config.storage, lambda record: None)  # a store that is gone is waited for
    rows = [job.kind.row(job.config, job.split, job.first + place, place) for place in job.places]
    return write_shard(job.uri, job.name, rows, job.kind.attributes)


def _scene(config: ScenesConfig, split: str, index: int, place: int) -> Row:
    default = scenes.LONG_TAILED if split == "train" else scenes.BALANCED
    frequencies = _complete(config.frequencies if split == "train" else config.balanced, default)
    scene = scenes.render(config.seed, index, config.size, frequencies)
    name = f"scene-{config.seed}-{index:07d}"
    return Row(name, _jpeg(scene.pixels, config.quality), scene.caption, scene.attributes)


def _glyph(config: GlyphsConfig, split: str, index: int, place: int) -> Row:
    classes = glyphs.things(config.classes)
    drawn = split == "train"
    thing = (
        glyphs.draw_thing(config.seed, index, classes, config.frequencies) if drawn else classes[place % len(classes)]
    )
    image = _jpeg(glyphs.render(config.seed, index, config.size, thing), config.quality)
    text = glyphs.caption(config.seed, index, thing)
    return Row(f"glyph-{config.seed}-{index:07d}", image, text, {glyphs.ATTRIBUTE: thing})


def _jpeg(pixels: NDArray[Any], quality: int) -> bytes:
    encoded: bytes = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="444")
    return encoded


def _complete(given: dict[str, dict[str, float]], default: Any) -> dict[str, dict[str, float]]:
    """`given` weights over `default` ones, class by class."""
    return {name: {**default.get(name, {}), **given.get(name, {})} for name in {**default, **given}}
