"""Lines on a pipe, JSON for machines, tables of 100 columns."""

import json
from typing import Any

import pytest

from raymds.cli.terminal import Terminal

STEP = {"event": "step", "step": 10, "loss": -0.5, "images_per_second": 321.0}
EVAL = {
    "event": "eval",
    "step": 10,
    "target": {"task": "weather:foggy", "new": 0.5, "delta": 0.1},
    "tasks": [{"task": "scene:tunnel", "delta": -0.02}, {"task": "weather:clear", "delta": 0.03}],
}


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.heading("a cycle")
    for record in ({"event": "start", "step": 4, "steps": 10}, EVAL, STEP, {"event": "unknown"}):
        terminal.show(record)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "going on after step 4" in out
    assert "val at step 10: weather:foggy 50.0 % (+10.0)  worst scene:tunnel -2.0" in out
    assert "10/10  loss -0.500  weather:foggy 50.0 % (+10.0)  worst scene:tunnel -2.0  321 images/s" in out


def test_json_is_one_record_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(as_json=True)
    terminal.heading("a cycle")
    terminal.show(STEP)
    terminal.say("for people")
    terminal.result({"outcome": "new"})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [STEP, {"event": "result", "outcome": "new"}]


def test_the_final_table_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    def entry(task: str, **more: Any) -> dict[str, Any]:
        numbers = {"n": 123456, "old": 0.5, "new": 1.0, "delta": 0.5, "lower": -0.123}
        return {"task": task, **numbers, "negative_flips": 12345, "positive_flips": 12345, **more}

    tasks = [entry("weather:partly cloudy", verdict=v) for v in ("certified", "retained", "violated")]
    Terminal().certificate({"target": entry("weather:foggy"), "tasks": tasks}, "test split")
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert any("weather:partly cloudy" in line and "violated" in line and "-12.3" in line for line in lines)


def test_a_table_of_365_classes_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    classes = {f"[bold]place {n} {'x' * (n % 120)}": {"train": 10**7, "val": n, "test": n} for n in range(365)}
    rows = {"train": 10**9, "val": 5000, "test": 5000}
    Terminal().classes({"rows": rows, "classes": {"place": classes}, "undefined": {"place": {"train": 3}}})
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert any("[bold]place 364" in line and "10000000" in line for line in lines)
    assert any("undefined" in line and "3" in line for line in lines)


def test_a_line_for_people_is_not_broken_or_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().say(f"[red]/data/{'x' * 150} row 3: damaged")
    assert capsys.readouterr().out == f"[red]/data/{'x' * 150} row 3: damaged\n"
