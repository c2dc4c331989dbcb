"""An import goes only to a lower layer, and Ray, collectives and paths stay in their modules."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "raymds"

LAYERS = [
    {"errors", "store_errors"},
    {"objects", "dist", "certificate", "terminal", "objective", "data.scenes", "train.watch"},
    {"storage", "data.config", "data.sampler", "aggregator"},
    {"config"},
    {"tasks", "data.reader", "data.corpus", "run", "train.placement", "search.space"},
    {"data.split", "train.seeing", "tracking", "jobs", "search.trials"},
    {"data.shards", "data.sources", "search.sampler", "search.halving", "search.outcome"},
    {"model", "data.loader", "data.scene_set", "data.ingest"},
    {"evaluate", "train.checkpoint", "train.emit", "data.retrieve", "data.look", "data.verify", "search.book"},
    {"select", "train.step", "train.old", "flips"},
    {"train.cycle", "train.pretrain"},
    {"train.worker"},
    {"train.driver", "measuring", "report"},
    {"demo", "tune", "cli_data"},
    {"cli"},
]


def unit(module: str) -> str:
    """The layer entry a module belongs to: folders that are one unit count as one."""
    for whole in ("objective", "report", "data.scenes"):
        if module == whole or module.startswith((whole + ".", whole.removesuffix("s") + "_")):
            return "data.scene_set" if module == "data.scene_set" else whole
    return module


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
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
PACKAGES = {"data", "train", "search"}


@pytest.mark.parametrize("name", sorted(set(ALL) - PACKAGES))
def test_imports_go_down(name: str) -> None:
    own = unit(name)
    assert own in LAYER, f"{name} has no layer: add it to LAYERS and to ARCHITECTURE.md"
    for imported in imports(ALL[name]):
        target = imported.removeprefix("raymds.")
        if imported.startswith("raymds.") and target in ALL and target not in PACKAGES and unit(target) != own:
            assert LAYER[unit(target)] < LAYER[own], f"{name} imports {target}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "ray",
            {
                "train.watch",
                "train.seeing",
                "train.emit",
                "train.worker",
                "train.driver",
                "tune",
                "data.ingest",
                "jobs",
            },
        ),
        ("torch.distributed", {"dist"}),
        ("pyarrow.fs", {"storage", "objects"}),
        ("rich", {"terminal"}),
        ("optuna", {"search.sampler"}),
    ],
)
def test_libraries_stay_in_their_modules(package: str, allowed: set[str]) -> None:
    users = {
        name for name, tree in ALL.items()
        if any(imported == package or imported.startswith(package + ".") for imported in imports(tree))
    }  # fmt: skip
    assert users == allowed


def test_files_stay_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > 350} == {}
