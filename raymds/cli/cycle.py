"""The verb `raymds cycle`: target after target, by a plan."""

import argparse
from typing import Any

from raymds.cli.data import OVERRIDES, add_accept_old, add_take_over, verb_parser
from raymds.cli.terminal import Terminal
from raymds.run import RunDirectory
from raymds.store import uri as storage


def cycle(options: argparse.Namespace, terminal: Terminal) -> int:
    """Develop target after target; what was reached is protected in the next, and all of it is recorded."""
    from raymds.cycles import conduct as conducting
    from raymds.cycles.plan import Cycle, load_plan

    plan = load_plan(options.plan, options.overrides)
    if options.dry_run:
        found = conducting.check(plan)
        rows = [tuple(str(value) for value in row.values()) for row in found]
        terminal.table(f"plan: {plan.uri}; a dry run writes nothing", tuple(found[0]), rows)
        terminal.result({"plan": plan.uri, "cycles": found})
        return 0

    def heading(cycle: Cycle) -> None:
        terminal.heading(f"{cycle.number}/{len(plan.cycles)}  {cycle.settings['task.target']}")

    def ended(cycle: Cycle, outcome: dict[str, Any]) -> None:
        terminal.outcome(
            outcome, RunDirectory(storage.join(plan.uri, cycle.path)).read_json("certificate.json"), "cycle"
        )

    outcomes = conducting.conduct(plan, heading, ended, terminal.show, options.take_over)
    reached = sum(outcome["outcome"] == "new" for outcome in outcomes)
    page = storage.join(plan.uri, conducting.PAGE)
    terminal.say(f"{reached} of {len(plan.cycles)} targets reached; ledger: {plan.ledger}; history: {page}")
    terminal.result({"plan": plan.uri, "ledger": plan.ledger, "reached": reached, "outcomes": outcomes})
    return 0 if reached == len(plan.cycles) or options.accept_old else 3


def add(verbs: Any) -> None:
    """Its parser."""
    verb = verb_parser(verbs, "cycle", cycle, "raymds cycle jobs/cycles/scenes.yaml uri=history")
    verb.add_argument("plan", metavar="PLAN", help="YAML file of the plan")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    verb.add_argument("--dry-run", action="store_true", help="check what of every cycle can be known, and stop")
    add_accept_old(verb)
    add_take_over(verb)
