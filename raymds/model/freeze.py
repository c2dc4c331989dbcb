"""Which parameters of the towers stay as they are in training."""

import re
from typing import Any

from torch import nn

from raymds.errors import UsageError

_BLOCK = re.compile(r"^(?:.*\.)?(?:resblocks|blocks|layers|layer\d)\.\d+\.")  # of a parameter's name, its block
_ENDS = ("proj", "text_projection")  # registered first, though they stand behind the blocks


def freeze(tower: nn.Module, blocks: Any, key: str) -> None:
    """Have no gradient for a tower (`all`), or for its first `blocks` blocks and what stands before them.

    A block is one of a transformer, a residual block, or a stage's block of a ConvNeXt. UsageError naming `key` where
    the tower has fewer.
    """
    if blocks == 0:
        return
    names = {name: found.group() if (found := _BLOCK.match(name)) else "" for name, _ in tower.named_parameters()}
    order = [block for block in dict.fromkeys(names.values()) if block]
    if blocks != "all" and blocks > len(order):
        raise UsageError(f"{key}={blocks}: the tower has {len(order)} blocks; give at most that, or all")
    if blocks == "all":
        tower.requires_grad_(False)
        return
    before: list[nn.Parameter] = []  # what stands between two blocks goes with the later one
    for name, parameter in tower.named_parameters():
        if names[name] in order[:blocks]:
            for one in (*before, parameter):
                one.requires_grad_(False)
        elif not names[name] and name not in _ENDS:
            before.append(parameter)
