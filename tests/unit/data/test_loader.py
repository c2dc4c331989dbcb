"""Pixels: pure functions of (seed, row, step), the same however far ahead and in whatever order they are made."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raymds.config import AugmentConfig
from raymds.data import loader
from raymds.data.loader import Loader, clean_pixels, decode, load
from raymds.data.reader import Columns, File
from raymds.data.sampler import Batch, Sampler
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.errors import UsageError
from raymds.model import Preprocess


@pytest.fixture(scope="module")
def train(data_uri: str) -> Split:
    return DataSet.open(data_uri).load("train")


FIT = Preprocess(64)


def batch(step: int) -> Batch:
    pools = [np.arange(0, 50), np.arange(100, 180)]
    return Sampler(1, np.arange(200, 300), np.arange(300, 400), pools, 30, 50, 2, 40).batch(step)


def test_ahead_threads_and_order_change_nothing(train: Split) -> None:
    forward = Loader(train, batch, FIT, seed=5, threads=3, ahead=4)
    steps = [forward.get(step) for step in range(5)]
    other = Loader(train, batch, FIT, seed=5, threads=1, ahead=0)
    for step in (3, 0, 4):
        again = other.get(step)
        assert torch.equal(again.pairs, steps[step].pairs)
        assert torch.equal(again.examples, steps[step].examples)
    forward.close()
    other.close()


def test_memory_serves_again_once_no_tensor_refers_to_it(train: Split) -> None:
    loader = Loader(train, batch, FIT, seed=5, ahead=0)
    first = loader.get(0).examples
    kept, content = first[3:5], first[3:5].clone()
    place = first.data_ptr()
    del first
    places = {loader.get(step).examples.data_ptr() for step in range(1, 20)}
    assert place not in places
    assert len(places) <= 4  # pairs and examples, and those of the step before, which a thread may still hold
    assert torch.equal(kept, content)
    loader.close()


def test_examples_are_clean_and_pairs_vary_with_the_step(train: Split) -> None:
    read: list[str] = []
    loader = Loader(train, batch, FIT, seed=5, ahead=0, read=read.append)
    loaded = loader.get(0)
    assert sorted(read) == sorted(loaded.captions)
    assert torch.equal(loaded.examples, clean_pixels(train, loaded.batch.example, FIT))
    assert loaded.pairs.shape == (80, 3, 64, 64)
    assert loaded.pairs.dtype == torch.uint8
    row = int(loaded.batch.positive[0])
    assert np.array_equal(loaded.pairs[0].numpy(), load(train, row, FIT, (5, 0))[0])
    assert not np.array_equal(load(train, row, FIT, (5, 0))[0], load(train, row, FIT, (5, 1))[0])
    assert not np.array_equal(load(train, row, FIT, (5, 0))[0], load(train, row, FIT, (6, 0))[0])
    loader.close()


def test_how_pairs_vary_is_the_configs(train: Split) -> None:
    row = int(batch(0).positive[0])
    clean = load(train, row, FIT)[0]

    def seen(**how: Any) -> list[Any]:
        config = AugmentConfig(**{"shift": 0.0, "mirror": False, **how})
        found = [load(train, row, FIT, (5, step), how=config)[0] for step in range(12)]
        assert np.array_equal(found[3], load(train, row, FIT, (5, 3), how=config)[0])
        return found

    assert all(np.array_equal(image, clean) for image in seen())
    mirrored = clean[:, :, ::-1]
    assert {np.array_equal(image, clean) + 2 * np.array_equal(image, mirrored) for image in seen(mirror=True)} == {1, 2}
    moved = seen(shift=0.25)
    assert len({image.tobytes() for image in moved}) > 6
    cropped = seen(crop=0.3)
    assert len({image.tobytes() for image in cropped}) == 12
    assert {image.shape for image in cropped} == {clean.shape}
    loader = Loader(train, batch, FIT, seed=5, augment=AugmentConfig(shift=0, mirror=False))
    loaded = loader.get(0)
    assert torch.equal(loaded.pairs, clean_pixels(train, [*loaded.batch.positive, *loaded.batch.negative], FIT))
    loader.close()


class Held:
    """Two shards of one row each, in memory."""

    def __init__(self, *images: bytes) -> None:
        self.images = images

    def rows(self, shard: int) -> Columns:
        return Columns(["ab"[shard]], [memoryview(self.images[shard])], [f"caption {shard}"])


def split_of(*images: bytes, **options: Any) -> Split:
    files = [(File(f"bucket/train-{number}.parquet", 0, ""), 1) for number in range(len(images))]
    labels = {"weather": np.zeros(len(images), np.int16)}
    return Split(labels, files, Held(*images), shard=0, window=0, **options)  # type: ignore[arg-type]


def encoded(image: Image.Image, kind: str, **options: Any) -> Split:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return split_of(b"junk", buffer.getvalue(), **options)


def test_wide_images_lose_their_sides_and_keep_their_scale() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 200
    split = encoded(Image.fromarray(pixels), "PNG")
    assert (load(split, 1, Preprocess(20))[0][:, 5:15, 5:15] == 200).all()


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    split = encoded(Image.fromarray(pixels), "PNG")
    assert np.array_equal(load(split, 1, Preprocess(32))[0], pixels.transpose(2, 0, 1))


def test_an_image_that_cant_be_decoded_names_shard_and_row() -> None:
    split = encoded(Image.new("RGB", (8, 8)), "JPEG")
    with pytest.raises(UsageError, match=r"bucket/train-0\.parquet row 0 \(id a\): image can't be decoded"):
        load(split, 0, Preprocess(8))


def test_a_truncated_jpeg_is_an_error() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    split = encoded(Image.fromarray(pixels), "JPEG")
    cut = split_of(b"", bytes(split.example(1).image)[:800])
    with pytest.raises(UsageError, match=r"train-1\.parquet row 0"):
        load(cut, 1, Preprocess(64))


def test_a_row_that_cant_be_decoded_is_skipped_and_counted_where_that_is_asked_for() -> None:
    split = encoded(Image.new("RGB", (8, 8), (9, 9, 9)), "PNG", skip_corrupt=True)
    pixels, example = load(split, 0, Preprocess(8))
    assert (example.id, split.corrupt) == ("b", {0})
    assert np.array_equal(pixels, load(split, 1, Preprocess(8))[0])


def test_a_class_without_any_image_that_can_be_decoded_is_an_error() -> None:
    split = split_of(b"junk", b"more junk", skip_corrupt=True)
    with pytest.raises(UsageError, match="no other row has the same labels"):
        load(split, 0, Preprocess(8))
    assert not load(split, 0, Preprocess(8), substitutes=False)[0].any()


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    ramp = np.linspace(0, 255, 512)
    pixels = np.stack([np.tile(ramp, (512, 1)), np.tile(ramp[:, None], (1, 512)), np.full((512, 512), 90)], axis=2)
    split = encoded(Image.fromarray(pixels.astype(np.uint8)), "JPEG")
    assert decode(split.example(1).image, 64).shape == (64, 64, 3)
    whole = np.asarray(Image.fromarray(decode(split.example(1).image)).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(load(split, 1, Preprocess(64))[0].astype(int) - whole.transpose(2, 0, 1)).mean() < 2
    assert decode(split.example(1).image, 65).shape[0] >= 65
    assert decode(split.example(1).image, 1000).shape == (512, 512, 3)


def test_what_pillow_raises_of_its_own_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    broken = bytearray(buffer.getvalue())
    broken[broken.index(b"IDAT") - 1] = 0  # the length of a chunk: Pillow raises SyntaxError
    with pytest.raises(ValueError, match="broken PNG"):
        decode(bytes(broken))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="decompression bomb"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_measured_comes_whole_and_in_order(train: Split, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(loader, "_BATCH", 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rows = np.arange(50)[::-1]
    found = list(loader.clean_batches(train, rows, FIT, substitutes=False))
    assert [len(block) for block, _ in found] == [20, 20, 10]
    for block, pixels in found:
        assert torch.equal(pixels, torch.stack([clean_pixels(train, [int(row)], FIT)[0] for row in block]))
