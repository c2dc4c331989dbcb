"""The data sets of benchmarks/datasets.py, at their smallest: counts, splits without common rows, rare targets."""

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from raymds.config import Config, load
from raymds.data.shards import DataSet
from raymds.data.verify import verify
from raymds.model import ClipWithHeads, pack_weights
from raymds.store import uri as storage
from raymds.train import driver
from tests.conftest import silent

FOLDER = Path(__file__).parents[2] / "benchmarks"
FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def datasets() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield pytest.importorskip("datasets")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old models as they are before training, where a test is about data alone."""

    def pretrain(config: Config, show: Any) -> dict[str, Any]:
        weights = {"uri": storage.join(config.run.uri, "weights.safetensors")}
        storage.write(weights["uri"], pack_weights(ClipWithHeads("tiny-64", [], 32, 0)))
        storage.write_json(storage.join(config.run.uri, "outcome.json"), {"weights": weights})
        return weights

    monkeypatch.setattr(driver, "pretrain", pretrain)


def made(datasets: Any, folder: Path, name: str, target: str = "", *, never: bool = False) -> tuple[Path, list[Path]]:
    making = datasets.Making(folder / name, small=True, never=never, scale=1.0)
    return making.folder, datasets.make(name, making, target)


def rows(data: DataSet) -> list[dict[str, Any]]:
    """All rows of all splits, by pyarrow alone, with the name of their split."""
    return [
        {**row, "split": split}
        for split, shards in data.splits.items()
        for shard in shards
        for row in pq.read_table(Path(data.uri, shard.file)).to_pylist()
    ]


@pytest.mark.usefixtures("untrained")
def test_digits_are_in_one_split_each_and_eights_are_rare_in_the_old_set(
    cluster: None, datasets: Any, tmp_path: Path
) -> None:
    folder, (preset,) = made(datasets, tmp_path, "digits")
    new, old = (DataSet.open(str(folder / name)) for name in ("data", "data-old"))
    assert {split: sum(s.rows for s in shards) for split, shards in new.splits.items()} == dict.fromkeys(
        ("train", "val", "test"), 100
    )
    assert [sum(s.rows for s in shards) for shards in old.splits.values()] == [200]
    assert old.count("train", "digit", "eight") == 1
    assert new.count("train", "digit", "eight") >= 5
    found = rows(new) + rows(old)
    real = {(image * (255 / 16)).astype(np.uint8).tobytes() for image in load_digits().images}
    # The scans themselves are all different, so a picture that is there twice was dealt twice.
    assert len(real) == 1797
    assert len({row["image"] for row in found}) == len(found)
    assert all(Image.open(io.BytesIO(row["image"])).size == (32, 32) for row in found)
    assert all(row["digit"] in row["caption"] for row in found)
    figures = datasets.measured(preset)
    assert (figures["target"], figures["classes"]) == ("digit:eight", 9)
    assert load(Config, str(preset), ["run.uri=unset"]).task.target == "digit:eight"


@pytest.mark.usefixtures("untrained")
def test_what_is_there_is_kept_and_a_class_never_seen_is_in_a_set_of_its_own(
    cluster: None, datasets: Any, tmp_path: Path
) -> None:
    folder, (preset,) = made(datasets, tmp_path, "digits")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    weights = Path(load(Config, str(preset), []).model.weights or "")
    stamp = weights.stat().st_mtime_ns
    assert made(datasets, tmp_path, "digits") == (folder, [preset])
    assert weights.stat().st_mtime_ns == stamp
    _, (never,) = made(datasets, tmp_path, "digits", never=True)
    assert never.name == "eight-never.yaml"
    assert DataSet.open(str(folder / "data-old-never")).attributes["digit"].count("eight") == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.usefixtures("untrained")
def test_things_come_in_turn_in_val_and_the_target_is_rare_in_the_old_set(
    cluster: None, datasets: Any, tmp_path: Path
) -> None:
    folder, presets = made(datasets, tmp_path, "glyphs")
    new, old = (DataSet.open(str(folder / name)) for name in ("data", "data-old"))
    assert len(new.attributes["thing"]) == 320
    assert {new.count("val", "thing", thing) for thing in new.attributes["thing"]} == {1}
    targets = [goal.label for goal in datasets.SETS["glyphs"].goals]
    assert [load(Config, str(path), []).task.target for path in presets] == [f"thing:{name}" for name in targets]
    assert sum(new.count("train", "thing", name) for name in targets) > 20
    assert sum(old.count("train", "thing", name) for name in targets) <= 5
    found = rows(new) + rows(old)
    assert len({row["id"] for row in found}) == len({row["image"] for row in found}) == 2 * 480 + 2 * 320
    assert datasets.measured(presets[0])["classes"] == 319


@pytest.mark.skipif(not FASHION.is_dir(), reason="apt install dataset-fashion-mnist")
def test_real_photographs_go_into_a_cycle(cluster: None, datasets: Any, tmp_path: Path) -> None:
    folder, (shirt,) = made(datasets, tmp_path, "fashion", "shirt")
    assert not (folder / "old-pullover").exists()
    data = DataSet.open(str(folder / "data"))
    assert len(data.attributes["kind"]) == 10
    old = DataSet.open(str(folder / "data-old-shirt"))
    assert old.count("train", "kind", "shirt") < 5 < old.count("train", "kind", "coat")
    found = {row["image"] for row in rows(data)}
    assert found.isdisjoint(row["image"] for row in rows(old))
    assert verify(data.uri, silent).problems == []
    small = ["task.retained=8", "objective.batch=8", "constraints.images_per_task=2"]
    small += ["optim.steps=2", "optim.warmup=1", "select.every=1", f"run.uri={tmp_path / 'run'}"]
    run = driver.finetune(load(Config, str(shirt), small), silent)
    assert run["outcome"] in {"old", "new"}
    kinds = {f"kind:{name}" for name in data.attributes["kind"]} - {"kind:shirt"}
    assert {task["task"] for task in run["val"]["tasks"]} == kinds


def test_steps_are_compared_at_their_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewer constraints are violated the less is computed, and never less than without any."""
    monkeypatch.syspath_prepend(str(FOLDER))
    step = importlib.import_module("step")
    found = step.measure(step.SHAPES[5].scaled(0.05), "tiny-64", 1)
    work = [found[kind]["operations"] for kind in ("ours, none", "ours, 30 %", "ours, all")]
    assert 0 < work[0] < work[1] < work[2]
    assert work[0] < found["published"]["operations"]
    assert all(row["seconds"] > 0 for row in found.values())
