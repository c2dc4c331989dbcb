"""A run's numbers by name."""

from raymds.run import scalars

STEP = {"event": "step", "step": 3, "loss": 0.5, "seconds": {"data": 0.1}, "h": {"w:a": 0.0}, "lambda": {"w:a": 2.0}}
EVAL = {
    "event": "eval", "step": 3, "devsafety": -0.1, "feasible": False,
    "target": {"task": "w:t", "new": 0.75, "delta": 0.25}, "tasks": [{"task": "w:a", "new": 0.5, "delta": -0.1}],
}  # fmt: skip


def test_steps_and_evaluations_have_numbers() -> None:
    assert scalars(STEP) == {"loss": 0.5, "seconds/data": 0.1, "h/w:a": 0.0, "lambda/w:a": 2.0}
    assert scalars(EVAL) == {
        "accuracy/w:t": 0.75, "accuracy/w:a": 0.5, "delta/w:t": 0.25, "delta/w:a": -0.1, "devsafety": -0.1,
    }  # fmt: skip
    assert scalars({"event": "pause", "seconds": 3.0}) == {}
