"""Which loss says best what is lost: the correlation of each loss's h with Δacc, over all candidates of many runs.

    python benchmarks/agreement.py FOLDER … [--json FILE]

Below a FOLDER, such as a study's, lie run directories of cycles that have ended. Each candidate gives a point for each
protected task. `h` and Δacc are both of val, where `error`'s h is −Δacc itself. `u` is what λ saw last before it, of
retained examples and the run's own loss alone. `unseen` is the share of losses of more than a point at which h or u is
not above 0: a constraint on it asks for nothing there. Runs of older versions have h of `error` and their own loss.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy.stats import rankdata

from raymds.log import records

Points = dict[tuple[str, str], list[tuple[str, float, float]]]  # (h or u, loss) -> task, h or u, Δacc of each point

_POINT = 0.01


def points(run: Path) -> Points:
    """The points of a run's candidates; none of a pretraining."""
    found: Points = defaultdict(list)
    own = OmegaConf.load(run / "config.yaml").constraints.loss
    u: dict[str, float] = {}
    for record in records(str(run)):
        if record["event"] == "step":
            u = record.get("u", {})
        if record["event"] != "eval" or record["step"] == 0:  # at 0 nothing has changed yet
            continue
        for task in record["tasks"]:
            name, delta = task["task"], task["delta"]
            h = task.get("h", {own: task["loss_new"] - task["loss_old"], "error": -delta})
            for loss, value in h.items():
                found["h", loss].append((name, value, delta))
            if name in u:
                found["u", own].append((name, u[name], delta))
    return found


def agreement(made: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Correlations with −Δacc over all points, also of ranks, and of each task by itself; the share that is unseen."""
    tasks = np.array([task for task, _, _ in made])
    h, lost = np.array([h for _, h, _ in made]), -np.array([delta for _, _, delta in made])
    large = lost > _POINT
    return {
        "points": len(made),
        "correlation": correlation(h, lost),
        "of ranks": correlation(rankdata(h), rankdata(lost)),
        "tasks": {str(task): correlation(h[tasks == task], lost[tasks == task]) for task in np.unique(tasks)},
        "losses": int(large.sum()),
        "unseen": float((h[large] <= 0).mean()) if large.any() else None,
    }


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Pearson's, None where one of both does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) > 0 and np.ptp(other) > 0 else None


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    runs = [file.parent for folder in given.folders for file in sorted(folder.rglob("metrics.jsonl"))]
    if not runs:
        parser.error(f"no metrics.jsonl lies below {', '.join(map(str, given.folders))}; give folders of runs")
    together: Points = defaultdict(list)
    for run in runs:
        for key, made in points(run).items():
            together[key] += made
    result = {f"{kind} of {loss}": agreement(made) for (kind, loss), made in sorted(together.items())}
    print(f"{len(runs)} runs\n{'':<20}  points  correlation  of ranks  worst task  losses  unseen")
    for name, row in result.items():
        worst = min((value for value in row["tasks"].values() if value is not None), default=None)
        shown = ["–" if x is None else f"{x:.2f}" for x in (row["correlation"], row["of ranks"], worst, row["unseen"])]
        print(f"{name:<20}{row['points']:>8}{shown[0]:>13}{shown[1]:>10}{shown[2]:>12}{row['losses']:>8}{shown[3]:>8}")
    if given.json:
        Path(given.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
