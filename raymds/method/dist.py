"""Collectives of the data-parallel group; every function is the identity where there is no group.

Legend of shapes: R ranks, b_r rows on rank r, B = sum of b_r.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor


def active() -> bool:
    """Whether this process is a member of a process group."""
    return td.is_available() and td.is_initialized()


def rank() -> int:
    """This process's rank, 0 where there is no group."""
    return td.get_rank() if active() else 0


def world_size() -> int:
    """Number of ranks, 1 where there is no group."""
    return td.get_world_size() if active() else 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of `x` over the ranks, same shape, detached."""
    x = x.detach().clone()
    if world_size() > 1:
        td.all_reduce(x)
    return x


def broadcast(x: Tensor) -> Tensor:
    """Rank 0's `x` on every rank, detached; what the others give has its shape and type, and any content."""
    x = x.detach().clone()
    if world_size() > 1:
        td.broadcast(x, src=0)
    return x


def broadcast_bytes(data: bytes | None, device: torch.device) -> bytes | None:
    """Rank 0's `data` on every rank, through memory of `device`, as the group's backend needs it; others give any."""
    size = int(broadcast(torch.tensor(-1 if data is None else len(data), device=device)))
    if size < 0 or world_size() == 1:
        return data if rank() == 0 else None
    own = torch.frombuffer(bytearray(data if data and rank() == 0 else size), dtype=torch.uint8)
    return broadcast(own.to(device)).cpu().numpy().tobytes()


def all_gather(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks in rank order, detached: (b_r, ...) → (B, ...); rank r has `sizes[r]` rows."""
    x = x.detach()
    if world_size() == 1:
        return x
    # Backends want equal shapes: pad to the largest share, drop the padding afterwards.
    padded = x.new_zeros((max(sizes), *x.shape[1:]))
    padded[: x.shape[0]] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    td.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def all_gather_live(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """As `all_gather`, but this rank's own rows carry their gradient; those of other ranks are constants.

    A global loss written with it has, on each rank, its exact gradient for that rank's own rows, without any
    gradient being communicated.
    """
    if world_size() == 1:
        return x
    start = sum(sizes[: rank()])
    rows = all_gather(x, sizes)
    return torch.cat([rows[:start], x, rows[start + x.shape[0] :]])


def all_gather_summed(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """As `all_gather`, of rows that the losses of all ranks depend on: their gradient is the sum of what each says.

    Every rank takes the gradients of what it returns, as often as the others, if only of 0 times it.
    """
    found: Tensor = _Summed.apply(x, sizes) if world_size() > 1 else x
    return found


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes
        return all_gather(x, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        total = all_reduce_sum(gradients[0].contiguous())
        return torch.split(total, list(ctx.sizes))[rank()], None
