"""From the section `constraints` to an aggregator."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from raymds.config import Config, ConstraintsConfig
from raymds.data.split import Split
from raymds.tasks import Task, resolve
from raymds.train.limits import aggregator, build_sampler


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


@pytest.mark.parametrize(("units", "late"), [("objective", False), ("absolute", True)])
def test_u_is_as_late_however_many_tasks_a_step_samples(units: str, late: bool) -> None:
    """A sudden violation of 1, seen by each of eight tasks at the end of eight steps, or of one."""
    tasks: Any = SimpleNamespace(constrained=[Task("w", k, f"w:{k}") for k in range(8)])
    sampler: Any = SimpleNamespace(seen=[np.arange(25)] * 8)
    config, tracked = Config(), {}
    for sampled in ("all", 1):
        config.constraints = ConstraintsConfig(units=units, tasks_per_step=sampled, gamma=0.2)
        limits = aggregator(config, tasks, sampler)
        limits.u = torch.zeros(8, dtype=torch.float64)
        for step in range(8):
            count = torch.zeros(8, dtype=torch.float64)
            count[slice(None) if sampled == "all" else step] = 1.0
            limits.update(torch.stack([count, count, count]), step)
        tracked[sampled] = limits.u.tolist()
    assert tracked["all"] == pytest.approx([1 - 0.8**8] * 8)
    config.constraints.tasks_per_step = "all"
    assert aggregator(config, tasks, sampler)._gamma == 0.2
    assert tracked[1] == pytest.approx([0.2 if late else 1 - 0.8**8] * 8)


def _protecting() -> Config:
    config = Config()
    config.task.target, config.task.protect = "weather:foggy", ["weather"]
    config.task.prompts = {"weather": "the weather is {}."}
    return config


def _streamed(rows: int, *, shuffled: bool, window: int = 2) -> Split:
    """A split of ten shards, a quarter of whose rows show the target."""
    labels = {"weather": np.arange(rows, dtype=np.int32) % 4}
    files: Any = [(None, rows // 10)] * 10
    return Split(labels, files, cast(Any, None), shard=0, window=window, shuffled=shuffled)


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("shuffled", [False, True])
def test_what_is_retained_comes_from_few_shards_only_where_each_is_said_to_be_a_sample(
    shuffled: bool, window: int
) -> None:
    config = _protecting()
    config.task.retained = 50
    split = _streamed(4000, shuffled=shuffled, window=window)
    sampler = build_sampler(split, resolve(config.task, {"weather": ["clear", "rainy", "snowy", "foggy"]}), config)
    shards = len(np.unique(split.shard_of(np.concatenate(sampler.retained))))
    assert shards == (1 if shuffled and window else 10)


@pytest.mark.parametrize(("steps", "streamed"), [(3, True), (4, False), (1000, False)])
def test_positives_are_kept_at_hand_where_a_run_comes_back_to_them(steps: int, streamed: bool) -> None:
    """There are 1,000, and a step draws 128."""
    config = _protecting()
    config.optim.steps = steps
    tasks = resolve(config.task, {"weather": ["clear", "rainy", "snowy", "foggy"]})
    sampler = build_sampler(_streamed(4000, shuffled=True), tasks, config)
    assert np.isin(sampler.positive, sampler.recurring).any() == (not streamed)
    drawn = [sampler.batch(step) for step in range(7)]
    assert len(np.unique(np.concatenate([batch.positive for batch in drawn]))) == 7 * 128
    assert all((batch.positive_along is not None) == streamed for batch in drawn)
    assert sampler.negative_blocks is not None
    assert sampler.negative_blocks.window == (1 if streamed else 2)  # both are in memory
    in_memory = build_sampler(_streamed(4000, shuffled=True, window=0), tasks, config)
    assert in_memory.positive_blocks is None
