"""The step of the constrained cycle: objective, constraints, aggregator, update (METHOD 2 to 5)."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymds.config import Config
from raymds.data.loader import Loaded
from raymds.data.sampler import Rows, Sampler, retain
from raymds.data.split import Split
from raymds.method import constraints, contrastive, dist
from raymds.method.aggregator import ConstraintAggregator
from raymds.method.solvers import SOLVERS
from raymds.model import ClipWithHeads
from raymds.tasks import Tasks
from raymds.train.evaluate import evaluate
from raymds.train.step import Learner, Stopwatch, distinct_tokens, finite

_AVERAGE = "average."  # of the names of its tensors in a checkpoint's state


class ConstrainedCycle:
    """State and step of one cycle: weights, optimiser, normalisers s, constraint values u, old losses."""

    def __init__(self, model: ClipWithHeads, split: Split, tasks: Tasks, sampler: Sampler, config: Config) -> None:
        """`split` is the train split that the sampler's rows refer to."""
        self.model = model
        self._split = split
        self._tasks = tasks
        self._sampler = sampler
        self._config = config
        # Around its solution a penalty method swings from one constraint to the other; a mean of its steps does not.
        self._average = copy.deepcopy(model).requires_grad_(False) if config.select.average else None
        pairs = zip(self._average.parameters(), model.parameters(), strict=True) if self._average else ()
        self._averaged = list(pairs)
        model.freeze(config.model.freeze.image, config.model.freeze.text)
        self._learner = Learner(model, config.optim)
        limits = config.constraints
        slack = torch.full((len(tasks.protected),), limits.slack, dtype=torch.float64)
        self._aggregator = ConstraintAggregator(slack, SOLVERS[limits.solver], limits.beta, limits.gamma)
        # Normalisers of METHOD (9) by position in the pool of positives: image side, text side; NaN: never seen.
        self._log_s = torch.full((len(sampler.positive), 2), torch.nan, dtype=torch.float64)
        self.old_losses: list[Tensor] = []  # per task CE(w_old) of its retained examples
        self._labels = torch.tensor([task.label for task in tasks.protected])

    @property
    def candidate(self) -> ClipWithHeads:
        """What may become the outcome: the running mean of the weights since w_old, or the weights themselves."""
        return self._average or self.model

    def measure_old(self) -> None:
        """CE(w_old) of every retained example, through the transform and the chunks the steps use."""
        rows = np.unique(np.concatenate(self._sampler.retained))
        temperature = self._config.constraints.temperature
        old = evaluate(self.model, self._split, self._tasks, temperature, rows, substitutes=True)
        self.old_losses = [
            torch.from_numpy(old.loss[task.attribute][np.searchsorted(rows, retained)])
            for task, retained in zip(self._tasks.protected, self._sampler.retained, strict=True)
        ]

    def step(self, loaded: Loaded) -> dict[str, Any]:
        """One step on this rank's share of the batch; DivergedError, on all ranks alike, where a loss is not finite."""
        step, clock = loaded.batch.step, Stopwatch(self.model.mean.device)
        with clock("forward"):
            local_sums = self._loss_differences(loaded)
        with clock("exchange"):
            multiplier, count = self._aggregator.update(local_sums)
        weight_b = self._example_weights(loaded, multiplier, count)
        active = weight_b > 0  # no gradient is computed for a constraint whose multiplier is 0
        with clock("forward"):
            image, text, prompts = self._embed(loaded, active)
        surrogate, value = self._objective(loaded, image, text, clock)
        with clock("forward"):
            loss = surrogate + self._penalty(loaded, image[len(text) :], prompts, weight_b, active)
        h = self._named(self._aggregator.h)
        finite(step, {self._tasks.target.name: value, **h})
        norm = self._learner.descend(loss, step, clock)
        finite(step, {f"{self._tasks.target.name} (its gradient)": norm})
        self._update_average()
        return {
            "loss": value,
            "lr": self._learner.rate(step),
            "grad_norm": norm,
            "seconds": clock.seconds,
            "h": h,
            "u": self._named(self._aggregator.u),
            "lambda": self._named(multiplier),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Optimiser, u, s, old losses and the running mean of the weights."""
        old = {f"old_losses.{k}": losses for k, losses in enumerate(self.old_losses)}
        average = {_AVERAGE + name: value for name, value in self._average.weights().items()} if self._average else {}
        return self._learner.state_dict() | self._aggregator.state_dict() | {"log_s": self._log_s.cpu()} | old | average

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over the state of a checkpoint."""
        self._learner.load_state_dict(tensors)
        self._aggregator.load_state_dict(tensors)
        self._log_s = tensors["log_s"].clone()
        self.old_losses = [tensors[f"old_losses.{k}"].clone() for k in range(len(self._tasks.protected))]
        if self._average:
            self._average.load_weights(candidate_weights({}, tensors), "checkpoint")

    @torch.no_grad()
    def _loss_differences(self, loaded: Loaded) -> Tensor:
        """Σ(CE(w) − CE(w_old)) and counts per task over this rank's examples: (2, m), METHOD (11)."""
        batch = loaded.batch
        cosine_bC = self.model.cosines(self.model.classifiers(self._tasks.label_sets), loaded.examples)
        new = self._example_losses({name: cosine.cpu() for name, cosine in cosine_bC.items()}, batch.example_task)
        old = torch.zeros_like(new, dtype=torch.float64)
        for k in np.unique(batch.example_task):
            here = np.flatnonzero(batch.example_task == k)
            position = np.searchsorted(self._sampler.retained[k], batch.example[here])
            old[here] = self.old_losses[k][position]
        task_b = torch.from_numpy(batch.example_task)
        return constraints.task_sums(new.double() - old, task_b, len(self._labels)).to(self.model.mean.device)

    def _example_losses(self, cosine_bC: Mapping[str, Tensor], task_b: Rows) -> Tensor:
        """CE of each example within the label set of its task: per attribute (b, C) → (b,)."""
        first = next(iter(cosine_bC.values()))
        losses = first.new_zeros(len(first))
        attributes = np.array([self._tasks.protected[k].attribute for k in task_b], dtype=object)
        labels = self._labels[torch.from_numpy(task_b)].to(first.device)
        for name, cosine in cosine_bC.items():
            here = torch.from_numpy(np.flatnonzero(attributes == name)).to(first.device)
            temperature = self._config.constraints.temperature
            losses = losses.index_copy(0, here, constraints.zero_shot_losses(cosine[here], labels[here], temperature))
        return losses

    def _example_weights(self, loaded: Loaded, multiplier: Tensor, count: Tensor) -> Tensor:
        """Weight of each local example in METHOD (12): λ_k·τ₀ / (sampled tasks · examples of task k): (b,)."""
        share = multiplier / count.clamp(min=1) * self._config.constraints.temperature / max(len(loaded.batch.tasks), 1)
        return share.cpu()[torch.from_numpy(loaded.batch.example_task)]

    def _embed(self, loaded: Loaded, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of pairs and active examples (p+n+a, D), captions (p+n, D), class prompts (H, D)."""
        batch, device = loaded.batch, self.model.mean.device
        rows = np.concatenate([batch.positive, batch.negative])
        prompts = [prompt for prompts in self._tasks.prompts.values() for prompt in prompts]
        tokens, row = distinct_tokens(self.model, loaded.captions + prompts)
        target = self._tasks.target.attribute
        label = torch.from_numpy(self._split.labels[target][rows]).long()
        caption_head = torch.where(label < 0, -1, label + self._tasks.columns(target).start)
        image, text = self._learner.forward(
            torch.cat([loaded.pairs, loaded.examples[active]]).to(device),
            tokens,
            row,
            torch.cat([caption_head, torch.arange(len(prompts))]).to(device),
        )
        return image, text[: len(rows)], text[len(rows) :]

    def _objective(self, loaded: Loaded, image: Tensor, text: Tensor, clock: Stopwatch) -> tuple[Tensor, float]:
        """This rank's share of the surrogate of METHOD (10) over the global batch, and F of the batch."""
        settings, ranks, batch = self._config.objective, dist.world_size(), loaded.batch
        P, N, t = self._sampler.positives, self._sampler.negatives, settings.temperature
        sizes_P, sizes_N, p = dist.shares(P, ranks), dist.shares(N, ranks), len(batch.positive)
        pairs = torch.cat([image[: len(text)], text], dim=1)  # image and text embedding side by side
        with clock("exchange"):
            positive, negative = pairs[:p], pairs[p:]
            all_positive = dist.all_gather(positive, sizes_P)
            all_negative = dist.all_gather_live(negative, sizes_N)
        # Rows: own positives against everybody's negatives.
        own = contrastive.differences(*positive.chunk(2, 1), *all_negative.chunk(2, 1))
        log_g = torch.stack([contrastive.log_normaliser(d.double(), t) for d in own], dim=1)
        with clock("exchange"):
            log_g = dist.all_gather(log_g, sizes_P)
        log_s = self._track(self._sampler.batch(batch.step).positive, log_g)
        start = sum(sizes_P[: dist.rank()])
        rows = [contrastive.surrogate(d, log_s[start : start + p, i], t) for i, d in enumerate(own)]
        # Columns: everybody else's positives against own negatives, which see no other gradient of those pairs.
        others = torch.ones(P, dtype=torch.bool, device=pairs.device)
        others[start : start + p] = False
        crossed = contrastive.differences(*all_positive[others].chunk(2, 1), *negative.chunk(2, 1))
        columns = [contrastive.surrogate(d, log_s[others, i], t) for i, d in enumerate(crossed)]
        return torch.stack(rows + columns).sum() / (P * N), float(contrastive.objective(log_g[:, 0], log_g[:, 1], t))

    def _track(self, rows: Rows, log_g: Tensor) -> Tensor:
        """Fold the batch's normalisers into s, METHOD (9), the same on every rank: (P, 2) → (P, 2)."""
        position = torch.from_numpy(np.searchsorted(self._sampler.positive, rows))
        self._log_s[position] = contrastive.track(self._log_s[position], log_g.cpu(), self._config.objective.gamma)
        return self._log_s[position].to(log_g.device)

    def _penalty(self, loaded: Loaded, image: Tensor, prompts: Tensor, weight_b: Tensor, active: Tensor) -> Tensor:
        """This rank's share of Σ_k λ_k·τ₀·L̂_k / K, whose gradient is the second term of METHOD (12)."""
        cosines = {name: image @ prompts[self._tasks.columns(name)].T for name in self._tasks.classes}
        losses = self._example_losses(cosines, loaded.batch.example_task[active.numpy()])
        return (weight_b[active].to(losses) * losses).sum()

    @torch.no_grad()
    def _update_average(self) -> None:
        for mean, value in self._averaged:
            mean.lerp_(value, 1 - self._config.select.average)

    def _named(self, values: Tensor) -> dict[str, float]:
        """Values per task name, tasks without one left out."""
        pairs = zip(self._tasks.protected, values.tolist(), strict=True)
        return {task.name: value for task, value in pairs if not math.isnan(value)}


def candidate_weights(weights: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The candidate in a checkpoint's weights and state."""
    average = {name.removeprefix(_AVERAGE): value for name, value in state.items() if name.startswith(_AVERAGE)}
    return average or weights


def build_sampler(split: Split, tasks: Tasks, config: Config) -> Sampler:
    """Pools and counts of the constrained cycle from the train split's labels.

    Negatives are rows with another class of the target's attribute; a row whose class is undefined might show the
    target and is neither.
    """
    labels = split.labels[tasks.target.attribute]
    positives = round(config.objective.batch * config.objective.positive_share)
    # Without constraints none is measured: the baseline costs what unconstrained training costs.
    count = 0 if config.constraints.solver == "none" else config.constraints.tasks_per_step
    pools = [split.rows_of(task.attribute, task.label) for task in tasks.protected]
    negative = np.flatnonzero((labels >= 0) & (labels != tasks.target.label))
    return Sampler(
        seed=config.run.seed,
        positive=np.flatnonzero(labels == tasks.target.label),
        negative=negative,
        negative_blocks=split.blocks(negative),
        retained=[
            retain(pool, config.task.retained, config.run.seed, k, split.blocks(pool)) for k, pool in enumerate(pools)
        ],
        positives=positives,
        negatives=config.objective.batch - positives,
        tasks_per_step=len(pools) if count == "all" else count,
        images_per_task=config.constraints.images_per_task,
    )
