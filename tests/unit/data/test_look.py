"""Looking at a data set: counts from the manifest, and contact sheets that show what they say."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raymds.data import look
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.errors import UsageError
from tests.unit.report.browser import browser

ATTRIBUTES = {"weather": ["clear", "fog <b>&amp;", "hail"], "scene": ["Straße"]}
COLOURS = {"clear": (200, 30, 30), "fog <b>&amp;": (30, 30, 200)}


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (300, 200)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {label: picture(colour) for label, colour in COLOURS.items()}


def rows(start: int, count: int) -> list[Row]:
    """Every third shows fog; every fourth has no scene; the image of every eleventh can't be decoded."""
    return [
        Row(
            f"id-{i}",
            picture(COLOURS[weather], (300, 200 + start // 200)) if i % 11 else b"no image",
            "",
            {"weather": weather, "scene": "Straße" if i % 4 else None},
        )
        for i in range(start, start + count)
        for weather in [list(COLOURS)[i % 3 == 0]]
    ]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Twelve shards of train, one of test."""
    where = str(tmp_path / "set")
    splits = {
        "train": [write_shard(where, f"train-{n}.parquet", rows(12 * n, 12), ATTRIBUTES) for n in range(12)],
        "test": [write_shard(where, "test-0.parquet", rows(200, 4), ATTRIBUTES)],
    }
    write_manifest(where, ATTRIBUTES, splits, {"made_by": "tests"})
    return where


def seen(uri: str, split: str | None = None, out: str | None = None, seed: int = 0) -> dict[str, Any]:
    return look.look(uri, split, out, seed, lambda record: None)


def test_rows_are_counted_per_split_and_class_without_a_shard(uri: str) -> None:
    for path in Path(uri).glob("*.parquet"):
        path.unlink()
    assert seen(uri) == {
        "data": uri,
        "rows": {"train": 144, "test": 4},
        "classes": {
            "weather": {
                "clear": {"train": 96, "test": 3},
                "fog <b>&amp;": {"train": 48, "test": 1},
                "hail": {"train": 0, "test": 0},
            },
            "scene": {"Straße": {"train": 108, "test": 3}},
        },
        "undefined": {"weather": {"train": 0, "test": 0}, "scene": {"train": 36, "test": 1}},
        "parts": [],
        "sheet": None,
    }
    assert seen(uri, "test")["classes"]["scene"] == {"Straße": {"test": 3}}


def test_a_split_or_format_that_is_not_there_is_named(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--split val: no such split in .*; it has train, test"):
        seen(uri, "val")
    with pytest.raises(UsageError, match=r"--out .*sheet\.gif: has to end in \.png or \.html"):
        seen(uri, out=str(tmp_path / "sheet.gif"))
    with pytest.raises(UsageError, match="--seed -1: has to be 0 or more"):
        seen(uri, out=str(tmp_path / "sheet.png"), seed=-1)


def test_examples_have_their_class_and_are_a_function_of_the_seed(uri: str) -> None:
    split = DataSet.open(uri).load("train")
    chosen = look.choose(split, "weather", 1, 3)
    assert len(set(chosen.tolist())) == 8
    assert (split.labels["weather"][chosen] == 1).all()
    assert look.choose(split, "weather", 1, 3).tolist() == chosen.tolist()
    assert look.choose(split, "weather", 1, 4).tolist() != chosen.tolist()
    assert look.choose(split, "weather", 2, 3).tolist() == []


def test_only_the_shards_of_the_examples_are_read(uri: str) -> None:
    data = DataSet.open(uri)
    split = data.load("train")
    chosen = np.concatenate(
        [look.choose(split, name, n, 0) for name in ATTRIBUTES for n in range(len(ATTRIBUTES[name]))]
    )
    needed = {data.splits["train"][number].file for number in split.shard_of(chosen)}
    assert 2 <= len(needed) <= 4
    for path in Path(uri).glob("train-*.parquet"):
        if path.name not in needed:
            path.unlink()
    sheet = look.gather(DataSet.open(uri), "train", 0, None, lambda record: None)
    assert [(line.label, line.rows, len(line.cells)) for line in sheet.lines["weather"]] == [
        ("clear", 96, 8), ("fog <b>&amp;", 48, 8), ("hail", 0, 0),
    ]  # fmt: skip


def test_a_png_shows_each_class_with_its_own_images(uri: str, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert seen(uri, out=str(out), seed=1)["sheet"] == str(out)
    page = Image.open(out).convert("RGB")
    shown = [look._strip(line) for line in sheet(uri, 1).lines["weather"]]
    for strip, colour in zip(shown, COLOURS.values(), strict=False):
        found = strip.getcolors(1 << 24)
        assert found is not None
        assert 96 * 64 * 6 <= {colour: count for count, colour in found}[colour] <= 96 * 64 * 8
    assert page.width == shown[0].width
    assert page.height > sum(strip.height for strip in shown)
    before = out.read_bytes()
    seen(uri, out=str(out), seed=1)
    assert out.read_bytes() == before


def sheet(uri: str, seed: int = 0) -> look.Sheet:
    return look.gather(DataSet.open(uri), "train", seed, None, lambda record: None)


def test_an_image_that_cannot_be_decoded_is_an_empty_cell(uri: str, tmp_path: Path) -> None:
    split = DataSet.open(uri).load("train")
    seed = next(s for s in range(50) if (look.choose(split, "scene", 0, s) % 11 == 0).any())
    cells = sheet(uri, seed).lines["scene"][0].cells
    assert any(cell.picture is None for cell in cells)
    assert all((cell.picture is None) == (int(cell.id[3:]) % 11 == 0) for cell in cells)
    for out in (tmp_path / "sheet.png", tmp_path / "sheet.html"):
        seen(uri, out=str(out), seed=seed)
    assert "can't be decoded" in (tmp_path / "sheet.html").read_text()


@pytest.mark.parametrize("size", [(300, 200), (20, 30), (96, 96), (4000, 3)])
def test_a_thumbnail_fits_whatever_the_image(size: tuple[int, int]) -> None:
    thumbnail = look.thumbnail(picture((1, 2, 3), size))
    assert thumbnail is not None
    assert max(thumbnail.size) == 96


def test_a_png_leaves_out_classes_beyond_sixty_and_html_none(tmp_path: Path) -> None:
    uri, classes = str(tmp_path / "set"), {"place": [f"place {n}" for n in range(70)]}
    content = [Row(str(n), PICTURES["clear"], "", {"place": f"place {n}"}) for n in range(70)]
    write_manifest(uri, classes, {"train": [write_shard(uri, "train-0.parquet", content, classes)]}, {})
    short, full = (look.gather(DataSet.open(uri), "train", 0, most, lambda record: None) for most in (60, None))
    assert (len(short.lines["place"]), short.left_out) == (60, {"place": 10})
    assert (len(full.lines["place"]), full.left_out) == (70, {"place": 0})
    seen(uri, out=str(tmp_path / "sheet.png"))
    text = [seen(uri, out=str(tmp_path / "sheet.html")), (tmp_path / "sheet.html").read_text()][1]
    assert text.count("data:image/jpeg") == 70


def test_html_carries_its_images_and_no_markup_of_names(uri: str, tmp_path: Path) -> None:
    out = tmp_path / "sheet.html"
    seen(uri, out=str(out))
    text = out.read_text()
    assert "<b>" not in text
    assert "fog &lt;b&gt;&amp;amp;" in text
    assert "http:" not in text.replace("http-equiv", "")
    images = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="clear"', text)
    pixel = Image.open(io.BytesIO(base64.b64decode(images[0]))).getpixel((48, 32))
    assert np.allclose(pixel, COLOURS["clear"], atol=6)


@pytest.mark.parametrize(("width", "phone"), [(1200, False), (390, True)])
def test_a_browser_shows_it_without_complaint(uri: str, tmp_path: Path, width: int, phone: bool) -> None:
    out = tmp_path / "sheet.html"
    seen(uri, out=str(out))
    with browser(width, 800, phone=phone) as page:
        page.open(out.as_uri())
        assert page.requests() == [out.as_uri()]
        assert page.console() == []
        assert page.evaluate("return document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("return [...document.images].every(i => i.naturalWidth == 96 && i.width > 80)")


def test_words_too_wide_keep_their_end() -> None:
    strip = look._strip(look.Line("one\ntwo", 1, [look.Cell("x" * 500 + "\n1", None)]))
    assert strip.width == look._WIDTH
