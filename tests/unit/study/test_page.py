"""The plots and the page of a study: a dot per seed, everything in one file."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from raymds.report.drawing import alone
from raymds.study.charts import retention, trade
from raymds.study.page import plots, render, write_page, write_tables
from raymds.study.plan import Plan
from raymds.study.results import Results
from tests.unit.study.made import A, B, ended, plan, some


def dots(element: str, method: int) -> int:
    """How many marks the chart has of a method."""
    found = re.search(rf'<g id="[\w]+-seeds{method}">(.*?)</g>\s*</g>', element, re.DOTALL)
    assert found is not None
    return found.group(1).count("<use ")


def test_every_seed_is_a_dot(tmp_path: Path) -> None:
    results = Results(some(tmp_path))
    ((name, heading, element),) = plots(results, write_tables(results))["Target against worst retention"]
    assert (name, heading) == ("trade-0", "foggy on scenes")
    assert [dots(element, method) for method in (0, 1)] == [3, 2]
    assert all(name in element for name in ("raymds", "RM"))


def test_equal_numbers_are_still_a_dot_each() -> None:
    assert dots(trade({"a": [(0.0, 0.1)] * 4}, name="n", title="t"), 0) == 4


def test_retention_is_drawn_by_retained_examples(tmp_path: Path) -> None:
    made = plan(tmp_path, retained=[20, 100], methods={"raymds": {}}, seeds=[0])
    for cell in made.cells:
        ended(made, cell, 0.1, {A: 0.0, B: -0.1 if cell.retained == 20 else 0.1})
    results = Results(made)
    found = write_tables(results)
    assert [table["rows"][0]["retention_ratio"] for table in found["tables"]] == [0, 1]
    drawn = plots(results, found)
    assert len(drawn["Target against worst retention"]) == 2
    ((_, _, element),) = drawn["Retention by the number of retained examples"]
    assert ">20<" in element.replace("\n", "")
    assert ">100<" in element.replace("\n", "")


def with_multipliers(made: Plan) -> None:
    steps = [{"event": "step", "step": i + 1, "lambda": {A: 0.1 * i, B: 1.0}} for i in range(8)]
    log = Path(made.uri, made.cells[0].path, "metrics.jsonl")
    log.write_text("".join(json.dumps(step) + "\n" for step in steps))


def test_the_files_of_a_study(tmp_path: Path) -> None:
    made = some(tmp_path)
    with_multipliers(made)
    results = Results(made)
    results.failed[made.cells[-1]] = "the loss of step 3 is not finite"
    found = write_tables(results)
    write_page(results, found)
    names = ["multipliers-0.svg", "trade-0.svg"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == names
    for name in names:
        root = ET.fromstring((tmp_path / "plots" / name).read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in (tmp_path / "plots" / name).read_text()
    page = (tmp_path / "study.html").read_text()
    assert page.count("<svg ") == 2
    assert "2 of 3" in page
    assert "the loss of step 3 is not finite" in page
    assert "constraints.beta=0.3" in page
    assert "src=" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert json.loads((tmp_path / "study.json").read_text()) == found
    assert render(found, plots(results, found)) == page


def test_a_method_that_is_always_the_same_can_be_drawn() -> None:
    element = retention({"a": [(100, 1.0)]}, name="n", title="t")
    assert ET.fromstring(alone(element)).find("{http://www.w3.org/2000/svg}title") is not None
