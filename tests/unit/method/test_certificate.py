"""Exact one-sided bounds: known values, coverage by sums over all outcomes and by simulation, verdicts by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial, norm

from raymds.method.certificate import (
    PairedCounts,
    at_least,
    at_most,
    certify,
    lower_bound,
    more_examples,
    steps,
    unchanged,
    upper_bound,
)

DIGESTS = dict.fromkeys(("config", "data", "parent", "weights", "code"), "0")


def counts(task: str, n: int, b: int, c: int, right: int = 50) -> PairedCounts:
    return PairedCounts(task, n, right, b, c, loss_old=0.5, loss_new=0.4)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (17, 400)])
def test_bounds_of_a_proportion_equal_scipys(k: int, n: int) -> None:
    above = binomtest(k, n, alternative="greater").proportion_ci(0.95, "exact")
    below = binomtest(k, n, alternative="less").proportion_ci(0.95, "exact")
    assert at_least(k, n, 0.05) == pytest.approx(above.low, abs=1e-9)
    assert at_most(k, n, 0.05) == pytest.approx(below.high, abs=1e-9)


def test_bounds_of_hardly_any_confidence_are_numbers() -> None:
    for error in (0.99, 0.999, 1 - 1e-9):
        for b, c, n in ((0, 0, 2), (1, 0, 1), (3, 8, 100), (19, 2, 30)):
            assert -1 <= lower_bound(b, c, n, error) <= 1
            assert -1 <= upper_bound(b, c, n, error) <= 1


def test_no_trials_say_nothing() -> None:
    assert (at_least(0, 0, 0.05), at_most(0, 0, 0.05)) == (0.0, 1.0)
    assert (lower_bound(0, 0, 0, 0.05), upper_bound(0, 0, 0, 0.05)) == (-1.0, 1.0)


@pytest.mark.parametrize("error", [0.5, 0.05, 0.05 / 13, 0.05 / 364, 1e-9])
def test_under_the_steps_lies_the_error(error: float) -> None:
    """Two independent uniform numbers, naively: column by column between the steps."""
    x, y = steps(error)
    assert (np.diff(x) < 0).all()
    assert x[0] < 1
    edges, heights = [1.0, *x, 0.0], [*y, 1.0]
    area = sum((edges[i] - edges[i + 1]) * heights[i] for i in range(len(heights)))
    assert area == pytest.approx(error, rel=1e-9)


RATES = [
    (0.0, 0.0),
    (0.02, 0.02),
    (0.05, 0.05),
    (0.1, 0.02),
    (0.02, 0.1),
    (0.3, 0.0),
    (0.0, 0.3),
    (0.4, 0.5),
    (0.2, 0.2),
]


@pytest.mark.parametrize("error", [0.2, 0.05, 0.004])
@pytest.mark.parametrize("n", [10, 40])
def test_coverage_is_exact_for_every_outcome(n: int, error: float) -> None:
    """Summed over all (b, c): each bound misses the true difference with at most its error, whatever the rates."""
    b, c = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    b, c = b[b + c <= n], c[b + c <= n]
    lower, upper = lower_bound(b, c, n, error), upper_bound(b, c, n, error)
    for down, up in [*RATES, *((d / 20, u / 20) for d in range(21) for u in range(21 - d))]:
        rates = np.array([down, up, max(1 - down - up, 0.0)])
        chance = multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, rates / rates.sum())
        assert chance[lower > up - down + 1e-12].sum() <= error * (1 + 1e-9)
        assert chance[upper < up - down - 1e-12].sum() <= error * (1 + 1e-9)


@pytest.mark.parametrize(
    ("n", "down", "up"),
    [(50, 0.0, 0.0), (50, 0.02, 0.02), (200, 0.05, 0.05), (200, 0.10, 0.02), (1000, 0.03, 0.05), (30, 0.4, 0.5)],
)
def test_coverage_by_simulation(n: int, down: float, up: float) -> None:
    """Each bound misses the true difference in at most 10 % of 4000 experiments (4 standard errors allowed)."""
    draws = np.random.default_rng(7).multinomial(n, [down, up, 1 - down - up], size=4000)
    lower, upper = lower_bound(draws[:, 0], draws[:, 1], n, 0.10), upper_bound(draws[:, 0], draws[:, 1], n, 0.10)
    allowed = 0.10 + 4 * (0.1 * 0.9 / 4000) ** 0.5
    assert (lower > up - down).mean() <= allowed
    assert (upper < up - down).mean() <= allowed


def test_joint_coverage_over_dependent_tasks() -> None:
    """Ten tasks that share their examples: all lower bounds, and all upper ones, hold together in 90 % of experiments.

    The changes are 0 by symmetry.
    """
    random = np.random.default_rng(11)
    tasks, n, experiments, p = 10, 100, 1000, 0.08
    joint = np.zeros(2)
    cut = np.quantile(random.random(10**6) * 0.5 + random.random(10**6) * 0.5, [p, 1 - p])
    for _ in range(experiments):
        shared = random.random((n, 1)) * 0.5 + random.random((n, tasks)) * 0.5
        b, c = (shared < cut[0]).sum(axis=0), (shared > cut[1]).sum(axis=0)
        error = 0.10 / tasks
        joint += (lower_bound(b, c, n, error) <= 0).all(), (upper_bound(b, c, n, error) >= 0).all()
    assert (joint / experiments >= 0.90 - 4 * (0.1 * 0.9 / experiments) ** 0.5).all()


@pytest.mark.parametrize(("b", "c"), [(40, 60), (60, 40), (300, 100)])
def test_the_bounds_are_nearly_as_narrow_as_normal_ones(b: int, c: int) -> None:
    n, error = 2000, 0.05 / 13
    wide = norm.isf(error) * (b + c - (c - b) ** 2 / n) ** 0.5 / n
    for bound in ((c - b) / n - lower_bound(b, c, n, error), upper_bound(b, c, n, error) - (c - b) / n):
        assert 0.95 * wide < bound < 1.6 * wide


@pytest.mark.parametrize(("b", "c"), [(13, 0), (12, 0), (20, 4), (19, 2), (30, 8)])
def test_at_no_tolerance_a_loss_is_proven_by_the_sign_test_of_the_flips(b: int, c: int) -> None:
    error = 0.05 / 364
    p = binomtest(c, b + c, 0.5, alternative="less").pvalue
    assert (upper_bound(b, c, 100, error) < 0) == (p <= 0.9 * error)


def test_more_flips_down_lower_the_bound() -> None:
    bounds = lower_bound(np.arange(0, 60, 5), 20, 500, 0.05)
    assert (np.diff(bounds) < 0).all()


def test_more_examples_are_just_enough() -> None:
    task = counts("a:b", 500, 10, 20)
    extra = more_examples(task, 0.01, 0.0)
    assert extra is not None
    assert extra > 0
    scale = (500 + extra) / 500
    assert lower_bound(10 * scale, 20 * scale, 500 + extra, 0.01) >= 0
    less = (500 + extra - 1) / 500
    assert lower_bound(10 * less, 20 * less, 500 + extra - 1, 0.01) < 0


def test_more_examples_prove_a_loss_that_is_undecided() -> None:
    task = counts("a:b", 500, 20, 10)
    extra = more_examples(task, 0.01, 0.0)
    assert extra is not None
    assert extra > 0
    for more, proven in ((extra, True), (extra - 1, False)):
        scale = (500 + more) / 500
        assert (upper_bound(20 * scale, 10 * scale, 500 + more, 0.01) < 0) is np.bool_(proven)


def test_more_examples_where_none_or_no_number_is_needed() -> None:
    assert more_examples(counts("a:b", 500, 0, 200), 0.01, 0.0) == 0
    assert more_examples(counts("a:b", 500, 200, 0), 0.01, 0.0) == 0
    assert more_examples(counts("a:b", 500, 20, 20), 0.01, 0.0) is None


def test_certificate_takes_the_worst_verdict_and_reports_every_task() -> None:
    """Joint error 0.05/4 per task: 0 of 40 and 40 of 40 flips decide by a sign test, 5 of 11 and 6 of 13 don't."""
    protected = [
        counts("w:a", 100, 0, 40), counts("w:b", 100, 5, 6), counts("w:c", 100, 7, 6), counts("w:d", 100, 40, 0)
    ]  # fmt: skip
    made = certify(counts("w:t", 100, 1, 31), protected, tolerance=0.0, confidence=0.95, digests=DIGESTS)
    assert made["verdict"] == "violated"
    assert [task["verdict"] for task in made["tasks"]] == ["certified", "retained", "undecided", "violated"]
    for upto, verdict in enumerate(["certified", "retained", "undecided", "violated"], 1):
        some = certify(protected[0], protected[:upto], tolerance=0.0, confidence=0.95, digests=DIGESTS)
        assert some["verdict"] == verdict
    assert made["devsafety"] == pytest.approx(-0.40)
    assert made["target"]["old"] == 0.5
    assert made["target"]["new"] == 0.8
    assert made["target"]["delta"] == pytest.approx(0.3)
    assert made["target"]["lower"] == lower_bound(1, 31, 100, 1 - 0.95)
    assert [bool(task["more_examples"]) for task in made["tasks"]] == [False, True, True, False]
    assert made["tasks"][2]["negative_flips"] == 7
    assert set(made) == {"schema", "verdict", "tolerance", "confidence", "devsafety", "target", "tasks", "digests"}


def test_each_task_is_judged_by_its_own_tolerance() -> None:
    protected = [counts("w:a", 100, 3, 0), counts("w:b", 100, 3, 0), counts("s:c", 100, 3, 0)]
    given = {"default": 0.5, "w": 0.02, "w:b": 0.03}
    made = certify(counts("w:t", 100, 1, 31), protected, tolerance=given, confidence=0.95, digests=DIGESTS)
    assert [(task["tolerance"], task["verdict"]) for task in made["tasks"]] == [
        (0.02, "undecided"), (0.03, "retained"), (0.5, "certified"),
    ]  # fmt: skip
    assert made["tolerance"] == given
    assert certify(protected[0], [], tolerance=0.1, confidence=0.95, digests=DIGESTS)["tolerance"] == 0.1


def test_the_same_bound_is_lower_with_more_tasks() -> None:
    task = counts("w:a", 100, 2, 30)
    alone = certify(task, [task], tolerance=0.0, confidence=0.95, digests=DIGESTS)["tasks"][0]["lower"]
    among = certify(task, [task] * 20, tolerance=0.0, confidence=0.95, digests=DIGESTS)["tasks"][0]["lower"]
    assert among < alone


def test_two_models_that_answer_alike_are_told_what_that_shows() -> None:
    tasks = [counts("w:a", 200, 0, 0), counts("w:[b]", 100, 0, 0)]
    made = certify(counts("w:t", 50, 0, 0), tasks, tolerance=0.0, confidence=0.95, digests=DIGESTS)
    limit = f"{100 * upper_bound(0, 0, 100, 0.05 / 2):.2g} points (in w:[b], with its 100 images)."
    said = unchanged(made)
    assert said is not None
    assert said.startswith("The old and the new model are the same file, so nothing can be lost")
    assert said.endswith(limit)
    said = unchanged(made | {"digests": DIGESTS | {"weights": "1"}})
    assert said is not None
    assert said.startswith("Both models answer alike on every test image. They need not be equal: at 95 % joint")
    assert said.endswith(limit)
    tasks[0] = counts("w:a", 200, 1, 0)
    flipped = certify(counts("w:t", 50, 0, 0), tasks, tolerance=0.0, confidence=0.95, digests=DIGESTS)
    assert unchanged(flipped) is None
