"""Pixels: pure functions of (seed, row, step), the same however far ahead and in whatever order they are made."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from raymds.data.loader import Loader, clean_pixels, load
from raymds.data.sampler import Batch, Sampler
from raymds.data.shards import DataSet, Split
from raymds.errors import UsageError


@pytest.fixture(scope="module")
def train(data_uri: str) -> Split:
    return DataSet.open(data_uri).load("train")


def batch(step: int) -> Batch:
    pools = [np.arange(0, 50), np.arange(100, 180)]
    return Sampler(1, np.arange(200, 300), np.arange(300, 400), pools, 30, 50, 2, 40).batch(step)


def test_ahead_threads_and_order_change_nothing(train: Split) -> None:
    forward = Loader(train, batch, 64, seed=5, threads=3, ahead=4)
    steps = [forward.get(step) for step in range(5)]
    other = Loader(train, batch, 64, seed=5, threads=1, ahead=0)
    for step in (3, 0, 4):
        again = other.get(step)
        assert torch.equal(again.pairs, steps[step].pairs)
        assert torch.equal(again.examples, steps[step].examples)
    forward.close()
    other.close()


def test_examples_are_clean_and_pairs_vary_with_the_step(train: Split) -> None:
    loader = Loader(train, batch, 64, seed=5)
    loaded = loader.get(0)
    assert torch.equal(loaded.examples, clean_pixels(train, loaded.batch.example, 64))
    assert loaded.pairs.shape == (80, 3, 64, 64)
    assert loaded.pairs.dtype == torch.uint8
    row = int(loaded.batch.positive[0])
    assert np.array_equal(loaded.pairs[0].numpy(), load(train, row, 64, (5, 0)))
    assert not np.array_equal(load(train, row, 64, (5, 0)), load(train, row, 64, (5, 1)))
    assert not np.array_equal(load(train, row, 64, (5, 0)), load(train, row, 64, (6, 0)))
    loader.close()


def encoded(image: Image.Image, kind: str) -> Split:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    content = pa.array([b"junk", buffer.getvalue()], pa.large_binary())
    return Split(["a", "b"], content, ["", ""], {}, [("bucket/train-0.parquet", 1), ("bucket/train-1.parquet", 1)])


def test_wide_images_lose_their_sides_and_keep_their_scale() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 200
    split = encoded(Image.fromarray(pixels), "PNG")
    assert (load(split, 1, 20)[:, 5:15, 5:15] == 200).all()


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    split = encoded(Image.fromarray(pixels), "PNG")
    assert np.array_equal(load(split, 1, 32), pixels.transpose(2, 0, 1))


def test_an_image_that_cant_be_decoded_names_shard_and_row() -> None:
    split = encoded(Image.new("RGB", (8, 8)), "JPEG")
    with pytest.raises(UsageError, match=r"bucket/train-0\.parquet row 0 \(id a\): image can't be decoded"):
        load(split, 0, 8)


def test_a_truncated_jpeg_is_an_error() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    split = encoded(Image.fromarray(pixels), "JPEG")
    halves = pa.array([b"", split.images[1].as_py()[:800]], pa.large_binary())
    cut = Split(split.ids, halves, ["", ""], {}, split.shards)
    with pytest.raises(UsageError, match=r"train-1\.parquet row 0"):
        load(cut, 1, 64)
