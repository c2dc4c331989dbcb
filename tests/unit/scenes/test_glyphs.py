"""Things in hundreds of classes: deterministic, drawable, told apart by what their class says."""

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raymds.config import load
from raymds.data.config import GlyphsConfig
from raymds.data.decode import decode
from raymds.errors import UsageError
from raymds.model import ClipWithHeads
from raymds.scenes.dataset import make_glyphs
from raymds.scenes.glyphs import COLOURS, PATTERNS, SHAPES, TEMPLATES, THINGS, caption, draw_thing, render, things
from tests.conftest import silent

GOLDEN = "8f406173c909bd87c42d16ffb15117ec3dc1a4bf2680bec67502e2e45154d153"


def test_pixels_are_those_of_the_day_they_were_approved() -> None:
    pictures = [render(7, index, 64, THINGS[index * 13 % 320]) for index in range(24)]
    pictures.append(render(7, 1, 200, THINGS[77]))
    digest = hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()
    assert digest == GOLDEN, "pictures changed: look at them, then put this digest into GOLDEN"


def test_same_picture_in_any_order_and_thread() -> None:
    forward = [render(3, index, 64, THINGS[index]) for index in range(4)]
    with ThreadPoolExecutor(2) as pool:
        backward = list(pool.map(lambda index: render(3, index, 64, THINGS[index]), [3, 2, 1, 0]))
    assert all(np.array_equal(one, other) for one, other in zip(forward, reversed(backward), strict=True))
    assert not np.array_equal(forward[0], render(4, 0, 64, THINGS[0]))


def test_every_class_has_words_of_its_own_and_differs_from_every_other() -> None:
    assert len(set(THINGS)) == len(COLOURS) * len(PATTERNS) * len(SHAPES) == 320
    # In the same place, light and clutter, only the class differs.
    drawn = np.stack([render(0, 5, 64, thing) for thing in THINGS]).reshape(len(THINGS), -1).astype(np.float64)
    squares = (drawn**2).sum(axis=1)
    distance = squares[:, None] + squares[None] - 2 * drawn @ drawn.T + np.diag(np.full(len(THINGS), np.inf))
    assert np.sqrt(distance.min() / drawn.shape[1]) > 3  # grey levels, over the whole picture


def test_colour_and_pattern_are_seen_where_the_thing_is() -> None:
    for index in range(20):
        red, blue = (render(1, index, 64, f"{colour} plain circle").astype(float) for colour in ("red", "blue"))
        there = abs(red - blue).max(axis=2) > 40
        assert 0.03 < there.mean() < 0.6
        assert (red[there][:, 0] > red[there][:, 2]).mean() > 0.95
        striped = render(1, index, 64, "red striped circle").astype(float)
        changed = abs(striped - red).max(axis=2) > 25
        assert 0.2 < changed[there].mean() < 0.8
        assert not changed[abs(red - blue).max(axis=2) < 3].any()


def test_captions_name_the_thing_and_fit_the_tiny_model() -> None:
    net = ClipWithHeads("tiny-64", [], 4, seed=0)
    sentences = [template.format(thing) for template in TEMPLATES for thing in THINGS]
    tokens = net.tokenize(sentences)
    ends = (tokens == tokens.max()).sum(dim=1)
    assert (ends == 1).all()
    assert len({tuple(row) for row in tokens.tolist()}) == len(sentences)
    assert {caption(0, index, "red plain bow") for index in range(8)} == {t.format("red plain bow") for t in TEMPLATES}


def test_classes_come_in_proportion_to_their_weights() -> None:
    classes = things(12)
    drawn = Counter(draw_thing(0, index, classes, {classes[3]: 5.0, classes[4]: 0.0}) for index in range(4000))
    assert classes[4] not in drawn
    assert drawn[classes[3]] == pytest.approx(4000 * 5 / 15, rel=0.15)
    assert all(drawn[name] == pytest.approx(4000 / 15, rel=0.3) for name in (*classes[:3], *classes[5:]))


def test_a_set_has_every_class_as_often_in_val_and_test(tmp_path: Path) -> None:
    rows = ["rows.train=60", "rows.val=24", "rows.test=36", "rows_per_shard=16", "classes=12", "size=32"]
    config = load(GlyphsConfig, None, [*rows, f"frequencies.{THINGS[2]}=0"])
    data = make_glyphs(str(tmp_path), config, 1, silent)
    assert data.attributes == {"thing": list(THINGS[:12])}
    assert [data.count("val", "thing", name) for name in THINGS[:12]] == [2] * 12
    assert [data.count("test", "thing", name) for name in THINGS[:12]] == [3] * 12
    assert data.count("train", "thing", THINGS[2]) == 0
    found = [row for path in sorted(tmp_path.glob("*-0*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert len({row["id"] for row in found}) == 120
    for row in found[::17]:
        index = int(row["id"].rpartition("-")[2])
        assert row["thing"] in row["caption"]
        assert abs(decode(row["image"]).astype(float) - render(0, index, 32, row["thing"])).mean() < 6


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("classes=321", "classes=321: has to be 2 to 320"),
        ("classes=1", "classes=1: has to be 2 to 320"),
        ("frequencies.red flat star=1", "frequencies.red flat star: is none of the 320 classes"),
        ("frequencies.red plain star=-1", "frequencies.red plain star=-1.0: has to be finite and not negative"),
        ("size=8", "size=8: has to be 16 to 512 pixels"),
        ("colours=3", "colours: unknown key"),
    ],
)
def test_a_bad_config_names_the_key(setting: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=named):
        make_glyphs(str(tmp_path), load(GlyphsConfig, None, [setting]), 1, silent)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_drawn_is_said() -> None:
    for seed, index in ((-1, 0), (0, 2**64)):
        with pytest.raises(UsageError, match="whole numbers"):
            render(seed, index, 64, THINGS[0])
    with pytest.raises(UsageError, match="is no thing"):
        render(0, 0, 64, "red flat star")
    with pytest.raises(UsageError, match="no class has one above 0"):
        draw_thing(0, 0, THINGS[:2], dict.fromkeys(THINGS[:2], 0.0))
