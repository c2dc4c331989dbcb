"""What open_clip builds, and what it can't build or make a tokenizer for is named."""

from typing import Any

import pytest
import torch

from raymds.errors import UsageError
from raymds.model import ClipWithHeads
from tests import towers
from tests.unit.model.small import CLASSES, TEXT, VISION, of_config


@pytest.mark.parametrize("name", ["no-such-model", "roberta-ViT-B-32", "coca_ViT-B-32"])
def test_architectures_that_cant_be_used_are_named(name: str) -> None:
    with pytest.raises(UsageError, match=rf"model\.name={name}: "):
        ClipWithHeads(name, CLASSES, 4, seed=0)


def test_a_config_that_open_clip_cant_build_is_named() -> None:
    for wrong in ({"layers": "x"}, {"no_such_key": 1}, {"width": 33}, {"patch_size": 0}, {"layers": [1, 1]}):
        with pytest.raises(UsageError, match=r"open_clip \S+ can't build it: "):
            of_config(VISION | wrong)


def test_a_tokenizer_that_cant_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: Any, **more: Any) -> None:
        raise OSError("no connection\nand more")

    monkeypatch.setattr("raymds.model.build.HFTokenizer", absent)
    with pytest.raises(UsageError, match=r"its tokenizer timm/x can't be had: no connection; it needs"):
        of_config(VISION, TEXT | {"hf_tokenizer_name": "timm/x"})


def test_a_tokenizer_that_open_clip_cant_make_is_named() -> None:
    for options in ({"no_such_key": 1}, [1]):
        with pytest.raises(UsageError, match=r"open_clip \S+ can't make its tokenizer: "):
            of_config(VISION, TEXT | {"tokenizer_kwargs": options})


def test_a_standard_architecture_builds() -> None:
    net = ClipWithHeads("ViT-S-32-alt", CLASSES, 4, seed=0)
    assert net.image_size == 224
    assert net.heads.A.shape == (3, 256, 4)


@pytest.mark.parametrize("name", ["ViT with dropout", "SigLIP", "ConvNeXt", "ResNet"])
def test_blocks_are_computed_again_or_the_tower_is_named_that_cant(name: str) -> None:
    net = towers.tower(name)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    want = torch.autograd.grad(net.encode_image(pixels)[:, :3].sum(), list(net.clip.visual.parameters()))
    if name == "ResNet":
        with pytest.raises(UsageError, match=r"run\.grad_checkpointing: the image tower of .* take run\.micro_batch"):
            net.checkpoint_blocks()
        return
    net.checkpoint_blocks()
    again = torch.autograd.grad(net.encode_image(pixels)[:, :3].sum(), list(net.clip.visual.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(want, again, strict=True))


@pytest.mark.parametrize(("name", "last"), [("ResNet", True), ("ConvNeXt", True), ("SigLIP", False)])
def test_convolutions_have_their_channels_last(name: str, last: bool) -> None:
    """And a model's weights are whole again wherever they go."""
    net = towers.tower(name)
    kernels = [p for p in net.clip.visual.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) == last for p in kernels)
    assert all(tensor.is_contiguous() for tensor in net.weights().values())
