"""The global batch as a pure function of (seed, step), and each rank's share of it.

The state is the step, one integer. Nothing here depends on the number of ranks except `dealt` and `share`, so each step
has the same rows on any number of workers.

Legend of shapes: P positives, N negatives, K sampled tasks, b examples per task.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from raymds.data import deal
from raymds.data.deal import Along, Layout, cut

Rows = deal.Rows

_POSITIVE, _NEGATIVE, _TASKS, _RETAINED, _EXAMPLES = range(5)  # streams of random numbers
_SHARDS = 6  # the order of the shards, for retained examples or below one of the others
_KEPT = 32  # batches that are asked for again: the loader looks about ten steps ahead
_HELD, _SPLIT = 7, 8  # draws from the held-out part of the retained examples, and which are held out


@dataclass(frozen=True)
class Batch:
    """Rows of the train split that one step uses; of all ranks, or of one."""

    step: int
    positive: Rows  # (P,) rows that show the target
    negative: Rows  # (N,)
    tasks: Rows  # (K,) sampled constrained tasks, of all ranks
    example: Rows  # (K·b,) retained examples, task by task: those that are trained on
    example_task: Rows  # (K·b,) constrained task of each
    held: Rows | None = None  # (K·b,) likewise: those that λ is measured on, where they are others
    positive_along: Along | None = None  # (P,) of a pool that is streamed, whose rows go where their shards are read
    negative_along: Along | None = None  # (N,)

    @property
    def images(self) -> int:
        """How many a step trains on."""
        return len(self.positive) + len(self.negative) + len(self.example)

    def dealt(self, ranks: int) -> tuple[list[Rows], list[Rows]]:
        """Every rank's positives and its negatives: of each as many as any other rank has, or one more.

        Pinned positives beside streamed negatives any rank can take: one whose shards have few rows in this step takes
        more, so that of both together each has as many.
        """
        P, N = len(self.positive), len(self.negative)
        if ranks > 1 and self.positive_along is None and self.negative_along is not None:
            room = shares(P + N, ranks)
            negative = deal.deal(self.negative, self.negative_along, room)
            return cut(self.positive, [most - len(own) for most, own in zip(room, negative, strict=True)]), negative
        return _dealt(self.positive, self.positive_along, ranks), _dealt(self.negative, self.negative_along, ranks)

    def share(self, rank: int, ranks: int) -> "Batch":
        """This rank's pairs, as they are dealt, and contiguous slices of the examples; those have sizes of `shares`."""
        positive, negative = self.dealt(ranks)
        return replace(
            self,
            positive=positive[rank],
            negative=negative[rank],
            example=_slice(self.example, rank, ranks),
            example_task=_slice(self.example_task, rank, ranks),
            held=None if self.held is None else _slice(self.held, rank, ranks),
            positive_along=None,
            negative_along=None,
        )


@dataclass(frozen=True)
class Blocks:
    """How a pool too large for memory is shuffled: shards in random order, the rows of `window` of them together."""

    shard: Rows  # (n,) of each row of the pool
    shards: int  # of the split
    window: int

    def places(self, key: tuple[int, ...]) -> Rows:
        """The place of each shard in the order of an epoch."""
        return _permutation(self.shards, (*key, _SHARDS))


@dataclass(frozen=True)
class Sampler:
    """Draws without replacement: each pool is shuffled anew per epoch, and an epoch's last incomplete draw is left out.

    A pool smaller than its draw is an epoch or more in every step: each of its rows comes equally often, or once more.
    An empty one is the caller's error (checked with the data set, where it can be named).
    """

    seed: int
    positive: Rows
    negative: Rows
    retained: Sequence[Rows]  # per constrained task: those that are trained on
    positives: int
    negatives: int
    tasks_per_step: int
    images_per_task: int
    positive_blocks: Blocks | None = None
    negative_blocks: Blocks | None = None
    held: Sequence[Rows] | None = None  # per constrained task, those that λ is measured on; None: the same ones
    _orders: dict[int, dict[int, "_Epoch"]] = field(default_factory=dict, init=False, compare=False, repr=False)
    _batches: dict[int, Batch] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def seen(self) -> Sequence[Rows]:
        """Per constrained task the retained examples that λ is measured on."""
        return self.retained if self.held is None else self.held

    @property
    def recurring(self) -> Rows:
        """Rows that are drawn again and again, ascending: retained examples, and positives that aren't streamed."""
        positive = self.positive if self.positive_blocks is None else self.positive[:0]
        return np.unique(np.concatenate([positive, *self.retained, *(self.held or ())]))

    def batch(self, step: int) -> Batch:
        """The global batch of a step, drawn once: the loader asks for it a few steps ahead, the step itself again."""
        if step not in self._batches:
            if len(self._batches) == _KEPT:
                del self._batches[next(iter(self._batches))]
            self._batches[step] = self._drawn(step)
        return self._batches[step]

    def _drawn(self, step: int) -> Batch:
        tasks = self._tasks(step)
        positive, of_positive = self._draw(self.positive, self.positives, step, _POSITIVE, self.positive_blocks)
        negative, of_negative = self._draw(self.negative, self.negatives, step, _NEGATIVE, self.negative_blocks)
        return Batch(
            step=step,
            positive=positive,
            negative=negative,
            positive_along=of_positive,
            negative_along=of_negative,
            tasks=tasks,
            example=self._of_tasks[0].draw(tasks, step),
            example_task=np.repeat(tasks, self.images_per_task),
            held=None if self.held is None else self._of_tasks[1].draw(tasks, step),
        )

    @cached_property
    def _of_tasks(self) -> list["_Pools"]:
        """The pools of retained examples, and of held-out ones."""
        count = self.images_per_task
        trained = _Pools(self.retained, count, (self.seed, _EXAMPLES))
        return [trained] if self.held is None else [trained, _Pools(self.held, count, (self.seed, _HELD))]

    def _tasks(self, step: int) -> Rows:
        """Windows that go round one permutation until every task was in as many, then round another one.

        With the incomplete draw at an epoch's end left out, as of examples, a task could be left out for long.
        """
        m, K = len(self.retained), self.tasks_per_step
        if K == 0:
            return np.empty(0, np.int64)
        epoch, position = divmod(step, m // math.gcd(m, K))
        return _permutation(m, (self.seed, _TASKS, epoch))[(position * K + np.arange(K)) % m]

    def _draw(self, pool: Rows, count: int, step: int, stream: int, blocks: Blocks | None) -> tuple[Rows, Along | None]:
        if count == 0:
            return pool[:0], None
        if len(pool) < count:
            return _again(pool, count, (self.seed, stream, step), blocks), None
        epoch, position = divmod(step, len(pool) // count)
        orders = self._orders.setdefault(stream, {})
        if epoch not in orders:
            if len(orders) == 2:  # steps are asked for a few ahead: this epoch's and the next one's
                del orders[next(iter(orders))]
            orders[epoch] = _Epoch(len(pool), blocks, (self.seed, stream, epoch))
        index = orders[epoch].order[position * count : (position + 1) * count]
        layout = orders[epoch].layout
        return pool[index], None if layout is None else layout.along(index)


class _Epoch:
    """The order of a pool's rows in an epoch and, of a streamed one, where they lie in its windows."""

    def __init__(self, n: int, blocks: Blocks | None, key: tuple[int, ...]) -> None:
        self.order = _order(n, blocks, key)
        self.layout = Layout.of(blocks.shard, blocks.places(key), blocks.window) if blocks else None


class _Pools:
    """Pools of many tasks, drawn from as `Sampler` draws: each in the order of its epoch, one behind the other.

    A draw is one look-up for all tasks; one by one they would take longer than a step of a small model.
    """

    def __init__(self, pools: Sequence[Rows], count: int, key: tuple[int, ...]) -> None:
        """`count` rows per task and draw; `key` and a task's number are the seed of its orders."""
        sizes = np.array([len(pool) for pool in pools], dtype=np.int64)
        self._pools, self._count, self._key = pools, count, key
        self._start = np.cumsum(sizes) - sizes
        self._draws = sizes // max(count, 1)  # of an epoch; 0: of a pool smaller than a draw
        self._epoch = np.full(len(pools), -1)  # that a pool's order in `_rows` is of
        self._rows = np.concatenate([np.empty(0, np.int64), *pools])

    def draw(self, tasks: Rows, step: int) -> Rows:
        """`count` rows of each task, task by task: (K,) → (K·b,)."""
        epoch, position = np.divmod(step, np.maximum(self._draws[tasks], 1))
        whole = self._draws[tasks] > 0
        for k in tasks[whole & (epoch != self._epoch[tasks])].tolist():
            pool, start = self._pools[k], self._start[k]
            order = _permutation(len(pool), (*self._key, k, step // int(self._draws[k])))
            self._rows[start : start + len(pool)] = pool[order]
        self._epoch[tasks] = epoch
        first = np.where(whole, self._start[tasks] + position * self._count, 0)
        found = self._rows[first[:, None] + np.arange(self._count)]
        for i in np.flatnonzero(~whole).tolist():
            k = int(tasks[i])
            found[i] = _again(self._pools[k], self._count, (*self._key, k, step))
        return found.reshape(-1)


def _again(pool: Rows, count: int, key: tuple[int, ...], blocks: Blocks | None = None) -> Rows:
    """A draw from a pool smaller than it: an epoch, and as much of further ones as it takes."""
    epochs = [(*key, again) for again in range(-(-count // len(pool)))]
    return np.concatenate([pool[_order(len(pool), blocks, own)] for own in epochs])[:count]


def retain(pool: Rows, count: int, seed: int, task: int, blocks: Blocks | None = None) -> Rows:
    """The retained examples D_k of a task: `count` rows of its pool (all, where it has fewer), by seed.

    With `blocks` they come from as few shards as hold them, and all tasks visit the shards in the same order, so that
    the rest of the data set need not be read; the rows of a shard are taken to be a random sample.
    """
    order = _permutation(len(pool), (seed, _RETAINED, task))
    if blocks:
        order = order[_stable(_places(blocks.shards, seed)[blocks.shard[order]])]
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
    place_of = _permutation(int(unit.max()) + 1, (seed, _SPLIT))
    place = place_of[unit]
    wanted, kept = [np.empty(0, np.int64)], np.zeros(len(place_of), dtype=bool)
    kept[unit[never]] = True
    for rows in retained:
        free = rows[~kept[unit[rows]]]
        count = min(max(round(len(rows) * share), draw), len(rows) - draw)
        if len(rows) >= 2 * draw and len(free) >= count:
            wanted.append(free[np.argsort(place[free], kind="stable")[:count]])
    chosen = np.zeros(len(place_of), dtype=bool)
    chosen[unit[np.concatenate(wanted)]] = True
    apart = chosen[unit]
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
        order = order[_stable((blocks.places(key) // blocks.window)[blocks.shard[order]])]
    return order


@lru_cache(1)
def _places(shards: int, seed: int) -> Rows:
    """The order in which retained examples visit the shards, the same of all tasks."""
    return _permutation(shards, (seed, _SHARDS))


def _stable(numbers: Rows) -> Rows:
    """The order of numbers from 0, equal ones as they come; those of 16 bits are sorted in linear time."""
    small = len(numbers) and numbers.max() < 2**16
    return np.argsort(numbers.astype(np.uint16) if small else numbers, kind="stable")


def _permutation(n: int, key: tuple[int, ...]) -> Rows:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(n)


def shares(n: int, ranks: int) -> list[int]:
    """Sizes of the contiguous slices in which `n` rows are dealt to `ranks` ranks; they differ by at most one."""
    return [(r + 1) * n // ranks - r * n // ranks for r in range(ranks)]


def _dealt(rows: Rows, along: Along | None, ranks: int) -> list[Rows]:
    sizes = shares(len(rows), ranks)
    return cut(rows, sizes) if along is None or ranks == 1 else deal.deal(rows, along, sizes)


def _slice(rows: Rows, rank: int, ranks: int) -> Rows:
    return rows[rank * len(rows) // ranks : (rank + 1) * len(rows) // ranks]
