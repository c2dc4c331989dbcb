"""Bounds of groups: coverage by simulation, known values, what they gain over one example a group."""

import math

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from raymds.method.certificate import PairedCounts, certify, lower_bound, more_examples
from raymds.method.grouped import Groups, lower_mean
from raymds.method.verdict import in_groups, refusal

DIGESTS = dict.fromkeys(("config", "data", "parent", "weights", "code"), "0")


def drives(dice: Generator, count: int, down: float, up: float, alike: float) -> NDArray[np.float64]:
    """Changes of drives of 1 to 50 images; a share `alike` of the images of each follows what its drive does."""
    whole, own = (dice.choice([-1, 1, 0], (count, n), p=[down, up, 1 - down - up]) for n in (1, 50))
    there = np.arange(50) < dice.integers(1, 51, (count, 1))
    change = np.where(dice.random((count, 50)) < alike, whole, own)
    shares: NDArray[np.float64] = (change * there).sum(axis=1) / there.sum(axis=1)
    return shares


@pytest.mark.parametrize("alike", [0.3, 1.0])
@pytest.mark.parametrize(("down", "up"), [(0.02, 0.02), (0.1, 0.02), (0.02, 0.1), (0.4, 0.5)])
@pytest.mark.parametrize("count", [5, 60])
def test_a_bound_misses_with_its_error_at_most(count: int, down: float, up: float, alike: float) -> None:
    dice, error, runs = np.random.default_rng(count), 0.2, 100
    found = [drives(dice, count, down, up, alike) for _ in range(runs)]
    most = error * runs + 3 * math.sqrt(error * (1 - error) * runs)
    assert sum(lower_mean(changes, error) > up - down + 1e-9 for changes in found) <= most
    assert sum(-lower_mean(-changes, error) < up - down - 1e-9 for changes in found) <= most


def test_rows_counted_one_by_one_would_miss_far_more_often() -> None:
    """That the simulation can fail: of drives whose images flip together, bounds of single images are not true."""
    dice, missed = np.random.default_rng(0), 0
    for _ in range(200):
        kinds = dice.choice([-1, 1, 0], 40, p=[0.1, 0.1, 0.8])
        missed += bool(lower_bound(25 * (kinds < 0).sum(), 25 * (kinds > 0).sum(), 25 * 40, 0.1) > 0)
    assert missed > 60


def test_what_never_changes_is_known_as_well_as_by_exact_bounds() -> None:
    """Between the best stake alone, (1 − loss)^−G = 1/error, and that one as a sixth of the money."""
    for count in (50, 1000):
        bound = lower_mean(np.zeros(count), 0.05)
        assert (0.05 / 6) ** (1 / count) - 1 < bound < 0.05 ** (1 / count) - 1
        assert 0.7 < bound / float(lower_bound(0, 0, count, 0.05)) < 1.1


def test_a_few_groups_say_little_and_what_they_say_is_a_share() -> None:
    assert lower_mean(np.array([-1.0]), 0.05) == -1.0
    assert -1 <= lower_mean(np.array([1.0, -1.0]), 0.05) < -0.9
    assert -1 <= lower_mean(np.array([1.0]), 0.05) < 0
    assert 0.8 < lower_mean(np.ones(100), 0.05) < 1


def test_images_of_a_drive_that_differ_say_more_than_one_of_them() -> None:
    dice = np.random.default_rng(1)
    kinds = dice.choice([-1, 1, 0], (400, 50), p=[0.05, 0.07, 0.88])
    alone = kinds[:, 0]
    one = float(lower_bound((alone < 0).sum(), (alone > 0).sum(), 400, 0.05))
    assert one < -0.01 < 0 < lower_mean(kinds.mean(axis=1), 0.05) < 0.02


def counts(group: list[int], old: list[bool], new: list[bool]) -> PairedCounts:
    before, after = np.array(old), np.array(new)
    b, c = int((before & ~after).sum()), int((~before & after).sum())
    return PairedCounts("w:a", len(group), int(before.sum()), b, c, 0.5, 0.4, Groups.of(np.array(group), before, after))


def test_a_group_counts_once_however_many_images_it_has() -> None:
    """Drive 7 has three images that all get worse, drives 3 and 9 one each that gets better."""
    found = counts([7, 3, 7, 9, 7], [True, False, True, False, True], [False, True, False, True, False])
    assert (found.old, found.new) == pytest.approx((1 / 3, 2 / 3))
    assert found.delta == pytest.approx(1 / 3)
    assert found.groups is not None
    assert sorted(found.groups.change) == [-1, 1, 1]
    certificate = certify(found, [found], tolerance=0.01, confidence=0.95, digests=DIGESTS)
    (task,) = certificate["tasks"]
    assert (task["n"], task["groups"], task["negative_flips"], task["positive_flips"]) == (5, 3, 3, 2)
    assert task["delta"] == pytest.approx(task["new"] - task["old"])
    assert task["lower"] < -0.9  # three units say nearly nothing
    assert "every group counts once" in str(in_groups(certificate))


@pytest.mark.parametrize("sign", [1, -1])
def test_changes_that_cancel_are_neither_loss_nor_gain(sign: int) -> None:
    """1/2 − 1/3 − 1/6, which floating point makes 9·10⁻¹⁸ of."""
    before = [True, True, False, False, False, False, False, False, False, False, False]
    after = [True, False, True, False, False, True, False, False, False, False, False]
    old, new = (before, after) if sign > 0 else (after, before)
    found = counts([0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2], old, new)
    assert found.groups is not None
    assert sorted(sign * found.groups.change) == [-1 / 2, 1 / 6, 1 / 3]
    assert found.delta == 0
    certificate = certify(found, [found], tolerance=0.0, confidence=0.95, digests=DIGESTS)
    assert certificate["verdict"] == "retained"
    assert "does not gain" in str(refusal(certificate, "undecided", "gain"))


def test_more_groups_of_the_same_kind_would_decide() -> None:
    group, right = np.repeat(np.arange(60), 5), np.ones(300, bool)
    found = PairedCounts("w:a", 300, 300, 0, 0, 0.5, 0.4, Groups.of(group, right, right))
    more = more_examples(found, 0.05, 0.01)
    assert more is not None
    count = (300 + more) // 5
    assert lower_mean(np.zeros(count + 1), 0.05) >= -0.01 > lower_mean(np.zeros(count - 1), 0.05)
