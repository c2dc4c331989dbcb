"""What of a tower is left as it is."""

from typing import Any

import pytest
import torch
from torch import nn

from raymds.errors import UsageError
from raymds.model import ClipWithHeads
from tests.unit.model.small import CLASSES, RESNET, TEXT, VISION, of_config, trained


def still(tower: nn.Module) -> set[str]:
    return {name for name, parameter in tower.named_parameters() if not parameter.requires_grad}


def names(tower: nn.Module, *starts: str) -> set[str]:
    """Of the parameters that begin so, each of which has to be there."""
    found = {start: {name for name, _ in tower.named_parameters() if name.startswith(start)} for start in starts}
    assert all(found.values()), found
    return set().union(*found.values())


VIT_START = ("class_embedding", "positional_embedding", "conv1.", "ln_pre.")
TEXT_START = ("token_embedding.", "positional_embedding")


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_first_blocks_of_a_vision_transformer(blocks: int) -> None:
    """Never what stands behind them: the last norm, the projection."""
    net = ClipWithHeads("tiny-64", CLASSES, 4, seed=0)
    net.freeze(blocks, 0)
    want = names(net.clip.visual, *VIT_START, *(f"transformer.resblocks.{i}." for i in range(blocks)))
    assert still(net.clip.visual) == want
    assert still(net.clip.text) == set()


@pytest.mark.parametrize("more", [{}, {"proj_bias": True}, {"proj_type": "none", "width": 24}], ids=str)
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_first_blocks_of_a_text_tower(blocks: int, more: dict[str, Any]) -> None:
    text = of_config(VISION, TEXT | more)
    text.freeze(0, blocks)
    want = names(text.clip.text, *TEXT_START, *(f"transformer.resblocks.{i}." for i in range(blocks)))
    assert still(text.clip.text) == want


def test_the_first_blocks_of_a_resnet() -> None:
    visual = of_config(RESNET).clip.visual
    net = of_config(RESNET | {"layers": [1, 2, 1, 1]})
    net.freeze(2, 0)
    assert still(net.clip.visual) == names(visual, "conv", "bn", "layer1.0.", "layer2.0.")


def test_the_first_blocks_of_a_convnext() -> None:
    """What makes an image smaller between two stages goes with the later one."""
    net = of_config({"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"})
    net.freeze(1, 0)
    first = names(net.clip.visual, "trunk.stem.", "trunk.stages.0.blocks.0.")
    assert still(net.clip.visual) == first
    net.freeze(2, 0)
    more = names(net.clip.visual, "trunk.stages.1.downsample.", "trunk.stages.1.blocks.0.")
    assert still(net.clip.visual) == first | more


def test_a_whole_tower_and_never_a_head() -> None:
    net = trained()
    net.freeze("all", "all")
    trains = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trains == {"heads.A", "heads.B"}


def test_nothing_by_default() -> None:
    net = trained()
    net.freeze(0, 0)
    assert still(net) == {"clip.logit_scale"}


def test_frozen_parameters_stay_as_they_are_in_a_step() -> None:
    net = trained()
    net.freeze(2, "all")
    before = net.weights()
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.1)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image, text = net(pixels, net.tokenize(["a", "b"]), torch.tensor([0, 1]), torch.tensor([0, -1]))
    (image * text).sum().backward()
    optimiser.step()
    changed = {name for name, tensor in net.weights().items() if not torch.equal(tensor, before[name])}
    free = names(net.clip.visual, "transformer.resblocks.2.", "ln_post.", "proj")
    assert changed == {f"visual.{name}" for name in free} | {
        f"heads.{name}.{part}" for name in ("weather:clear", "weather:foggy", "shared") for part in "AB"
    }


def test_more_blocks_than_there_are() -> None:
    net = trained()
    with pytest.raises(UsageError, match=r"model\.freeze\.image=4: the tower has 3 blocks; give at most that, or all"):
        net.freeze(4, 0)
    with pytest.raises(UsageError, match=r"model\.freeze\.text=3: the tower has 2 blocks"):
        net.freeze(0, 3)
    assert still(net) == {"clip.logit_scale"}
