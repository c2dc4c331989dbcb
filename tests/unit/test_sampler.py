"""The global batch: a pure function of (seed, step), dealt to any number of ranks without loss."""

import numpy as np
import pytest

from raymds.data.sampler import Sampler, retain


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
