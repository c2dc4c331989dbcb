"""BDD100K in every layout that people have."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raymds.errors import UsageError
from raymds.ingest.bdd100k import bdd100k
from raymds.ingest.sources import Entry, Plan, Shares


def ids(entries: list[Entry]) -> set[str]:
    return {entry.id for entry in entries}


def of(plan: Plan, id: str) -> Entry:
    (found,) = (entry for entries in plan.splits.values() for entry in entries if entry.id == id)
    return found


DAY = {"weather": "clear", "scene": "city street", "timeofday": "daytime"}


def bdd_item(name: str, **attributes: Any) -> dict[str, Any]:
    box = {"category": "car", "attributes": {"occluded": True}, "box2d": {"x1": 1.0}}
    return {"name": name, "attributes": {**DAY, **attributes}, "timestamp": 1, "labels": [box]}


@pytest.fixture
def bdd(tmp_path: Path) -> Path:
    """20 train and 3 val images (empty files: a plan opens none), one label file in each of the two forms."""
    train = [bdd_item(f"t{i}.jpg", weather=("clear", "foggy")[i % 2]) for i in range(20)]
    val = [
        bdd_item("v0.jpg", scene="undefined", timeofday="dawn/dusk"),
        bdd_item("v1.jpg", weather="undefined", scene="gas stations", timeofday="night"),
        bdd_item("v2.jpg", weather="undefined", scene="undefined", timeofday="undefined"),
    ]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/bdd100k_labels_images_train.json").write_text(json.dumps(train))
    (tmp_path / "labels/bdd100k_labels_images_val.json").write_text(json.dumps({"config": None, "frames": val}))
    for split, items in (("train", train), ("val", val)):
        folder = tmp_path / "images/100k" / split
        folder.mkdir(parents=True)
        for item in items:
            (folder / item["name"]).touch()
    return tmp_path


def bdd_plan(root: Path, images: str = "", seed: int = 0) -> Plan:
    return bdd100k(str(root / images), [str(root / "labels")], Shares(val=0.2, seed=seed))


def test_bdd100k_splits_labels_and_captions(bdd: Path) -> None:
    plan = bdd_plan(bdd)
    assert list(plan.attributes) == ["weather", "scene", "timeofday"]
    assert plan.attributes["timeofday"] == ["daytime", "dawn/dusk", "night"]
    assert "gas stations" in plan.attributes["scene"]
    assert not any("undefined" in classes for classes in plan.attributes.values())
    assert {split: len(entries) for split, entries in plan.splits.items()} == {"train": 16, "val": 4, "test": 3}
    assert Counter(entry.labels[0] for entry in plan.splits["val"]) == {"clear": 2, "foggy": 2}
    assert ids(plan.splits["test"]) == {"v0.jpg", "v1.jpg", "v2.jpg"}
    assert of(plan, "v0.jpg").labels == ("clear", None, "dawn/dusk")
    assert of(plan, "v1.jpg").labels == (None, "gas stations", "night")
    assert of(plan, "t1.jpg").caption == "a dashcam photo of a city street in the daytime, the weather is foggy."
    assert of(plan, "v0.jpg").caption == "a dashcam photo at dawn or dusk, the weather is clear."
    assert of(plan, "v1.jpg").caption == "a dashcam photo of a gas station at night."
    assert of(plan, "v2.jpg").caption == "a dashcam photo."


def test_bdd100k_is_found_in_any_part_of_its_layout(bdd: Path) -> None:
    plans = [bdd_plan(bdd, images) for images in ("", "images", "images/100k")]
    assert [of(plan, "v0.jpg").image for plan in plans] == ["images/100k/val/v0.jpg", "100k/val/v0.jpg", "val/v0.jpg"]
    names = [str(bdd / f"labels/bdd100k_labels_images_{split}.json") for split in ("train", "val")]
    assert bdd100k(str(bdd), names, Shares(val=0.2)).splits == plans[0].splits
    (bdd / "images/100k/train/t0.jpg").unlink()  # a missing image is found by the ingest, not here
    assert of(bdd_plan(bdd), "t0.jpg").image == "train/t0.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"bdd100k_labels_images_val\.json: not JSON"),
        ("{}", r"bdd100k_labels_images_val\.json: has to be a JSON list of labelled images, or an object with"),
        ("[]", "has to be a JSON list"),
        (json.dumps([bdd_item("v0.jpg"), {"attributes": DAY}]), r"val\.json: entry 1, counted from 0, has no name"),
        (json.dumps([{"name": "v0.jpg"}]), r"val\.json: no entry has attributes\.weather"),
        (json.dumps({"frames": [{"name": "v0.jpg", "attributes": None}]}), r"no entry has attributes\.weather"),
        (json.dumps([bdd_item("v0.jpg", weather="hail")]), "weather='hail' is none of clear, .*, undefined"),
        (json.dumps([bdd_item("v0.jpg"), bdd_item("v0.jpg")]), r"v0\.jpg: is listed twice"),
        (
            json.dumps([bdd_item("x.jpg")]),
            r"--images .*: none of the images of .*val\.json, like x\.jpg, is there among 23 images",
        ),
    ],
)
def test_a_wrong_bdd100k_label_file(bdd: Path, content: str, message: str) -> None:
    (bdd / "labels/bdd100k_labels_images_val.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        bdd_plan(bdd)


def test_missing_bdd100k_labels(bdd: Path) -> None:
    (bdd / "labels/bdd100k_labels_images_val.json").unlink()
    with pytest.raises(
        UsageError, match=r"--labels .*labels: no labels of val in it; looked for bdd100k_labels_images"
    ):
        bdd_plan(bdd)
    with pytest.raises(UsageError, match="give one folder, or the label files of train and val; there are 3"):
        bdd100k(str(bdd), ["a", "b", "c"], Shares())


def test_an_entry_without_attributes_is_undefined(bdd: Path) -> None:
    file = bdd / "labels/bdd100k_labels_images_train.json"
    items = json.loads(file.read_text())
    items[0]["attributes"], items[1]["attributes"]["scene"] = None, None
    file.write_text(json.dumps(items))
    plan = bdd_plan(bdd)
    assert of(plan, "t0.jpg").labels == (None, None, None)
    assert of(plan, "t1.jpg").labels == ("foggy", None, "daytime")


def moved(bdd: Path, layout: str) -> tuple[Path, Path]:
    """The images and labels in another layout that people have: folders of images, of labels."""
    images, labels = bdd / "images/100k", bdd / "labels"
    if layout == "kaggle":
        for i, path in enumerate(sorted((images / "train").iterdir())):
            folder = images / "train" / ("trainA", "trainB")[i % 2]
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
        for split in ("train", "val"):
            (labels / f"bdd100k_labels_images_{split}.json").rename(labels / f"det_v2_{split}_release.json")
    if layout == "det_20":
        (labels / "det_20").mkdir()
        for split in ("train", "val"):
            (labels / f"bdd100k_labels_images_{split}.json").rename(labels / f"det_20/det_{split}.json")
        (labels / "det_20/det_train_drivable.json").write_text("[]")  # of another task
    if layout == "one file an image":
        for split in ("train", "val"):
            file = labels / f"bdd100k_labels_images_{split}.json"
            items = json.loads(file.read_text())
            (labels / "100k" / split).mkdir(parents=True)
            for item in items["frames"] if isinstance(items, dict) else items:
                name = item["name"].removesuffix(".jpg")
                frames = [{"timestamp": 10000, "objects": []}]
                own = json.dumps({"name": name, "frames": frames, "attributes": item["attributes"]})
                (labels / "100k" / split / f"{name}.json").write_text(own)
            file.unlink()
    if layout == "with 10k":  # another set of images with some names in common
        for name in ("t3.jpg", "v1.jpg"):
            for split in ("train", "val", "test"):
                (bdd / "images/10k" / split).mkdir(parents=True, exist_ok=True)
                (bdd / "images/10k" / split / name).touch()
    return bdd / "images", labels


@pytest.mark.parametrize("layout", ["official", "kaggle", "det_20", "one file an image", "with 10k"])
def test_every_layout_gives_the_same_rows(bdd: Path, layout: str) -> None:
    want = bdd_plan(bdd, "images")
    images, labels = moved(bdd, layout)
    plan = bdd100k(str(images), [str(labels)], Shares(val=0.2))
    for split, entries in want.splits.items():
        assert [entry._replace(image="") for entry in plan.splits[split]] == [e._replace(image="") for e in entries]
        for entry in plan.splits[split]:
            assert (images / str(entry.image)).is_file()
            assert str(entry.image).startswith("100k/train" if entry.id[0] == "t" else "100k/val")
    train, val = plan.said
    assert train.startswith(f"20 of 20 train images in {images}/100k/train, labels in {labels}")
    assert val.startswith(f"3 of 3 val images in {images}/100k/val, labels in {labels}")


def test_bdd100k_dealt_anew(bdd: Path) -> None:
    plan = bdd100k(str(bdd), [str(bdd / "labels")], Shares(test=0.2, val=0.1, least=3))
    weather = {split: Counter(entry.labels[0] for entry in rows) for split, rows in plan.splits.items()}
    assert all(weather[split]["foggy"] >= 3 for split in ("train", "val", "test"))
    assert sum(len(rows) for rows in plan.splits.values()) == 23


def test_attributes_that_are_no_object_are_said_and_notes_of_a_system_are_no_labels(bdd: Path) -> None:
    for split in ("train", "val"):
        (bdd / "labels" / split).mkdir()
        for file in (bdd / "images/100k" / split).iterdir():
            item = bdd_item(file.stem)
            (bdd / "labels" / split / f"{file.stem}.json").write_text(json.dumps(item))
        (bdd / f"labels/bdd100k_labels_images_{split}.json").unlink()
        (bdd / "labels" / split / "._t0.json").write_bytes(b"\x00\x05")
    assert sum(map(len, bdd_plan(bdd).splits.values())) == 23
    (bdd / "labels/val/v0.json").write_text(json.dumps({"name": "v0", "attributes": "clear"}))
    with pytest.raises(
        UsageError, match=r"entry 0.* \(v0\.jpg\): attributes has to be an object or null, and is 'clear'"
    ):
        bdd_plan(bdd)
