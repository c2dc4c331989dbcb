"""What is known of a run's ranks from outside, and which errors end it at once."""

import pytest

from raymds.errors import DivergedError
from raymds.train.entry import EndAtOnce
from raymds.train.watch import Monitor


class WrappedError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a worker failed")
        self.cause = cause


def test_the_rank_that_is_behind_is_named() -> None:
    monitor = Monitor()
    assert monitor.late([]) == "no rank had begun a step"
    assert monitor.step() == 0
    for rank, step in ((0, 7), (1, 6), (2, 7)):
        assert not monitor.beat(rank, step)
    assert monitor.late([0, 2]) == "last heard of rank 1: step 6, 0 s ago"
    assert monitor.step() == 7
    monitor.beat(1, 7)
    assert "rank 0" in monitor.late([])
    assert "rank 2" in monitor.late([])
    assert monitor.late([0, 2]) == "last heard of rank 1: step 7, 0 s ago"  # it alone did not fail of waiting


def test_a_wish_to_stop_reaches_every_rank() -> None:
    monitor = Monitor()
    monitor.stop()
    assert monitor.beat(0, 3)
    assert monitor.beat(1, 3)


def test_errors_that_would_come_again_end_a_run() -> None:
    callback, collateral = EndAtOnce(), RuntimeError("connection closed by peer")
    callback.after_exception(None, {0: collateral, 1: WrappedError(OSError("disk"))})
    with pytest.raises(DivergedError, match="step 3"):
        callback.after_exception(None, {0: collateral, 1: WrappedError(DivergedError("step 3"))})
