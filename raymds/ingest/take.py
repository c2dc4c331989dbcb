"""The images of chosen pairs, fetched, checked and written shard by shard. What was killed goes on.

Beside its shards the data set's directory gets `retrieve/NNNNN.json`, a record of every part that is done: the pairs
and settings it is of, its shard, what it counted. Nothing reads them once the manifest is published.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from raymds.data.config import RetrieveConfig
from raymds.data.decode import decode, shrink
from raymds.data.shards import Row, Shard, write_shard
from raymds.ingest.corpus import fetch
from raymds.store import uri as storage

_AGAIN = 3  # rows that may have one picture; what comes more often is what servers show in place of a picture


class Pair(NamedTuple):
    """A chosen row, its image not fetched yet."""

    id: str  # file and row
    caption: str
    label: str
    image: bytes | str | None  # the encoded image, or where it is


@dataclass
class Part:
    """What the pairs of a shard have become."""

    shard: Shard | None  # None: none of their images was to be had
    counts: dict[str, int] = field(default_factory=dict)
    failure: str = ""  # the first one
    pictures: list[str] = field(default_factory=list)  # digests of the images that were there, in order


class Taker:
    """Fetches the images of one shard's pairs after the other."""

    def __init__(self, config: RetrieveConfig, folder: str, attributes: Mapping[str, Sequence[str]]) -> None:
        """`folder`: what paths are relative to."""
        self._config, self._folder, self._attributes = config, folder, attributes
        self._seen: dict[str, int] = {}  # picture -> rows that have it

    def take(self, number: int, pairs: Sequence[Pair], pool: Executor) -> Part:
        """The part of these pairs, from its record where that is of the same ones."""
        config = self._config
        record = storage.join(config.out, "retrieve", f"{number:05d}.json")
        settings = [config.target, config.resize, config.quality, config.least, asdict(config.columns), self._folder]
        key = storage.sha256(json.dumps([settings, [(p.id, p.caption, p.label) for p in pairs]]).encode())
        part = self._kept(record, key)
        if part is None:
            part = self._fetched(number, pairs, pool)
            storage.write_json(record, {"pairs": key, **asdict(part)})
        for picture in part.pictures:
            self._seen[picture] = self._seen.get(picture, 0) + 1
        return part

    def _kept(self, record: str, key: str) -> Part | None:
        text = storage.read_or_none(record)
        found = json.loads(text) if text is not None else {}
        if found.pop("pairs", None) != key:
            return None
        part = Part(**found)
        if part.shard is None:
            return part
        part.shard = Shard(**found["shard"])
        data = storage.read_or_none(storage.join(self._config.out, part.shard.file))
        return part if data is not None and storage.sha256(data) == part.shard.sha256 else None

    def _fetched(self, number: int, pairs: Sequence[Pair], pool: Executor) -> Part:
        target, attribute = self._config.target, next(iter(self._attributes))
        part, rows = Part(None), list[Row]()
        here: dict[str, int] = {}
        for pair, image in zip(pairs, pool.map(self._image, pairs), strict=True):
            if isinstance(image, str | Exception):
                what = image if isinstance(image, str) else "failed"
                part.counts[what] = part.counts.get(what, 0) + 1
                part.failure = part.failure or f"{pair.id}: {image}"
                continue
            picture = storage.sha256(image)
            part.pictures.append(picture)
            here[picture] = here.get(picture, 0) + 1
            again = self._seen.get(picture, 0) + here[picture] > _AGAIN
            what = "repeated" if again else "positives" if target == f"{attribute}:{pair.label}" else "negatives"
            part.counts[what] = part.counts.get(what, 0) + 1
            if not again:
                rows.append(Row(pair.id, image, pair.caption, {attribute: pair.label}))
        if rows:
            part.shard = write_shard(self._config.out, f"train-{number:05d}.parquet", rows, self._attributes)
        return part

    def _image(self, pair: Pair) -> bytes | str | Exception:
        """The image as it is stored; `small` where it is a placeholder by its size; or why there is none."""
        config = self._config
        try:
            data = fetch(pair.image, self._folder, anywhere=config.columns.local)
            if min(decode(data, config.least).shape[:2]) < config.least:
                return "small"
            return shrink(data, config.resize, config.quality)
        except Exception as error:  # servers fail in every way; one row must not end hours of work
            return error
