"""What is held, METHOD (1) and 3: task losses per example, how they changed, and the tracked values u of (11).

Legend of shapes: B examples, C classes of a label set, m protected tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # as in `solvers`
    from torch import Tensor


@dataclass(frozen=True)
class TaskLoss:
    """What `constraints.loss` says that u measures; the gradient of METHOD (12) is cross-entropy's in all of them.

    No gradient goes through λ, so it may come from what is certified, whether an answer is wrong. Cross-entropy is
    unbounded: a hopeless example that becomes less so pays for several that are lost. And where the softmax is flat a
    class can lose most of its answers while their probabilities hardly move.
    """

    unit: str
    answers: bool  # of wrong answers, 0 or 1 per example; else of cross-entropies
    gains: bool = True  # whether what was gained pays for what was lost

    def levels(self, new_B: Tensor, old_B: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (old, new) from both models' values per example; h averages their difference, exactly 0 for equals."""
        return (old_B, new_B) if self.gains else (old_B.new_zeros(old_B.shape), (new_B - old_B).clamp(min=0))

    def change(self, new_B: Tensor, old_B: Tensor) -> Tensor:
        """Each example's part of h from its values under the new and the old model: (B,), (B,) → (B,)."""
        old, new = self.levels(new_B, old_B)
        return new - old

    def values(self, cosine_BC: Tensor, label_B: Tensor, temperature: float) -> Tensor:
        """What is compared of each example: (B, C) cosines with the label set's prompts → (B,)."""
        return wrong(cosine_BC, label_B) if self.answers else zero_shot_losses(cosine_BC, label_B, temperature)


LOSSES: dict[str, TaskLoss] = {
    "cross_entropy": TaskLoss("nats", answers=False),
    "error": TaskLoss("share wrong", answers=True),
    "flips": TaskLoss("share flipped", answers=True, gains=False),  # METHOD (6)
}


def zero_shot_losses(cosine_BC: Tensor, label_B: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each example: softmax over cosines/τ₀ with the label set's prompts, METHOD (1); returns (B,)."""
    return -(cosine_BC / temperature).log_softmax(dim=1).gather(1, label_B[:, None])[:, 0]


def log_odds(cosine_BC: Tensor, label_B: Tensor, temperature: float) -> Tensor:
    """log p(y)/(1 − p(y)) under the same softmax, whose sigmoid is p(y): (B, C), (B,) → (B,)."""
    logit_BC = cosine_BC / temperature
    others_BC = logit_BC.scatter(1, label_B[:, None], -float("inf"))
    return logit_BC.gather(1, label_B[:, None])[:, 0] - others_BC.logsumexp(dim=1)


def drift(new_B: Tensor, old_B: Tensor) -> Tensor:
    """|p_new(k|x) − p_old(k|x)| from both models' −log p(k|x), of a class k without examples: (B,), (B,) → (B,).

    Bounded, and exactly 0 for equals. What rises on one image does not pay for what falls on another, as without labels
    nobody knows which of the two is a gain.
    """
    return ((-new_B).exp() - (-old_B).exp()).abs()


def answer_losses(log_odds_B: Tensor, old_B: Tensor) -> Tensor:
    """What pulls p(k|x) back: cross-entropy of "k or not" with the old model's answer in place of the label; (B,).

    `old_B` is the old model's −log p(k|x). The slope in the log odds is p(k|x) − p_old(k|x): 0 at the old model, and
    largest where p(k|x) is lost, where that of `drift` is 0 too.
    """
    return log_odds_B.logaddexp(log_odds_B.new_zeros(())) - (-old_B).exp().to(log_odds_B) * log_odds_B


def wrong(cosine_BC: Tensor, label_B: Tensor) -> Tensor:
    """1 where the nearest prompt is another class's or a cosine is NaN, else 0: (B, C), (B,) → (B,)."""
    return ((cosine_BC.argmax(dim=1) != label_B) | cosine_BC.isnan().any(dim=1)).to(cosine_BC)


def task_sums(change_B: Tensor, task_B: Tensor, tasks: int) -> Tensor:
    """Per task the sum of the changes, the number of examples, the sum of squares: (B,), (B,) → (3, m) in fp64."""
    change_B = change_B.double()
    sums = change_B.new_zeros(3, tasks)
    for row, value_B in zip(sums, (change_B, change_B.new_ones(change_B.shape), change_B**2), strict=True):
        row.index_add_(0, task_B, value_B)
    return sums


def track(u: Tensor, h: Tensor, gamma: float) -> Tensor:
    """Moving average u ← (1−γ)·u + γ·ĥ, METHOD (11), elementwise.

    NaN in `h` means that the task was not sampled and keeps its u; NaN in `u`, never seen before: starts at ĥ.
    """
    mixed = h.where(u.isnan(), (1 - gamma) * u + gamma * h)
    return u.where(h.isnan(), mixed)
