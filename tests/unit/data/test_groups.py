"""Rows that are alike, as those of a drive: kept in shards, in one split, counted once by a certificate."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raymds.config import Config
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.errors import UsageError
from raymds.ingest.mix import mix
from raymds.run import RunDirectory
from raymds.scenes.render import ATTRIBUTES, BALANCED, render
from raymds.tasks import Task, resolve
from raymds.train.evaluate import evaluate, paired
from raymds.train.net import open_net
from raymds.train.prepared import Prepared

SKY = {"sky": ["blue", "grey"]}


def image(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def made(where: Path, **drives: list[str | None]) -> str:
    """A data set whose rows have these groups, by split; every image is another, but the first two of a split."""
    shards, value = {}, 0
    for split, groups in drives.items():
        rows = []
        for i, group in enumerate(groups):
            value += i != 1
            rows.append(Row(f"{where.name}-{split}-{i}", image(value), "a sky", {"sky": "blue"}, group))
        shards[split] = [write_shard(str(where), f"{split}-0.parquet", rows, SKY)]
    write_manifest(str(where), SKY, shards, {"made_by": where.name})
    return str(where)


def test_groups_are_kept_and_make_units(tmp_path: Path) -> None:
    data = DataSet.open(made(tmp_path / "a", train=["x", None, "y", None, "x", "y", None], test=[None] * 3))
    train, test = data.load("train"), data.load("test")
    assert train.group is not None
    assert (train.group >= 0).tolist() == [True, False, True, False, True, True, False]
    assert train.group[0] == train.group[4] != train.group[2] == train.group[5]
    assert len({*train.unit.tolist()}) == 5
    assert train.unit[0] == train.unit[4]
    assert test.group is None
    assert test.unit.tolist() == [0, 0, 2]  # rows of one image


def test_a_group_in_two_splits_is_published_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"group 'x' has rows in train and in test"):
        made(tmp_path / "a", train=["x", "y"], test=["x"])
    assert not (tmp_path / "a" / "manifest.json").exists()
    sets = made(tmp_path / "b", train=["x"]), made(tmp_path / "c", train=["z", "z"], test=[None, None, "x"])
    with pytest.raises(UsageError, match=r"group 'x' has rows in train and in test.*give them two names"):
        mix(sets, str(tmp_path / "mixed"))


def test_a_certificate_counts_drives(config: Config, tmp_path: Path) -> None:
    """60 scenes of 20 drives: of each task as many units as drives show it, and means over them."""
    uri, attributes = str(tmp_path / "set"), {name: list(labels) for name, labels in ATTRIBUTES.items()}
    shards, scenes = {}, [render(3, i, 64, BALANCED) for i in range(60)]
    for split, shown in {
        "test": scenes,
        "val": [render(4, i, 64, BALANCED) for i in range(40)],
        "train": [render(5, 0, 64, BALANCED)],
    }.items():
        rows = []
        for i, scene in enumerate(shown):
            buffer = io.BytesIO()
            Image.fromarray(scene.pixels).save(buffer, "PNG")
            rows.append(Row(f"{split}-{i}", buffer.getvalue(), "a scene", scene.attributes, f"{split} {i % 20}"))
        shards[split] = [write_shard(uri, f"{split}-0.parquet", rows, attributes)]
    write_manifest(uri, attributes, shards, {})
    data = DataSet.open(uri)
    tasks = resolve(config.task, data.attributes)
    found = evaluate(open_net(config, tasks.heads), data.load("test", tasks.vocabularies), tasks, 0.05)

    def seen(task: Task) -> list[int]:
        label = tasks.classes[task.attribute][task.label]
        return [i for i, scene in enumerate(scenes) if scene.attributes[task.attribute] == label]

    task = next(task for task in tasks.all if task.name == "timeofday:night")
    assert found.rows(task).tolist() == seen(task)
    right = found.correct(task)
    drives = {i % 20: [bool(right[n]) for n, j in enumerate(seen(task)) if j % 20 == i % 20] for i in seen(task)}
    counts = paired(found, found, task, "error")
    assert counts.groups is not None
    assert (counts.n, len(counts.groups.old)) == (len(seen(task)), len(drives))
    assert counts.old == pytest.approx(np.mean([np.mean(answers) for answers in drives.values()]))
    assert counts.delta == 0
    units = [len({i % 20 for i in seen(task)}) for task in tasks.protected]
    said = Prepared(config, RunDirectory(str(tmp_path / "run")), data, tasks, 0.95).outlook
    assert re.search(rf" with {min(units)} \(\S+( \S+)?\) to {max(units)} test images", said), said
