"""The report's page: what it says, what it survives, and how a browser takes it."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from raymds.errors import UsageError
from raymds.method.verdict import VERDICTS
from raymds.report import RunFiles, charts, render
from raymds.report.verdict import verdict
from raymds.report.words import points
from tests.unit.report import browser, report_run
from tests.unit.report.report_run import changed


def parsed(**looks: str) -> RunFiles:
    return report_run.parsed(report_run.run(**looks))


def test_every_verdict_has_a_mark_of_its_own() -> None:
    """In the table and in the legend; in the charts by the shape of the marker alone."""
    page = render(parsed(verdict="undecided"))
    for mark, word in (("●", "certified"), ("▽", "undecided")):
        assert f'<span class="mark {word}">{mark} {word}</span>' in page
    assert "● certified, △ retained, ▽ undecided, ✕ violated" in page
    assert page.count('<span class="mark undecided">') == 2
    task = {"task": "w:a", "old": 0.5, "new": 0.5, "delta": 0.0, "lower": -0.1, "upper": 0.1, "tolerance": 0.0}
    drawn = {charts.changes([task | {"verdict": word}], 0.0) for word in VERDICTS}
    assert len(drawn) == 4


def test_the_data_sets_of_a_mix_are_named() -> None:
    def mixed(certificate: Any) -> None:
        parts = [{"uri": "s3://b/drives", "digest": "12ab", "rows": {"train": 70000, "val": 50}}]
        certificate["data"] = {"uri": "s3://b/mix", "parts": parts}

    page = render(changed(parsed(), "certificate", mixed))
    assert "<code>s3://b/drives</code>: 70,000 train, 50 val images, digest <code>12ab</code>" in page


@pytest.mark.parametrize(
    ("delta", "words"),
    [(0.218, "+21.8"), (-0.012, "−1.2"), (-0.0002, "−0.02"), (0.0, "0.0"), (None, "–"), (float("nan"), "–")],
)
def test_points_never_round_a_loss_away(delta: float | None, words: str) -> None:
    assert points(delta) == words


@pytest.mark.parametrize(
    ("name", "says"), [("outcome.json", "has not finished"), ("metrics.jsonl", "this is no run directory")]
)
def test_a_missing_file_is_named(name: str, says: str) -> None:
    files = report_run.run()
    del files[name]
    with pytest.raises(UsageError, match=f"{re.escape(name)}.*{says}"):
        report_run.parsed(files)


def test_a_last_line_cut_short_is_ignored_and_an_earlier_one_is_an_error() -> None:
    files = report_run.run()
    whole = report_run.parsed(files)
    files["metrics.jsonl"] += b'{"event": "step", "step": 301, "lo'
    assert report_run.parsed(files) == whole
    lines = files["metrics.jsonl"].split(b"\n")
    lines[6] = lines[6][:40]
    files["metrics.jsonl"] = b"\n".join(lines)
    with pytest.raises(UsageError, match=r"metrics\.jsonl, line 7 is broken"):
        report_run.parsed(files)


@pytest.mark.parametrize("name", ["outcome.json", "certificate.json", "flips.json"])
@pytest.mark.parametrize("content", [b'{"schema": 1', b"[" * 100_000, b'{"schema": 1, "schema": 2}'])
def test_a_broken_file_is_named(name: str, content: bytes) -> None:
    with pytest.raises(UsageError, match=f"{re.escape(name)} is broken"):
        report_run.parsed(report_run.run() | {name: content})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UsageError, match="workers"):
        render(changed(parsed(), "outcome", lambda outcome: outcome.pop("workers")))


def test_texts_of_the_run_are_never_markup() -> None:
    evil = "<script>alert(1)</script>"

    def in_flips(flips: Any) -> None:
        flips["flips"][0].update(truth=evil, new=evil, id=f'"{evil}')
        flips["flips"][1]["image"] = "https://elsewhere.example/picture.jpg"

    def in_certificate(certificate: Any) -> None:
        certificate["tasks"][0]["task"] = f"weather:{evil}"
        certificate["digests"]["config"] = evil

    run = changed(changed(parsed(), "flips", in_flips), "certificate", in_certificate)
    page = render(dataclasses.replace(run, config=run.config + f"# {evil}\n"))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "elsewhere" not in page


@pytest.mark.parametrize("kind", ["certified", "old"])
def test_every_task_and_the_chosen_step_are_shown(kind: str) -> None:
    page = render(parsed(verdict=kind))
    for task in [report_run.TARGET, *report_run.TASKS]:
        assert f'<th scope="row">{task}</th>' in page
    step = {"certified": "chosen: step 225", "old": "nearest miss: step 25"}[kind]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", page)
    assert texts.count(step) == 2  # on the target's chart and on DevSafety's


@pytest.mark.parametrize(("train", "said"), [(0, False), (1200, True)])
def test_skipped_images_are_said(train: int, said: bool) -> None:
    skipped = {"train": train, "val": 0, "test": 3 if said else 0}
    run = changed(parsed(), "outcome", lambda outcome: outcome.update(skipped_images=skipped))
    assert ("were skipped: 1,200 of train, 0 of val, 3 of test." in render(run)) == said


def test_the_same_files_make_the_same_bytes() -> None:
    pages = {render(parsed(verdict="certified"), parsed(verdict="old", solver="none")) for _ in range(2)}
    assert len(pages) == 1


def test_the_page_refers_to_nothing_outside_itself() -> None:
    page = render(parsed(), parsed(verdict="old", solver="none"))
    assert not re.search(r"https?://|//[a-z]+\.", page.replace("s3://", ""))
    references = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)|@import', page)
    assert all(re.match(r"#|data:", first or second) for first, second in references)
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_beside_compares_with_what_the_other_rule_would_ship() -> None:
    page = render(parsed(), parsed(verdict="old", solver="none"))
    assert "Side by side: squared_hinge and none" in page
    assert "squared_hinge: chosen, step 225; none: highest target accuracy, step 300." in page
    row = re.search(r'<th scope="row">timeofday:night</th><td class="">([^<]*)</td><td class="lost">([^<]*)</td>', page)
    # by hand: 0.02 · 0.24 · (1 − e^(−225/120)) and −0.004 · 12 · 0.24 · (1 − e^(−300/120)) / 0.04, in points
    assert row
    assert row.groups() == ("+0.4", "−26.4")


def test_runs_with_different_targets_are_not_compared() -> None:
    def retarget(outcome: Any) -> None:
        outcome["val"]["target"]["task"] = "scene:tunnel"

    with pytest.raises(UsageError, match="different targets"):
        render(parsed(), changed(parsed(), "outcome", retarget))


def test_multipliers_that_stay_zero_are_explained() -> None:
    def satisfy(metrics: Any) -> None:
        for record in metrics:
            if record["event"] == "step":
                record["u"] = dict.fromkeys(record["u"], -0.01)
                record["lambda"] = dict.fromkeys(record["lambda"], 0.0)

    assert "No constraint was measured (solver: none)." in render(parsed(verdict="old", solver="none"))
    quiet = render(changed(parsed(), "metrics", satisfy))
    assert "Every multiplier was 0: no constraint's estimate was violated." in quiet
    assert "No constraint was measured" not in quiet


def test_of_a_step_done_twice_the_later_record_counts() -> None:
    def redo(metrics: Any) -> None:
        stale = json.loads(json.dumps(metrics[1]))
        stale["step"], stale["devsafety"] = 25, -0.9
        metrics.insert(1, stale)

    run = parsed()
    assert render(changed(run, "metrics", redo)) == render(run)


def test_a_run_with_hundreds_of_tasks_and_odd_names_and_few_records_still_has_a_page() -> None:
    names = [f"scene:{i} [b] [/red] $x_{i}$ _{{{i}}} 幻 natural history museum" for i in range(364)]

    def many(certificate: Any) -> None:
        certificate["tasks"] = [certificate["tasks"][i % 13] | {"task": name} for i, name in enumerate(names)]
        for task in certificate["tasks"]:
            del task["upper"], task["more_examples"]

    run = changed(dataclasses.replace(parsed(), metrics=[], flips=None, config=""), "certificate", many)
    page = render(run)
    assert all(name in page for name in names)
    assert "The 30 largest losses are drawn" in page
    assert "No evaluation is recorded." in page
    assert "None are recorded." in page


@pytest.mark.parametrize("kind", ["certified", "old"])
@pytest.mark.parametrize(("width", "height", "phone"), [(1280, 900, False), (360, 740, True)])
def test_a_browser_shows_it_without_complaint(kind: str, width: int, height: int, phone: bool, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(parsed(verdict=kind), parsed(verdict="old", solver="none")), encoding="utf-8")
    with browser.browser(width, height, phone=phone) as page:
        browser.open_without_complaint(page, file)
        assert page.evaluate("return document.documentElement.clientWidth") > 0.95 * width


def test_the_browser_helper_sees_what_it_is_there_to_see(tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    wide = '<div style="width:2000px">x</div><script>console.warn("told")</script><img src="gone.png">'
    file.write_text(f'<meta name="viewport" content="width=device-width, initial-scale=1">{wide}')
    with browser.browser(360, 740, phone=True) as page:
        page.open(file.as_uri())
        assert page.requests() == [file.as_uri(), (tmp_path / "gone.png").as_uri()]
        assert any("told" in message for message in page.console())
        assert page.evaluate("return document.documentElement.scrollWidth") >= 2000


@pytest.mark.parametrize(("kind", "file"), [("certified", "certificate"), ("old", "outcome")])
def test_what_has_no_examples_is_marked_and_counts_in_no_verdict(kind: str, file: str) -> None:
    run = parsed(verdict=kind)
    given = changed(run, file, lambda c: c.get("val", c).update(not_certifiable=["weather:<hail>"]))
    page = render(given)
    (row,) = re.findall(r'<tr><th scope="row">weather:&lt;hail&gt;</th>.*?</tr>', page, re.DOTALL)
    headings = re.findall(r"<th scope=\"col\"", page[: page.index(row)].rpartition("<thead>")[2])
    assert len(re.findall(r"<t[hd]", row)) == len(headings)
    assert "not certifiable" in row
    assert not re.search(r"[0-9] %", row)
    assert "Not certifiable: weather:&lt;hail&gt;. Without examples" in page
    assert verdict(given) == verdict(run)
