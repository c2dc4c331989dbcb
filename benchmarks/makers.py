"""What the sets of `datasets.py` are made from: which rows of a source are in which split of which set."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from raymds.config import load
from raymds.data.config import GlyphsConfig, IngestConfig, ScenesConfig
from raymds.ingest import ingest
from raymds.ingest.spool import Spool
from raymds.ingest.table import table as read_table
from raymds.scenes import dataset as drawn
from raymds.train.cluster import start_ray

RARE = 0.01  # share of a rare class in what an old model is made from
OLD_SEED = 10_000  # pictures drawn for an old model are others than those it is developed and tested on
OFFICIAL_TEST = 60_000  # first row of Fashion-MNIST's official test part

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Making:
    """How a set is to be made."""

    folder: Path  # of the set
    small: bool
    never: bool
    scale: float  # of all numbers of rows

    def few(self, full: int, small: int) -> int:
        """A number that is another where the set is to be small."""
        return small if self.small else full

    def rows(self, full: int, small: int) -> int:
        """A number of rows."""
        return self.few(max(1, round(full * self.scale)), small)

    def old(self, name: str) -> str:
        """Name of an old model, or with `data-` before it of what it is made from."""
        return name + ("-never" if self.never else "")


@dataclass(frozen=True)
class Goal:
    """A target and the old model that is poor at it."""

    target: str  # attribute:class
    old: str = "old"
    share: float = RARE  # of what the old model is made from; of glyphs, and only there, its weight, others have 1

    @property
    def attribute(self) -> str:
        """What the target is a class of."""
        return self.target.partition(":")[0]

    @property
    def label(self) -> str:
        """The class."""
        return self.target.partition(":")[2]


def silent(record: dict[str, Any]) -> None:
    """Records of what is made are not looked at."""


def cores() -> int:
    """Processes that draw."""
    return len(os.sched_getaffinity(0))


def olds(
    labels: Mapping[str, Sequence[str]], goals: Sequence[Goal], rows: int, dice: np.random.Generator
) -> dict[str, Rows]:
    """Old set -> row numbers, `rows` of them: of its target its share, all other classes as they are in `labels`."""
    dealt = {}
    for goal in goals:
        found = np.asarray(labels[goal.attribute])
        order = dice.permutation(len(found))
        scarce = order[found[order] == goal.label][: max(1, round(goal.share * rows))]
        common = order[found[order] != goal.label][: rows - len(scarce)]
        dealt[goal.old] = dice.permutation(np.concatenate([scarce, common]))
    return dealt


def write_set(uri: Path, shown: pictures.Pictures, splits: Mapping[str, Rows]) -> None:
    """Ingest pictures as a table with the images in it; the table is only kept until then."""
    rows, captions = [], np.random.default_rng(2)
    for split, numbers in splits.items():
        for number in numbers.tolist():
            labels = {attribute: classes[number] for attribute, classes in shown.labels.items()}
            caption = shown.templates[captions.integers(len(shown.templates))].format(**labels)
            rows.append({"picture": shown.png(number), "text": caption, "part": split, **labels})
    uri.parent.mkdir(parents=True, exist_ok=True)
    table, columns = uri.with_name(f"{uri.name}.parquet"), uri.with_name(f"{uri.name}.map.yaml")
    pq.write_table(pa.Table.from_pylist(rows), table, compression="NONE")
    names = {"image": "picture", "caption": "text", "split": "part", "attributes": list(shown.labels)}
    columns.write_text(yaml.safe_dump(names))
    start_ray(silent)
    config = load(IngestConfig, None, ["resize=0", "rows_per_shard=1000"])
    with Spool(f"{uri}/ingest/images") as spool:
        ingest.run(str(uri), read_table([str(table)], str(columns), spool), config, silent)
    table.unlink()
    columns.unlink()


def _deal(
    making: Making, shown: pictures.Pictures, old: Mapping[str, Rows], splits: Mapping[str, Rows], goals: Sequence[Goal]
) -> None:
    """Make the sets of a source; where a target is never seen, its few rows are left out of its old set."""
    dealt = {"data": splits}
    for goal in goals:
        rows = old[goal.old]
        if making.never:
            rows = rows[np.asarray(shown.labels[goal.attribute])[rows] != goal.label]
        dealt[f"data-{making.old(goal.old)}"] = {"train": rows}
    for name, content in dealt.items():
        if not (making.folder / name / "manifest.json").exists():
            write_set(making.folder / name, shown, content)


def _left(rows: int, old: Mapping[str, Rows], dice: np.random.Generator) -> Rows:
    """What of the first `rows` is in no old set, in any order."""
    return dice.permutation(np.setdiff1d(np.arange(rows), np.concatenate(list(old.values()))))


def _deal_fashion(making: Making, shown: pictures.Pictures, goals: Sequence[Goal]) -> None:
    """Old sets, train and val are of the official train part, test of the official test part."""
    dice = np.random.default_rng(0)
    official = {attribute: classes[:OFFICIAL_TEST] for attribute, classes in shown.labels.items()}
    old = olds(official, goals, making.rows(8000, 200), dice)
    left = _left(OFFICIAL_TEST, old, dice)
    train, val, test = making.rows(12_000, 200), making.rows(6000, 100), making.rows(10_000, 100)
    last = OFFICIAL_TEST + dice.permutation(10_000)[:test]
    _deal(making, shown, old, {"train": left[:train], "val": left[train : train + val], "test": last}, goals)


def fashion(making: Making, goals: Sequence[Goal]) -> None:
    """Kinds of clothes."""
    _deal_fashion(making, pictures.fashion(), goals)


def fashion_fog(making: Making, goals: Sequence[Goal]) -> None:
    """Clothes in the weather."""
    _deal_fashion(making, pictures.weathered(3), goals)


def digits(making: Making, goals: Sequence[Goal]) -> None:
    """Hand-written digits; test is what the others leave."""
    shown, dice = pictures.digits(), np.random.default_rng(0)
    old = olds(shown.labels, goals, making.rows(500, 200), dice)
    left = _left(len(shown.gray), old, dice)
    train, val = making.rows(500, 100), making.rows(400, 100)
    test = left[train + val :][: 100 if making.small else None]
    _deal(making, shown, old, {"train": left[:train], "val": left[train : train + val], "test": test}, goals)


def scenes(making: Making, goals: Sequence[Goal]) -> None:
    """The scenes of the demo; an old set per target, in which that target alone is rare."""
    common = {"weather": {"foggy": 0.18, "overcast": 0.19}, "scene": {"tunnel": 0.12}}
    rows = _counts(making, {"train": (7000, 60), "val": (4000, 60), "test": (9000, 60)})
    drawn.make(str(making.folder / "data"), load(ScenesConfig, "demo-scenes", rows), cores(), silent)
    for number, goal in enumerate(goals):
        rare = {goal.label: 0.0 if making.never else goal.share}
        weights = {**common, goal.attribute: {**common[goal.attribute], **rare}}
        settings = [f"frequencies.{a}.{c}={weight}" for a, found in weights.items() for c, weight in found.items()]
        settings += [rows[0], f"seed={OLD_SEED + number}"]
        uri = str(making.folder / f"data-{making.old(goal.old)}")
        drawn.make(uri, load(ScenesConfig, "demo-scenes-old", settings), cores(), silent)


def glyphs(making: Making, goals: Sequence[Goal]) -> None:
    """Things in 320 classes; one old set in which every target is rare."""
    # Of a class that is to be learnt more has been collected than of any other.
    wanted = [f"frequencies.{goal.label}=5" for goal in goals]
    rows = _counts(making, {"train": (16_000, 480), "val": (6400, 320), "test": (9600, 320)})
    drawn.make_glyphs(str(making.folder / "data"), load(GlyphsConfig, None, [*rows, *wanted]), cores(), silent)
    rare = [f"frequencies.{goal.label}={0.0 if making.never else goal.share}" for goal in goals]
    old = [rows[0], "rows.val=0", "rows.test=0", f"seed={OLD_SEED}", *rare]
    uri = str(making.folder / f"data-{making.old(goals[0].old)}")
    drawn.make_glyphs(uri, load(GlyphsConfig, None, old), cores(), silent)


def _counts(making: Making, rows: Mapping[str, tuple[int, int]]) -> list[str]:
    return [f"rows.{split}={making.rows(*numbers)}" for split, numbers in rows.items()]
