"""The same image in two splits is found, however it was encoded; under several rows of one split it counts once."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from raymds.cli.main import main
from raymds.config import Config
from raymds.data import look
from raymds.data.doubles import Prints, Row, fingerprint, near, same
from raymds.data.shards import DataSet, write_manifest, write_shard
from raymds.data.shards import Row as Example
from raymds.data.verify import verify
from raymds.errors import UsageError
from raymds.scenes.render import ATTRIBUTES, BALANCED, render
from raymds.tasks import resolve
from raymds.train.evaluate import evaluate
from raymds.train.net import open_net
from tests.conftest import silent

N = 400


def scene(index: int) -> Image.Image:
    return Image.fromarray(render(3, index, 64, BALANCED).pixels)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def prints(images: list[bytes]) -> Prints:
    found = [fingerprint(image) for image in images]
    pixels = np.frombuffer(b"".join(pixels or bytes(8) for pixels, _ in found), np.uint64)
    likeness = np.frombuffer(b"".join(likeness or bytes(16) for _, likeness in found), np.uint64).reshape(-1, 2)
    return Prints(pixels, likeness, np.array([pixels is not None for pixels, _ in found]))


@pytest.fixture(scope="module")
def train() -> list[Image.Image]:
    return [scene(i) for i in range(N)]


@pytest.fixture(scope="module")
def test() -> list[bytes]:
    return [encoded(scene(N + i), quality=95) for i in range(N // 2)]


def test_leaks_that_were_encoded_again_and_resized_are_found(train: list[Image.Image], test: list[bytes]) -> None:
    leaked = [image.resize((side, side), Image.Resampling.BICUBIC) for side in (48, 56, 80) for image in train[:60]]
    again = [encoded(image, quality=60 + 10 * (i % 4)) for i, image in enumerate(leaked)]
    theirs = [encoded(train[17], "WEBP", lossless=True), *test, *again]
    both = {"train": prints([encoded(image, "PNG") for image in train]), "test": prints(theirs)}
    assert same(both) == [(Row("train", 17), Row("test", 0))]
    found = {(one.row, other.row) for one, other, _ in near(both)}
    want = {(i % 60, 1 + len(test) + i) for i in range(len(again))}
    assert len(found & want) >= 0.97 * len(want)
    assert {row for row, _ in found} <= set(range(60))  # no other picture of 400 is taken for one of the 200


def test_near_is_what_all_pairs_say(train: list[Image.Image], test: list[bytes]) -> None:
    again = [encoded(image.resize((56, 56), Image.Resampling.BICUBIC), quality=50) for image in train[:120]]
    mine, theirs = prints([encoded(image, quality=95) for image in train]), prints([*test, *again, b"no image"])
    bits: NDArray[np.int64] = np.bitwise_count(mine.likeness[:, None] ^ theirs.likeness[None]).sum(axis=2)
    bits[:, -1] = 99
    want = {(int(i), int(j)) for i, j in np.argwhere(bits <= 12)}
    found = {(one.row, other.row) for one, other, _ in near({"train": mine, "test": theirs})}
    assert found <= want
    assert len(found) >= 0.97 * len(want) > 100  # of those that differ in 8 bits or more a part may be missed
    sure = {(int(i), int(j)) for i, j in np.argwhere(bits <= 7)}
    assert sure <= found


def data_set(where: Path, **splits: list[tuple[bytes, str]]) -> str:
    shards = {}
    for split, rows in splits.items():
        content = [Example(f"{split}-{i}", image, "", {"sky": sky}) for i, (image, sky) in enumerate(rows)]
        shards[split] = [write_shard(str(where), f"{split}-0.parquet", content, {"sky": ["a", "b"]})]
    write_manifest(str(where), {"sky": ["a", "b"]}, shards, {"made_by": "tests"})
    return str(where)


def test_a_leak_is_published_nowhere_and_named(train: list[Image.Image], tmp_path: Path) -> None:
    one, again, other = encoded(train[0], "PNG"), encoded(train[0], "WEBP", lossless=True), encoded(train[1])
    with pytest.raises(
        UsageError,
        match=rf"1 images stand in two splits.*\n  train: {tmp_path}/train-0\.parquet row 1 \(id train-1\) and "
        rf"test: {tmp_path}/test-0\.parquet row 0 \(id test-0\)",
    ):
        data_set(tmp_path, train=[(other, "a"), (one, "a")], test=[(again, "b")])
    assert not (tmp_path / "manifest.json").exists()


def test_verify_warns_of_what_looks_alike(train: list[Image.Image], tmp_path: Path) -> None:
    rows = [(encoded(image, quality=95), "a") for image in train[:20]]
    uri = data_set(tmp_path, train=rows, test=[(encoded(train[7], quality=40), "a"), (b"no image", "b")])
    found = verify(uri, silent)
    assert found.alike == 1
    (line,) = found.near
    assert line.startswith(
        f"test: {uri}/test-0.parquet row 0 (id test-0): looks like train: {uri}/train-0.parquet row 7"
    )
    assert any(text.startswith("warning: test: ") for text in found.lines())
    sheet = look.alike(DataSet.open(uri), found.pairs)
    (pair,) = sheet.lines["look alike in two splits"]
    assert [cell.id for cell in pair.cells] == ["train: train-7", "test: test-0"]
    assert all(cell.picture is not None for cell in pair.cells)
    assert main(["data", "verify", uri, "--out", str(tmp_path / "alike.html")]) == 2  # an image can't be decoded
    assert (tmp_path / "alike.html").read_text().count("data:image/jpeg") == 2
    assert main(["data", "verify", uri, "--out", str(tmp_path / "alike.pdf")]) == 2
    assert not (tmp_path / "alike.pdf").exists()


def test_an_image_under_several_rows_is_one_example(config: Config, tmp_path: Path) -> None:
    """One row per caption is common; a certificate's n would be a multiple of what was seen."""
    uri, attributes = str(tmp_path / "set"), {name: list(labels) for name, labels in ATTRIBUTES.items()}
    scenes = [render(3, i, 64, BALANCED) for i in range(60)]
    rows = [
        Example(f"{i}-{again}", encoded(Image.fromarray(scene.pixels), "PNG"), f"{again}", scene.attributes)
        for i, scene in enumerate(scenes)
        for again in range(3)
    ]
    write_manifest(uri, attributes, {"test": [write_shard(uri, "test-0.parquet", rows, attributes)]}, {})
    data = DataSet.open(uri)
    tasks = resolve(config.task, data.attributes)
    found = evaluate(open_net(config, tasks.heads), data.load("test", tasks.vocabularies), tasks, 0.05)
    for task in tasks.all:
        own = [
            i for i, scene in enumerate(scenes) if f"{task.attribute}:{scene.attributes[task.attribute]}" == task.name
        ]
        assert found.rows(task).tolist() == [3 * i for i in own]
        assert len(found.correct(task)) == len(own)


def test_the_first_row_of_each_image_is_what_a_loop_finds() -> None:
    """Among few values, many stand twice; a row that could not be decoded is like no other."""
    dice = np.random.default_rng(0)
    for values in (1, 7, 10**9):
        pixels, known = dice.integers(values, size=300).astype(np.uint64), dice.random(300) < 0.8
        pixels[~known] = 0
        found = Prints(pixels, np.zeros((300, 2), np.uint64), known).first
        for row in range(300):
            assert found[row] == (pixels.tolist().index(pixels[row]) if known[row] else row)
