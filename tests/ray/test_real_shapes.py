"""Data in the shape of the real sets, a share of the official counts, through ingest into the published presets."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raymds.cli import main as cli
from raymds.data.shards import DataSet
from raymds.log import records

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def official() -> Iterator[Any]:
    """The benchmark at its smallest, with the cluster of the tests."""

    def run(commands: Any, name: str, *arguments: object) -> None:
        assert cli.main([*map(str, arguments)]) in {0, 3}, name

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        made = importlib.import_module("official")
        patch.setattr(made.Commands, "run", run)
        yield made


@pytest.fixture(scope="module")
def mixed(official: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BDD100K dealt anew, and pairs of a caption corpus mixed in."""
    commands = official.Commands(tmp_path_factory.mktemp("official"))
    data: Path = official.mixed(commands, official.ingest(commands, "bdd100k", 0.1), 0.1)
    return data


def test_classes_have_their_share_of_every_split(mixed: Path) -> None:
    data = DataSet.open(str(mixed))
    rows = {split: sum(shard.rows for shard in shards) for split, shards in data.splits.items()}
    assert sum(rows.values()) == 6987 + 1002 + 400  # tenths of every class of BDD100K's, and the pairs
    counts = {split: data.count(split, "weather", "foggy") for split in rows}
    assert counts == {"train": 5 + 200, "val": 5, "test": 5}  # of 13 + 2 foggy images a third at most


@pytest.mark.parametrize(
    ("preset", "tasks"),
    [
        ("foggy", ["clear", "partly cloudy", "overcast", "rainy", "snowy"]),
        ("overcast", ["clear", "partly cloudy", "rainy", "snowy"]),
        ("tunnel", ["city street", "highway", "residential", "parking lot"]),
    ],
)
def test_bdd100k_into_the_published_presets(
    official: Any, preset: str, tasks: list[str], mixed: Path, tmp_path: Path, old_weights: str
) -> None:
    """Nothing is overridden but URIs, sizes, and what makes it short."""
    run = tmp_path / "run"
    given = [*official.SMALL, f"data.uri={mixed}", f"model.weights={old_weights}"]
    assert cli.main(["finetune", str(FOLDER.parent / f"jobs/presets/{preset}.yaml"), *given, f"run.uri={run}"]) in {
        0,
        3,
    }
    outcome = json.loads((run / "outcome.json").read_text())
    assert outcome["steps"] == 2
    attribute = "scene" if preset == "tunnel" else "weather"
    assert [task["task"] for task in outcome["val"]["tasks"]] == [f"{attribute}:{name}" for name in tasks]
    if preset != "tunnel":
        return
    both = ["--old", old_weights, "--new", old_weights, "--out", str(tmp_path / "certificate.json")]
    assert cli.main(["certify", str(FOLDER.parent / "jobs/presets/tunnel.yaml"), *both, *given]) in {0, 3}
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    parts = certificate["data"]["parts"]
    assert [part["rows"]["train"] for part in parts][1] == 400
    assert parts[1]["uri"].endswith("/pairs")
    words = certificate["measured"]["label_sets"][attribute]
    assert set(words) == {*tasks, preset}  # neither `other` nor what the label set leaves out
    assert words["residential"] == ["the scene is a residential area."]


def test_places365_into_the_dressing_room_preset(official: Any, tmp_path: Path) -> None:
    official.measure(tmp_path, ["places365"], 0.001)
    found = DataSet.open(str(tmp_path / "places365-0.001-data"))
    assert len(found.attributes["scene"]) == 365
    assert "dressing room" in found.attributes["scene"]
    (run,) = tmp_path.glob("run-*")
    assert len(json.loads((run / "outcome.json").read_text())["val"]["tasks"]) == 364
    assert next(len(record["h"]) for record in records(str(run)) if record["event"] == "step") == 240
