"""Which records are logged."""

import pytest

from raymds.config import Config, load
from raymds.train.emit import logged


def steps(*settings: str) -> list[int]:
    config = load(Config, None, list(settings))
    return [n for n in range(1, config.optim.steps + 1) if logged({"event": "step", "step": n}, config)]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("auto", list(range(1, 41))),  # far below 2,000
        ("1", list(range(1, 41))),
        ("7", [1, 7, 14, 15, 21, 28, 30, 35, 40]),  # 15, 30: candidates; 40: the last one
        ("100", [1, 15, 30, 40]),
    ],
)
def test_steps_are_logged_every_so_many_and_where_there_is_a_candidate(every: str, expected: list[int]) -> None:
    assert steps("optim.steps=40", "optim.warmup=2", "select.every=15", f"run.log_every={every}") == expected


def test_a_long_run_has_some_2000_records_of_steps() -> None:
    found = steps("optim.steps=64000", "select.every=640")
    assert len(found) == 2001  # candidates are among every 32nd
    assert len(steps("optim.steps=2001", "select.every=3000")) == 1002


def test_everything_but_phases_and_steps_is_always_logged() -> None:
    config = load(Config, None, ["run.log_every=1000"])
    kinds = ("start", "eval", "checkpoint", "pause", "phase")
    assert [kind for kind in kinds if logged({"event": kind}, config)] == ["start", "eval", "checkpoint", "pause"]
