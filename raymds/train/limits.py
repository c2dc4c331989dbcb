"""From the config's section `constraints` to what a cycle needs: samples, aggregator, and the scale of λ."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from raymds.config import Config
from raymds.data.sampler import Batch, Rows, Sampler, hold_out, retain
from raymds.data.split import Split
from raymds.method.aggregator import ConstraintAggregator
from raymds.method.solvers import SOLVERS, Settings
from raymds.method.verdict import of_task
from raymds.tasks import Task, Tasks
from raymds.train.baselines import TABLE

_EVERY = 25  # steps between measurements of the scale
_SIGNS = 9  # stream of random numbers, beside those of the sampler


def aggregator(config: Config, tasks: Tasks, sampler: Sampler) -> ConstraintAggregator:
    """The aggregator that a config asks for; that of a baseline only tracks u, its λ is 0.

    In the objective's units η is per run and γ₂ per step, so that neither the number of steps nor how many tasks a step
    samples changes how far μ rises, or how late u is; nor, in any units, how far the β of an infeasible task grows.
    """
    limits, names = config.constraints, [task.name for task in tasks.constrained]
    relative, m = limits.units == "objective", len(names)
    every = 1 if limits.tasks_per_step == "all" else m / limits.tasks_per_step
    settings = Settings(
        beta=torch.tensor([of_task(limits.beta, name) for name in names], dtype=torch.float64),
        eta=limits.eta / config.optim.steps * every if relative else limits.eta,
        start=limits.start,
        rho=limits.rho,
        lowest=limits.lambda_min,
        highest=limits.lambda_max,
    )
    slack = torch.tensor([of_task(limits.slack, name) for name in names], dtype=torch.float64)
    solver = SOLVERS.get(limits.solver, SOLVERS["none"])
    sizes = torch.tensor([len(rows) for rows in sampler.seen], dtype=torch.float64)
    gamma = 1 - (1 - limits.gamma) ** every if relative and every > 1 else limits.gamma  # to the last bit
    return ConstraintAggregator(
        slack, solver, settings, gamma, margin=limits.margin / sizes.sqrt(),
        steps=config.optim.steps, rising=limits.schedule == "cosine", growth=limits.growth, every=every,
    )  # fmt: skip


class Scale:
    """Keeps λ in the objective's units: with λ = 1 a task's gradient is as long as the objective's.

    λ of METHOD (12) is m·‖∇F‖/rms_k‖τ₀·∇L̂_k‖ times that, as (12) has a mean over tasks. The lengths are measured every
    few steps: two more gradients. The root mean square is estimated from one gradient of the sum of all tasks' losses
    with random signs, whose expected square is the sum of the squares. Tasks without data are left out of it: they
    begin with a gradient of 0.
    """

    def __init__(self, config: Config, aggregator: ConstraintAggregator, examples: int) -> None:
        """The first `examples` of the constrained tasks have retained examples."""
        limits = config.constraints
        self._examples = examples
        self._wanted = limits.units == "objective" and bool(SOLVERS.get(limits.solver, SOLVERS["none"]).reads)
        self._aggregator, self._config = aggregator, config

    def due(self, step: int) -> bool:
        """Whether a step measures it."""
        return self._wanted and step % _EVERY == 0

    def measure(
        self,
        batch: Batch,
        active: Tensor,
        surrogate: Tensor,
        losses: Tensor,
        gradient: Callable[[Tensor], Tensor],
    ) -> None:
        """`surrogate` and `losses` (a,) are this rank's: share of the objective, cross-entropies of active examples.

        `gradient`: the global gradient of a loss of which this rank's share is given.
        """
        tasks, limits = batch.tasks[batch.tasks < self._examples], self._config.constraints
        random = np.random.Generator(
            np.random.Philox(np.random.SeedSequence((self._config.run.seed, _SIGNS, batch.step)))
        )
        signs = np.zeros(len(self._aggregator.u))
        signs[tasks] = random.choice([-1.0, 1.0], len(tasks))
        sign_a = torch.from_numpy(signs[batch.example_task[active.numpy()]]).to(losses, non_blocking=True)
        objective = gradient(surrogate).norm()
        signed = (sign_a * losses).sum() * limits.temperature / limits.images_per_task
        typical = gradient(signed).norm() / math.sqrt(max(len(tasks), 1))
        self._aggregator.measured(len(self._aggregator.u) * (objective / typical).double())


def share_held(config: Config) -> float:
    """Share of the retained examples that is held out: 0 where λ does not come from u, so nobody would look at them."""
    solver = SOLVERS.get(config.constraints.solver)
    return config.constraints.held_out if solver and solver.feasible else 0.0


def build_sampler(split: Split, tasks: Tasks, config: Config) -> Sampler:
    """Pools and counts of the constrained cycle from the train split's labels."""
    positive, negative = pools(split, tasks.target)
    positives = round(config.objective.batch * config.objective.positive_share)
    limits, seed = config.constraints, config.run.seed
    # What looks at no retained example measures none: it costs what unconstrained training costs.
    blind = limits.solver == "none" or (limits.solver in TABLE and not TABLE[limits.solver].examples)
    count = 0 if blind else limits.tasks_per_step
    rows = [split.rows_of(task.attribute, task.label, task.where) for task in tasks.protected]
    # Of shards that nobody says are random samples, a few would not show what a task's examples are.
    near = split.blocks if split.shuffled else lambda pool: None
    retained = [retain(pool, config.task.retained, seed, k, near(pool)) for k, pool in enumerate(rows)]
    trained, held, share = list(retained), None, share_held(config)
    beside = np.zeros(int(split.unit.max()) + 1, dtype=bool)  # units of which something is held out
    if share:
        trained, held = hold_out(retained, share, limits.images_per_task, seed, positive, split.unit)
        # Nor as negatives: what stands in no other part of a step is measured honestly.
        apart = np.zeros(len(split), dtype=bool)
        apart[np.concatenate(held)], apart[np.concatenate(trained)] = True, False
        beside[split.unit[apart]] = True
        negative = negative[~beside[split.unit[negative]]]
    for k, task in enumerate(tasks.without_data, len(rows)):
        # The old model's answers are no labels that could be learned by heart, so nothing of them is held out.
        pool = new_rows(split, task, tasks.target)
        pool = pool[~beside[split.unit[pool]]]
        trained.append(retain(pool, config.task.retained, seed, k, near(pool)))
        if held is not None:
            held.append(trained[k])
    # Positives are kept at hand, as most of them are drawn, again and again; of far more than a run draws few are read.
    passing = 2 * config.optim.steps * positives < len(positive)
    return Sampler(
        seed=seed,
        positive=positive,
        positive_blocks=split.blocks(positive, 2) if passing else None,
        negative=negative,
        negative_blocks=split.blocks(negative, 2 if passing else 1),
        retained=trained,
        held=held,
        positives=positives,
        negatives=config.objective.batch - positives,
        tasks_per_step=len(tasks.constrained) if count == "all" else count,
        images_per_task=limits.images_per_task,
    )


def new_rows(split: Split, task: Task, target: Task) -> Rows:
    """Rows on which a task without data is held: those that show another class of its attribute.

    The target's class is none of those, as what the old model says of it is to be changed. Nor are rows whose class is
    undefined: they might show either, and examples of the class itself are not to be kept.
    """
    labels = split.labels[task.attribute]
    shown = (labels >= 0) & (labels != task.label)
    return np.flatnonzero(shown & (labels != target.label) if task.attribute == target.attribute else shown)


def pools(split: Split, target: Task) -> tuple[Rows, Rows]:
    """Rows of the objective's positives and negatives.

    Negatives are rows with another class of the target's attribute, in its label set or not; a row whose class is
    undefined might show the target and is neither. Nor is one with a slice's class that is not of the slice.
    """
    labels = split.labels[target.attribute]
    return split.rows_of(target.attribute, target.label, target.where), np.flatnonzero(
        (labels >= 0) & (labels != target.label)
    )
