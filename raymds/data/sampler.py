"""The global batch as a pure function of (seed, step), and each rank's slice of it.

The state is the step, one integer. Nothing here depends on the number of ranks except `share`, so the same rows are
seen in the same order on any number of workers.

Legend of shapes: P positives, N negatives, K sampled tasks, b examples per task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from raymds import dist

Rows = NDArray[np.int64]

_POSITIVE, _NEGATIVE, _TASKS, _RETAINED, _EXAMPLES = range(5)  # streams of random numbers


@dataclass(frozen=True)
class Batch:
    """Rows of the train split that one step uses; of all ranks, or of one."""

    step: int
    positive: Rows  # (P,) rows that show the target
    negative: Rows  # (N,)
    tasks: Rows  # (K,) sampled protected tasks, of all ranks
    example: Rows  # (K·b,) retained examples, task by task
    example_task: Rows  # (K·b,) protected task of each

    def share(self, rank: int, ranks: int) -> "Batch":
        """This rank's contiguous slices; the sizes are `dist.shares`."""
        return replace(
            self,
            positive=_slice(self.positive, rank, ranks),
            negative=_slice(self.negative, rank, ranks),
            example=_slice(self.example, rank, ranks),
            example_task=_slice(self.example_task, rank, ranks),
        )


@dataclass(frozen=True)
class Sampler:
    """Draws without replacement: each pool is shuffled anew per epoch, and an epoch's last incomplete draw is left out.

    A pool smaller than its draw is the caller's error (checked with the data set, where it can be named).
    """

    seed: int
    positive: Rows
    negative: Rows
    retained: Sequence[Rows]  # per protected task
    positives: int
    negatives: int
    tasks_per_step: int
    images_per_task: int

    def batch(self, step: int) -> Batch:
        """The global batch of a step."""
        tasks = self._draw(np.arange(len(self.retained)), self.tasks_per_step, step, _TASKS)
        examples = [self._draw(self.retained[k], self.images_per_task, step, _EXAMPLES, int(k)) for k in tasks]
        return Batch(
            step=step,
            positive=self._draw(self.positive, self.positives, step, _POSITIVE),
            negative=self._draw(self.negative, self.negatives, step, _NEGATIVE),
            tasks=tasks,
            example=np.concatenate([np.empty(0, np.int64), *examples]),
            example_task=np.repeat(tasks, self.images_per_task),
        )

    def _draw(self, pool: Rows, count: int, step: int, *stream: int) -> Rows:
        if count == 0:
            return pool[:0]
        epoch, position = divmod(step, len(pool) // count)
        order = _permutation(len(pool), self.seed, *stream, epoch)
        return pool[order[position * count : (position + 1) * count]]


def retain(pool: Rows, count: int, seed: int, task: int) -> Rows:
    """The retained examples D_k of a task: `count` rows of its pool (all, where it has fewer), by seed."""
    return np.sort(pool[_permutation(len(pool), seed, _RETAINED, task)[:count]])


@lru_cache(maxsize=256)
def _permutation(n: int, *key: int) -> Rows:
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(n)
    order.setflags(write=False)
    return order


def _slice(rows: Rows, rank: int, ranks: int) -> Rows:
    sizes = dist.shares(len(rows), ranks)
    start = sum(sizes[:rank])
    return rows[start : start + sizes[rank]]
