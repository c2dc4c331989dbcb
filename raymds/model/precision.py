"""What training multiplies in: fp32, tf32 (of GPUs alone), bf16.

bf16 is of the towers alone; it has the range of fp32 and 8 bits of its precision, so gradients need no scaling. tf32 is
of the towers and of every gradient. Heads, losses, estimators and the master copies of weights have fp32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# PyTorch's own default rounds convolutions on a GPU.
torch.backends.cudnn.allow_tf32 = False


def has_bf16() -> bool:
    """Whether this machine's processor multiplies in bf16; one that does not takes many times as long as in fp32."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:  # PyTorch was built without that library
        return False


class _State:
    precision: str | None = None


@contextmanager
def trained_in(precision: str | None) -> Iterator[None]:
    """With `run.precision` in the towers of every model of this process; None: fp32."""
    _State.precision = precision
    try:
        yield
    finally:
        _State.precision = None


@contextmanager
def towers(device: torch.device) -> Iterator[None]:
    """What a tower's forward pass runs in."""
    with products(), torch.autocast(device.type, torch.bfloat16, enabled=_State.precision == "bf16"):
        yield


@contextmanager
def products() -> Iterator[None]:
    """Products of fp32 matrices as tf32, if that is the precision; what a backward pass runs in."""
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = _State.precision == "tf32"
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
