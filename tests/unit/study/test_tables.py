"""What a study's table says, worked out by hand."""

import csv
import io
import statistics
from pathlib import Path
from typing import Any

import pytest

from raymds.errors import UsageError
from raymds.study.page import content
from raymds.study.results import Results
from raymds.study.tables import as_csv, markdown, paired, spread, tables, written
from tests.unit.study.made import plan, some


def rows(directory: Path) -> dict[str, dict[str, Any]]:
    (table,) = tables(Results(some(directory)))
    return {row["method"]: row for row in table["rows"]}


def test_the_numbers_of_a_method_over_its_seeds(tmp_path: Path) -> None:
    row = rows(tmp_path)["raymds"]
    assert (row["seeds"], row["of"], row["trials"], row["setting"]) == (3, 3, 0, {})
    assert row["target"] == {"mean": pytest.approx(0.2), "std": pytest.approx(0.1), "n": 3}
    assert row["devsafety"]["mean"] == pytest.approx(-0.05 / 3)
    assert row["devsafety"]["std"] == pytest.approx(statistics.stdev([0.0, -0.01, -0.04]))
    assert row["retention_ratio"] == pytest.approx(1 / 3)
    assert row["within_tolerance"] == pytest.approx(2 / 3)  # 0.01 of each task
    # clear is the worst of two seeds, tunnel of one; the mean is over all three
    assert row["worst"] == {"task": "weather:clear", "delta": pytest.approx(0.04 / 3), "times": 2}
    # flips of 100: (2 + 2) / 2, (3 + 2) / 2, (2 + 6) / 2
    assert row["nfr"]["mean"] == pytest.approx((0.02 + 0.025 + 0.04) / 3)
    assert row["nfr_max"]["mean"] == pytest.approx((0.02 + 0.03 + 0.06) / 3)
    assert row["mean_delta"]["mean"] == pytest.approx((0.01 + 0.01 + 0.005) / 3)
    assert (row["certified"], row["not_violated"], row["new"]) == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert row["against_main"] is None


def test_a_method_that_lacks_a_seed_is_paired_by_those_that_it_has(tmp_path: Path) -> None:
    row = rows(tmp_path)["RM"]
    assert (row["seeds"], row["of"], row["trials"], row["setting"]) == (2, 3, 2, {"constraints.beta": 3})
    assert row["against_main"]["mean"] == pytest.approx((0.3 + 0.4) / 2)
    assert row["against_main"]["std"] == pytest.approx(0.1 / 2**0.5)
    assert row["against_main"]["n"] == 2
    assert (row["retention_ratio"], row["not_violated"], row["new"]) == (0, 0.5, 0)


def test_one_seed_has_no_deviation_and_none_no_number() -> None:
    assert spread([0.5]) == {"mean": 0.5, "std": None, "n": 1}
    assert spread([]) is None
    assert paired([{"seed": 1, "target_delta": 0.5}], [{"seed": 2, "target_delta": 0.1}]) is None


def test_a_table_as_it_is_shown(tmp_path: Path) -> None:
    made = tables(Results(some(tmp_path)))
    title, headings, shown = written(made[0])
    assert title == "foggy on scenes"
    first, second = (dict(zip(headings, row, strict=True)) for row in shown)
    assert first["Δtarget"] == "+20.0 ± 10.0"
    assert (first["seeds"], second["seeds"]) == ("3", "2 of 3")
    assert (first["retention ratio"], first["worst task"]) == ("33 %", "clear (weather) +1.3")
    assert (first["Δtarget − raymds"], second["Δtarget − raymds"]) == ("–", "+35.0 ± 7.1")
    text = markdown(made)
    assert "| raymds | 3 | +20.0 ± 10.0 |" in text
    assert "Chosen on val of those tried: RM (constraints.beta=3)." in text


def test_a_study_that_has_nothing_yet_has_a_table(tmp_path: Path) -> None:
    _, _, shown = written(tables(Results(plan(tmp_path)))[0])
    assert [row[:4] for row in shown] == [["raymds", "0 of 3", "–", "–"], ["RM", "0 of 3", "–", "–"]]


def test_the_cells_are_a_csv_of_fractions(tmp_path: Path) -> None:
    found = content(Results(some(tmp_path)))
    assert (found["done"], found["total"]) == (5, 6)
    lines = list(csv.DictReader(io.StringIO(as_csv(found["cells"]))))
    assert [(line["method"], line["seed"]) for line in lines] == [(c["method"], str(c["seed"])) for c in found["cells"]]
    last = lines[-1]
    assert (last["method"], last["outcome"], last["step"], last["alpha"]) == ("raymds", "old", "4", "0.5")
    assert (last["worst_task"], last["devsafety"], last["target_delta"]) == ("scene:tunnel", "-0.04", "0.3")
    assert lines[1]["setting"] == "constraints.beta=3"


def test_the_feasible_setting_is_chosen_though_another_gains_more(tmp_path: Path) -> None:
    results = Results(some(tmp_path))
    assert results.best("scenes", "foggy", "RM") == {"constraints.beta": 3}
    assert [job.path for job in results.left()] == ["cells/scenes/foggy/RM/seed-2"]


def test_cells_wait_for_all_trials_of_their_method(tmp_path: Path) -> None:
    results = Results(plan(tmp_path))
    left = list(results.left())
    assert {type(job).__name__ for job in left if job.method == "RM"} == {"Trial"}
    assert sum(job.method == "raymds" for job in left) == 3
    for trial in results.plan.trials:
        results.failed[trial] = "diverged"
    assert all(job.method == "raymds" for job in results.left())


def test_a_cell_of_another_config_is_refused(tmp_path: Path) -> None:
    some(tmp_path)
    with pytest.raises(UsageError, match=r"^methods.RM, targets.foggy, data.scenes: run.uri=.*another config"):
        Results(plan(tmp_path, set={"optim.steps": 9, "optim.warmup": 2}))


def test_a_cell_without_a_certificate_is_refused(tmp_path: Path) -> None:
    some(tmp_path)
    (tmp_path / "cells/scenes/foggy/raymds/seed-1/certificate.json").unlink()
    with pytest.raises(UsageError, match="has no certificate; remove the directory"):
        Results(plan(tmp_path))
