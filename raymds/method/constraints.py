"""What is held, METHOD (1) and 3: task losses per example, how they changed, and the tracked values u of (11).

Legend of shapes: B examples, C classes of a label set, m protected tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TaskLoss:
    """What `constraints.loss` says that u measures; the gradient of METHOD (12) is cross-entropy's in all of them.

    `levels(new_B, old_B)`: from each example's cross-entropies to its losses (old, new), whose difference is what h
    averages. It is exactly 0 where the cross-entropies are equal.
    """

    unit: str
    levels: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def change(self, new_B: Tensor, old_B: Tensor) -> Tensor:
        """Each example's part of h from its cross-entropies under the new and the old model: (B,), (B,) → (B,)."""
        old, new = self.levels(new_B, old_B)
        return new - old


def zero_shot_losses(cosine_BC: Tensor, label_B: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each example: softmax over cosines/τ₀ with the label set's prompts, METHOD (1); returns (B,)."""
    return torch.nn.functional.cross_entropy(cosine_BC / temperature, label_B, reduction="none")


def error(cross_entropy_B: Tensor) -> Tensor:
    """1 − p(y), the probability of being wrong under the softmax of the cross-entropy."""
    return -torch.expm1(-cross_entropy_B)


def _cross_entropy(new_B: Tensor, old_B: Tensor) -> tuple[Tensor, Tensor]:
    return old_B, new_B


def _error(new_B: Tensor, old_B: Tensor) -> tuple[Tensor, Tensor]:
    return error(old_B), error(new_B)


def _flips(new_B: Tensor, old_B: Tensor) -> tuple[Tensor, Tensor]:
    """What was gained pays for nothing: max(p_old(y) − p(y), 0), the soft form of METHOD (6)."""
    return torch.zeros_like(old_B), (error(new_B) - error(old_B)).clamp(min=0)


LOSSES: dict[str, TaskLoss] = {
    "cross_entropy": TaskLoss("nats", _cross_entropy),  # unbounded: a hopeless example made less so pays for a lost one
    "error": TaskLoss("probability of being wrong", _error),
    "flips": TaskLoss("probability lost", _flips),
}


def task_sums(change_B: Tensor, task_B: Tensor, tasks: int) -> Tensor:
    """Per task the sum of the changes and the number of examples: (B,), (B,) → (2, m) in fp64."""
    sums = torch.zeros(2, tasks, dtype=torch.float64, device=change_B.device)
    sums[0].index_add_(0, task_B, change_B.double())
    sums[1].index_add_(0, task_B, torch.ones_like(task_B, dtype=torch.float64))
    return sums


def track(u: Tensor, h: Tensor, gamma: float) -> Tensor:
    """Moving average u ← (1−γ)·u + γ·ĥ, METHOD (11), elementwise.

    NaN in `h` means that the task was not sampled and keeps its u; NaN in `u`, never seen before: starts at ĥ.
    """
    mixed = torch.where(u.isnan(), h, (1 - gamma) * u + gamma * h)
    return torch.where(h.isnan(), u, mixed)
