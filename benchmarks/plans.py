"""What a plan of cycles leaves of every capability, by raymds and by methods that ask for nothing to be kept.

    python benchmarks/plans.py PLAN DIR [--methods raymds none regularize] [--small] [--json FILE]

PLAN is a file of `raymds cycle`. Each method runs it whole in DIR/METHOD, so the same command goes on after a break.
Every cycle's model is measured on test beside the first old model: all that the first cycle develops or protects.
`none` and `regularize` deliver the candidate with the best target on val, whatever it lost. --small is seconds, for
tests.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from makers import silent

from raymds.cycles import conduct
from raymds.cycles.plan import Cycle, Plan, load_plan
from raymds.train.measure import evaluate_model

ALL = ["select.tolerance=0.99", "select.interpolate=false"]  # whatever is lost, a candidate may be delivered
METHODS = {
    "raymds": [],
    "none": ["constraints.solver=none", *ALL],
    "regularize": ["constraints.solver=regularize", "constraints.beta=1", *ALL],  # pulls as hard as the objective
}
SMALL = ["objective.batch=16", "optim.steps=2", "optim.warmup=1", "select.every=1", "task.retained=4"]
TOLERANCE = 0.01

Accuracies = dict[str, float]


def measured(plan: Plan, cycle: Cycle, weights: str) -> Accuracies:
    """Accuracy on test of all that the first cycle develops or protects."""
    return {
        task["task"]: task["accuracy"] for task in evaluate_model(plan.config(cycle, weights), "test", silent)["tasks"]
    }


def run(plan: Plan) -> list[tuple[Cycle, str, Accuracies]]:
    """Per cycle its outcome and what the model that is deployed then does; before them, the first old model."""
    first = plan.cycles[0]
    found = [(first, "", measured(plan, first, plan.model))]
    outcomes = conduct.conduct(plan, lambda cycle: None, lambda cycle, outcome: None, silent)
    for cycle, outcome in zip(plan.cycles, outcomes, strict=False):
        new = outcome["outcome"] == "new"
        found.append((cycle, outcome["outcome"], measured(plan, first, outcome["weights"]) if new else found[-1][2]))
    return found


def rows(found: Sequence[tuple[Cycle, str, Accuracies]], targets: Sequence[str]) -> list[dict[str, Any]]:
    """A row per cycle. Held is each capability as it was at the start, a target as it was when it was reached."""
    (_, _, start), *cycles = found
    held = {name: accuracy for name, accuracy in start.items() if name not in targets}
    table = []
    for cycle, outcome, now in cycles:
        target = str(cycle.settings["task.target"])
        changes = {name: now[name] - before for name, before in held.items()}
        worst = min(changes, key=lambda name: changes[name])
        lost = sum(change < -TOLERANCE for change in changes.values())
        own = {"cycle": cycle.number, "target": target, "outcome": outcome}
        own |= {"held": len(held), "lost": lost, "worst": worst, "change": changes[worst]}
        table.append(own | {"accuracies": {name: now[name] for name in targets}})
        if outcome == "new":
            held[target] = now[target]
    return table


def main() -> None:
    """Run, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    result: dict[str, Any] = {}
    for name in given.methods:
        own = [*METHODS[name], *(SMALL if given.small else [])]
        overrides = [f"uri={given.folder.absolute() / name}", "on_old=next", *(f"set.{item}" for item in own)]
        plan = load_plan(given.plan, overrides)
        targets = [str(cycle.settings["task.target"]) for cycle in plan.cycles]
        if not result:
            print(f"{'':14}{'cycle':20}{'outcome':9}{'lost':>8}{'worst':>30}" + "".join(f"{t:>20}" for t in targets))
        found = run(plan)
        start = {target: found[0][2][target] for target in targets}
        result[name] = {"start": start, "cycles": rows(found, targets)}
        print(f"{name:81}" + "".join(f"{100 * start[target]:>20.1f}" for target in targets))
        for row in result[name]["cycles"]:
            worst = f"{row['worst']} {100 * row['change']:+.1f}"
            line = f"{'':14}{row['target']:20}{row['outcome']:9}{row['lost']:>3} of {row['held']:<2}{worst:>29}"
            print(line + "".join(f"{100 * row['accuracies'][target]:>20.1f}" for target in targets), flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
