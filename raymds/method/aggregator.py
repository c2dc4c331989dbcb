"""The constraint-aware aggregator of METHOD 5: owns u and μ, makes the one reduction they need, hands out λ."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from raymds.method import constraints, dist
from raymds.method.solvers import Seen, Settings, Solver

_MEMORY = 0.7  # of the measured scale, from one measurement to the next


class ConstraintAggregator:
    """Tracked constraint values and multipliers of m protected tasks, the same on every rank.

    Hinging local means before the reduction would be wrong (max(·, 0) of a mean is not the mean of max(·, 0)), so
    ranks exchange sums and counts and each computes the same λ from them.
    """

    def __init__(
        self,
        slack: Tensor,
        solver: Solver,
        settings: Settings,
        gamma: float,
        *,
        margin: Tensor | float = 0.0,
        steps: int = 1,
        rising: bool = False,
        growth: float = 1.0,
        every: float = 1.0,
    ) -> None:
        """`slack`: (m,) ε of METHOD (1), in units of the task loss; `steps`: of the run; a task is in one of `every`.

        A task's n_k examples are a sample, so the solver sees u plus `margin` (m,) standard deviations of an example's
        change: κ/√n_k for κ standard errors of their mean. At w_old nothing has changed and it is exactly 0.

        β rises by cosine from 0 to its value over the run where it is `rising`, and that of a task is multiplied by
        `growth` by the time it has been infeasible for as many steps as the run has.
        """
        self._slack = slack.double()
        self._solver, self._settings, self._gamma, self._margin = solver, settings, gamma, margin
        self._steps, self._rising, self._growth, self._every = steps, rising, growth, every
        self.u = torch.full_like(self._slack, torch.nan)
        self.h = torch.full_like(self._slack, torch.nan)
        self.mu = torch.full_like(self._slack, settings.start)
        self._square = torch.full_like(self._slack, torch.nan)  # tracked mean square of an example's change
        self._infeasible = torch.zeros_like(self._slack)  # steps for which u and margin were found above 0
        self._scale = torch.tensor(torch.nan, dtype=torch.float64)

    @property
    def scale(self) -> Tensor:
        """What the solver's λ is multiplied by, (); 1 unless `measured` has said something else."""
        return self._scale.nan_to_num(1.0)

    def measured(self, scale: Tensor) -> None:
        """Fold a measurement of the scale, (), into its moving average, in the logarithm: it is a ratio.

        One that is no positive number is left out: where a gradient is 0 there is none.
        """
        scale, before = scale.double(), self._scale.to(scale.device, non_blocking=True)
        known = before.where(~before.isnan(), scale).log()
        mixed = (_MEMORY * known + (1 - _MEMORY) * scale.log()).exp()
        self._scale = mixed.where((scale > 0) & scale.isfinite(), before)

    def update(self, local_sums: Tensor, step: int = 0) -> tuple[Tensor, Tensor]:
        """Fold one step's changes of the task losses into u, METHOD (11), and return (λ, count), each (m,), global.

        `local_sums`: (3, m) of this rank, what `constraints.task_sums` makes of ℓ(w) − ℓ(w_old). λ of a task without
        examples in the global batch is 0, and its u and μ stay as they were. λ is still to be multiplied by `scale`.
        Both are on the CPU, where λ decides what is computed next: this waits for the device.
        """
        sums, counts, squares = dist.all_reduce_sum(local_sums).cpu()
        sampled = counts > 0
        self.h = sums / counts - self._slack  # 0/0 is NaN: the task was not sampled
        before, self.u = self.u.nan_to_num(0.0), constraints.track(self.u, self.h, self._gamma)
        self._square = constraints.track(self._square, squares / counts, self._gamma)
        margin = self._margin * (self._square - (self.u + self._slack) ** 2).clamp(min=0).sqrt()
        self._infeasible += self._every * (sampled & (self.u + margin > 0))
        settings = replace(self._settings, beta=self._beta(step))
        seen = Seen(self.u + margin, before + margin, self.h + margin)
        multiplier, mu = self._solver.rule(seen, self.mu, settings)
        self.mu = torch.where(sampled, mu, self.mu)
        return torch.where(sampled, multiplier, 0.0), counts

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint has to carry."""
        return {
            "u": self.u,
            "mu": self.mu,
            "square": self._square,
            "infeasible": self._infeasible,
            "scale": self._scale.cpu(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the state of a checkpoint."""
        self.u, self.mu = state["u"].clone(), state["mu"].clone()
        self._square, self._infeasible = state["square"].clone(), state["infeasible"].clone()
        self._scale = state["scale"].clone()

    def _beta(self, step: int) -> Tensor:
        beta = self._settings.beta
        if self._rising:
            beta = beta * ((1 - math.cos(math.pi * min((step + 1) / self._steps, 1.0))) / 2)
        return beta * self._growth ** (self._infeasible / self._steps)
