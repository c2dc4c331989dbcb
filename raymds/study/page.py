"""The files of a study: study.json, cells.csv, table.md, plots/*.svg and all of it in one study.html."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raymds.config import to_yaml
from raymds.log import records
from raymds.report import charts as run_charts
from raymds.report.drawing import alone
from raymds.report.files import thinned
from raymds.report.page import series_of
from raymds.report.words import points, setting
from raymds.store import uri as storage
from raymds.study import charts
from raymds.study.plan import Cell
from raymds.study.results import Results
from raymds.study.tables import LEGEND, as_csv, chosen, markdown, tables, title, written

SCHEMA = 1
Json = dict[str, Any]
Drawn = dict[str, list[tuple[str, str, str]]]  # section -> (name of the file, heading, SVG element)


def content(results: Results) -> Json:
    """The content of study.json; fractions.

    schema, study {the study file}, done, total (of cells), cells [of `results.cell_result`], trials [of
    `trial_result`], tables [of `tables.tables`], failed [{run, reason}].
    """
    plan = results.plan
    return {
        "schema": SCHEMA,
        "study": asdict(plan.study),
        "done": len(results.cells),
        "total": len(plan.cells),
        "cells": [results.cells[cell] for cell in plan.cells if cell in results.cells],
        "trials": [results.trials[trial] for trial in plan.trials if trial in results.trials],
        "tables": tables(results),
        "failed": [{"run": job.path, "reason": reason} for job, reason in results.failed.items()],
    }


def write_tables(results: Results) -> Json:
    """Publish study.yaml, study.json, cells.csv and table.md as they are now; the content of study.json."""
    uri, found = results.plan.uri, content(results)
    storage.write(storage.join(uri, "study.yaml"), to_yaml(results.plan.study).encode())
    storage.write_json(storage.join(uri, "study.json"), found)
    storage.write(storage.join(uri, "cells.csv"), as_csv(found["cells"]).encode())
    storage.write(storage.join(uri, "table.md"), markdown(found["tables"]).encode())
    return found


def write_page(results: Results, found: Json) -> None:
    """Publish the plots and study.html."""
    uri, drawn = results.plan.uri, plots(results, found)
    for name, _, element in (plot for section in drawn.values() for plot in section):
        storage.write(storage.join(uri, "plots", f"{name}.svg"), alone(element).encode())
    storage.write(storage.join(uri, "study.html"), render(found, drawn).encode())


def plots(results: Results, found: Json) -> Drawn:
    """Every plot that there is something to draw of."""
    return {
        "Target against worst retention": list(_trades(found)),
        "Retention by the number of retained examples": list(_retentions(results, found)),
        "Multipliers over the steps": list(_multipliers(results)),
    }


def render(found: Json, drawn: Drawn) -> str:
    """The page as HTML text, with everything that it shows in it."""
    loader = ChoiceLoader([PackageLoader("raymds", "study"), PackageLoader("raymds", "report")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(points=points, setting=setting)
    return environment.get_template("study.html.j2").render(
        found=found,
        tables=[(*written(table), chosen(table)) for table in found["tables"]],
        sections=[
            (heading, [(words, Markup(element)) for _, words, element in section])  # texts escaped in the charts
            for heading, section in drawn.items()
            if section
        ],
        legend=LEGEND,
    )


def _trades(found: Json) -> Iterator[tuple[str, str, str]]:
    for i, table in enumerate(found["tables"]):
        dots: dict[str, list[tuple[float, float]]] = {row["method"]: [] for row in table["rows"] if row["seeds"]}
        for cell in found["cells"]:
            here = (cell["data"], cell["target"]) == (table["data"], table["target"])
            if here and table["retained"] in (None, cell["retained"]):
                dots[cell["method"]].append((cell["devsafety"], cell["target_delta"]))
        if dots:
            words = f"Target change against DevSafety of every seed: {title(table)}"
            yield f"trade-{i}", title(table), charts.trade(dots, name=f"trade{i}", title=words)


def _retentions(results: Results, found: Json) -> Iterator[tuple[str, str, str]]:
    for i, (data, target) in enumerate(results.plan.pairs if len(results.plan.retained) > 1 else []):
        lines: dict[str, list[tuple[int, float]]] = {}
        for table in found["tables"]:
            for row in table["rows"] if (table["data"], table["target"]) == (data, target) else []:
                if row["seeds"]:
                    lines.setdefault(row["method"], []).append((table["retained"], row["retention_ratio"]))
        if lines:
            heading = f"{target} on {data}"
            words = f"Retention ratio by retained examples per task: {heading}"
            yield f"retention-{i}", heading, charts.retention(lines, name=f"retention{i}", title=words)


def _multipliers(results: Results) -> Iterator[tuple[str, str, str]]:
    """λ of the main method's first seed, in each data set and target, with the most retained examples."""
    plan = results.plan
    most = plan.retained[-1] if None in plan.retained else max(n for n in plan.retained if n is not None)
    for i, (data, target) in enumerate(plan.pairs):
        cell = Cell(data, target, plan.main, plan.study.seeds[0], most)
        if cell not in results.cells:
            continue
        log = thinned(records(storage.join(plan.uri, cell.path)))
        steps = [record for record in log if record["event"] == "step"]
        series, told = series_of(steps, "lambda")
        if told:
            at, panels, words = [step["step"] for step in steps], run_charts.panels_of(series), f"{target} on {data}"
            looks = {"name": f"multipliers{i}", "title": f"Multiplier λ of {plan.main} over the steps: {words}"}
            element = run_charts.histories(at, series, panels, **looks)
            yield f"multipliers-{i}", f"{words}: λ of {plan.main}, seed {cell.seed}", element
