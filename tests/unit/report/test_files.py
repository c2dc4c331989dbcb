"""What the page keeps of a long log."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from raymds.report.files import thinned


def steps(number: int) -> Iterator[dict[str, Any]]:
    """A task that is sampled in every step, one in every fifth, and one that is never known."""
    for n in range(1, number + 1):
        u = {"w:a": float(n), **({"w:b": 2.0 * n} if n % 5 == 0 else {}), "w:c": None}
        yield {"event": "step", "step": n, "seconds": {"data": float(n)}, "u": u, "lambda": {"w:a": 1.0}}


def test_a_short_log_is_kept_as_it_is() -> None:
    found = thinned(steps(500))
    assert [(r["step"], r["of"], r["u"]["w:a"], r["seconds"]) for r in found] == [
        (n, 1, float(n), {"data": float(n)}) for n in range(1, 501)
    ]


@pytest.mark.parametrize(("number", "width"), [(501, 2), (1000, 2), (1001, 4), (2107, 8)])
def test_a_long_one_has_means_of_as_many_steps_each(number: int, width: int) -> None:
    found = thinned(steps(number))
    assert len(found) == math.ceil(number / width) <= 500
    for i, record in enumerate(found):
        part = range(i * width + 1, min((i + 1) * width, number) + 1)
        assert (record["step"], record["of"]) == (part[-1], len(part))
        assert record["u"]["w:a"] == pytest.approx(sum(part) / len(part))
        sampled = [2.0 * n for n in part if n % 5 == 0]
        assert record["u"].get("w:b") == (pytest.approx(sum(sampled) / len(sampled)) if sampled else None)
        assert record["seconds"] == {"data": float(part[0])}


def test_evaluations_and_starts_are_all_kept_and_other_records_are_not() -> None:
    others = [{"event": kind, "step": n} for n in range(600) for kind in ("start", "eval", "checkpoint", "pause")]
    found = thinned([*others, *steps(3)])
    assert [r["event"] for r in found] == ["start", "eval"] * 600 + ["step"] * 3
