"""Where a cycle stands at its end: how far from feasible and from a KKT point, and which tasks pull against which.

Legend of shapes: m tasks looked at, P trained parameters, S coordinates that gradients are compared in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymds.config import Config
from raymds.data.loader import clean_pixels
from raymds.data.sampler import Rows, Sampler, shares, spread
from raymds.data.split import Split
from raymds.method import baselines, constraints, contrastive, dist
from raymds.method.constraints import LOSSES
from raymds.method.verdict import of_task
from raymds.model import ClipWithHeads, class_means
from raymds.model.precision import trained_in
from raymds.tasks import Task, Tasks
from raymds.train.evaluate import Evaluation, changes, constraint_values, heed
from raymds.train.gradients import gradient
from raymds.train.limits import pools
from raymds.train.step import caption_heads, distinct_tokens

_IMAGES = 64  # retained examples of each task, and pairs of the objective of each kind, whose gradient is taken
_TASKS = 24  # tasks whose gradients are compared, at most: those with the largest multipliers; of the others their sum
_CHUNK = 32  # images with a gradient at a time
_EXACT = 1 << 21  # parameters up to which gradients are compared as they are
_SKETCH = 1 << 17  # coordinates of the sketch of longer ones: cosines to within 0.003


@dataclass(frozen=True)
class Cast:
    """Who takes part in a diagnosis: a network with the weights to be diagnosed, and what it was trained on."""

    config: Config
    tasks: Tasks
    net: ClipWithHeads
    sampler: Sampler
    train: Split
    val: Split
    stop: Callable[[], bool] = lambda: False  # whether somebody wishes it to stop


def diagnose(
    cast: Cast,
    w_old: dict[str, Tensor],
    old_losses: Sequence[Tensor],
    multiplier: dict[str, float],
    old: Evaluation,
    new: Evaluation,
) -> dict[str, Any]:
    """JSON-ready figures of the network's weights; the network holds `w_old` afterwards. Of tasks with examples alone.

    `old` and `new` are both models' results on val, `old_losses` the old model's values of the examples that λ
    was measured on, `multiplier` λ of METHOD (12) by task. h is that of METHOD (1), with its ε. Lengths of gradients
    are those of all trained parameters. StoppedError on all ranks where `cast.stop()` is true of any.
    """
    loss, limits, protected = cast.config.constraints.loss, cast.config.constraints, cast.tasks.protected
    slack = {task.name: of_task(limits.slack, task.name) for task in protected}
    seen = {name: change - slack[name] for name, change in _changes(cast, old_losses).items()}
    held = {task.name: changes(old, new, task)[loss] - slack[task.name] for task in protected}
    # (12) has λ_k·τ₀/m before each task's gradient, in the mean over its samples.
    share = limits.temperature / len(cast.tasks.constrained)
    weights = {task.name: multiplier.get(task.name, 0.0) * share for task in protected}
    ordered = sorted(range(len(protected)), key=lambda k: -weights[protected[k].name])
    looked, rest = ordered[:_TASKS], [k for k in ordered[_TASKS:] if weights[protected[k].name] > 0]
    names = [protected[k].name for k in looked]
    measure = _Gradients(cast)
    surrogate, _ = measure.surrogate(cast.train, _few(cast.sampler.positive), _few(cast.sampler.negative))
    g_F = _sketched(gradient(surrogate / dist.world_size(), measure.parameters))
    gradients = [measure.of_task(protected[k], cast.sampler.retained[k]) for k in looked]
    G, trunk = (torch.stack(parts) for parts in zip(*gradients, strict=True))
    others = measure.of_sum([(protected[k], cast.sampler.retained[k], weights[protected[k].name]) for k in rest])
    violations = torch.tensor([seen[name] for name in names])
    found = {
        "loss": {"name": loss, "unit": LOSSES[loss].unit},
        "part": "retained" if cast.sampler.held is None else "held_out",
        "violation": {"train": max(seen.values()), "val": max(held.values())},
        "h": {"train": seen, "val": held},
        "complementarity": max(weight * abs(seen[name]) for name, weight in weights.items()),
        **stationarity(g_F, G, torch.tensor([weights[name] for name in names], dtype=torch.float64), others),
        "delta": {"with_heads": conditioning(G, violations), "without_heads": conditioning(trunk, violations)},
        "cosines": cosines(["objective", *names], torch.cat([-g_F[None], -G])),
    }
    new_F = measure.objectives()
    cast.net.load_weights(w_old, "old")
    old_F = measure.objectives()
    return found | {"objective": {split: {"old": old_F[split], "new": new_F[split]} for split in new_F}}


class _Gradients:
    """Gradients and objective of a network on the rows of a cycle; every rank takes its share of the rows."""

    def __init__(self, cast: Cast) -> None:
        self._net, self._tasks, self._config, self._cast = cast.net, cast.tasks, cast.config, cast
        names = {name: p for name, p in cast.net.named_parameters() if p.requires_grad}
        self.parameters = list(names.values())
        trunk = [torch.full((p.numel(),), not name.startswith("heads."), dtype=torch.bool) for name, p in names.items()]
        self._trunk = torch.cat(trunk).to(cast.net.mean.device)  # coordinates that are of no class head

    @torch.no_grad()
    def objectives(self) -> dict[str, float]:
        """F of METHOD (8) on a few pairs of train and of val."""
        cast, target = self._cast, self._tasks.target
        parts = {"train": (cast.train, cast.sampler.positive, cast.sampler.negative)}
        parts["val"] = (cast.val, *pools(cast.val, target))
        return {name: float(self.surrogate(split, _few(p), _few(n))[1]) for name, (split, p, n) in parts.items()}

    def of_task(self, task: Task, pool: Rows) -> tuple[Tensor, Tensor]:
        """∇L_k on some of a task's examples, of all parameters and of those of no head alone."""
        total = self._of([(task, _few(pool), 1.0)])
        return _sketched(total), _sketched(total * self._trunk)

    def of_sum(self, parts: Sequence[tuple[Task, Rows, float]]) -> Tensor:
        """Σ w_k·∇L_k of tasks, each with its examples, of which a few are taken, and its weight w_k."""
        each = max(_TASKS * _IMAGES // max(len(parts), 1), 1)
        by_attribute: dict[str, list[tuple[Task, Rows, float]]] = {name: [] for name in self._tasks.classes}
        for task, pool, weight in parts:
            by_attribute[task.attribute].append((task, spread(pool, min(each, _IMAGES)), weight))
        total = torch.zeros_like(self._trunk, dtype=self.parameters[0].dtype)
        for some in by_attribute.values():
            total += self._of(some) if some else 0.0
        return _sketched(total)

    def _of(self, parts: Sequence[tuple[Task, Rows, float]]) -> Tensor:
        """Σ w_k·∇L_k of tasks of one attribute on all of the rows that are given: (P,)."""
        heed(self._cast.stop, self._trunk.device)
        attribute, device = parts[0][0].attribute, self._trunk.device
        rows = np.concatenate([own for _, own, _ in parts])
        label = torch.tensor([task.label for task, own, _ in parts for _ in own], device=device)
        weight = torch.tensor([w / len(own) for _, own, w in parts for _ in own], device=device)
        total = torch.zeros_like(self._trunk, dtype=self.parameters[0].dtype)
        for share in _shares(np.arange(len(rows))):
            if not len(share):  # other ranks have one more
                total += gradient(total.new_zeros(()), self.parameters)
                continue
            sentences, heads = self._tasks.sentences(attribute)
            tokens, which = distinct_tokens(self._net, sentences)
            head = torch.tensor(heads, device=device)
            image, text = self._net(self._pixels(self._cast.train, rows[share]), tokens, which, head)
            text = class_means(text, len(self._tasks.classes[attribute]))
            cosine, temperature = image @ text.T, self._config.constraints.temperature
            here = torch.from_numpy(share)
            losses = constraints.zero_shot_losses(cosine, label[here], temperature)
            total += gradient((weight[here].to(losses) * losses).sum(), self.parameters)
        return total

    def surrogate(self, split: Split, positive: Rows, negative: Rows) -> tuple[Tensor, Tensor]:
        """METHOD (10) with γ₁ = 1 on all pairs, on every rank, and F."""
        rows, t = np.concatenate([positive, negative]), self._config.objective.temperature
        tokens, which = distinct_tokens(self._net, [split.example(int(row)).caption for row in rows])
        head = caption_heads(self._config, split, self._tasks, positive, negative).to(which.device)
        image, text = self._net(self._pixels(split, rows), tokens, which, head)
        P = len(positive)
        differences = contrastive.differences(image[:P], text[:P], image[P:], text[P:])
        log_g = [contrastive.log_normaliser(d.double(), t) for d in differences]
        parts = [contrastive.surrogate(d, g, t) for d, g in zip(differences, log_g, strict=True)]
        return torch.stack(parts).sum() / (P * len(negative)), contrastive.objective(log_g[0], log_g[1], t)

    def _pixels(self, split: Split, rows: Rows) -> Tensor:
        pixels = clean_pixels(split, rows, self._net.preprocess, substitutes=False)  # one that is damaged is black
        return pixels.to(self._net.mean.device)


def _changes(cast: Cast, old_losses: Sequence[Tensor]) -> dict[str, float]:
    """The mean change of every protected task's loss on the examples that λ was measured on."""
    limits, loss = cast.config.constraints, LOSSES[cast.config.constraints.loss]
    tasks, m = replace(cast.tasks, without_data=()), len(cast.tasks.protected)
    with trained_in(cast.config.run.precision):  # as the old values were measured
        now = constraint_values(cast.net, cast.train, tasks, cast.sampler.seen[:m], limits, cast.stop)
    of = zip(tasks.protected, now, old_losses[:m], strict=True)
    return {task.name: float(loss.change(new, old).mean()) for task, new, old in of}


def stationarity(g_F: Tensor, G: Tensor, weight: Tensor, others: Tensor) -> dict[str, Any]:
    """‖∇F + Σ w_k·∇L_k‖/‖∇F‖ with the solver's multipliers, and with those that make it least: (S,), (m, S), (m,).

    `others` (S,) is that sum over the tasks that are not of `G`, whose multipliers stay as they are.
    """
    length = float(g_F.norm()) or 1.0
    known = g_F + others
    best = baselines.gem(G @ G.T, G @ known)  # the same problem: the nearest point of a cone
    residuals = [float((known + w.to(g_F) @ G).norm()) / length for w in (weight, best)]
    return {"kkt_residual": residuals[0], "least_residual": residuals[1]}


def conditioning(G: Tensor, h: Tensor) -> float | None:
    """δ of METHOD 3: ‖∇hᵀ·[h]₊‖/‖[h]₊‖, or the Jacobian's smallest singular value where nothing is violated."""
    violated = h.clamp(min=0).to(G)
    if violated.any():
        return float((violated @ G).norm() / violated.norm())
    return float(torch.linalg.eigvalsh((G @ G.T).double())[0].clamp(min=0).sqrt()) if len(G) else None


def cosines(names: Sequence[str], directions: Tensor) -> list[dict[str, Any]]:
    """Cosine of each pair of directions of descent, (n, S), the most contrary first."""
    unit = torch.nn.functional.normalize(directions.double(), dim=1)
    matrix = unit @ unit.T
    pairs = [(float(matrix[i, j]), names[i], names[j]) for i in range(len(names)) for j in range(i + 1, len(names))]
    return [{"of": [one, other], "cosine": value} for value, one, other in sorted(pairs)]


def _few(rows: Rows) -> Rows:
    return spread(rows, _IMAGES)


def _shares(rows: Rows) -> list[Rows]:
    """This rank's rows in chunks, as many chunks on every rank."""
    sizes = shares(len(rows), dist.world_size())
    start = sum(sizes[: dist.rank()])
    own = rows[start : start + sizes[dist.rank()]]
    return [own[i : i + _CHUNK] for i in range(0, max(sizes), _CHUNK)]


def _sketched(vector: Tensor) -> Tensor:
    """A vector whose inner products are those of `vector`: itself, or where it is long its count sketch."""
    if len(vector) <= _EXACT:
        return vector
    random = np.random.Generator(np.random.Philox(len(vector)))
    place = torch.from_numpy(random.integers(0, _SKETCH, len(vector)))
    sign = torch.from_numpy(random.integers(0, 2, len(vector)) * 2 - 1)
    return torch.zeros(_SKETCH, dtype=vector.dtype).index_add_(0, place, vector.cpu() * sign.to(vector.dtype))
