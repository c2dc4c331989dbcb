"""Exact bounds: known values, coverage by simulation, verdicts by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from raymds.method.certificate import (
    PairedCounts,
    certify,
    clopper_pearson,
    difference_interval,
    more_examples,
    verdict_of,
)

DIGESTS = dict.fromkeys(("config", "data", "parent", "weights", "code"), "0")


def counts(task: str, n: int, b: int, c: int, right: int = 50) -> PairedCounts:
    return PairedCounts(task, n, right, b, c, loss_old=0.5, loss_new=0.4)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (17, 400)])
def test_clopper_pearson_equals_scipys(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.95, "exact")
    assert clopper_pearson(k, n, 0.05) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_trials_say_nothing() -> None:
    assert clopper_pearson(0, 0, 0.05) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("n", "down", "up"),
    [(50, 0.0, 0.0), (50, 0.02, 0.02), (200, 0.05, 0.05), (200, 0.10, 0.02), (1000, 0.03, 0.05), (30, 0.4, 0.5)],
)
def test_coverage_by_simulation(n: int, down: float, up: float) -> None:
    """The interval misses the true difference in at most 10 % of 4000 experiments (4 standard errors allowed)."""
    random = np.random.default_rng(7)
    draws = random.multinomial(n, [down, up, 1 - down - up], size=4000)
    cache: dict[tuple[int, int], tuple[float, float]] = {}
    missed = 0
    for b, c, _ in draws:
        key = (int(b), int(c))
        if key not in cache:
            cache[key] = difference_interval(*key, n, 0.10)
        lower, upper = cache[key]
        missed += not lower <= up - down <= upper
    assert missed / 4000 <= 0.10 + 4 * (0.1 * 0.9 / 4000) ** 0.5


def test_joint_coverage_over_dependent_tasks() -> None:
    """Ten tasks that share their examples: all lower bounds hold together in at least 90 % of experiments."""
    random = np.random.default_rng(11)
    tasks, n, experiments, p = 10, 100, 400, 0.08
    joint = 0
    cache: dict[tuple[int, int], float] = {}
    for _ in range(experiments):
        shared = random.random((n, 1)) * 0.5 + random.random((n, tasks)) * 0.5
        down, up = shared < np.quantile(shared, p), shared > np.quantile(shared, 1 - p)
        true = 0.0  # symmetric by construction
        held = True
        for k in range(tasks):
            key = (int(down[:, k].sum()), int(up[:, k].sum()))
            if key not in cache:
                cache[key] = difference_interval(*key, n, 0.10 / tasks)[0]
            held &= cache[key] <= true
        joint += held
    assert joint / experiments >= 0.90 - 4 * (0.1 * 0.9 / experiments) ** 0.5


def test_the_bound_is_nearly_as_narrow_as_a_normal_one() -> None:
    b, c, n, error = 40, 60, 2000, 0.05
    lower, upper = difference_interval(b, c, n, error)
    half_width = norm.ppf(1 - error / 2) * (b + c - (c - b) ** 2 / n) ** 0.5 / n
    assert half_width < (upper - lower) / 2 < 1.5 * half_width


def test_more_flips_down_lower_the_bound() -> None:
    bounds = [difference_interval(b, 20, 500, 0.05)[0] for b in range(0, 60, 5)]
    assert bounds == sorted(bounds, reverse=True)


@pytest.mark.parametrize(
    ("delta", "lower", "tolerance", "verdict"),
    [
        (0.01, 0.001, 0.0, "certified"),
        (0.01, -0.001, 0.0, "retained"),
        (0.0, -0.01, 0.0, "retained"),
        (-0.001, -0.02, 0.0, "violated"),
        (-0.001, -0.009, 0.01, "certified"),
        (-0.02, -0.03, 0.01, "violated"),
    ],
)
def test_verdicts(delta: float, lower: float, tolerance: float, verdict: str) -> None:
    assert verdict_of(delta, lower, tolerance) == verdict


def test_more_examples_are_just_enough() -> None:
    task = counts("a:b", 500, 10, 20)
    extra = more_examples(task, 0.01, 0.0)
    assert extra is not None
    assert extra > 0
    scale = (500 + extra) / 500
    assert difference_interval(10 * scale, 20 * scale, 500 + extra, 0.01)[0] >= 0
    less = (500 + extra - 1) / 500
    assert difference_interval(10 * less, 20 * less, 500 + extra - 1, 0.01)[0] < 0


def test_more_examples_where_none_or_no_number_is_needed() -> None:
    assert more_examples(counts("a:b", 500, 0, 200), 0.01, 0.0) == 0
    assert more_examples(counts("a:b", 500, 20, 20), 0.01, 0.0) is None


def test_certificate_takes_the_worst_verdict_and_reports_every_task() -> None:
    protected = [counts("w:a", 100, 0, 40), counts("w:b", 100, 5, 6), counts("w:c", 100, 7, 6)]
    made = certify(counts("w:t", 100, 1, 31), protected, tolerance=0.0, confidence=0.95, digests=DIGESTS)
    assert made["verdict"] == "violated"
    assert [task["verdict"] for task in made["tasks"]] == ["certified", "retained", "violated"]
    assert made["devsafety"] == pytest.approx(-0.01)
    assert made["target"]["old"] == 0.5
    assert made["target"]["new"] == 0.8
    assert made["target"]["delta"] == pytest.approx(0.3)
    assert made["tasks"][1]["more_examples"] > 0
    assert made["tasks"][2]["negative_flips"] == 7
    assert set(made) == {"schema", "verdict", "tolerance", "confidence", "devsafety", "target", "tasks", "digests"}


def test_the_same_bound_is_lower_with_more_tasks() -> None:
    task = counts("w:a", 100, 2, 30)
    alone = certify(task, [task], tolerance=0.0, confidence=0.95, digests=DIGESTS)["tasks"][0]["lower"]
    among = certify(task, [task] * 20, tolerance=0.0, confidence=0.95, digests=DIGESTS)["tasks"][0]["lower"]
    assert among < alone
