"""The global batch as a pure function of (seed, step), and each rank's slice of it.

The state is the step, one integer. Nothing here depends on the number of ranks except `share`, so the same rows are
seen in the same order on any number of workers.

Legend of shapes: P positives, N negatives, K sampled tasks, b examples per task.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

_POSITIVE, _NEGATIVE, _TASKS, _RETAINED, _EXAMPLES = range(5)  # streams of random numbers
_SHARDS = 6  # the order of the shards, for retained examples or below one of the others
_HELD, _SPLIT = 7, 8  # draws from the held-out part of the retained examples, and which are held out


@dataclass(frozen=True)
class Batch:
    """Rows of the train split that one step uses; of all ranks, or of one."""

    step: int
    positive: Rows  # (P,) rows that show the target
    negative: Rows  # (N,)
    tasks: Rows  # (K,) sampled protected tasks, of all ranks
    example: Rows  # (K·b,) retained examples, task by task: those that are trained on
    example_task: Rows  # (K·b,) protected task of each
    held: Rows | None = None  # (K·b,) likewise: those that λ is measured on, where they are others

    def share(self, rank: int, ranks: int) -> "Batch":
        """This rank's contiguous slices; the sizes are those of `shares`."""
        return replace(
            self,
            positive=_slice(self.positive, rank, ranks),
            negative=_slice(self.negative, rank, ranks),
            example=_slice(self.example, rank, ranks),
            example_task=_slice(self.example_task, rank, ranks),
            held=None if self.held is None else _slice(self.held, rank, ranks),
        )


@dataclass(frozen=True)
class Blocks:
    """How a pool too large for memory is shuffled: shards in random order, the rows of `window` of them together."""

    shard: Rows  # (n,) of each row of the pool
    shards: int  # of the split
    window: int


@dataclass(frozen=True)
class Sampler:
    """Draws without replacement: each pool is shuffled anew per epoch, and an epoch's last incomplete draw is left out.

    A pool smaller than its draw is an epoch or more in every step: each of its rows comes equally often, or once more.
    An empty one is the caller's error (checked with the data set, where it can be named).
    """

    seed: int
    positive: Rows
    negative: Rows
    retained: Sequence[Rows]  # per protected task: those that are trained on
    positives: int
    negatives: int
    tasks_per_step: int
    images_per_task: int
    positive_blocks: Blocks | None = None
    negative_blocks: Blocks | None = None
    held: Sequence[Rows] | None = None  # per protected task, those that λ is measured on; None: the same ones
    _orders: dict[tuple[int, ...], dict[int, Rows]] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def seen(self) -> Sequence[Rows]:
        """Per protected task the retained examples that λ is measured on."""
        return self.retained if self.held is None else self.held

    def batch(self, step: int) -> Batch:
        """The global batch of a step."""
        tasks = self._tasks(step)

        def of_tasks(pools: Sequence[Rows], stream: int) -> Rows:
            drawn = [self._draw(pools[k], self.images_per_task, step, stream, int(k)) for k in tasks]
            return np.concatenate([np.empty(0, np.int64), *drawn])

        return Batch(
            step=step,
            positive=self._draw(self.positive, self.positives, step, _POSITIVE, blocks=self.positive_blocks),
            negative=self._draw(self.negative, self.negatives, step, _NEGATIVE, blocks=self.negative_blocks),
            tasks=tasks,
            example=of_tasks(self.retained, _EXAMPLES),
            example_task=np.repeat(tasks, self.images_per_task),
            held=None if self.held is None else of_tasks(self.held, _HELD),
        )

    def _tasks(self, step: int) -> Rows:
        """Windows that go round one permutation until every task was in as many, then round another one.

        With the incomplete draw at an epoch's end left out, as of examples, a task could be left out for long.
        """
        m, K = len(self.retained), self.tasks_per_step
        if K == 0:
            return np.empty(0, np.int64)
        epoch, position = divmod(step, m // math.gcd(m, K))
        return _permutation(m, (self.seed, _TASKS, epoch))[(position * K + np.arange(K)) % m]

    def _draw(self, pool: Rows, count: int, step: int, *stream: int, blocks: Blocks | None = None) -> Rows:
        if count == 0:
            return pool[:0]
        if len(pool) < count:
            epochs = [(self.seed, *stream, step, again) for again in range(-(-count // len(pool)))]
            return np.concatenate([pool[_order(len(pool), blocks, key)] for key in epochs])[:count]
        epoch, position = divmod(step, len(pool) // count)
        orders = self._orders.setdefault(stream, {})
        if epoch not in orders:
            if len(orders) == 2:  # steps are asked for a few ahead: this epoch's and the next one's
                del orders[next(iter(orders))]
            orders[epoch] = _order(len(pool), blocks, (self.seed, *stream, epoch))
        return pool[orders[epoch][position * count : (position + 1) * count]]


def retain(pool: Rows, count: int, seed: int, task: int, blocks: Blocks | None = None) -> Rows:
    """The retained examples D_k of a task: `count` rows of its pool (all, where it has fewer), by seed.

    With `blocks` they come from as few shards as hold them, and all tasks visit the shards in the same order, so that
    the rest of the data set need not be read; the rows of a shard are taken to be a random sample.
    """
    order = _permutation(len(pool), (seed, _RETAINED, task))
    if blocks:
        place = _permutation(blocks.shards, (seed, _SHARDS))
        order = order[np.argsort(place[blocks.shard[order]], kind="stable")]
    return np.sort(pool[order[:count]])


def hold_out(
    retained: Sequence[Rows], share: float, draw: int, seed: int, never: Rows, unit: Rows
) -> tuple[list[Rows], list[Rows]]:
    """Split every task's retained examples, by seed: those that are trained on, and those that λ is measured on.

    A row is held out for all tasks or for none, as a picture that one task trains on is learned by heart for the others
    too; those of `never` are held out for none. So it is with rows of one `unit`, (n,), which are alike. Of each task
    it is `share` of its rows and, so that each part has what a step draws from it, `draw` at least; a task with too few
    examples for that is not split.
    """
    place = _permutation(int(unit.max()) + 1, (seed, _SPLIT))[unit]
    wanted = [np.empty(0, np.int64)]
    for rows in retained:
        free = rows[~np.isin(unit[rows], unit[never])]
        count = min(max(round(len(rows) * share), draw), len(rows) - draw)
        if len(rows) >= 2 * draw and len(free) >= count:
            wanted.append(free[np.argsort(place[free], kind="stable")[:count]])
    apart = np.isin(unit, unit[np.concatenate(wanted)])
    parts = [(rows[~apart[rows]], rows[apart[rows]]) for rows in retained]
    whole = [min(len(trained), len(held)) < draw for trained, held in parts]
    return (
        [rows if same else trained for rows, same, (trained, _) in zip(retained, whole, parts, strict=True)],
        [rows if same else held for rows, same, (_, held) in zip(retained, whole, parts, strict=True)],
    )


def spread(rows: Rows, count: int) -> Rows:
    """`count` rows (all, where there are fewer) evenly spread over a pool."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), count)).astype(np.int64)]


def _order(n: int, blocks: Blocks | None, key: tuple[int, ...]) -> Rows:
    """A permutation of a pool: of all of it, or window by window."""
    order = _permutation(n, key)
    if blocks:
        place = _permutation(blocks.shards, (*key, _SHARDS))
        order = order[np.argsort(place[blocks.shard[order]] // blocks.window, kind="stable")]
    return order


def _permutation(n: int, key: tuple[int, ...]) -> Rows:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(n)


def shares(n: int, ranks: int) -> list[int]:
    """Sizes of the contiguous slices in which `n` rows are dealt to `ranks` ranks; they differ by at most one."""
    return [(r + 1) * n // ranks - r * n // ranks for r in range(ranks)]


def _slice(rows: Rows, rank: int, ranks: int) -> Rows:
    sizes = shares(len(rows), ranks)
    start = sum(sizes[:rank])
    return rows[start : start + sizes[rank]]
