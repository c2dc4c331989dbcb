"""The objective of a step over all ranks, and its tracked normalisers, METHOD (7) to (10).

Legend of shapes: P positives, N negatives, D embedding width; lower case p, n are this rank's part.
"""

import numpy as np
import torch
from torch import Tensor

from raymds.config import Config
from raymds.data.sampler import Batch, Rows, Sampler
from raymds.method import contrastive, dist
from raymds.model import ClipWithHeads
from raymds.train.step import Stopwatch


class Objective:
    """Owns log s by position in the pool of positives, (positives, 2): image side, text side; NaN: never seen."""

    def __init__(self, model: ClipWithHeads, sampler: Sampler, config: Config) -> None:
        self._model, self._sampler, self._settings = model, sampler, config.objective
        device = model.mean.device
        self.log_s = torch.full((len(sampler.positive), 2), torch.nan, dtype=torch.float64, device=device)

    def __call__(self, batch: Batch, image: Tensor, text: Tensor, clock: Stopwatch) -> tuple[Tensor, Tensor]:
        """This rank's share of the surrogate of METHOD (10) over the global batch, and F of the batch.

        `image` and `text` are the embeddings of its pairs, (p + n, D) each, `batch` its share of the step's.
        """
        t, P, N, p = self._settings.temperature, self._sampler.positives, self._sampler.negatives, len(batch.positive)
        dealt_P, dealt_N = self._sampler.batch(batch.step).dealt(dist.world_size())
        sizes = [len(rows) for both in zip(dealt_P, dealt_N, strict=True) for rows in both]  # p, n of every rank
        pairs = torch.cat([image, text], dim=1)  # side by side
        positive, negative = pairs[:p], pairs[p:]
        with clock("exchange"):
            every = dist.all_gather(pairs, [both[0] + both[1] for both in zip(sizes[::2], sizes[1::2], strict=True)])
        parts = list(torch.split(every, sizes))
        parts[2 * dist.rank() + 1] = negative  # with its gradient
        all_positive, all_negative = torch.cat(parts[::2]), torch.cat(parts[1::2])
        # Rows: own positives against everybody's negatives. Normalisers: everybody's, from the same numbers in the same
        # parts on every rank, so that nobody has to tell them.
        own = contrastive.differences(*positive.chunk(2, 1), *all_negative.chunk(2, 1))
        log_g = torch.cat([self._normalisers(part, all_negative.detach()) for part in parts[::2]])
        log_s = self._track(np.concatenate(dealt_P), log_g)
        start = sum(sizes[: 2 * dist.rank() : 2])
        end = start + p
        rows = [contrastive.surrogate(d, log_s[start:end, i], t) for i, d in enumerate(own)]
        # Columns: everybody else's positives against own negatives, which see no other gradient of those pairs.
        others, others_s = (torch.cat([all_P[:start], all_P[end:]]) for all_P in (all_positive, log_s))
        crossed = contrastive.differences(*others.chunk(2, 1), *negative.chunk(2, 1))
        columns = [contrastive.surrogate(d, others_s[:, i], t) for i, d in enumerate(crossed)]
        return torch.stack(rows + columns).sum() / (P * N), contrastive.objective(log_g[:, 0], log_g[:, 1], t)

    def _normalisers(self, positive: Tensor, negative: Tensor) -> Tensor:
        """log g of METHOD (7) on both sides, of pairs' embeddings side by side: (p, 2D), (N, 2D) → (p, 2)."""
        found = contrastive.differences(*positive.chunk(2, 1), *negative.chunk(2, 1))
        return torch.stack([contrastive.log_normaliser(d.double(), self._settings.temperature) for d in found], dim=1)

    def _track(self, rows: Rows, log_g: Tensor) -> Tensor:
        """Fold the batch's normalisers into s, METHOD (9), the same on every rank: (P, 2) → (P, 2).

        A positive that comes several times in a batch counts with the mean of its ĝ.
        """
        seen, which = np.unique(np.searchsorted(self._sampler.positive, rows), return_inverse=True)
        seen_S, which_P = (self._model.here(torch.from_numpy(numbers)) for numbers in (seen, which))
        found = contrastive.mean_by(log_g, which_P, len(seen))
        tracked = contrastive.track(self.log_s[seen_S], found, self._settings.gamma)
        self.log_s.index_copy_(0, seen_S, tracked)
        return tracked[which_P]
