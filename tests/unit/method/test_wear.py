"""A worn test split: the error that is spent, and a developer who takes the best of many certificates."""

import math

import numpy as np
import pytest

from raymds.method.certificate import lower_bound
from raymds.method.wear import said, spent, worth


def test_all_uses_together_spend_no_more_than_the_error() -> None:
    assert spent(0.95, 1) == pytest.approx(0.05 * 6 / math.pi**2)
    total = sum(spent(0.95, number) for number in range(1, 100_001))
    assert 0.05 * (1 - 1e-4) < total < 0.05


def test_declared_uses_have_equal_shares() -> None:
    assert [spent(0.95, number, 4) for number in (1, 2, 4)] == pytest.approx([0.0125] * 3)
    assert said(0.95, 13, 2, 4) == (
        "Use 2 of the 4 declared ones of this test split: 95 % confidence over all uses leaves 98.75 % for this one, "
        "as for each of them."
    )
    assert "It is the last one: a rotate is due" in said(0.95, 13, 4, 4)


def test_what_a_use_is_worth() -> None:
    assert worth(0.95, 13, 1) == 1
    shares = [worth(0.95, 13, number) for number in range(1, 40)]
    assert shares == sorted(shares, reverse=True)
    # As many images as that at the first use, as all of them now: by the bound itself, not by the formula.
    n, error = 4000, spent(0.95, 10) / 13
    share = worth(0.95, 13, 10)
    now = lower_bound(0.02 * n, 0.02 * n, n, error)
    then = lower_bound(0.02 * n * share, 0.02 * n * share, n * share, spent(0.95, 1) / 13)
    assert now == pytest.approx(float(then), rel=0.05)
    assert "rotate" not in said(0.95, 13, 1) + said(0.95, 13, 2)
    assert "It is worn: a rotate is due" in said(0.95, 13, 20)


def test_a_developer_who_picks_the_best_of_twenty_certificates_is_covered() -> None:
    """Twenty models that truly changed nothing, one test split, and the certificate that claims most is shown.

    Its bound is above the truth in at most 5 % of 4000 repetitions; at the same confidence for each, as if every
    certificate were the first, in many more, or this would show nothing.
    """
    rng, models, n, flips = np.random.default_rng(0), 20, 300, 0.2
    b = rng.binomial(n, flips, (4000, models))
    c = rng.binomial(n - b, flips / (1 - flips))
    honest = np.stack([lower_bound(b[:, j], c[:, j], n, spent(0.95, j + 1)) for j in range(models)], axis=1)
    naive = lower_bound(b, c, n, 0.05)
    best = np.argmax(c - b, axis=1)
    rows = np.arange(len(b))
    assert (honest.max(axis=1) > 0).mean() <= 0.05
    assert (honest[rows, best] > 0).mean() <= 0.05
    assert (naive[rows, best] > 0).mean() > 0.3


def test_a_developer_who_stops_at_the_first_good_certificate_is_covered() -> None:
    """How many certificates are made depends on what they say."""
    rng, wrong, repeats = np.random.default_rng(1), 0, 2000
    for _ in range(repeats):
        for number in range(1, 21):
            b = rng.binomial(300, 0.2)
            c = rng.binomial(300 - b, 0.25)
            if c - b < 15:
                continue  # not worth a second look
            if float(lower_bound(b, c, 300, spent(0.95, number))) > 0:
                wrong += 1
                break
    assert wrong / repeats <= 0.05
