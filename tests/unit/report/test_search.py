"""The page of a search: what its section says, draws and links, and what it survives."""

import html
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raymds.errors import UsageError
from raymds.report import RunFiles, render
from raymds.report.search import sentence
from raymds.report.search_charts import ticks
from raymds.report.words import setting
from tests.unit.report import browser, report_run, report_search


def parsed(won: bool = True, change: Callable[[Any], None] = lambda tune: None) -> RunFiles:
    """The made-up search, with its tune.json changed in place."""
    made = report_search.run(won)
    tune = json.loads(made["tune.json"])
    change(tune)
    return report_run.parsed(made | {"tune.json": json.dumps(tune).encode()})


def rows(page: str) -> list[list[str]]:
    """Cells of the table of trials, as text."""
    table = page.partition('<table class="trials">')[2].partition("</table>")[0].partition("<tbody>")[2]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr[^>]*>.*?</tr>", table)]
    return [[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in cells]


def picture(page: str, name: str) -> str:
    """One chart of the page."""
    return page.partition(f'aria-labelledby="{name}-title"')[2].partition("</svg>")[0]


def marks(svg: str, colour: str) -> list[tuple[float, float]]:
    """Where a chart has a mark of a colour."""
    uses = re.findall(r'<use [^>]*x="([-\d.]+)" y="([-\d.]+)" style="fill: var\(--([\w-]+)\)', svg)
    return [(float(x), float(y)) for x, y, fill in uses if fill == colour]


def test_a_search_with_a_winner_is_told_in_a_sentence() -> None:
    page = render(parsed())
    assert (
        "Of 12 trials (7 finished, 4 stopped early, 1 failed), 4 improved the target and kept every protected "
        "capability on the validation split; trial 7 won at step 160, target +4.6 points."
    ) in page
    assert "<span>chosen: trial 7, step 160</span>" in page


def test_a_search_without_winner_names_what_the_nearest_miss_lost() -> None:
    page = render(parsed(won=False))
    assert (
        "none improved the target and kept every protected capability on the validation split; the nearest miss, trial "
        "9 at step 160, target +5.1 points, lost tunnel (scene) 0.1 points, night (timeofday) 0.1 points."
    ) in page
    assert "the nearest miss, trial 9, step 160, took it" in page  # the verdict's sentence
    assert "the ring is the nearest miss" in page


def test_a_nearest_miss_that_lost_nothing_and_a_search_that_measured_nothing_are_said() -> None:
    tune = report_search.tune(won=False)
    tune["nearest"] |= {"target": -0.004, "alpha": 0.8, "lost": []}
    assert sentence(tune).endswith("trial 9 at step 160, α = 0.8, target −0.4 points, kept every one.")
    tune["nearest"] = None
    assert sentence(tune).endswith("; no trial measured a candidate.")


def test_a_search_of_which_no_trial_measured_anything_still_has_a_page() -> None:
    def silence(tune: Any) -> None:
        for trial in tune["trials"]:
            trial.update(best=None, page=False)
        tune.update(nearest=None, importance={})

    page = render(parsed(won=False, change=silence))
    assert "no trial measured a candidate" in page
    assert "Target against worst retention" not in page
    assert "Target change by parameter" not in page
    assert len(rows(page)) == 12


def test_metrics_may_be_missing_only_in_a_search() -> None:
    made = report_search.run()
    assert "metrics.jsonl" not in made
    assert report_run.parsed(made).metrics == []
    del made["tune.json"]
    with pytest.raises(UsageError, match=r"^\S+: metrics\.jsonl is missing"):
        report_run.parsed(made)
    with pytest.raises(UsageError, match=r"tune\.json is broken"):
        report_run.parsed(made | {"tune.json": b'{"schema": 1'})


def test_an_unfinished_search_and_a_missing_field_are_named() -> None:
    made = report_search.run()
    del made["outcome.json"]
    with pytest.raises(UsageError, match=r"^\S+: outcome\.json is missing"):
        report_run.parsed(made)
    with pytest.raises(UsageError, match="counts"):
        render(parsed(change=lambda tune: tune.pop("counts")))


def test_a_page_says_nothing_of_steps_that_a_search_does_not_have() -> None:
    page = render(parsed())
    for absent in ("Over the steps", "No constraint was measured", "Where a step's time goes"):
        assert absent not in page
    assert "The search" not in render(report_run.parsed(report_run.run()))


def test_the_table_has_the_feasible_first_by_target_then_the_others_by_retention_then_the_failed() -> None:
    found = rows(render(parsed()))
    assert [row[0] for row in found] == ["7", "5", "0", "1", "10", "9", "3", "8", "2", "4", "11", "6"]
    assert found[0] == ["7", "winner, finished", "160", "+4.6", "+0.2", "tunnel (scene)", "1.9e-06", "330", "0.71",
                        "−0.37", "11", "squared_hinge"]  # fmt: skip
    assert found[2][1] == "finished, the preset's own setting"
    assert found[7][2] == "80, α = 0.8"
    assert found[8][1] == "stopped early: scene:tunnel can no longer be kept"
    assert found[11][1:6] == ["failed: out of memory on rank 1 of 2", "–", "–", "–", ""]


def test_only_a_trial_with_a_page_of_its_own_is_linked() -> None:
    linked = re.findall(r'<a href="([^"]*)">(\d+)</a>', render(parsed()))
    assert linked == [(f"trials/{n:03d}/report.html", str(n)) for n in (7, 5, 0, 1, 9, 3, 8)]

    def elsewhere(tune: Any) -> None:
        tune["trials"][7]["run"] = "javascript:alert(1)//"
        tune["trials"][5]["run"] = "https://elsewhere.example"
        del tune["trials"][0]["page"], tune["trials"][1]["run"]

    page = render(parsed(change=elsewhere))
    assert [number for _, number in re.findall(r'<a href="([^"]*)">(\d+)</a>', page)] == ["9", "3", "8"]
    assert "javascript" not in page
    assert "elsewhere" not in page


def test_texts_of_a_search_are_never_markup() -> None:
    evil = '"><script>alert(1)</script>'

    def hostile(tune: Any) -> None:
        tune["search"] |= {"algorithm": evil, "space": tune["search"]["space"] | {evil: {"choice": [evil, "b"]}}}
        tune["importance"] |= {evil: 0.5}
        for trial in tune["trials"]:
            trial["params"][evil] = evil
            trial["reason"] = evil
            if trial["best"]:
                trial["best"]["tasks"][f"weather:{evil}"] = -0.9
        tune["nearest"] |= {"lost": [f"weather:{evil}"], "tasks": {f"weather:{evil}": -0.9}}

    page = render(parsed(won=False, change=hostile))
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 30


def test_the_same_search_makes_the_same_bytes_and_refers_to_nothing_but_its_trials() -> None:
    page = render(parsed())
    assert page == render(parsed())
    references = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)|@import', page)
    assert all(re.match(r"#|data:|trials/\d+/report\.html$", first or second) for first, second in references)
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["trade", "course", "parameter0", "parameter4", "parameter5"])
def test_charts_draw_every_candidate_and_no_failed_trial(name: str) -> None:
    page = render(parsed())
    svg = picture(page, name)
    assert len(marks(svg, "line-0")) == 5  # feasible: 0, 1, 5, 7, 10
    assert len(marks(svg, "bad")) == 5  # 2, 3, 4, 8, 9
    assert page.count("Not drawn: 1 trial that failed and 1 trial that measured nothing.") == 2


def test_a_trial_that_failed_is_not_drawn_though_it_measured() -> None:
    def fail(tune: Any) -> None:
        tune["trials"][3] |= {"status": "failed"}
        tune["trials"][8]["best"] |= {"target": None, "devsafety": None}
        tune["counts"] |= {"failed": 2, "finished": 6}

    page = render(parsed(change=fail))
    assert len(marks(picture(page, "course"), "bad")) == 3
    assert "Not drawn: 2 trials that failed and 2 trials that measured nothing." in page


def test_what_lies_far_out_is_drawn_at_the_edge_and_said() -> None:
    svg = picture(render(parsed()), "trade")
    left = [x for x, _ in marks(svg, "bad")]
    assert left.count(min(left)) == 2  # −6.2 and −48 points
    assert len(re.findall("<text[^>]*>←</text>", svg)) == 2
    assert "← Further out than drawn; the table has the number." in render(parsed())

    def near(tune: Any) -> None:
        for trial in tune["trials"]:
            if trial["best"]:
                trial["best"]["devsafety"] = max(trial["best"]["devsafety"], -0.02)

    assert "Further out" not in render(parsed(change=near))


@pytest.mark.parametrize(
    ("name", "key", "scale"),
    [("parameter1", "constraints.beta", math.log), ("parameter2", "constraints.gamma", float)],
)
def test_a_loguniform_parameter_has_a_logarithmic_axis_and_a_uniform_one_a_linear_one(
    name: str, key: str, scale: Callable[[float], float]
) -> None:
    svg = picture(render(parsed()), name)
    assert f">Target change against {key}</title>" in svg
    trials = report_search.tune()["trials"]
    values = [scale(trials[number]["params"][key]) for number in (2, 3, 4, 8, 9)]  # the infeasible ones
    xs = [x for x, _ in marks(svg, "bad")]
    assert [(x - xs[0]) / (xs[1] - xs[0]) for x in xs] == pytest.approx(
        [(value - values[0]) / (values[1] - values[0]) for value in values], abs=1e-4
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (10, 1000, [10, 100, 1000]),
        (2e-7, 5e-6, [3e-7, 1e-6, 3e-6]),
        (1e-9, 1, [1e-9, 1e-7, 1e-5, 1e-3, 1e-1]),
        (1, 2, [1, 2]),
        (3.1, 3.9, [3.1, 3.9]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_few_and_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [(1e-6, "1e-06"), (-0.4567, "−0.457"), (1000.0, "1000"), (123456.0, "1.23e+05"), (16, "16"), (True, "true"),
     (None, "none"), ("hinge", "hinge")],
)  # fmt: skip
def test_settings_are_short(value: Any, words: str) -> None:
    assert setting(value) == words


def test_importance_may_be_empty_or_missing() -> None:
    assert "Importance of the parameters" in render(parsed())
    for change in (lambda tune: tune.pop("importance"), lambda tune: tune.update(importance={})):
        assert "Importance of the parameters" not in render(parsed(change=change))


def test_of_many_parameters_the_six_most_important_are_drawn_and_all_are_in_the_table() -> None:
    def more(tune: Any) -> None:
        tune["search"]["space"] |= {"model.head_rank": {"choice": [8, 32]}, "data.head_rank": {"int": [1, 2]}}
        tune["importance"] |= {"model.head_rank": 0.9}
        for trial in tune["trials"]:
            trial["params"] |= {"model.head_rank": 32, "data.head_rank": 1}

    page = render(parsed(change=more))
    assert "The 6 of 8 parameters with the highest importance." in page
    drawn = re.findall("<h4>([^<]*)</h4>", page)
    assert [key.replace("\u200b", "") for key in drawn] == [
        "optim.lr", "constraints.beta", "constraints.gamma", "constraints.slack", "constraints.images_per_task",
        "model.head_rank",
    ]  # fmt: skip
    assert 'title="model.head_rank">model.head_\u200brank</th>' in page  # two keys end alike: both in full
    assert 'title="optim.lr">lr</th>' in page


@pytest.mark.parametrize("won", [True, False])
@pytest.mark.parametrize(("width", "height", "phone"), [(1100, 900, False), (360, 740, True)])
def test_a_browser_shows_a_search_without_complaint(
    won: bool, width: int, height: int, phone: bool, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(parsed(won)), encoding="utf-8")
    with browser.browser(width, height, phone=phone) as page:
        browser.open_without_complaint(page, file)
