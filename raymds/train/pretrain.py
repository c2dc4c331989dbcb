"""The step of pretraining: CLIP's symmetric contrastive loss on the captions, to make an old model."""

import numpy as np
import torch
from torch import Tensor

from raymds.config import Config
from raymds.data.loader import Loaded
from raymds.data.sampler import Sampler, shares
from raymds.data.split import Split
from raymds.method import contrastive, dist
from raymds.model import ClipWithHeads
from raymds.model.precision import trained_in
from raymds.train.step import Learner, Sentences, Stopwatch, Taken


class Pretraining:
    """State and step of contrastive training; heads stay untrained."""

    def __init__(self, model: ClipWithHeads, sampler: Sampler, config: Config) -> None:
        self.model = model
        self._sampler = sampler
        self._temperature, self._precision = config.objective.temperature, config.run.precision
        model.heads.requires_grad_(False)
        model.freeze(config.model.freeze.image, config.model.freeze.text)
        self._learner = Learner(model, config)

    def step(self, loaded: Loaded) -> Taken:
        """One step on this rank's share of the batch."""
        with trained_in(self._precision), self.model.compiled.steps():
            return self._step(loaded)

    def _step(self, loaded: Loaded) -> Taken:
        batch, clock = loaded.batch, Stopwatch(self.model.mean.device)
        sizes = shares(self._sampler.positives, dist.world_size())
        with clock("forward"):
            tokens, row = Sentences(self.model, loaded.captions).behind([])
            image, text = self._learner.embed([loaded.pairs], tokens, row, torch.full_like(row, -1))
        with clock("exchange"):
            image, text = dist.all_gather_live(torch.cat([image, text], dim=1), sizes).chunk(2, 1)
        with clock("forward"):
            loss = contrastive.info_nce(image, text, self._temperature)
        norm = self._learner.descend(loss, batch.step, clock)
        known = {"lr": self._learner.rate(batch.step)}
        return Taken(batch.step, "the captions", clock, known, {"loss": loss, "grad_norm": norm})

    def state_dict(self) -> dict[str, Tensor]:
        """Optimiser state."""
        return self._learner.state_dict()

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over the state of a checkpoint."""
        self._learner.load_state_dict(tensors)


def build_sampler(split: Split, config: Config) -> Sampler:
    """All rows of the train split, each once an epoch."""
    rows = np.arange(len(split))
    return Sampler(
        seed=config.run.seed,
        positive=rows,
        positive_blocks=split.blocks(rows),
        negative=np.empty(0, np.int64),
        retained=[],
        positives=config.objective.batch,
        negatives=0,
        tasks_per_step=0,
        images_per_task=0,
    )
