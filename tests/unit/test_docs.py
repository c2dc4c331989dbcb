"""What the pages of docs/ and the README name is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("row", FAULTS)
def test_a_fault_has_its_test(row: str) -> None:
    _, fault, seen, lost, test, _ = (cell.strip() for cell in row.split("|"))
    assert fault and seen and lost
    file, _, name = test.strip("`").partition("::")
    tree = ast.parse((ROOT / file).read_text())
    tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not name or name in tests


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "docs/clusters.md", "docs/faults.md"])
def test_links_and_files_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    files = re.findall(r"`((?:jobs|cluster|benchmarks|docs|tests)/[\w./-]+\.\w+)`", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    assert [file for file in files if not (ROOT / file).exists()] == []
