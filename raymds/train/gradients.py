"""Whole gradients of parts of the loss, over all ranks, beside the one that a step descends along."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymds.method import dist


def gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Global gradient, (P,) in the parameters' type, of a loss of which `loss` is this rank's share; the graph stays.

    DistributedDataParallel knows nothing of it: the ranks' parts are added here.
    """
    if not loss.requires_grad:
        return dist.all_reduce_sum(torch.cat([torch.zeros_like(p).flatten() for p in parameters]))
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(parts, parameters, strict=True)
    return dist.all_reduce_sum(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
