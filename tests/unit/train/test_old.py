"""Results of the old model that trials share: the same again, never damaged, never another model's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raymds.config import Config
from raymds.errors import UsageError
from raymds.train import old
from raymds.train.evaluate import Evaluation

CPU = torch.device("cpu")
VAL = Evaluation(
    labels={"weather": np.array([0, -1])},
    predicted={"weather": np.array([1, 0])},
    loss={"weather": np.array([0.5, np.nan])},
)
LOSSES = [torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)]


def test_what_is_kept_is_recalled_bit_for_bit(tmp_path: Path) -> None:
    assert old.recall(str(tmp_path), "key", CPU) is None
    old.keep(str(tmp_path), "key", VAL, LOSSES)
    found = old.recall(str(tmp_path), "key", CPU)
    assert found is not None
    for part in ("labels", "predicted", "loss"):
        assert np.array_equal(getattr(found[0], part)["weather"], getattr(VAL, part)["weather"], equal_nan=True)
    assert all(torch.equal(one, other) for one, other in zip(found[1], LOSSES, strict=True))


def test_a_flipped_byte_is_named(tmp_path: Path) -> None:
    old.keep(str(tmp_path), "key", VAL, LOSSES)
    file = tmp_path / "key.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UsageError, match=r"key\.safetensors: damaged: .*remove both, to measure again"):
        old.recall(str(tmp_path), "key", CPU)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("constraints", "temperature", 0.1),
        ("constraints", "held_out", 0.4),  # others are kept
        ("constraints", "loss", "error"),  # something else is kept
        ("run", "seed", 1),
    ],
)
def test_another_setting_has_another_key(config: Config, section: str, name: str, value: float | str) -> None:
    before = old.key(config, "data", CPU)
    assert old.key(config, "data", CPU) == before
    assert old.key(config, "other data", CPU) != before
    setattr(getattr(config, section), name, value)
    assert old.key(config, "data", CPU) != before


def test_the_key_says_which_examples_are_held_out(config: Config) -> None:
    limits = config.constraints
    limits.held_out, whole = 0.4, old.key(config, "data", CPU)
    held = old.key(config, "data", CPU)
    limits.images_per_task += 1  # each part has a step's draw
    assert len({whole, held, old.key(config, "data", CPU)}) == 3
    limits.solver = "regularize"  # its λ does not come from u: none are held out
    assert old.key(config, "data", CPU) == whole
