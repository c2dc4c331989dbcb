"""From a picture to the pixels that an image tower takes, as open_clip's own evaluation transform makes them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import open_clip
from numpy.typing import NDArray
from PIL import Image

from raymds.errors import UsageError

_MODES = {"interpolation": ("bicubic", "bilinear", "random"), "resize_mode": ("shortest", "longest", "squash")}


@dataclass(frozen=True)
class Preprocess:
    """Size, fit and normalisation of a model's images, under open_clip's names."""

    size: int  # pixels a side
    mean: tuple[float, ...] = open_clip.OPENAI_DATASET_MEAN
    std: tuple[float, ...] = open_clip.OPENAI_DATASET_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0  # grey level of the border that `longest` adds

    @classmethod
    def parse(cls, config: Mapping[str, Any], size: int, source: str) -> "Preprocess":
        """From an open_clip `preprocess_cfg`, whose missing parts are open_clip's defaults, for a model of that size.

        As in open_clip, a size of its own does not count. UsageError naming `source` and the key where a value is none
        that open_clip has.
        """
        if not isinstance(config, Mapping):
            raise UsageError(f"{source}: preprocess_cfg={config!r}: has to be a mapping, as open_clip writes it")
        known = {key: config[key] for key in cls.__dataclass_fields__ if config.get(key) is not None}
        for key, modes in _MODES.items():
            if known.get(key, modes[0]) not in modes:
                raise UsageError(f"{source}: preprocess_cfg.{key}={known[key]!r}: has to be one of {', '.join(modes)}")
        for key in ("mean", "std"):
            if key in known:
                # One number stands for all channels.
                values = known[key] if isinstance(known[key], list | tuple) else [known[key]] * 3
                numbers = len(values) == 3 and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
                if not numbers or (key == "std" and min(values) <= 0):
                    raise UsageError(
                        f"{source}: preprocess_cfg.{key}={known[key]!r}: has to be three numbers, std above 0"
                    )
                known[key] = tuple(float(value) for value in values)
        return cls(**known | {"size": size})

    def as_open_clip(self) -> dict[str, Any]:
        """As `preprocess_cfg` of an `open_clip_config.json`."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std), "mode": "RGB"}

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop: RGB (H, W, 3) → (size, size, 3). A picture of that size stays as it is."""
        if picture.shape[:2] == (self.size, self.size):
            return picture
        return np.asarray(self._fit(Image.fromarray(picture)))

    @cached_property
    def _fit(self) -> Any:
        whole = open_clip.image_transform(
            self.size,
            is_train=False,
            resize_mode=self.resize_mode,
            interpolation=self.interpolation,
            fill_color=self.fill_color,
        )
        # The last three make a normalised tensor of it, which is the network's first step here.
        return type(whole)(whole.transforms[:-3])


def square(size: Any, source: str) -> int:
    """One side of open_clip's `image_size`, a number or a pair; UsageError where it is not square."""
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if not sides or any(type(side) is not int or side < 1 or side != sides[0] for side in sides):
        raise UsageError(f"{source}: takes images of {size!r} pixels; raymds needs square ones")
    return int(sides[0])
