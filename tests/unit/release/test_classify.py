"""Many images as a table: what is said of each is what evaluation says, wherever it comes from."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import raymds
from raymds.cli.main import main
from raymds.config import Config
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.errors import UsageError
from raymds.release import classify as classifying
from raymds.release import delivered, images
from raymds.release.recogniser import Prediction, Recogniser
from raymds.scenes.render import ATTRIBUTES as SCENES
from raymds.tasks import resolve
from raymds.train.evaluate import evaluate
from tests.conftest import silent, write_scenes

ATTRIBUTES = ("weather", "scene", "timeofday")


@pytest.fixture(scope="module")
def folder(data_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of the test split as files of a person: two levels, several kinds, other things between them."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "b").mkdir()
    split = DataSet.open(data_uri).load("test")
    for row in range(6):
        encoded = bytes(split.example(row).image)
        if row < 4:
            (folder / f"image-{row}.JPG").write_bytes(encoded)
        else:
            Image.open(io.BytesIO(encoded)).save(folder / "b" / f"image-{row}.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "._image-0.JPG").write_bytes(b"what a Mac leaves")
    return folder


def by_evaluation(fog_run: Path, config: Config, split: str = "test") -> dict[str, list[str]]:
    model, _ = delivered.find(str(fog_run)).open()
    data = DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    found = evaluate(model, data.load(split), tasks, 0.05).predicted
    return {a: [tasks.classes[a][i] for i in found[a]] for a in tasks.classes}


def test_a_data_set_gives_what_was_evaluated(fog_run: Path, fog_config: Config, tmp_path: Path) -> None:
    out = tmp_path / "labels.parquet"
    assert main(["classify", str(fog_run), fog_config.data.uri, "--split", "test", "--out", str(out)]) == 0
    table = pq.read_table(out)
    parts = ("", ".probability", ".margin")
    assert table.column_names == ["image", *(f"{a}{part}" for a in ATTRIBUTES for part in parts), "error"]
    assert table["image"].to_pylist() == [f"row-{i}" for i in range(520, 640)]
    want = by_evaluation(fog_run, fog_config)
    assert {a: table[a].to_pylist() for a in ATTRIBUTES} == want
    assert table["error"].null_count == 120


def test_probability_and_margin_by_hand(fog_run: Path, data_uri: str) -> None:
    model = raymds.load(str(fog_run))
    picture = Image.open(io.BytesIO(DataSet.open(data_uri).load("test").example(0).image))
    (answer,) = model.classify([picture])
    for attribute in ATTRIBUTES:
        cosine = (model.embed([picture]) @ model.classifier(attribute).T)[0].astype(float)
        weight = np.exp(cosine / 0.03)
        share = np.sort(weight / weight.sum())[::-1]
        assert answer[attribute].label == model.classes[attribute][int(cosine.argmax())]
        assert answer[attribute].probability == pytest.approx(share[0], abs=1e-4)
        assert answer[attribute].margin == pytest.approx(share[0] - share[1], abs=1e-4)


def test_a_folder_is_read_to_its_depth_in_the_order_of_names(
    fog_run: Path, fog_config: Config, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels.csv"
    assert main(["classify", str(fog_run), str(folder), str(folder / "image-0.JPG"), "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open()))
    names = ["b/image-4.png", "b/image-5.png", *(f"image-{i}.JPG" for i in range(4)), "image-0.JPG"]
    assert [row["image"] for row in rows] == [str(folder / name) for name in names]
    want = by_evaluation(fog_run, fog_config)
    order = [4, 5, 0, 1, 2, 3, 0]
    assert {a: [row[a] for row in rows] for a in ATTRIBUTES} == {a: [want[a][i] for i in order] for a in ATTRIBUTES}
    assert all(0 < float(row["weather.margin"]) <= float(row["weather.probability"]) <= 1 for row in rows)
    assert {row["error"] for row in rows} == {""}


def test_without_out_there_is_a_line_or_a_record_for_each(
    fog_run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(fog_run), str(folder), "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shown = [record for record in records if record["event"] == "image"]
    assert len(shown) == 6
    assert set(shown[0]["labels"]) == set(ATTRIBUTES)
    assert records[-1]["temperature"] == 0.03
    assert {"event": "progress", "what": "images classified", "done": 6, "total": 6} in records
    assert main(["classify", str(fog_run), str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"{folder}/image-0.JPG: weather {shown[2]['labels']['weather']['label']}" in said


def test_a_broken_image_is_a_row_of_its_own(
    fog_run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "images")
    data = (folder / "image-1.JPG").read_bytes()
    (tmp_path / "images" / "image-1.JPG").write_bytes(data[:100])
    (tmp_path / "images" / "image-2.JPG").write_bytes(b"")
    out = tmp_path / "labels.parquet"
    assert main(["classify", str(fog_run), str(tmp_path / "images"), "--out", str(out)]) == 0
    table = pq.read_table(out)
    assert table.filter(table["error"].is_valid())["image"].to_pylist() == [
        str(tmp_path / "images" / f"image-{i}.JPG") for i in (1, 2)
    ]
    assert table["weather"].null_count == table["weather.probability"].null_count == 2
    assert "2 of them can't be read" in capsys.readouterr().out
    whole = pq_of(fog_run, folder, tmp_path)
    assert [r["weather.probability"] for r in table.to_pylist() if not r["error"]] == [
        r["weather.probability"] for r in whole if not r["image"].endswith(("image-1.JPG", "image-2.JPG"))
    ]
    assert main(["classify", str(fog_run), str(tmp_path / "images" / "image-2.JPG")]) == 2


def pq_of(fog_run: Path, folder: Path, tmp_path: Path) -> list[dict[str, Any]]:
    assert main(["classify", str(fog_run), str(folder), "--out", str(tmp_path / "whole.parquet")]) == 0
    rows: list[dict[str, Any]] = pq.read_table(tmp_path / "whole.parquet").to_pylist()
    return rows


def test_a_broken_row_of_a_data_set(fog_run: Path, tmp_path: Path) -> None:
    write_scenes(str(tmp_path / "data"), spoiled={405})
    out = tmp_path / "labels.parquet"
    assert main(["classify", str(fog_run), str(tmp_path / "data"), "--split", "val", "--out", str(out)]) == 0
    table = pq.read_table(out)
    assert table.filter(table["error"].is_valid())["image"].to_pylist() == ["row-405"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_an_image_is_made_upright(fog_run: Path, tmp_path: Path, orientation: int, ending: str) -> None:
    """Stored turned, with the EXIF that says so: the answer is that of the upright picture."""
    random = np.random.default_rng(0)
    upright = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 72), Image.Resampling.BOX)
    turns = {  # how a picture lies in a file of that orientation, from the EXIF standard
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, 1), 7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }  # fmt: skip
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](np.asarray(upright))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{ending}"
    stored.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if ending == "jpg" else {}))
    model = raymds.load(str(fog_run))
    # Compared as embeddings, which the pixels of the corners move; JPEG loses a little.
    got, opened, want = model.embed([str(path), Image.open(path), upright])
    assert np.abs(got - opened).max() < 1e-6
    assert np.abs(got - want).max() < (0.02 if ending == "jpg" else 1e-6)


def test_a_damaged_exif_does_not_spoil_a_good_picture(fog_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.new("RGB", (64, 64), (10, 200, 30)).save(path, exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    model = raymds.load(str(fog_run))
    assert len(model.classify([path])) == 1
    table = classifying.classify(str(fog_run), model, images.find([str(path)], None), silent, cores=1)
    assert table["error"].to_pylist() == [None]


def test_of_one_class_the_margin_is_the_probability_itself(fog_run: Path) -> None:
    model, _ = delivered.find(str(fog_run)).open()
    object.__setattr__(model.identity, "prompts", {"weather": {"rainy": ["it rains."]}})
    (answer,) = Recogniser(model, 0.05).classify([np.zeros((64, 64, 3), np.uint8)])
    assert answer == {"weather": Prediction("rainy", 1.0, 1.0)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "nowhere"], "nowhere: no such file, no data set, and no folder with images"),
        (["{run}", "{folder}", "--split", "test"], "--split test: none of the given places is a data set"),
        (["{run}", "{data}", "--split", "tset"], "no split 'tset'; it has train, val, test"),
        (["{run}", "{folder}", "--out", "labels.txt"], "has to end with .parquet or .csv"),
        (["{old}", "{folder}"], "does not say its classes"),
        (["nothing", "{folder}"], "nothing: no such file, and no directory of a finished run"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], message: str, fog_run: Path, folder: Path, data_uri: str, old_weights: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    places = {"run": fog_run, "folder": folder, "data": data_uri, "old": old_weights}
    assert main(["classify", *(argument.format(**places) for argument in arguments)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), 7])
def test_an_image_of_the_wrong_kind_is_named(fog_run: Path, bad: Any) -> None:
    with pytest.raises(UsageError, match=r"images\[1\]: an? .*; give a PIL image"):
        raymds.load(str(fog_run)).classify([np.zeros((4, 4, 3), np.uint8), bad])


def test_images_of_a_data_set_are_taken_as_they_were_measured(
    fog_run: Path, fog_config: Config, tmp_path: Path
) -> None:
    """A row that kept its EXIF is not turned in an evaluation, so it is not turned here."""
    uri = str(tmp_path / "data")
    random = np.random.default_rng(0)
    rows = []
    for i in range(12):
        picture = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 72))
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", exif=exif)
        rows.append(Row(f"row-{i}", buffer.getvalue(), "a", {"weather": "clear", "scene": None, "timeofday": None}))
    write_manifest(uri, SCENES, {"test": [write_shard(uri, "test-0.parquet", rows, SCENES)]}, {})
    model = raymds.load(str(fog_run))
    table = classifying.classify(str(fog_run), model, images.find([uri], None), silent, cores=1)
    config = replace(fog_config, data=replace(fog_config.data, uri=uri))
    assert {a: table[a].to_pylist() for a in ATTRIBUTES} == by_evaluation(fog_run, config)


def test_attributes_may_be_called_as_they_like_but_for_a_column_of_the_table(tmp_path: Path) -> None:
    """By a model that knows white from black."""

    def answers(pixels: torch.Tensor) -> list[dict[str, Prediction]]:
        return [{"number": Prediction("zero" if one.float().mean() > 99 else "one", 1.0, 1.0)} for one in pixels]

    kept = SimpleNamespace(mean=torch.zeros(1), preprocess=lambda pixels: pixels)
    given: Any = SimpleNamespace(
        model=kept, answers=answers, require_classes=lambda: None, classes={"number": ["one", "zero"]}
    )
    for name, shade in (("a", 255), ("b", 0), ("c", 255)):
        Image.new("RGB", (4, 4), (shade,) * 3).save(tmp_path / f"{name}.png")
    table = classifying.classify("w", given, images.find([str(tmp_path)], None), silent, cores=1)
    assert [Path(name).stem for name in table["image"].to_pylist()] == ["a", "b", "c"]
    assert table["number"].to_pylist() == ["zero", "one", "zero"]
    assert ":number" not in table.column_names
    for classes in ({"error": ["a"]}, {"image": ["a"]}, {"w": ["a"], "w.margin": ["a"]}):
        given.classes = classes
        with pytest.raises(UsageError, match="another column of the table"):
            classifying.classify("w", given, [], silent, cores=1)
