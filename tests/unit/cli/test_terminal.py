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


def test_a_job_shows_some_of_its_steps(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps a job's output whole: of many quick steps one a second and the last, without a value for each task."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    terminal = Terminal(as_json=True)
    terminal.show({"event": "start", "step": 0, "steps": 50})
    for step in range(1, 51):
        terminal.show({**STEP, "step": step, "u": {"weather:clear": 0.1}})
    terminal.show({**EVAL, "step": 50})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [("start", 0), ("step", 1), ("step", 50), ("eval", 50)]
    assert lines[2] == {**STEP, "step": 50}

    tasks = [{"task": f"place:{k}", "delta": -0.01 * (k % 100)} for k in range(364)]
    terminal.show({**EVAL, "tasks": tasks})
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(line["tasks"]) == 50
    assert line["tasks"][0]["delta"] == -0.99


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

    tasks = [entry("weather:partly cloudy", verdict=v) for v in ("certified", "retained", "undecided", "violated")]
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


ODD = ["weather:[fog]", "weather:a[b]c", "weather:[/red]", "weather:[bold]$x_1$\\", "[green]w:x"]


def test_class_names_with_brackets_are_names_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    numbers = {"n": 9, "old": 0.5, "new": 0.5, "delta": 0.0, "lower": -0.1, "negative_flips": 0, "positive_flips": 0}
    entries = [{"task": name, **numbers, "verdict": "retained"} for name in ODD]
    evaluated = [{"task": name, "new": 0.5, "delta": 0.0} for name in ODD]
    terminal.certificate({"target": {"task": ODD[0], **numbers}, "tasks": entries}, "[test] split")
    certified = capsys.readouterr().out
    terminal.accuracies({"split": "[test]", "tasks": [{"task": n, "n": 9, "accuracy": 0.5, "loss": 1.0} for n in ODD]})
    measured = capsys.readouterr().out
    examples = [{"task": name, "train": 1, "val": 2, "test": 3, "tolerance": 0.01} for name in ODD]
    run = {"uri": "runs/[red]", "state": "new"}
    terminal.prepared({"config": f"target: {ODD[0]}\n", "tasks": examples, "outlook": ODD[1], "run": run})
    prepared = capsys.readouterr().out
    for table in (certified, measured, prepared):
        assert all(f" {name} " in table for name in ODD)
    assert "[test]" in certified
    assert "runs/[red]" in prepared
    for name in ODD:
        for record in (
            {"event": "start", "step": 0, "steps": 3},
            {"event": "eval", "step": 3, "target": evaluated[0], "tasks": [{"task": name, "new": 0.5, "delta": -0.1}]},
            {"event": "step", "step": 3, "loss": 0.1, "images_per_second": 3.0},
            {"event": "phase", "phase": name},
            {"event": "note", "note": name},
            {"event": "progress", "what": name, "done": 3, "total": 3},
        ):
            terminal.show(record)
        assert capsys.readouterr().out.count(name) == 5 + (name == ODD[0]) * 2


def test_what_has_no_examples_is_marked_in_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"n": 9, "old": 0.5, "new": 0.5, "delta": 0.0, "lower": -0.1, "negative_flips": 0, "positive_flips": 0}
    without: dict[str, Any] = {"not_certifiable": ["weather:snowy"], "tasks": []}
    terminal = Terminal()
    terminal.certificate({"target": {"task": "weather:foggy", **numbers}, **without}, "test split")
    terminal.accuracies({"split": "test", **without})
    terminal.prepared({"config": "", "outlook": "", "run": {"uri": "run", "state": "new"}, **without})
    rows = [line for line in capsys.readouterr().out.splitlines() if "weather:snowy" in line]
    assert [row.count("not certifiable") for row in rows] == [1, 1, 1]
    assert not any(character.isdigit() for row in rows for character in row)
