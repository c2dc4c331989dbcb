"""Folders are the architecture: an import goes only to a lower floor, and libraries stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "raymds"

FLOORS = [  # from the ground up; ARCHITECTURE.md says what lives where
    {"errors", "text"},
    {"method"},
    {"store", "ranges", "overrides", "pool"},
    {"config", "model"},
    {"data", "tasks", "run", "log", "lease", "ledger"},
    {"train", "release", "scenes", "ingest", "report"},
    {"search", "study"},
    {"cycles"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, ast.Module]:
    files = {path.relative_to(ROOT).with_suffix(""): path for path in ROOT.rglob("*.py")}
    named = {".".join(name.parts): ast.parse(path.read_text()) for name, path in files.items()}
    return {name.removesuffix(".__init__"): tree for name, tree in named.items() if name != "__init__"}


def imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


ALL = modules()
OWN = {name: {i.removeprefix("raymds.") for i in imports(tree)} & set(ALL) for name, tree in ALL.items()}


def room(module: str) -> str:
    """The folder of a module, or the module itself where it lies beside the folders."""
    return module.partition(".")[0]


def test_every_room_has_a_floor() -> None:
    assert {room(name) for name in ALL} <= set(FLOOR)


@pytest.mark.parametrize("name", sorted(ALL))
def test_imports_go_down(name: str) -> None:
    for imported in OWN[name]:
        if room(imported) != room(name):
            assert FLOOR[room(imported)] < FLOOR[room(name)], f"{name} imports {imported}"


def test_no_circles_inside_a_room() -> None:
    left = {name: {i for i in OWN[name] if room(i) == room(name) and i != room(name)} for name in ALL}
    while free := {name for name, needed in left.items() if not needed}:
        left = {name: needed - free for name, needed in left.items() if name not in free}
    assert left == {}


@pytest.mark.parametrize(
    ("package", "places"),
    [
        ("ray", {"train", "search.tune", "study.grid", "ingest", "cli.jobs", "pool"}),
        ("torch.distributed", {"method.dist"}),
        ("pyarrow.fs", {"store"}),
        ("rich", {"cli.terminal"}),
        ("optuna", {"search.sampler"}),
        ("mlflow", {"report.mlflow"}),
        ("onnxruntime", {"release.onnx_file"}),
        ("cryptography", {"ledger"}),
    ],
)
def test_libraries_stay_in_their_rooms(package: str, places: set[str]) -> None:
    users = {
        name for name, tree in ALL.items()
        if any(imported == package or imported.startswith(package + ".") for imported in imports(tree))
    }  # fmt: skip
    assert {name if name in places else room(name) for name in users} == places


def test_files_stay_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > 350} == {}


def test_commands_without_a_model_import_no_torch() -> None:
    """It takes seconds, which a message about a mistyped key should not."""
    light = [
        "cli.main", "data.look", "data.verify", "ingest.ingest", "ingest.mix", "ingest.table", "release.findings",
        "release.policy", "train.cluster",
    ]  # fmt: skip
    script = "import sys; sys.modules['torch'] = None\n" + "".join(f"import raymds.{name}\n" for name in light)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
