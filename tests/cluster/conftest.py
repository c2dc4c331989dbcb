"""What starts clusters, the module of cluster/local.py, which is no package; a run that is long enough to be cut."""

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import finetune

STEPS, EVERY = 240, 60  # of the long run, and between two of its checkpoints

LOCAL = Path(__file__).parents[2] / "cluster" / "local.py"


@pytest.fixture(scope="session")
def local() -> ModuleType:
    spec = importlib.util.spec_from_file_location("local", LOCAL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["local"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def long(cluster: None, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run that takes long enough for something to be lost in its middle."""
    run = tmp_path_factory.mktemp("long") / "run"
    finetune(settings, run, f"optim.steps={STEPS}", f"select.every={EVERY}", "run.placement=spread")
    return run


def wait_for_checkpoint(run: Path, step: int) -> None:
    """Until Ray knows it, later than its files are there: what is lost before goes on from the one before."""
    known = run / "checkpoints" / "train" / "checkpoint_manager_snapshot.json"
    end = time.monotonic() + 240
    while not (known.exists() and f"step-{step:07d}" in known.read_text()):
        assert time.monotonic() < end, f"no checkpoint of step {step}"
        time.sleep(0.05)
