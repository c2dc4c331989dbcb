"""Bounds where examples come in groups of which each is alike within, as the images of a drive or a video, METHOD 6.

Groups are drawn independently; nothing is assumed of the examples within one. So a group is one unit: it counts once,
with the mean change of its examples, X in [−1, 1], and what is bounded is E[X].

For a value p and a stake s in (0, 1], W = Π (1 + s·(Xᵢ − p)/(1 + p)) has a mean of at most 1 where E[X] ≤ p: no game of
fair bets has more. So does its mean over a few stakes, and by Markov's inequality it reaches 1/error with probability
`error` at most: a p for which it does is excluded. This holds for any number of groups and any distribution of X.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_STAKES = np.array([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32])  # large ones for few flips or few groups
_HALVINGS = 40


@dataclass(frozen=True)
class Groups:
    """Per group of a task's examples the share that a model has right, (G,) each."""

    old: Numbers
    new: Numbers

    @classmethod
    def of(cls, group: NDArray[np.int64], old: NDArray[np.bool_], new: NDArray[np.bool_]) -> "Groups":
        """From each example's group and whether it is right, (n,) each."""
        _, which, size = np.unique(group, return_inverse=True, return_counts=True)
        shares = (np.bincount(which, right, len(size)) / size for right in (old, new))
        return cls(*shares)

    @property
    def change(self) -> Numbers:
        """X of every group: (G,)."""
        return self.new - self.old


def lower_mean(change: Numbers, error: float, repeats: float = 1.0) -> float:
    """Lower bound for E[X] from the groups' changes (G,), too high with probability at most `error`.

    With `repeats` it is the bound that so many times as many groups would give, whose changes are distributed alike.
    """
    values, times = np.unique(change, return_counts=True)

    def excluded(p: float) -> bool:
        with np.errstate(divide="ignore"):  # a group that loses everything at the whole stake: log 0
            bets = np.log1p(_STAKES[:, None] * np.maximum((values - p) / (1 + p), -1))
        wealth = np.logaddexp.reduce(repeats * (bets @ times)) - math.log(len(_STAKES))
        return bool(wealth >= -math.log(error))

    low, high = -1.0, float(np.mean(change))
    for _ in range(_HALVINGS):  # the smaller p, the more is won
        middle = (low + high) / 2
        low, high = (middle, high) if middle > -1 and excluded(middle) else (low, middle)
    return low
