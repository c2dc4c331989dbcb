"""Methods that people compare with and that are no rule for λ alone; their mathematics: `method/baselines.py`.

A new one is a function here and its row in `TABLE`, with its name in `method.solvers.BASELINES`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raymds.config import Config
from raymds.data.loader import Loaded, clean_pixels
from raymds.data.sampler import Rows, shares, spread
from raymds.data.split import Split
from raymds.method import baselines, constraints, dist
from raymds.model import ClipWithHeads, class_means
from raymds.tasks import Tasks
from raymds.train.gradients import gradient
from raymds.train.step import distinct_tokens

FISHER = 20  # retained examples of each task that EWC looks at


@dataclass(frozen=True)
class Context:
    """What a baseline may look at in a step; embeddings carry their gradient, rows are this rank's share."""

    model: ClipWithHeads
    old: ClipWithHeads | None  # the old model, where the row asks for it
    tasks: Tasks
    config: Config
    loaded: Loaded
    pairs: Tensor  # (p + n, D) image embeddings of the objective's pairs
    examples: Tensor  # (b, D) image embeddings of the retained examples, where the row asks for them
    prompts: Tensor  # (H, D) class prompts through their heads
    surrogate: Tensor  # this rank's share of the objective
    parameters: Sequence[nn.Parameter]  # those that are trained
    start: Sequence[Tensor]  # their values in the old model
    fisher: Sequence[Tensor]  # of the old model, by parameter, where the row asks for it

    @property
    def strength(self) -> float:
        """β·τ₀, the weight of a mean of per-example losses, as `regularize` weighs cross-entropy."""
        limits = self.config.constraints
        return float(limits.beta) * limits.temperature


def gem(context: Context) -> Tensor:
    """λ of GEM, (m,): what takes from the objective's gradient all that would raise a sampled task's loss."""
    tasks, K = context.loaded.batch.tasks, len(context.loaded.batch.tasks)
    of = context.loaded.batch.example_task
    target = gradient(context.surrogate, context.parameters)
    protected = []
    for k in tasks:
        task, here = context.tasks.protected[k], np.flatnonzero(of == k)
        loss = context.prompts.new_zeros(())
        if len(here):
            image = context.model.encode_image(context.loaded.examples[here].to(context.prompts.device))
            cosine = image @ context.prompts[context.tasks.columns(task.attribute)].T
            label = torch.full((len(here),), task.label, device=cosine.device)
            losses = constraints.zero_shot_losses(cosine, label, context.config.constraints.temperature)
            loss = losses.sum() / context.config.constraints.images_per_task
        protected.append(gradient(loss, context.parameters))
    G = torch.stack(protected)
    multiplier = torch.zeros(len(context.tasks.protected), dtype=torch.float64)
    # (12) has λ_k·τ₀/K before each task's gradient.
    multiplier[tasks] = baselines.gem(G @ G.T, G @ target) * K / context.config.constraints.temperature
    return multiplier.to(target.device)


def wccl(context: Context) -> Tensor:
    """β times the contrastive loss of the retained examples and their captions: weighted contrastive losses."""
    captions = context.loaded.example_captions
    tokens, row = distinct_tokens(context.model, captions)
    text = context.model.encode_text(tokens, row, torch.full_like(row, -1))
    settings, batch = context.config, context.loaded.batch
    sizes = shares(len(batch.tasks) * settings.constraints.images_per_task, dist.world_size())
    # Ranks tell each other which captions are equal by digests.
    digests = [int.from_bytes(hashlib.sha256(caption.encode()).digest()[:7], "little") for caption in captions]
    number = dist.all_gather(torch.tensor(digests, dtype=torch.int64, device=text.device), sizes)
    image, text = dist.all_gather_live(torch.cat([context.examples, text], dim=1), sizes).chunk(2, 1)
    temperature = settings.objective.temperature
    return float(settings.constraints.beta) * temperature * baselines.masked_info_nce(image, text, number, temperature)


def lwf(context: Context) -> Tensor:
    """Learning without forgetting (arXiv:1606.09282): the old model's answers on the objective's own images."""
    loaded = context.loaded
    count = context.config.objective.batch * len(context.tasks.classes)
    answers = _old_answers(context, loaded.pairs)
    losses = []
    for attribute, old_BC in answers.items():
        new_BC = context.pairs @ context.prompts[context.tasks.columns(attribute)].T
        losses.append(baselines.distillation(new_BC, old_BC, context.config.constraints.temperature).sum())
    return context.strength * torch.stack(losses).sum() / count


def focal_distillation(context: Context) -> Tensor:
    """The old model's answers on retained examples, those it had right weighted more (arXiv:2011.09161)."""
    of, limits = context.loaded.batch.example_task, context.config.constraints
    answers = _old_answers(context, context.loaded.examples)
    losses = [context.prompts.sum() * 0.0]
    for k in np.unique(of):
        task, here = context.tasks.protected[k], torch.from_numpy(np.flatnonzero(of == k))
        old_BC = answers[task.attribute][here]
        new_BC = context.examples[here] @ context.prompts[context.tasks.columns(task.attribute)].T
        label = torch.full((len(here),), task.label, device=old_BC.device)
        loss = baselines.distillation(new_BC, old_BC, limits.temperature)
        losses.append((baselines.focus(old_BC, label) * loss).sum())
    return context.strength * torch.stack(losses).sum() / (len(context.loaded.batch.tasks) * limits.images_per_task)


def ewc(context: Context) -> Tensor:
    """Elastic weight consolidation (arXiv:1612.00796): β/2·Σ Fᵢ(wᵢ − wᵢ_old)², F by `fisher_information`."""
    moved = zip(context.fisher, context.parameters, context.start, strict=True)
    total = torch.stack([(F * (w - old) ** 2).sum() for F, w, old in moved]).sum()
    return float(context.config.constraints.beta) / 2 * total / dist.world_size()


def fisher_information(
    model: ClipWithHeads, split: Split, tasks: Tasks, retained: Sequence[Rows], temperature: float
) -> list[Tensor]:
    """Diagonal of the empirical Fisher information over a few retained examples of each task, by trained parameter."""
    examples = [(k, int(row)) for k, rows in enumerate(retained) for row in spread(rows, FISHER)]
    sizes, device = shares(len(examples), dist.world_size()), model.mean.device
    begin = sum(sizes[: dist.rank()])
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    for k, row in examples[begin : begin + sizes[dist.rank()]]:
        task = tasks.protected[k]
        sentences, heads = tasks.sentences(task.attribute)
        tokens, which = distinct_tokens(model, sentences)
        pixels = clean_pixels(split, [row], model.preprocess).to(device)
        image, text = model(pixels, tokens, which, torch.tensor(heads, device=device))
        text = class_means(text, len(tasks.classes[task.attribute]))
        label = torch.tensor([task.label], device=device)
        loss = constraints.zero_shot_losses(image @ text.T, label, temperature).sum()
        for square, part in zip(total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if part is not None:
                square.add_(part**2)
    return [dist.all_reduce_sum(square) / max(len(examples), 1) for square in total]


@dataclass(frozen=True)
class Baseline:
    """How a baseline acts: by multipliers of the protected tasks, or by a penalty (this rank's share of it)."""

    multipliers: Callable[[Context], Tensor] | None = None
    penalty: Callable[[Context], Tensor] | None = None
    examples: bool = True  # whether it looks at retained examples in every step
    old: bool = False  # whether it asks the old model in every step
    fisher: bool = False  # whether it needs the old model's Fisher information


TABLE: dict[str, Baseline] = {
    "gem": Baseline(multipliers=gem),
    "wccl": Baseline(penalty=wccl),
    "lwf": Baseline(penalty=lwf, examples=False, old=True),
    "focal_distillation": Baseline(penalty=focal_distillation, old=True),
    "ewc": Baseline(penalty=ewc, examples=False, fisher=True),
}


@torch.no_grad()
def _old_answers(context: Context, pixels: Tensor) -> dict[str, Tensor]:
    """Per attribute the old model's cosines of images with the classes, (B, C)."""
    old, tasks = context.old, context.tasks
    assert old is not None  # the row asks for it
    image = old.encode_image(pixels.to(old.mean.device))
    classifiers = old.classifiers(tasks.label_sets)
    return {name: image @ matrix.T for name, matrix in classifiers.items()}
