"""Label files and tables become plans of rows; what is wrong in them is named."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymds.errors import UsageError
from raymds.ingest.sources import Entry, Plan, bdd100k, hold_out, places365, shuffled, table


def ids(entries: list[Entry]) -> set[str]:
    return {entry.id for entry in entries}


def of(plan: Plan, id: str) -> Entry:
    (found,) = (entry for entries in plan.splits.values() for entry in entries if entry.id == id)
    return found


def test_order_is_a_function_of_seed_and_id() -> None:
    entries = [Entry(f"{i}", "", "", ()) for i in range(50)]
    drawn = shuffled(entries, 1, "order")
    assert drawn == shuffled(reversed(entries), 1, "order")
    assert drawn not in (entries, shuffled(entries, 2, "order"), shuffled(entries, 1, "val"))
    fewer = [entry for entry in drawn if entry.id != "7"]
    assert fewer == shuffled([entry for entry in entries if entry.id != "7"], 1, "order")


def test_every_group_of_labels_gives_its_share_to_val() -> None:
    sizes = {"a": 100, "b": 30, "c": 2, "d": 1}
    entries = [Entry(f"{name}{i}", "", "", (name,)) for name, size in sizes.items() for i in range(size)]
    rest, held = hold_out(entries, 0.1, seed=0)
    assert Counter(entry.labels[0] for entry in held) == {"a": 10, "b": 3, "c": 1}
    assert sorted([*rest, *held]) == sorted(entries)
    assert ids(hold_out(reversed(entries), 0.1, seed=0)[1]) == ids(held)
    assert ids(hold_out(entries, 0.1, seed=1)[1]) != ids(held)


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
    return bdd100k(str(root / images), [str(root / "labels")], seed, 0.2)


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
    assert bdd100k(str(bdd), names, 0, 0.2) == plans[0]
    (bdd / "images/100k/train/t0.jpg").unlink()  # a missing image is found by the ingest, not here
    assert bdd_plan(bdd) == plans[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"bdd100k_labels_images_val\.json: not JSON"),
        ("{}", r"bdd100k_labels_images_val\.json: has to be a JSON list of labelled images, or an object with"),
        ("[]", "has to be a JSON list"),
        (json.dumps([bdd_item("v0.jpg"), {"attributes": DAY}]), r"val\.json: entry 1, counted from 0, has no name"),
        (json.dumps([{"name": "v0.jpg"}]), r"entry 0, .*\(v0\.jpg\) has no attributes\.weather"),
        (json.dumps({"frames": [bdd_item("v0.jpg", scene=None)]}), r"\(v0\.jpg\) has no attributes\.scene"),
        (json.dumps([bdd_item("v0.jpg", weather="hail")]), "weather='hail' is none of clear, .*, undefined"),
        (json.dumps([bdd_item("v0.jpg"), bdd_item("v0.jpg")]), r"v0\.jpg: is listed twice"),
        (
            json.dumps([bdd_item("x.jpg")]),
            r"--images .*: no images of .*val\.json; looked for x\.jpg .* images/100k/val",
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
        bdd100k(str(bdd), ["a", "b", "c"], 0, 0.2)


CATEGORIES = "/a/airfield 0\n/a/apartment_building/outdoor 1\n/u/utility_room 2\n"


@pytest.fixture
def places(tmp_path: Path) -> Path:
    train = [("airfield", 0, 20), ("apartment_building/outdoor", 1, 3), ("utility_room", 2, 2)]
    lines = [f"/{name[0]}/{name}/{i:08d}.jpg {index}" for name, index, count in train for i in range(count)]
    (tmp_path / "categories_places365.txt").write_text(CATEGORIES)
    (tmp_path / "places365_train_standard.txt").write_text("\n".join(lines))
    (tmp_path / "places365_val.txt").write_text("Places365_val_00000001.jpg 2\nPlaces365_val_00000002.jpg 0\n")
    for line in lines:
        file = tmp_path / "data_256" / line.split()[0].lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "val_large").mkdir()
    (tmp_path / "val_large/Places365_val_00000001.jpg").touch()
    return tmp_path


def test_places365_splits_names_and_captions(places: Path) -> None:
    plan = places365(str(places), str(places), seed=0, val_share=0.1)
    assert plan.attributes == {"scene": ["airfield", "apartment building outdoor", "utility room"]}
    assert Counter(entry.labels[0] for entry in plan.splits["val"]) == {
        "airfield": 2,
        "apartment building outdoor": 1,
        "utility room": 1,
    }
    assert len(plan.splits["train"]) == 21
    test = of(plan, "Places365_val_00000001.jpg")
    assert test == (test.id, f"val_large/{test.id}", "a photo of a utility room.", ("utility room",))
    outdoor = of(plan, "a/apartment_building/outdoor/00000000.jpg")
    assert outdoor.caption == "a photo of an apartment building outdoor."
    assert outdoor.image == f"data_256/{outdoor.id}"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("categories_places365.txt", "", "is empty"),
        ("categories_places365.txt", "/a/airfield 0\n/b/bar 2\n", r"365\.txt line 2: .* its index, here 1"),
        ("categories_places365.txt", "/a/airfield 0\n/a/airfield 1\n", "line 2: has to be a new category"),
        ("categories_places365.txt", "/a/airfield\n", "line 1: has to be a path and an index"),
        ("places365_val.txt", "Places365_val_00000001.jpg 3\n", r"val\.txt line 1: there is no category 3, the last"),
        ("places365_val.txt", "x.jpg 0\nx.jpg minus\n", r"val\.txt line 2: has to be a path and an index"),
        ("places365_val.txt", "x.jpg 0\n", r"no images of .*val\.txt; looked for x\.jpg and more in val_256/"),
    ],
)
def test_a_wrong_places365_label_file(places: Path, file: str, content: str, message: str) -> None:
    (places / file).write_text(content)
    with pytest.raises(UsageError, match=message):
        places365(str(places), str(places), 0, 0.1)


def test_a_missing_places365_label_file(places: Path) -> None:
    (places / "places365_val.txt").unlink()
    with pytest.raises(UsageError, match=r"places365_val\.txt: no such file"):
        places365(str(places), str(places), 0, 0.1)


MAP = "{image: file, caption: text, split: part, attributes: [sky, lane]}"
CSV = 'file,text,part,sky,lane,extra\na.jpg,"one, two",train,blue,1,x\ns3://b/c.jpg,two,test,,NA,\n'


def from_table(folder: Path, content: str | dict[str, Any], mapping: str = MAP) -> Plan:
    name = "rows.csv" if isinstance(content, str) else "rows.parquet"
    if isinstance(content, str):
        (folder / name).write_text(content)
    else:
        pq.write_table(pa.table(content), folder / name)
    (folder / "map.yaml").write_text(mapping)
    return table(str(folder / name), str(folder / "map.yaml"))


def test_a_csv_table(tmp_path: Path) -> None:
    plan = from_table(tmp_path, CSV)
    assert plan.root == str(tmp_path)
    assert plan.attributes == {"sky": ["blue"], "lane": ["1", "NA"]}
    assert plan.splits == {
        "train": [("row-0000000", "a.jpg", "one, two", ("blue", "1"))],
        "test": [("row-0000001", "s3://b/c.jpg", "two", (None, "NA"))],
    }


def test_a_parquet_table_with_images_in_it(tmp_path: Path) -> None:
    content = {
        "file": [b"\xff1", b"\xff2"],
        "text": ["a", "b"],
        "part": ["val"] * 2,
        "sky": ["x", None],
        "lane": [2, 1],
    }
    plan = from_table(tmp_path, content)
    assert plan.attributes == {"sky": ["x"], "lane": ["1", "2"]}
    assert plan.splits["val"] == [
        ("row-0000000", b"\xff1", "a", ("x", "2")),
        ("row-0000001", b"\xff2", "b", (None, "1")),
    ]


@pytest.mark.parametrize(
    ("content", "mapping", "message"),
    [
        (CSV, MAP.replace("text", "texts"), r"map\.yaml: caption: .*rows\.csv has .* 'texts'; it has file, text, part"),
        (CSV, MAP.replace("sky", "weather"), "attributes: .* has to have one column 'weather'; it has file"),
        (CSV, MAP.replace("image: file, ", ""), "has to have the keys image, caption, split"),
        (CSV, MAP.replace("[sky, lane]", "sky"), "attributes: has to be a list of columns"),
        (CSV, MAP.replace("text", "[text]"), "caption: has to be a column"),
        (CSV.replace("extra", "id"), MAP.replace("sky", "id"), "attributes: 'id' can't name an attribute"),
        (CSV, "{", r"map\.yaml: not YAML"),
        (CSV.replace("test", "tset"), MAP, r"row 1, counted from 0: part='tset' has to be train, val, test"),
        (CSV.replace("two,test", ",test"), MAP, r"row 1, counted from 0: text is empty"),
        (CSV.replace("a.jpg", ""), MAP, r"rows\.csv row 0, counted from 0: file is empty"),
        (CSV + "one,two\n", MAP, r"--rows .*rows\.csv: can't be read: .*Expected 6 columns"),
        (CSV.splitlines()[0] + "\n", MAP, "table has no rows"),
        ({"file": ["a"], "text": [["b"]], "part": ["val"], "sky": ["x"], "lane": ["y"]}, MAP, "'text' of type list"),
    ],
)
def test_a_wrong_table(tmp_path: Path, content: str | dict[str, Any], mapping: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_table(tmp_path, content, mapping)


def test_a_table_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").touch()
    (tmp_path / "map.yaml").write_text(MAP)
    with pytest.raises(UsageError, match=r"rows\.xlsx: has to end in \.csv or \.parquet"):
        table(str(tmp_path / "rows.xlsx"), str(tmp_path / "map.yaml"))
