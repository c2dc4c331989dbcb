"""A study on one machine: two methods, one of which tries two settings; its files, its resumption."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymds.cli.main import main
from raymds.study import study
from raymds.study.plan import load_plan
from tests.conftest import silent

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def written(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's file; protected are two tasks that are hard to lose."""
    shared: dict[str, Any] = dict(item.split("=", 1) for item in settings)
    shared = {key: yaml.safe_load(value) for key, value in shared.items() if key not in {"run.uri", "task.target"}}
    shared |= {
        "run.workers": 1,
        "task.protect": ["weather:clear", "scene:tunnel"],
        "optim.lr": 1e-4,
        "select.interpolate": False,
    }
    folder = tmp_path_factory.mktemp("study")
    content = {
        "uri": str(folder / "study"),
        "base": {"objective": {"batch": 16}},
        "set": shared,
        "targets": {"foggy": {"task.target": "weather:foggy"}},
        "seeds": [0],
        "methods": {
            "raymds": {},
            "RM": {"constraints.solver": "regularize", "try": {"constraints.beta": [0.3, 3.0]}},
        },
        "trials": 2,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def said() -> list[dict[str, Any]]:
    return []


@pytest.fixture(scope="module")
def conducted(written: Path, cluster: None, said: list[dict[str, Any]]) -> Path:
    study.conduct(load_plan(str(written), []), said.append)
    return written.parent / "study"


def content(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "study.json").read_text())
    return found


def numbers(directory: Path) -> list[dict[str, Any]]:
    """The cells without their times."""
    return [{key: value for key, value in cell.items() if key != "seconds"} for cell in content(directory)["cells"]]


def test_every_cell_is_a_run_with_a_certificate_and_no_trial_is(conducted: Path, said: list[dict[str, Any]]) -> None:
    cells = ["raymds/seed-0", "RM/seed-0"]
    for cell in cells:
        assert (conducted / "cells/data/foggy" / cell / "certificate.json").exists()
    trials = [conducted / "trials/data/foggy/RM" / number for number in ("00", "01")]
    assert all((trial / "outcome.json").exists() and not (trial / "certificate.json").exists() for trial in trials)
    ended = [record["run"] for record in said if record["event"] == "cell"]
    assert len(ended) == len(set(ended)) == 4
    assert len(list((conducted / "old").glob("val-*.json"))) == 1


def test_the_best_setting_of_a_method_is_what_its_cells_have(conducted: Path) -> None:
    found = content(conducted)
    best = max(found["trials"], key=lambda trial: trial["score"])["setting"]
    assert {cell["setting"]["constraints.beta"] for cell in found["cells"] if cell["method"] == "RM"} == {
        best["constraints.beta"]
    }
    for cell in found["cells"]:
        certificate = json.loads((conducted / cell["run"] / "certificate.json").read_text())
        assert cell["devsafety"] == certificate["devsafety"]
        assert cell["target_delta"] == certificate["target"]["delta"]


def test_tables_and_plots_lie_in_the_directory(conducted: Path) -> None:
    (table,) = content(conducted)["tables"]
    assert [(row["method"], row["seeds"], row["trials"]) for row in table["rows"]] == [("raymds", 1, 0), ("RM", 1, 2)]
    rows = list(csv.DictReader((conducted / "cells.csv").open()))
    assert [(row["method"], row["seed"]) for row in rows] == [("raymds", "0"), ("RM", "0")]
    assert "## foggy on data" in (conducted / "table.md").read_text()
    names = {path.name for path in (conducted / "plots").iterdir()}
    assert "trade-0.svg" in names
    page = (conducted / "study.html").read_text()
    assert page.count("<svg ") == len(names)


def test_a_removed_cell_alone_is_run_again_to_the_same_numbers(
    conducted: Path, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, kept = numbers(conducted), conducted / "cells/data/foggy/raymds/seed-0/outcome.json"
    time = kept.stat().st_mtime_ns
    shutil.rmtree(conducted / "cells/data/foggy/RM/seed-0")
    assert main(["study", str(written)]) == 0
    out = capsys.readouterr().out
    assert "1 cycle to run" in out
    assert "foggy on data" in out
    assert numbers(conducted) == before
    assert kept.stat().st_mtime_ns == time


def test_a_finished_study_runs_nothing_and_another_is_refused(
    conducted: Path, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", str(written), "--json"]) == 0
    (record,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert record["tables"] == content(conducted)["tables"]
    assert main(["study", str(written), "set.optim.weight_decay=0.2"]) == 2
    assert "methods.RM, targets.foggy, data.data: run.uri=" in capsys.readouterr().err


def test_a_cell_that_fails_is_said_and_ends_no_other(written: Path, tmp_path: Path) -> None:
    overrides = [f"uri={tmp_path / 'study'}", "seeds=[0]", "trials=1", "methods={diverging: {optim.lr: 1e30}}"]
    plan = load_plan(yaml.safe_load(written.read_text()) | {"methods": {}}, overrides)
    with pytest.raises(Exception, match=r"1 failed, .*diverging/seed-0: step 1: the loss of .* lower optim.lr"):
        study.conduct(plan, silent)
    assert "0 of 1" in (tmp_path / "study" / "table.md").read_text()
