"""The page of a history: what it says of cycles, capabilities, waivers and models, and how a browser takes it."""

import copy
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from raymds.errors import UsageError
from raymds.report.history import MOST_DRAWN, render
from tests.unit.report import browser
from tests.unit.report.report_history import history, record


def cells(page: str, first: str) -> list[str]:
    """The words of the table row that begins with `first`."""
    for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL):
        words = [" ".join(unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in re.split(r"</t[hd]>", row)[:-1]]
        if words and words[0] == first:
            return words
    raise AssertionError(f"no row {first}")


def text(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.partition("<main>")[2])).split())


def test_every_cycle_is_a_row() -> None:
    page = render(history())
    assert "4 cycles, 2 with a new model, 2 in which the old one stayed; 14 capabilities measured" in text(page)
    assert "in service: the model of cycle 4." in text(page)
    assert cells(page, "1") == [
        "1", "2026-10-21", "weather:foggy", "41.2 %", "63.0 %", "+21.8", "+17.1", "13", "timeofday:night −0.5",
        "● certified", "new",
    ]  # fmt: skip
    assert cells(page, "2")[-2:] == ["✕ violated", "old"]
    assert cells(page, "3")[2:] == ["scene:tunnel", "–", "–", "–", "–", "–", "–", "not measured", "old"]


def test_every_capability_is_followed_with_its_bounds() -> None:
    page = render(history())
    assert cells(page, "weather:foggy") == [
        "weather:foggy", "◆ 63.0 % 58.3 to 67.2 %", "○ 64.0 % 62.0 to 66.0 %", "–", "64.0 % 62.0 to 66.0 %",
    ]  # fmt: skip
    assert cells(page, "scene:tunnel")[2] == "○ ◆ 89.0 % 85.0 to 93.0 %"
    assert cells(page, "weather:clear")[4] == "–"
    assert page.count("<svg") == 3  # an attribute each
    assert len(set(re.findall(r'\bid="([^"]+)"', page))) == len(re.findall(r'\bid="([^"]+)"', page))


def test_what_leaves_without_a_waiver_is_said() -> None:
    cycles = history()
    assert "Cycle 4 weather:clear is no longer protected: reason: its cameras are gone; by: J. Doe" in text(
        render(cycles)
    )
    assert "left out" not in render(cycles)
    cycles[3]["waivers"] = []
    assert "Cycle 4 weather:clear was left out, and no waiver says why" in text(render(cycles))
    assert "None: what was once protected is protected still." in text(render(cycles[:3]))


def test_what_was_once_reached_is_not_forgotten_and_what_was_not_is_not_missed() -> None:
    first, second = copy.deepcopy(history()[:2])
    lost = first["certificate"]["tasks"][0]["task"]
    without = copy.deepcopy(first["certificate"])
    without["tasks"] = without["tasks"][1:]

    def left(*cycles: dict[str, Any]) -> list[str]:
        made = render([cycle | {"number": number} for number, cycle in enumerate(cycles, 1)])
        return re.findall(r"Cycle (\d+) \S+ was left out", text(made))

    later = record(2, "new", without)
    assert left(first, later, later) == ["2", "3"]
    day = datetime.fromtimestamp(later["time"], UTC).date()
    over, holds = ({"task": lost, "reason": "r", "expires": str(day + timedelta(days=n))} for n in (-1, 0))
    assert left(first, later | {"waivers": [over]}) == ["2"]
    assert left(first, later | {"waivers": [holds]}) == []
    assert left(first, later | {"waivers": [holds]}, first, later) == ["4"]  # protected again in between
    assert left(first, first | {"waivers": [holds]}, later) == ["3"]
    refused = copy.deepcopy(second)  # a target that stayed with the old model was never reached
    missing = refused["certificate"]["target"]["task"]
    first["certificate"]["tasks"] = [t for t in first["certificate"]["tasks"] if t["task"] != missing]
    assert left(refused | {"outcome": "old"}, first) == []
    assert left(refused | {"outcome": "new"}, first) == ["2"]


@pytest.mark.parametrize(
    "odd", [{"time": 1e20}, {"time": float("nan")}, {"time": 10**400}, {"certificate": ["x"]}, {"waivers": ["x"]}]
)
def test_a_record_that_can_t_be_is_an_error(odd: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="a record of a cycle lacks a field, or has another type"):
        render([history()[0] | odd])


def test_models_and_order() -> None:
    cycles = history()
    page = render(cycles[::-1])
    assert page == render(cycles)
    assert f"Cycle 1 {1:064x} from {0:064x} , run s3://fleet/runs/1" in text(page)
    assert f"Cycle 2 the old one stayed: {1:064x} , run s3://fleet/runs/2" in text(page)


def test_nothing_and_little() -> None:
    assert "No cycle is recorded yet." in render([])
    assert "1 cycle, 0 with a new model, 1 in which the old one stayed" in render([record(1, "old", None, "a:b")])
    assert "1 cycle, 1 with a new model; 14 capabilities measured" in render(history()[:1])


def test_many_capabilities_are_drawn_as_far_as_they_can_be_read_and_all_in_the_table() -> None:
    cycle: dict[str, Any] = copy.deepcopy(history()[0])
    task = cycle["certificate"]["tasks"][0]
    cycle["certificate"]["tasks"] = [task | {"task": f"weather:kind {i:02}"} for i in range(30)]
    page = render([cycle])
    assert f"The {MOST_DRAWN} of 31 that sank most; the table has all." in page
    assert all(cells(page, f"weather:kind {i:02}") for i in range(30))


@pytest.mark.parametrize("name", ['a:<script>alert("1")</script>', "a:$x^2$", "a:晴れ & co", "plain"])
def test_names_are_shown_as_they_are(name: str) -> None:
    cycle: dict[str, Any] = copy.deepcopy(history()[0])
    cycle["certificate"]["tasks"][0]["task"] = name
    page = render([cycle])
    assert "<script" not in page
    assert cells(page, name)


@pytest.mark.parametrize("field", ["number", "time", "run", "target", "outcome", "certificate", "parent", "waivers"])
def test_a_record_without_a_field_is_an_error(field: str) -> None:
    cycles = history()
    del cycles[1][field]
    with pytest.raises(UsageError, match=f"a record of a cycle lacks a field.*{field}"):
        render(cycles)


@pytest.mark.parametrize(("width", "height", "phone"), [(1280, 900, False), (360, 740, True)])
def test_a_browser_shows_it_without_complaint(width: int, height: int, phone: bool, tmp_path: Path) -> None:
    file = tmp_path / "history.html"
    file.write_text(render(history()), encoding="utf-8")
    with browser.browser(width, height, phone=phone) as page:
        browser.open_without_complaint(page, file)
        assert page.evaluate("return document.documentElement.clientWidth") > 0.95 * width


def test_what_has_no_examples_is_marked_in_the_cycle_that_held_it_so() -> None:
    cycles = history()
    cycles[3]["certificate"]["not_certifiable"] = ["weather:clear", "weather:hail"]
    page = render(cycles)
    assert cells(page, "weather:clear")[-1] == "not certifiable"  # measured in cycles before
    assert cells(page, "weather:hail") == ["weather:hail", "–", "–", "–", "not certifiable"]
    assert "14 capabilities measured" in text(page)
