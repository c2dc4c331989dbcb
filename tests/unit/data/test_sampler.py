"""The global batch: a pure function of (seed, step), dealt to any number of ranks without loss."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from raymds.data.sampler import Blocks, Sampler, hold_out, retain


def sampler(seed: int = 0, tasks_per_step: int = 3) -> Sampler:
    return Sampler(
        seed=seed,
        positive=np.arange(0, 40),
        negative=np.arange(40, 400),
        retained=[np.arange(100, 120), np.arange(200, 260), np.arange(300, 311)],
        positives=8,
        negatives=12,
        tasks_per_step=tasks_per_step,
        images_per_task=5,
    )


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    forward = [sampler().batch(step) for step in range(30)]
    alone = sampler().batch(17)
    for name in ("positive", "negative", "tasks", "example", "example_task"):
        assert np.array_equal(getattr(forward[17], name), getattr(alone, name))


def test_another_seed_is_another_order() -> None:
    assert not np.array_equal(sampler(0).batch(0).negative, sampler(1).batch(0).negative)


def test_an_epoch_sees_every_positive_once() -> None:
    seen = np.concatenate([sampler().batch(step).positive for step in range(5)])
    assert np.array_equal(np.sort(seen), np.arange(40))
    second = np.concatenate([sampler().batch(step).positive for step in range(5, 10)])
    assert np.array_equal(np.sort(second), np.arange(40))
    assert not np.array_equal(seen, second)


def test_a_batch_has_no_row_twice_within_a_task_and_tasks_are_balanced() -> None:
    for step in range(50):
        batch = sampler().batch(step)
        assert np.array_equal(batch.example_task, np.repeat(batch.tasks, 5))
        for k in range(3):
            rows = batch.example[batch.example_task == k]
            assert len(np.unique(rows)) == 5
            assert np.isin(rows, sampler().retained[k]).all()


@pytest.mark.parametrize("tasks_per_step", [1, 2])
def test_sampled_tasks_take_turns(tasks_per_step: int) -> None:
    seen = np.concatenate([sampler(tasks_per_step=tasks_per_step).batch(step).tasks for step in range(300)])
    assert np.bincount(seen).min() >= 0.8 * len(seen) / 3


@pytest.mark.parametrize("ranks", range(1, 14))
def test_shares_of_all_ranks_make_the_batch(ranks: int) -> None:
    batch = sampler().batch(3)
    shares = [batch.share(rank, ranks) for rank in range(ranks)]
    for name in ("positive", "negative", "example", "example_task"):
        parts = [getattr(share, name) for share in shares]
        assert np.array_equal(np.concatenate(parts), getattr(batch, name))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_retained_examples_are_a_fixed_subset() -> None:
    pool = np.arange(1000, 1500)
    kept = retain(pool, 100, seed=3, task=2)
    assert len(np.unique(kept)) == 100
    assert np.isin(kept, pool).all()
    assert np.array_equal(kept, np.sort(kept))
    assert np.array_equal(kept, retain(pool, 100, seed=3, task=2))
    assert not np.array_equal(kept, retain(pool, 100, seed=3, task=1))
    assert np.array_equal(retain(pool, 10**6, seed=3, task=2), pool)


SHARD = np.repeat(np.arange(30), 12)  # of the 360 negatives


def streamed(window: int) -> Sampler:
    return replace(sampler(), negative_blocks=Blocks(SHARD, 30, window))


def test_a_streamed_pool_is_still_seen_once_an_epoch() -> None:
    seen = np.concatenate([streamed(4).batch(step).negative for step in range(30)])
    assert np.array_equal(np.sort(seen), np.arange(40, 400))
    assert not np.array_equal(seen, np.concatenate([streamed(4).batch(step).negative for step in range(30, 60)]))


def test_a_streamed_pool_needs_a_few_shards_at_a_time_in_random_order() -> None:
    windows = [np.concatenate([streamed(4).batch(step).negative for step in range(s, s + 4)]) for s in (0, 4, 8)]
    shards = [np.unique(SHARD[window - 40]) for window in windows]
    assert [len(used) for used in shards] == [4, 4, 4]
    assert len(np.unique(np.concatenate(shards))) == 12
    assert not np.array_equal(np.sort(np.concatenate(shards)), np.arange(12))
    first = SHARD[streamed(4).batch(0).negative - 40]
    assert len(np.unique(first)) > 1  # rows of the window's shards come mixed


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("streamed_pool", ["negative", "positive"])
def test_ranks_share_a_streamed_batch_without_loss_and_evenly(ranks: int, streamed_pool: str) -> None:
    """The same global batch for any number of ranks, each row on one of them, as many pairs on each or one more."""
    shard = {"negative": SHARD, "positive": np.repeat(np.arange(5), 8)}[streamed_pool]
    made = replace(sampler(), **{f"{streamed_pool}_blocks": Blocks(shard, int(shard[-1]) + 1, 4)})
    for step in range(60):
        batch = made.batch(step)
        shares = [batch.share(rank, ranks) for rank in range(ranks)]
        for name in ("positive", "negative"):
            parts = [getattr(share, name) for share in shares]
            assert np.array_equal(np.sort(np.concatenate(parts)), np.sort(getattr(batch, name)))
            assert all(map(np.array_equal, parts, batch.dealt(ranks)[name == "negative"]))
            if ranks == 1:
                assert np.array_equal(parts[0], getattr(batch, name))
        sizes = [len(share.positive) + len(share.negative) for share in shares]
        assert max(sizes) - min(sizes) <= 1 + (streamed_pool == "positive")  # there each part is within one
        assert np.array_equal(np.concatenate([share.example for share in shares]), batch.example)


@pytest.mark.parametrize(("positives", "negatives", "most"), [(64, 64, 1.05), (8, 120, 1.8), (128, 0, 2.0)])
def test_eight_ranks_read_few_shards_of_a_streamed_pool_twice(positives: int, negatives: int, most: float) -> None:
    """Of 8 they would each read all; near to once where pinned positives even out, at most twice where nothing does."""
    shard = np.repeat(np.arange(96), 32)
    pool, blocks = np.arange(len(shard)), Blocks(shard, 96, 32)
    streams = "negative" if negatives else "positive"
    others = {"negative": "positive", "positive": "negative"}[streams]
    made = replace(
        sampler(), positives=positives, negatives=negatives, **{streams: pool, f"{streams}_blocks": blocks},
        **{others: np.arange(200)},
    )  # fmt: skip
    steps = 32 * 32 // max(positives, negatives)
    fetched, used = 0, 0
    for window in range(3):
        batches = [made.batch(step) for step in range(window * steps, (window + 1) * steps)]
        read = [{*shard[np.concatenate([getattr(b.share(r, 8), streams) for b in batches])]} for r in range(8)]
        fetched, used = fetched + sum(map(len, read)), used + len(set().union(*read))
    assert fetched / used <= most


def test_a_window_of_all_shards_is_the_plain_shuffle() -> None:
    for step in (0, 31):
        assert np.array_equal(streamed(30).batch(step).negative, sampler().batch(step).negative)


def test_steps_asked_for_ahead_and_again_are_the_same() -> None:
    one, other = sampler(), sampler()
    for step in (0, 7, 1, 30, 2, 16, 0):
        assert np.array_equal(one.batch(step).positive, other.batch(step).positive)
        assert np.array_equal(one.batch(step).positive, sampler().batch(step).positive)


def test_retained_examples_of_a_streamed_split_come_from_the_same_few_shards() -> None:
    pool, other = np.arange(0, 360, 2), np.arange(1, 360, 2)
    blocks = [Blocks(SHARD[rows], 30, 4) for rows in (pool, other)]
    kept = [retain(rows, 30, 5, k, block) for k, (rows, block) in enumerate(zip((pool, other), blocks, strict=True))]
    assert [len(rows) for rows in kept] == [30, 30]
    assert len(np.unique(SHARD[kept[0]])) == 5  # 6 rows of the class in each
    assert np.array_equal(np.unique(SHARD[kept[0]]), np.unique(SHARD[kept[1]]))
    assert not np.array_equal(np.unique(SHARD[kept[0]]), np.arange(5))
    everything = retain(pool, 1000, 5, 0, blocks[0])
    assert np.array_equal(everything, pool)


@pytest.mark.parametrize(("m", "K"), [(364, 240), (13, 5), (5, 3), (7, 7), (6, 4), (4, 1)])
def test_every_task_is_sampled_as_often_as_every_other(m: int, K: int) -> None:
    """Also where a step's tasks don't go evenly into all of them, over every round and in no fixed company."""
    pools = [np.arange(10 * k, 10 * k + 4) for k in range(m)]
    made = Sampler(
        seed=1, positive=np.arange(8), negative=np.arange(8), retained=pools, positives=2, negatives=2,
        tasks_per_step=K, images_per_task=2,
    )  # fmt: skip
    steps = 3 * m // math.gcd(m, K)
    drawn = [made.batch(step).tasks for step in range(steps)]
    assert all(len(set(tasks)) == K for tasks in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=m)
    assert len(set(counts)) == 1
    assert K in (1, m) or len({tuple(sorted(tasks)) for tasks in drawn}) > 2


NOBODY, ALONE = np.empty(0, np.int64), np.arange(3000)


def test_held_out_examples_are_no_others_and_a_function_of_the_seed() -> None:
    pool = np.arange(100, 150)
    (trained,), (held,) = hold_out([pool], 0.3, 10, 4, NOBODY, ALONE)
    assert len(held) == 15
    assert sorted([*trained, *held]) == list(pool)
    assert np.array_equal(hold_out([pool], 0.3, 10, 4, NOBODY, ALONE)[1][0], held)
    assert not np.array_equal(hold_out([pool], 0.3, 10, 5, NOBODY, ALONE)[1][0], held)
    (_,), (other,) = hold_out([pool], 0.3, 10, 4, held[:5], ALONE)
    assert len(other) == 15
    assert not np.isin(held[:5], other).any()


def test_a_row_is_held_out_for_all_tasks_or_for_none() -> None:
    """Tasks of three attributes have rows in common, each task all of some classes."""
    rows = np.arange(3000)
    retained = [rows[rows % 7 == 0], rows[rows % 5 == 1], rows[rows % 11 < 2], rows[:30], rows[40:55]]
    trained, held = hold_out(retained, 0.25, 10, 0, NOBODY, ALONE)
    for k in range(4):
        assert sorted([*trained[k], *held[k]]) == list(retained[k])
        assert min(len(trained[k]), len(held[k])) >= 10
        assert not any(np.isin(held[k], other).any() for other in trained[:4])
    assert all(0.24 < len(held[k]) / len(retained[k]) < 0.32 for k in range(3))
    assert np.array_equal(trained[4], held[4])  # too few for two parts
    assert np.array_equal(trained[4], retained[4])


def test_rows_of_one_unit_are_held_out_together() -> None:
    unit = np.arange(3000) // 4  # drives of four images
    retained = [np.arange(0, 3000, 3), np.arange(1, 3000, 5)]
    trained, held = hold_out(retained, 0.25, 10, 0, np.array([0, 40, 1000]), unit)
    assert not np.isin(unit[np.concatenate(held)], unit[np.concatenate(trained)]).any()
    assert not np.isin(unit[np.concatenate(held)], [0, 10, 250]).any()
    assert 0.24 < len(held[0]) / len(retained[0]) < 0.5


@pytest.mark.parametrize(
    ("examples", "share", "trained", "held"),
    [
        (50, 0.25, 38, 12),
        (50, 0.1, 40, 10),
        (50, 0.9, 10, 40),
        (20, 0.25, 10, 10),
        (19, 0.25, 19, 19),
        (10, 0.5, 10, 10),
    ],
)
def test_each_part_has_what_a_step_draws_or_the_task_is_not_split(
    examples: int, share: float, trained: int, held: int
) -> None:
    parts = hold_out([np.arange(examples)], share, 10, 0, NOBODY, ALONE)
    assert [len(part[0]) for part in parts] == [trained, held]


def test_a_pool_smaller_than_its_draw_comes_equally_often_in_every_step() -> None:
    drawn = replace(sampler(), positive=np.arange(3), positives=8)
    for step in range(20):
        assert sorted(np.bincount(drawn.batch(step).positive, minlength=3)) == [2, 3, 3]
    assert np.array_equal(drawn.batch(7).positive, replace(drawn).batch(7).positive)
    most = [int(np.argmin(np.bincount(drawn.batch(step).positive, minlength=3))) for step in range(60)]
    assert min(np.bincount(most, minlength=3)) > 5  # which one comes less often changes from step to step
    exact = replace(drawn, positives=6)
    assert np.bincount(exact.batch(0).positive).tolist() == [2, 2, 2]


def naive(made: Sampler, pools: Sequence[np.ndarray], stream: int, step: int) -> list[int]:
    """A step's examples task by task: every pool shuffled by (seed, stream, task, epoch), one draw after the other."""
    rows: list[int] = []
    for k in made.batch(step).tasks.tolist():
        pool, count = pools[k].tolist(), made.images_per_task
        draws = len(pool) // count
        again = range(-(-count // len(pool)))
        keys = [(made.seed, stream, k, step // draws)] if draws else [(made.seed, stream, k, step, i) for i in again]
        order = [
            pool[i]
            for key in keys
            for i in np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(len(pool))
        ]
        start = step % draws * count if draws else 0
        rows += order[start : start + count]
    return rows


@pytest.mark.parametrize("tasks_per_step", [0, 2, 5])
def test_examples_of_all_tasks_are_those_drawn_one_by_one(tasks_per_step: int) -> None:
    """Pools of many sizes, one smaller than a draw; steps in order, and back and forth."""
    pools = [np.arange(100 * k, 100 * k + size) for k, size in enumerate((7, 2, 11, 3, 9))]
    held = [pool + 5000 for pool in pools[::-1]]
    made = Sampler(
        seed=4, positive=np.arange(8), negative=np.arange(8), retained=pools, positives=2, negatives=2,
        tasks_per_step=tasks_per_step, images_per_task=3, held=held,
    )  # fmt: skip
    for step in (*range(12), 3, 40, 0, 41, 2):
        batch = made.batch(step)
        assert batch.example.tolist() == naive(made, pools, 4, step)
        assert batch.held is not None and batch.held.tolist() == naive(made, held, 7, step)


def test_a_batch_is_drawn_once_and_again_when_it_is_long_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, drawn = sampler(), list[int]()
    inner = Sampler._drawn
    monkeypatch.setattr(Sampler, "_drawn", lambda self, step: (drawn.append(step), inner(self, step))[1])
    for step in range(100):  # as the loader, the step and its records ask
        for ahead in (8, 2, 0, 0):
            made.batch(step + ahead)
    assert len(drawn) == len(set(drawn)) == 108
    assert np.array_equal(made.batch(0).positive, sampler().batch(0).positive)


def test_an_order_of_more_shards_than_16_bits_count_is_the_same() -> None:
    """Two shards are next to each other in either, so their rows come in the pool's order."""
    pool = np.arange(3 * 70_000)
    blocks = Blocks(np.repeat(np.arange(70_000), 3), 70_000, 1)
    kept = retain(pool, 30, 5, 0, blocks)
    assert len(np.unique(blocks.shard[kept])) == 10
