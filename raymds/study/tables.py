"""The published form of a study's results: a table per data set and target, a row per method."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from raymds.report.words import named, points, setting
from raymds.study.results import Results

Json = dict[str, Any]


def spread(values: Sequence[float]) -> Json | None:
    """Mean, and sample standard deviation (None of one value), of n numbers; None of no number."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "n": len(values)}


def tables(results: Results) -> list[Json]:
    """data, target, retained (None: not varied), and `rows`, one per method; all numbers are fractions."""
    return [
        {"data": data, "target": target, "retained": retained, "main": results.plan.main,
         "rows": _rows(results, data, target, retained)}
        for data, target in results.plan.pairs
        for retained in results.plan.retained
    ]  # fmt: skip


def _rows(results: Results, data: str, target: str, retained: int | None) -> list[Json]:
    plan = results.plan
    found: dict[str, list[Json]] = {method: [] for method in plan.settings}
    for cell in plan.cells:
        if (cell.data, cell.target, cell.retained) == (data, target, retained) and cell in results.cells:
            found[cell.method].append(results.cells[cell])
    rows = []
    for method, cells in found.items():
        trials = sum((t.data, t.target, t.method) == (data, target, method) for t in results.trials)
        chosen = results.best(data, target, method) if len(plan.settings[method]) > 1 else {}
        against = None if method == plan.main else paired(cells, found[plan.main])
        rows.append(
            {"method": method, "of": len(plan.study.seeds), "trials": trials, "setting": chosen}
            | summary(cells) | {"against_main": against}
        )  # fmt: skip
    return rows


def summary(cells: Sequence[Json]) -> Json:
    """A method's results over its seeds.

    `retention_ratio` is METHOD (4), `worst` the task that is worst most often with the mean of its change, `nfr` the
    mean of METHOD (6) over the tasks. Shares are of the cells that there are, None where there are none.
    """

    def share(holds: Callable[[Json], bool]) -> float | None:
        return sum(map(holds, cells)) / len(cells) if cells else None

    def over_seeds(key: str) -> Json | None:
        return spread([cell[key] for cell in cells])

    return {
        "seeds": len(cells),
        "target": over_seeds("target_delta"),
        "devsafety": over_seeds("devsafety"),
        "retention_ratio": share(lambda cell: cell["devsafety"] >= 0),
        "within_tolerance": share(lambda cell: cell["within_tolerance"]),
        "worst": _worst(cells),
        "mean_delta": over_seeds("mean_delta"),
        "nfr": over_seeds("nfr_mean"),
        "nfr_max": over_seeds("nfr_max"),
        "certified": share(lambda cell: cell["verdict"] == "certified"),
        "not_violated": share(lambda cell: cell["verdict"] != "violated"),
        "new": share(lambda cell: cell["outcome"] == "new"),
        "seconds": over_seeds("seconds"),
    }


def paired(cells: Sequence[Json], main: Sequence[Json]) -> Json | None:
    """Δtarget minus the main method's, over the seeds that both have."""
    reference = {cell["seed"]: cell["target_delta"] for cell in main}
    return spread([c["target_delta"] - reference[c["seed"]] for c in cells if c["seed"] in reference])


def _worst(cells: Sequence[Json]) -> Json | None:
    """The task that is worst most often, of several the one with the lower mean; the mean is over all cells."""
    if not cells:
        return None
    times = Counter(cell["worst_task"] for cell in cells)
    means = {task: statistics.fmean(cell["deltas"][task] for cell in cells) for task in times}
    task = min(times, key=lambda task: (-times[task], means[task], task))
    return {"task": task, "delta": means[task], "times": times[task]}


def written(table: Json) -> tuple[str, list[str], list[list[str]]]:
    """Title, headings and rows of a table as they are shown, in points and percent."""
    headings = [
        "method", "seeds", "Δtarget", "DevSafety", "retention ratio", "within tolerance", "worst task",
        "NFR", "certified", "not violated", "new", f"Δtarget − {table['main']}", "trials",
    ]  # fmt: skip
    rows = []
    for row in table["rows"]:
        worst = row["worst"]
        rows.append(
            [
                row["method"], _seeds(row), _spread(row["target"]), _spread(row["devsafety"]),
                _share(row["retention_ratio"]), _share(row["within_tolerance"]),
                f"{named(worst['task'])} {points(worst['delta'])}" if worst else "–",
                _spread(row["nfr"], sign=False), _share(row["certified"]), _share(row["not_violated"]),
                _share(row["new"]), _spread(row["against_main"]), str(row["trials"]),
            ]
        )  # fmt: skip
    return title(table), headings, rows


def title(table: Json) -> str:
    """What a table is of."""
    retained = f", {table['retained']} retained examples" if table["retained"] is not None else ""
    return f"{table['target']} on {table['data']}{retained}"


def chosen(table: Json) -> str:
    """The settings that were chosen among those tried, in a sentence; empty where none was."""
    parts = [
        f"{row['method']} ({', '.join(f'{key}={setting(value)}' for key, value in row['setting'].items())})"
        for row in table["rows"]
        if row["setting"]
    ]
    return f"Chosen on val of those tried: {'; '.join(parts)}." if parts else ""


def markdown(tables: Sequence[Json]) -> str:
    """The tables as `table.md`."""
    parts = []
    for table in tables:
        heading, headings, rows = written(table)
        lines = ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows)]
        parts.append(f"## {heading}\n\n" + "\n".join(lines) + "\n")
        parts += [chosen(table) + "\n"] if chosen(table) else []
    return "\n".join([*parts, LEGEND + "\n"])


LEGEND = (
    "Measured on the test split, where no candidate was feasible of the one nearest to it. Differences in points, mean "
    "± standard deviation over the seeds; DevSafety: the worst protected task's change; retention ratio: share of the "
    "seeds in which no task lost anything; worst task: the one that is worst most often, with its mean change; NFR: "
    "share of the images that were right and are wrong, mean over the tasks; new: the outcome is the new model; "
    "trials: settings tried beforehand."
)
_COLUMNS = (
    "data", "target", "method", "seed", "retained", "setting", "outcome", "step", "alpha", "verdict", "target_delta",
    "devsafety", "worst_task", "worst_delta", "mean_delta", "within_tolerance", "nfr_mean", "nfr_max", "seconds", "run",
)  # fmt: skip


def as_csv(cells: Sequence[Json]) -> str:
    """The cells as `cells.csv`, a line each, fractions; a setting as `key=value key=value`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        words = " ".join(f"{key}={value}" for key, value in cell["setting"].items())
        writer.writerow(cell | {"setting": words})
    return text.getvalue()


def _spread(found: Json | None, sign: bool = True) -> str:
    if found is None:
        return "–"
    return points(found["mean"], sign) + ("" if found["std"] is None else f" ± {points(found['std'], sign=False)}")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _seeds(row: Json) -> str:
    return str(row["seeds"]) if row["seeds"] == row["of"] else f"{row['seeds']} of {row['of']}"
