"""What starts clusters: the module of cluster/local.py, which is no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

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
