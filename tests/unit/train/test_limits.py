"""From the section `constraints` to an aggregator."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from raymds.config import Config, ConstraintsConfig
from raymds.tasks import Task
from raymds.train.limits import aggregator


@pytest.mark.parametrize("sampled", ["all", 4, 1])
def test_how_many_tasks_a_step_samples_changes_no_rise_over_a_run(sampled: Any) -> None:
    """Six tasks that are infeasible by 0.5 all along: μ rises by η·0.5 in all, β by `growth`."""
    tasks: Any = SimpleNamespace(constrained=[Task("w", k, f"w:{k}") for k in range(6)])
    sampler: Any = SimpleNamespace(seen=[np.arange(25)] * 6)
    config, K = Config(), 6 if sampled == "all" else cast(int, sampled)
    config.optim.steps = 12
    remembered: dict[str, torch.Tensor] = {}
    for solver in ("augmented_lagrangian", "squared_hinge"):
        config.constraints = ConstraintsConfig(
            solver=solver, tasks_per_step=sampled, start=0.4, eta=7.0, beta=3.0, growth=16.0, gamma=1.0, margin=0.0
        )
        limits, last = aggregator(config, tasks, sampler), torch.zeros(6, dtype=torch.float64)
        for step in range(12):
            count = torch.zeros(6, dtype=torch.float64)
            count[(step * K + np.arange(K)) % 6] = 1.0
            multiplier, _ = limits.update(torch.stack([0.5 * count, count, 0.25 * count]), step)
            last = torch.where(count > 0, multiplier, last)
        remembered[solver] = limits.mu if solver == "augmented_lagrangian" else last
    assert remembered["augmented_lagrangian"].tolist() == pytest.approx([0.4 + 7 * 0.5] * 6)
    assert remembered["squared_hinge"].tolist() == pytest.approx([3 * 16 * 0.5] * 6)
