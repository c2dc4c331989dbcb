"""What training and, if asked, measuring multiplies in: fp32, tf32 (of GPUs alone), bf16.

bf16 is of the towers alone; it has the range of fp32 and 8 bits of its precision, so gradients need no scaling. tf32 is
of the towers and of every gradient. Heads, losses, estimators and the master copies of weights have fp32.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from raymds.errors import UsageError

# PyTorch's own default rounds convolutions on a GPU.
torch.backends.cudnn.allow_tf32 = False


def has_bf16() -> bool:
    """Whether this machine's processor multiplies in bf16; one that does not takes many times as long as in fp32."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:  # PyTorch was built without that library
        return False


def require(asked: Mapping[str, str | None], device: torch.device) -> None:
    """UsageError naming the key of a precision that this machine's processor does not multiply in."""
    for key, precision in asked.items() if device.type == "cpu" else ():
        # Training's tf32 is fp32 there; a certificate would say what was not so.
        if (precision == "bf16" and not has_bf16()) or (precision == "tf32" and key == "select.precision"):
            raise UsageError(
                f"{key}={precision}: the processor of {socket.gethostname()} does not multiply in it; leave it out"
            )


class _State:
    precision: str | None = None  # None: fp32, as nothing is trained


@contextmanager
def trained_in(precision: str | None) -> Iterator[None]:
    """With `run.precision` in the towers of every model of this process; None: fp32."""
    _State.precision = precision or "fp32"
    try:
        yield
    finally:
        _State.precision = None


@contextmanager
def measured_in(precision: str) -> Iterator[None]:
    """With `select.precision` in the towers; where something is trained what it needs is measured in its precision."""
    before = _State.precision
    _State.precision = before or precision
    try:
        yield
    finally:
        _State.precision = before


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
