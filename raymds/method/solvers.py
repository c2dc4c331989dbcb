"""Constraint solvers: rules that turn tracked constraint values u into multipliers λ, the table of METHOD 3.

A new solver is a function here and its name in `SOLVERS`; nothing else knows them one by one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Solver = Callable[[Tensor, float], Tensor]


def squared_hinge(u: Tensor, beta: float) -> Tensor:
    """λ = β·max(u, 0): the gradient of the penalty β/2·max(u, 0)², the paper's choice."""
    return beta * u.clamp(min=0)


def regularize(u: Tensor, beta: float) -> Tensor:
    """λ = β whatever u is: the weighted sum, which ignores feasibility (baseline "RM")."""
    return torch.full_like(u, beta)


def none(u: Tensor, beta: float) -> Tensor:
    """λ = 0: plain contrastive finetuning (baseline "FLYP")."""
    return torch.zeros_like(u)


SOLVERS: dict[str, Solver] = {f.__name__: f for f in (squared_hinge, regularize, none)}
