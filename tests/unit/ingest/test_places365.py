"""Places365 in every layout that people have."""

from collections import Counter
from pathlib import Path

import pytest

from raymds.errors import UsageError
from raymds.ingest.places365 import places365
from raymds.ingest.sources import Entry, Plan, Shares


def of(plan: Plan, id: str) -> Entry:
    (found,) = (entry for entries in plan.splits.values() for entry in entries if entry.id == id)
    return found


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
    for number in (1, 2):
        (tmp_path / f"val_large/Places365_val_0000000{number}.jpg").touch()
    return tmp_path


def test_places365_splits_names_and_captions(places: Path) -> None:
    plan = places365(str(places), str(places), Shares())
    assert plan.attributes == {"scene": ["airfield", "apartment building outdoor", "utility room"]}
    assert Counter(entry.labels[0] for entry in plan.splits["val"]) == {
        "airfield": 2,
        "apartment building outdoor": 1,
        "utility room": 1,
    }
    assert len(plan.splits["train"]) == 21
    test = of(plan, "Places365_val_00000001.jpg")
    assert test == Entry(test.id, f"val_large/{test.id}", "a photo of a utility room.", ("utility room",))
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
        (
            "places365_val.txt",
            "u/utility_room/1.jpg 0\n",
            "line 1: .* lies in the folder of 'utility room', and 0 is 'air",
        ),
        ("places365_val.txt", "x.jpg 0\n", r"none of the images of .*val\.txt, like x\.jpg, is there among 27 images"),
    ],
)
def test_a_wrong_places365_label_file(places: Path, file: str, content: str, message: str) -> None:
    (places / file).write_text(content)
    with pytest.raises(UsageError, match=message):
        places365(str(places), str(places), Shares())


def test_lists_with_tabs_and_lines_without_anything(places: Path) -> None:
    want = places365(str(places), str(places), Shares()).splits
    for file in places.glob("*.txt"):
        file.write_text(file.read_text().replace(" ", "\t") + "\n\n")
    assert places365(str(places), str(places), Shares()).splits == want


def test_folders_as_people_name_them_and_files_that_systems_leave(tmp_path: Path) -> None:
    """Letters before the classes, as in data_256, are no part of a name; what is left out is counted."""
    files = [
        "Train/a/air_field/1.jpg",
        "Train/b/bar/2.jfif",
        "Train/b/bar/3.jpg",
        "Valid/air_field/4.jpg",
        "Valid/bar/5.jpg",
    ]
    notes = ["Train/b/bar/._3.jpg", "Train/b/bar/.ipynb_checkpoints/3-checkpoint.jpg", "__MACOSX/Train/b/bar/3.jpg"]
    for file in (*files, *notes, "test/bar/6.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    plan = places365(str(tmp_path), str(tmp_path), Shares())
    assert plan.attributes == {"scene": ["air field", "bar"]}
    assert {entry.id for rows in plan.splits.values() for entry in rows} == set(files)
    assert {entry.id for entry in plan.splits["test"]} == {"Valid/air_field/4.jpg", "Valid/bar/5.jpg"}
    assert plan.said[1] == "left out: 1 images that lie in no folder of a class in train or val"


def test_a_missing_places365_label_file(places: Path) -> None:
    (places / "places365_val.txt").unlink()
    with pytest.raises(UsageError, match=r"places365_val\.txt: no such file"):
        places365(str(places), str(places), Shares())


LAYOUTS = {
    "official": ("data_256/a/{}", "val_256"),
    "large": ("data_large/a/{}", "val_large"),
    "kaggle": ("train_256_places365standard/data_256/a/{}", "val_256/val_256"),
    "easyformat": ("train/{}", "val/{}"),
    "hyphens": ("train/{-}", "val/{-}"),
}
NAMES = ("airfield", "apartment_building/outdoor", "utility_room")


@pytest.fixture
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Four train and two val images of each of three classes; lists in a folder of their own."""
    train, val = LAYOUTS[request.param]
    lists = tmp_path / "lists/filelist_places365-standard"
    lists.mkdir(parents=True)
    (lists / "categories_places365.txt").write_text(CATEGORIES)
    lines: dict[str, list[str]] = {"train": [], "val": []}

    def put(folder: str, name: str, file: str) -> None:
        path = tmp_path / "images" / folder.format(name).replace("{-}", name.replace("/", "-")) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    for index, name in enumerate(NAMES):
        folder = train.replace("/a/", f"/{name[0]}/").replace("{-}", name.replace("/", "-"))
        for i in range(4):
            put(folder, name, f"{i:08d}.jpg")
            lines["train"].append(f"/{name[0]}/{name}/{i:08d}.jpg {index}")
        for i in range(2):
            file = f"Places365_val_{index}{i}.jpg"
            put(val.replace("{-}", name.replace("/", "-")), name, file)
            lines["val"].append(f"{file} {index}")
    (lists / "places365_train_standard.txt").write_text("\n".join(lines["train"]))
    (lists / "places365_val.txt").write_text("\n".join(lines["val"]))
    return tmp_path


@pytest.mark.parametrize("layout", LAYOUTS, indirect=True)
def test_every_layout_is_found(layout: Path) -> None:
    plan = places365(str(layout / "images"), str(layout), Shares(val=0.25))
    assert {split: Counter(entry.labels[0] for entry in rows) for split, rows in plan.splits.items()} == {
        split: dict.fromkeys(plan.attributes["scene"], n) for split, n in (("train", 3), ("val", 1), ("test", 2))
    }
    for entry in (entry for rows in plan.splits.values() for entry in rows):
        assert (layout / "images" / str(entry.image)).is_file()
    assert plan.said[0].startswith("12 of 12 train images in ")
    assert plan.said[1].startswith("6 of 6 val images in ")


@pytest.mark.parametrize("layout", ["easyformat", "hyphens"], indirect=True)
def test_folders_alone_say_the_classes(layout: Path) -> None:
    images = str(layout / "images")
    plan = places365(images, images, Shares(val=0.25))
    assert plan.attributes == {"scene": ["airfield", "apartment building outdoor", "utility room"]}
    assert {split: len(rows) for split, rows in plan.splits.items()} == {"train": 9, "val": 3, "test": 6}
    assert plan.said == (f"no lists: 3 classes by the folders of {images}",)


@pytest.mark.parametrize("layout", ["official"], indirect=True)
def test_a_copy_of_some_classes(layout: Path) -> None:
    images = layout / "images"
    for path in (images / "data_256/u/utility_room").iterdir():
        path.unlink()
    with pytest.raises(
        UsageError,
        match=r"no train image of 1 of 3 classes \(utility room\).*'classes=\[airfield, apartment building outdoor\]'",
    ):
        places365(str(images), str(layout), Shares())
    wanted = ["airfield", "apartment building outdoor"]
    plan = places365(str(images), str(layout), Shares(), wanted)
    assert plan.attributes == {"scene": wanted}
    assert {entry.labels[0] for rows in plan.splits.values() for entry in rows} == set(wanted)
    with pytest.raises(UsageError, match=r"classes: 'airfeld' is no class .*did you mean 'airfield'"):
        places365(str(images), str(layout), Shares(), [*wanted, "airfeld"])


def test_no_lists_and_no_folders_of_classes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="no images there"):
        places365(str(tmp_path / "images"), str(tmp_path), Shares())
    (tmp_path / "images/a.jpg").touch()
    with pytest.raises(UsageError, match=r"holds no categories_places365\.txt"):
        places365(str(tmp_path / "images"), str(tmp_path), Shares())


@pytest.mark.parametrize("layout", ["official"], indirect=True)
def test_train_images_are_of_the_class_whose_folder_they_are_in(layout: Path) -> None:
    """Those of all classes have the same names: a folder of no class, here a misspelt one, gives none to another."""
    folder = layout / "images/data_256/a"
    (folder / "airfield").rename(folder / "airfeld")
    with pytest.raises(UsageError, match=r"no train image of 1 of 3 classes \(airfield\)"):
        places365(str(layout / "images"), str(layout), Shares())


@pytest.mark.parametrize("layout", ["official"], indirect=True)
def test_lists_that_begin_with_a_mark_of_utf_8(layout: Path) -> None:
    plan = places365(str(layout / "images"), str(layout), Shares())
    for file in (layout / "lists/filelist_places365-standard").iterdir():
        file.write_text(file.read_text(), encoding="utf-8-sig")
    assert places365(str(layout / "images"), str(layout), Shares()) == plan
