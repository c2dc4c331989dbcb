"""The constraint-aware aggregator of METHOD 5: owns u, makes the one reduction it needs, hands out λ."""

import torch
from torch import Tensor

from raymds.method import constraints, dist
from raymds.method.solvers import Solver


class ConstraintAggregator:
    """Tracked constraint values of m protected tasks, the same on every rank.

    Hinging local means before the reduction would be wrong (max(·, 0) of a mean is not the mean of max(·, 0)), so
    ranks exchange sums and counts and each computes the same λ from them.
    """

    def __init__(self, slack: Tensor, solver: Solver, beta: float, gamma: float) -> None:
        """`slack`: (m,) ε of METHOD (1), in units of the task loss."""
        self._slack = slack.double()
        self._solver = solver
        self._beta = beta
        self._gamma = gamma
        self.u = torch.full_like(self._slack, torch.nan)
        self.h = torch.full_like(self._slack, torch.nan)

    def update(self, local_sums: Tensor) -> tuple[Tensor, Tensor]:
        """Fold one step's loss differences into u, METHOD (11), and return (λ, count), each (m,), global.

        `local_sums`: (2, m), Σ(CE(w) − CE(w_old)) and the number of examples, of this rank. λ of a task without
        examples in the global batch is 0, and its u stays as it was.
        """
        sums, counts = dist.all_reduce_sum(local_sums)
        self.h = sums / counts - self._slack.to(sums.device)  # 0/0 is NaN: the task was not sampled
        self.u = constraints.track(self.u.to(sums.device), self.h, self._gamma)
        multiplier = torch.where(counts > 0, self._solver(self.u, self._beta), 0.0)
        return multiplier, counts

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint has to carry."""
        return {"u": self.u.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the state of a checkpoint."""
        self.u = state["u"].clone()
