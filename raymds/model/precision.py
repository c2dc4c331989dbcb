"""What the towers multiply in while they are trained: fp32, tf32, bf16. Heads, losses and measurements have fp32.

bf16 has the range of fp32 and 8 bits of its precision, so gradients need no scaling; tf32 is of GPUs alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# PyTorch's own default rounds convolutions on a GPU.
torch.backends.cudnn.allow_tf32 = False


class _State:
    half = False


@contextmanager
def trained_in(precision: str | None) -> Iterator[None]:
    """With the products of `run.precision` in the towers of every model of this process; None: fp32."""
    _State.half = precision == "bf16"
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        _State.half = torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def towers(device: torch.device) -> torch.autocast:
    """What a tower's forward pass runs in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=_State.half)
