"""What a dry run finds, without a cluster."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymds.cli.main import main
from tests.conftest import overrides


@pytest.fixture
def written(data_uri: str, old_weights: str, tmp_path: Path) -> Path:
    given = dict(item.split("=", 1) for item in overrides(data_uri, old_weights, "unset"))
    shared: dict[str, Any] = {key: yaml.safe_load(value) for key, value in given.items() if key != "run.uri"}
    content = {
        "uri": str(tmp_path / "study"),
        "base": {"optim": {"lr": 1e-4}},
        "set": shared | {"optim.lr": 1e-4},
        "targets": {"foggy": {"task.target": "weather:foggy"}, "tunnel": {"task.target": "scene:tunnel"}},
        "methods": {"raymds": {}, "RM": {"constraints.solver": "regularize", "try": {"constraints.beta": [1, 3]}}},
        "trials": 4,
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def test_a_dry_run_counts_and_writes_nothing(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(written), "--dry-run"]) == 0
    assert "12 cells (0 have ended) and 4 trials (0 have ended)" in capsys.readouterr().out
    assert main(["study", str(written), "--dry-run", "--json"]) == 0
    prepared = json.loads(capsys.readouterr().out.splitlines()[-1])["prepared"]
    assert prepared["targets"] == ["foggy on data", "tunnel on data"]
    assert prepared["methods"] == {"raymds": 1, "RM": 2}
    assert sorted(path.name for path in written.parent.iterdir()) == ["study.yaml"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods.RM.constraints.images_per_task=30", "methods.RM, targets.foggy, data.data: constraints.images"),
        ("methods.RM.try={constraints.images_per_task: [3, 30]}", "methods.RM, targets.foggy, data.data: constraints."),
        ("targets.tunnel={task.target: 'scene:tunel'}", "methods.RM, targets.tunnel, data.data: task.target: 'tunel'"),
        ("retained=[2, 20]", "methods.raymds, targets.foggy, data.data: constraints.images_per_task=3"),
        ("set.run.workers=100", "run.workers=100"),
        ("base=nothing", "preset nothing: no such file"),
    ],
)
def test_a_dry_run_ends_with_the_error_of_the_cell(
    written: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert main(["study", str(written), "--dry-run", override]) == 2
    assert message in capsys.readouterr().err
