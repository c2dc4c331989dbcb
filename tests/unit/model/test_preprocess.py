"""Pixels against open_clip's own evaluation transform."""

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from raymds.errors import UsageError
from raymds.model import ClipWithHeads, Identity, Preprocess
from raymds.model.preprocess import square
from tests.unit.model.small import TEXT, VISION

SIZES = [(64, 64), (32, 32), (31, 33), (200, 75), (75, 201), (7, 5), (1, 40), (33, 32), (64, 17)]


def picture(height: int, width: int) -> Any:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_every_pixel_is_open_clips(resize_mode: str, interpolation: str) -> None:
    fit = Preprocess(32, interpolation=interpolation, resize_mode=resize_mode, fill_color=77)
    theirs = open_clip.image_transform(
        32,
        is_train=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill_color=77,
    )
    for size in SIZES:
        got, want = fit(picture(*size)), theirs(Image.fromarray(picture(*size)))
        assert got.shape == (32, 32, 3)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, (want * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_picture_and_network_give_open_clips_embedding(mode: str) -> None:
    """From a picture's pixels to its embedding, with a normalisation of its own."""
    own = Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", mode)
    net = ClipWithHeads(Identity("", {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}, own), [], 4, seed=0)
    theirs = open_clip.image_transform(
        32, is_train=False, mean=own.mean, std=own.std, resize_mode=mode, interpolation="bilinear"
    )
    for size in ((50, 90), (20, 31), (32, 32)):
        pixels = torch.from_numpy(net.preprocess(picture(*size)).copy()).permute(2, 0, 1)
        want = net.clip.encode_image(theirs(Image.fromarray(picture(*size)))[None], normalize=True)
        torch.testing.assert_close(net.encode_image(pixels[None]), want, rtol=1e-4, atol=1e-5)


def test_open_clips_defaults_stand_where_nothing_is_said() -> None:
    assert Preprocess.parse({}, 224, "w") == Preprocess(224)
    assert Preprocess.parse({"mean": None, "interpolation": None, "mode": "RGB"}, 224, "w") == Preprocess(224)
    default = open_clip.transform.PreprocessCfg()
    fit = Preprocess(224)
    assert fit.mean == default.mean
    assert fit.std == default.std
    assert (fit.interpolation, fit.resize_mode, fit.fill_color) == (
        default.interpolation,
        default.resize_mode,
        default.fill_color,
    )


def test_what_open_clip_reads_back() -> None:
    """Its own dataclass takes what is written, and says the same."""
    fit = Preprocess(48, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", "longest", 9)
    theirs = open_clip.transform.PreprocessCfg(**fit.as_open_clip())
    assert (theirs.num_channels, theirs.size, list(theirs.mean), theirs.fill_color) == (3, 48, [0.1, 0.2, 0.3], 9)
    assert Preprocess.parse(fit.as_open_clip(), 48, "w") == fit


def test_one_number_stands_for_all_channels_and_the_model_says_the_size() -> None:
    assert Preprocess.parse({"mean": 0.5, "std": 1, "size": [224, 224]}, 64, "w") == Preprocess(
        64, (0.5,) * 3, (1.0,) * 3
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"interpolation": "lanczos"},
        {"resize_mode": "crop"},
        {"resize_mode": ["squash"]},
        {"mean": [0.5, 0.5]},
        {"mean": "0.5"},
        {"std": [0.5, 0.5, "x"]},
        {"std": [0.5, 0, 0.5]},
        {"std": 0},
        {"std": [0.5, float("nan"), 0.5]},
        {"mean": float("inf")},
    ],
    ids=str,
)
def test_a_value_that_open_clip_does_not_have_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"w\.pt: preprocess_cfg\.{next(iter(wrong))}=.*has to be"):
        Preprocess.parse(wrong, 224, "w.pt")


def test_a_preprocessing_that_is_no_mapping_is_named() -> None:
    with pytest.raises(UsageError, match=r"w\.pt: preprocess_cfg=3: has to be a mapping"):
        Preprocess.parse(3, 224, "w.pt")  # type: ignore[arg-type]


def test_images_have_to_be_square() -> None:
    assert square(64, "w") == square([64, 64], "w") == square((64, 64), "w") == 64
    for size in ([64, 32], [], "64", 0, [0, 0], 1.5, None, [[64]]):
        with pytest.raises(UsageError, match=r"w: takes images of .* pixels; raymds needs square ones"):
            square(size, "w")
