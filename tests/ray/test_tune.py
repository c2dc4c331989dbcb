"""A search on one machine: two trials at a time, one that fails and one that wins; its book, its page, its claim."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import ray

from raymds.cli.main import main
from raymds.config import Config, load
from raymds.errors import UsageError
from raymds.method.verdict import refusal
from raymds.search import tune
from raymds.search.trials import FAILED, FINISHED
from tests.conftest import records, silent

pytestmark = pytest.mark.usefixtures("cluster")


def config(settings: list[str], run: Path, *more: str) -> Config:
    """Two trials, the preset's own setting and one that diverges; two tasks that are hard to lose."""
    search = ["search.algorithm=grid", "search.trials=2", f"search.concurrency={asked()}", "search.steps=12"]
    search += ["run.workers=1"]
    search += ["task.protect=['weather:clear', 'scene:tunnel']", "search.space={optim.lr: {choice: [1e-4, 1e30]}}"]
    return load(Config, None, [*settings, *search, f"run.uri={run}", *more])


def asked() -> int:
    """Twice as many trials at a time as there is room for."""
    return 2 * int(ray.cluster_resources()["CPU"])


def book(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "tune.json").read_text())
    return content


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def searched(settings: list[str], cluster: None, said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From another directory, which relative paths are relative to."""
    folder = tmp_path_factory.mktemp("search")

    def show(record: dict[str, Any]) -> None:
        said.append(record.get("phase") or record.get("what") or "")

    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        made = config(settings, Path("run"))
        made.data.uri, made.model.weights = os.path.relpath(made.data.uri), os.path.relpath(str(made.model.weights))
        tune.search(made, show)
    return folder / "run"


def test_four_trials_at_once_on_two_cpus_are_two(searched: Path, said: list[str]) -> None:
    assert f"search.concurrency={asked()}: there is room for {asked() // 2}" in said
    assert "trial 0 starts, trial 1 starts" in said


def test_a_failed_trial_is_recorded_and_no_end(searched: Path) -> None:
    fine, failed = book(searched)["trials"]
    assert fine["status"] == FINISHED
    assert failed["status"] == FAILED
    assert "the loss of " in failed["reason"]
    assert "lower optim.lr" in failed["reason"]


def test_the_winner_keeps_everything_and_is_certified_once(searched: Path) -> None:
    outcome, content = json.loads((searched / "outcome.json").read_text()), book(searched)
    winner = content["winner"]
    assert winner is not None
    assert winner["margin"] == min(winner["tasks"].values()) + 0.5  # select.tolerance of the settings
    assert winner["margin"] >= 0
    assert (outcome["trial"], outcome["params"]) == (winner["number"], winner["params"]) == (0, {"optim.lr": 1e-4})
    assert outcome["val"]["devsafety"] == winner["devsafety"]
    certificate = json.loads((searched / "certificate.json").read_text())
    assert outcome["outcome"] == ("old" if refusal(certificate, "retained", "gain") else "new")
    stored = hashlib.sha256((searched / "config.yaml").read_bytes()).hexdigest()
    assert certificate["digests"]["config"] == stored
    assert not list(searched.glob("trials/*/certificate.json"))  # no trial has seen the test split
    assert (searched / "weights.safetensors").exists() or (searched / "rejected.safetensors").exists()


def test_trials_are_cycles_that_share_the_old_model(searched: Path) -> None:
    first = next(r for r in records(searched / "trials" / "000") if r["event"] == "step")["h"]
    assert all(value == 0.0 for value in first.values())  # invariant 1
    assert len(list((searched / "old").glob("val-*.json"))) == 1


def test_the_page_of_a_search_links_the_trials_that_have_one(searched: Path) -> None:
    assert main(["report", str(searched)]) == 0
    page = (searched / "report.html").read_text()
    assert 'href="trials/000/report.html"' in page
    assert (searched / "trials" / "000" / "report.html").exists()
    assert "trials/001/report.html" not in page


def test_a_finished_search_is_not_run_again_and_another_is_refused(
    settings: list[str], searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (searched / "tune.json").stat().st_mtime_ns
    monkeypatch.chdir(searched.parent)
    assert main(["tune", "--resume", "run"]) in {0, 3}
    assert main(["tune", "--resume", str(searched)]) in {0, 3}
    assert (searched / "tune.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"holds a run with another config "):
        tune.search(config(settings, searched, "search.trials=5"), silent)
