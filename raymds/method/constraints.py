"""Zero-shot losses of the protected tasks and the tracked constraint values, METHOD (1) and (11).

Legend of shapes: B examples, C classes of a label set, m protected tasks.
"""

import torch
from torch import Tensor


def zero_shot_losses(cosine_BC: Tensor, label_B: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each example: softmax over cosines/τ₀ with the label set's prompts, METHOD (1); returns (B,)."""
    return torch.nn.functional.cross_entropy(cosine_BC / temperature, label_B, reduction="none")


def task_sums(loss_difference_B: Tensor, task_B: Tensor, tasks: int) -> Tensor:
    """Per task the sum of CE(w) − CE(w_old) and the number of examples: (B,), (B,) → (2, m) in fp64."""
    sums = torch.zeros(2, tasks, dtype=torch.float64, device=loss_difference_B.device)
    sums[0].index_add_(0, task_B, loss_difference_B.double())
    sums[1].index_add_(0, task_B, torch.ones_like(task_B, dtype=torch.float64))
    return sums


def track(u: Tensor, h: Tensor, gamma: float) -> Tensor:
    """Moving average u ← (1−γ)·u + γ·ĥ, METHOD (11), elementwise.

    NaN in `h` means that the task was not sampled and keeps its u; NaN in `u`, never seen before: starts at ĥ.
    """
    mixed = torch.where(u.isnan(), h, (1 - gamma) * u + gamma * h)
    return torch.where(h.isnan(), u, mixed)
