"""The step of the constrained cycle: objective, constraints, aggregator, update (METHOD 2 to 5)."""

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from raymds.config import Config
from raymds.data.loader import Loaded
from raymds.data.sampler import Rows, Sampler
from raymds.data.split import Split
from raymds.errors import UsageError
from raymds.method import constraints, dist
from raymds.model import STEP_CHUNK, ClipWithHeads
from raymds.model.precision import trained_in
from raymds.tasks import Tasks
from raymds.train.baselines import TABLE, Context, fisher_information
from raymds.train.evaluate import constraint_values
from raymds.train.limits import Scale, aggregator
from raymds.train.objective import Objective
from raymds.train.prompts import Prompts
from raymds.train.step import Learner, Stopwatch, Taken, caption_heads, finite

_AVERAGE = "average."  # of the names of its tensors in a checkpoint's state
_FISHER = "fisher."
_SMOOTH = 0.95  # decay per step of the running mean of λ


class ConstrainedCycle:
    """State and step of one cycle: weights, optimiser, normalisers s, constraint values u, μ, old losses."""

    def __init__(self, model: ClipWithHeads, split: Split, tasks: Tasks, sampler: Sampler, config: Config) -> None:
        """`model` is the old model, `split` the train split that the sampler's rows refer to."""
        self.model = model
        self._split = split
        self.tasks = tasks
        self.sampler = sampler
        self._config = config
        self._loss = constraints.LOSSES[config.constraints.loss]
        self._baseline = TABLE.get(config.constraints.solver)
        self._old = copy.deepcopy(model) if self._baseline and self._baseline.old else None
        # Around its solution a penalty method swings from one constraint to the other; a mean of its steps does not.
        self._average = copy.deepcopy(model).requires_grad_(False) if config.select.average else None
        self._averaged: list[Tensor] = [*self._average.parameters()] if self._average else []
        self._current: list[Tensor] = [*model.parameters()]
        model.freeze(config.model.freeze.image, config.model.freeze.text)
        self._learner = Learner(model, config)
        self._start = [p.detach().clone() for p in self._learner.parameters] if self._baseline else []
        self._fisher: list[Tensor] = []
        self._aggregator = aggregator(config, tasks, sampler)
        self._scale = Scale(config, self._aggregator, len(tasks.protected))
        self._objective = Objective(model, sampler, config)
        self._old_values, self._old_losses = torch.empty(0, dtype=torch.float64), list[Tensor]()
        # Task and row of each of those values as one number, in ascending order, by which a step finds them.
        self._seen = np.concatenate([k * len(split) + rows for k, rows in enumerate(sampler.seen)])
        # Running mean of λ over the steps that sampled the task; NaN: none did.
        self.multiplier = torch.full(
            (len(tasks.constrained),), torch.nan, dtype=torch.float64, device=model.mean.device
        )
        self._labels = np.array([task.label for task in tasks.constrained])
        self._names = [task.name for task in tasks.constrained]
        attributes = list(tasks.classes)
        self._attribute = np.array([attributes.index(task.attribute) for task in tasks.constrained])  # its number
        self._prompts = Prompts(model, tasks, shared=self._baseline is None)
        # Of the last step's examples the share whose λ was not 0.
        self._share = torch.zeros((), dtype=torch.float64)
        plain = not (config.run.micro_batch or config.run.compile or config.model.freeze.image)
        self._may_pass_once = plain and sampler.held is None

    @property
    def candidate(self) -> ClipWithHeads:
        """What may become the outcome: the running mean of the weights since w_old, or the weights themselves."""
        return self._average or self.model

    @property
    def old_losses(self) -> list[Tensor]:
        """Per task the old model's values of the examples that λ sees, (n_k,) in fp64: parts of one tensor."""
        return self._old_losses

    @old_losses.setter
    def old_losses(self, losses: Sequence[Tensor]) -> None:
        self._old_values = torch.cat(list(losses))
        self._old_losses = list(torch.split(self._old_values, [len(part) for part in losses]))

    def measure_old(self, stop: Callable[[], bool] = lambda: False) -> list[Tensor]:
        """Set, and return, `old_losses`: of the old model through the transform and the chunks the steps use.

        StoppedError where `stop()`.
        """
        limits = self._config.constraints
        with trained_in(self._config.run.precision):  # like for like
            self.old_losses = constraint_values(self.model, self._split, self.tasks, self.sampler.seen, limits, stop)
        return self.old_losses

    def begin(self) -> None:
        """What a first step needs beside the old losses."""
        if self._baseline and self._baseline.fisher:
            retained, temperature = self.sampler.retained, self._config.constraints.temperature
            self._fisher = fisher_information(self.model, self._split, self.tasks, retained, temperature)

    def step(self, loaded: Loaded) -> Taken:
        """One step on this rank's share of the batch; DivergedError, on all ranks alike, where a loss is not finite.

        It waits for the device once, for the sums that λ comes from.
        """
        with trained_in(self._config.run.precision), self.model.compiled.steps():
            return self._step(loaded)

    def _step(self, loaded: Loaded) -> Taken:
        step, clock, baseline = loaded.batch.step, Stopwatch(self.model.mean.device), self._baseline
        measuring = self._scale.due(step)
        # No gradient is computed for a constraint whose multiplier is 0, unless it is asked for.
        whole = measuring or (baseline is not None and baseline.examples)
        # A first step's h is 0 to the last bit, whatever a GPU takes for a pass with a graph.
        once = step > 0 and self._may_pass_once and self._one_pass_is_cheaper(1.0 if whole else float(self._share))
        of = torch.from_numpy(loaded.batch.example_task)
        active = torch.full((len(of),), once or whole)
        with clock("forward"):
            loaded = self._learner.send(loaded)
            if once:
                embedded = self._embed(loaded, active, loaded.batch.tasks, apart=True)
            local_sums = self._changes(loaded, embedded[0][len(loaded.pairs) :].detach() if once else None)
        with clock("exchange"):
            multiplier, count = self._aggregator.update(local_sums, step)
        h = self._aggregator.h
        finite(step, {self._names[k]: float(h[k]) for k in ((count > 0) & ~h.isfinite()).nonzero()[:, 0].tolist()})
        needed = multiplier > 0
        self._share = needed[count > 0].double().mean().nan_to_num(0.0)
        if not once:
            active |= needed[of]
            tasks = loaded.batch.tasks if whole else needed.nonzero()[:, 0].numpy()
            with clock("forward"):
                embedded = self._embed(loaded, active, tasks)
        image, text, prompts = embedded
        surrogate, value = self._objective(loaded.batch, image[: len(text)], text, clock)
        examples = image[len(text) :]
        with clock("backward"):
            losses = self._cross_entropies(loaded, examples, prompts, active)
            if measuring:  # before λ is used: the first step has no other scale
                self._scale.measure(loaded.batch, active, surrogate, losses, self._learner.gradient)
            scale = self._aggregator.scale.to(self.model.mean.device, non_blocking=True)
            multiplier = self.model.here(multiplier) * scale
            penalty = None
            if baseline:
                context = self._context(loaded, image[: len(text)], examples, prompts, surrogate)
                multiplier = baseline.multipliers(context) if baseline.multipliers else multiplier
                penalty = baseline.penalty(context) if baseline.penalty else None
            if penalty is None:  # this rank's share of Σ_k λ_k·τ₀·L̂_k / K, whose gradient is the rest of METHOD (12)
                penalty = (self._example_weights(loaded, multiplier, active).to(losses) * losses).sum()
        sampled = multiplier.double().where(self.model.here(count > 0), torch.nan)
        self.multiplier = constraints.track(self.multiplier, sampled, 1 - _SMOOTH)
        norm = self._learner.descend(surrogate + penalty, step, clock)
        self._update_average()
        known = {"lr": self._learner.rate(step), "h": h.numpy(), "u": self._aggregator.u.numpy()}
        coming = {"loss": value, "grad_norm": norm, "scale": scale, "lambda": multiplier}
        return Taken(step, self.tasks.target.name, clock, known, coming)

    def state_dict(self) -> dict[str, Tensor]:
        """Optimiser, u, μ, s, old losses, the running mean of the weights, EWC's Fisher information."""
        old = {f"old_losses.{k}": losses.clone() for k, losses in enumerate(self.old_losses)}
        average = {_AVERAGE + name: value for name, value in self._average.weights().items()} if self._average else {}
        pairs = zip(self._learner.names, self._fisher, strict=bool(self._fisher))
        fisher = {_FISHER + name: information.cpu().contiguous() for name, information in pairs}
        running = {"log_s": self._objective.log_s.cpu(), "lambda": self.multiplier.cpu(), "active": self._share}
        estimators = self._aggregator.state_dict() | running
        return self._learner.state_dict() | estimators | old | average | fisher

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over the state of a checkpoint; UsageError where an older version made it, whose steps were others."""
        if "active" not in tensors:
            raise UsageError(
                f"run.uri={self._config.run.uri}: was begun by another version of raymds, whose steps were others; "
                "give another run.uri, or finish it with that version"
            )
        self._learner.load_state_dict(tensors)
        self._aggregator.load_state_dict(tensors)
        device = self.model.mean.device
        self._objective.log_s, self.multiplier = (tensors[name].to(device, copy=True) for name in ("log_s", "lambda"))
        self._share = tensors["active"].clone()
        self.old_losses = [tensors[f"old_losses.{k}"] for k in range(len(self.tasks.constrained))]
        names = [name for name in self._learner.names if _FISHER + name in tensors]
        self._fisher = [tensors[_FISHER + name].to(device) for name in names]
        if self._average:
            self._average.load_weights(candidate_weights({}, tensors), "checkpoint")

    def _one_pass_is_cheaper(self, share: float) -> bool:
        """Than two: one of all examples, in chunks, without a graph, then one of those with λ above 0, a `share`, with.

        A backward pass costs about two forward ones. All ranks say the same.
        """
        own = -(-self.sampler.tasks_per_step * self.sampler.images_per_task // dist.world_size())
        in_chunks = -(-own // STEP_CHUNK) * STEP_CHUNK
        return 3 * in_chunks < in_chunks + 3 * share * own

    @torch.no_grad()
    def _changes(self, loaded: Loaded, embedded: Tensor | None = None) -> Tensor:
        """Σ(ℓ(w) − ℓ(w_old)) per task over this rank's examples, their numbers and squares: (3, m), METHOD (11).

        `embedded` are the examples' embeddings, (b, D), where they are at hand.
        """
        batch = loaded.batch
        rows, pixels = (batch.example, loaded.examples) if loaded.held is None else (batch.held, loaded.held)
        assert rows is not None
        own, every = self._attributes(batch.example_task), self._attributes(batch.tasks)
        classifiers = self._prompts.classifiers(self._prompts.wanted(own, every))
        if not len(rows):
            return torch.zeros(3, len(self._labels), dtype=torch.float64, device=self.model.mean.device)
        if embedded is None:
            cosine_bC = self.model.cosines(classifiers, pixels, STEP_CHUNK)
        else:
            cosine_bC = self.model.products(classifiers, embedded)
        new = self._example_losses(cosine_bC, batch.example_task, self._loss.values)
        old = self._old_of(rows, batch.example_task)
        change = self._loss.change(new.double(), old)
        answers = self._of_answers(batch.example_task)
        if answers.any():
            nats = self._example_losses(cosine_bC, batch.example_task, constraints.zero_shot_losses)
            change = constraints.drift(nats.double(), old).where(self.model.here(answers), change)
        task_b = self.model.here(torch.from_numpy(batch.example_task))
        return constraints.task_sums(change, task_b, len(self._labels))

    def _old_of(self, rows: Rows, task_b: Rows) -> Tensor:
        """The old model's value of each row, which its task's λ sees: (b,) in fp64."""
        return self.model.here(self._old_values[np.searchsorted(self._seen, task_b * len(self._split) + rows)])

    def _of_answers(self, task_b: Rows) -> Tensor:
        """Which examples are held by the old model's answer, as their task has no data: (b,)."""
        return torch.from_numpy(task_b >= len(self.tasks.protected))

    def _example_losses(
        self, cosine_bC: Mapping[str, Tensor], task_b: Rows, loss: Callable[[Tensor, Tensor, float], Tensor]
    ) -> Tensor:
        """`loss` of each example within the label set of its task: per attribute (b, C) → (b,)."""
        first = next(iter(cosine_bC.values()))
        losses = first.new_zeros(len(first))
        labels = self.model.here(torch.from_numpy(self._labels[task_b]))
        temperature = self._config.constraints.temperature
        for number, name in enumerate(self.tasks.classes):
            own = np.flatnonzero(self._attribute[task_b] == number)
            if len(own) == len(task_b) > 0:
                return loss(cosine_bC[name], labels, temperature)
            if len(own):
                here = self.model.here(torch.from_numpy(own))
                losses = losses.index_copy(0, here, loss(cosine_bC[name][here], labels[here], temperature))
        return losses

    def _cross_entropies(self, loaded: Loaded, image: Tensor, prompts: Tensor, active: Tensor) -> Tensor:
        """L of the active examples, with their gradient, from their embeddings (a, D): (a,)."""
        cosines = {name: image @ prompts[self.tasks.columns(name)].T for name in self.tasks.classes}
        task_a, rows = loaded.batch.example_task[active.numpy()], loaded.batch.example[active.numpy()]
        if not len(task_a):  # other ranks' prompts may need what this one embedded
            return (image @ prompts.T).sum(dim=1)
        losses = self._example_losses(cosines, task_a, constraints.zero_shot_losses)
        answers = self._of_answers(task_a).nonzero()[:, 0]
        if not len(answers):
            return losses
        here, task_a = self.model.here(answers), task_a[answers.numpy()]
        cosines = {name: cosine[here] for name, cosine in cosines.items()}
        log_odds = self._example_losses(cosines, task_a, constraints.log_odds)
        old = self._old_of(rows[answers.numpy()], task_a)
        return losses.index_copy(0, here, constraints.answer_losses(log_odds, old))

    def _example_weights(self, loaded: Loaded, multiplier: Tensor, active: Tensor) -> Tensor:
        """Weight of each active example in METHOD (12): λ_k·τ₀ / (sampled tasks · examples of task k): (a,)."""
        limits, tasks = self._config.constraints, max(len(loaded.batch.tasks), 1)
        share = multiplier / limits.images_per_task * limits.temperature / tasks
        return share[self.model.here(torch.from_numpy(loaded.batch.example_task[active.numpy()]))]

    def _context(self, loaded: Loaded, pairs: Tensor, examples: Tensor, prompts: Tensor, surrogate: Tensor) -> Context:
        return Context(
            self.model, self._old, self.tasks, self._config, loaded, pairs, examples, prompts, surrogate,
            self._learner.parameters, self._start, self._fisher,
        )  # fmt: skip

    def _embed(self, loaded: Loaded, active: Tensor, tasks: Rows, apart: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of pairs and active examples (p+n+a, D), captions (p+n, D), class prompts (H, D).

        Prompts are computed of the label sets that the active examples have, and of those that ranks share which
        `tasks` have, the tasks of all ranks' active examples; the others are 0. `apart`: the examples' chunks.
        """
        batch = loaded.batch
        own = list(self.tasks.classes) if self._baseline else self._attributes(batch.example_task[active.numpy()])
        wanted = self._prompts.wanted(own, self._attributes(tasks))
        tokens, row, sentence_head = self._prompts.behind(loaded.captions, wanted)
        caption_head = caption_heads(self._config, self._split, self.tasks, batch.positive, batch.negative)
        chosen, head = active.nonzero()[:, 0], torch.cat([caption_head, sentence_head])
        pixels = [loaded.pairs, self._learner.picked(loaded.examples, chosen)]
        image, text = self._learner.embed(pixels, tokens, row, head, len(chosen) if apart else 0)
        captions, sentences = text[: len(caption_head)], text[len(caption_head) :]
        return image, captions, self._prompts.classes(sentences, wanted)

    def _attributes(self, task_b: Rows) -> list[str]:
        """Whose label sets some tasks have."""
        named = set(self._attribute[task_b].tolist())
        return [name for number, name in enumerate(self.tasks.classes) if number in named]

    @torch.no_grad()
    def _update_average(self) -> None:
        if self._averaged:
            torch._foreach_lerp_(self._averaged, self._current, 1 - self._config.select.average)

    def named(self, values: Tensor) -> dict[str, float]:
        """Values per task name, tasks without one left out."""
        values = values.cpu()
        known = (~values.isnan()).nonzero()[:, 0]
        return dict(zip((self._names[k] for k in known.tolist()), values[known].tolist(), strict=True))


def candidate_weights(weights: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The candidate in a checkpoint's weights and state."""
    average = {name.removeprefix(_AVERAGE): value for name, value in state.items() if name.startswith(_AVERAGE)}
    return average or weights
