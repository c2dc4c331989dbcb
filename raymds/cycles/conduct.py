"""Runs a plan, cycle by cycle: what was reached is protected in the next, and what was delivered is its old model."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from raymds import lease
from raymds.config import Config
from raymds.cycles.plan import Cycle, Plan, named
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.ledger import record
from raymds.ledger.chain import Ledger
from raymds.ledger.entry import Entry
from raymds.report import history
from raymds.run import RunDirectory
from raymds.search import tune
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import check_per_task, resolve
from raymds.train import driver, recorded
from raymds.train.cluster import Show
from raymds.train.prepared import check_examples

PAGE = "history.html"

Ended = Callable[[Cycle, dict[str, Any]], None]  # told a cycle's outcome


def check(plan: Plan) -> list[dict[str, Any]]:
    """What of every cycle can be known before the first one; UsageError naming the cycle. Writes nothing."""
    found: list[dict[str, Any]] = []
    protects, known = recorded.protected(Ledger(plan.ledger).entries(), datetime.now(UTC).date())
    storage.check_writable(plan.uri)
    for cycle in plan.cycles:
        config = plan.config(cycle, plan.model)
        objects.configure(config.storage)
        try:
            ended = RunDirectory(config.run.uri).read("outcome.json") is not None
            if cycle.number == 1 and not ended and not storage.exists(plan.model):
                raise UsageError(f"model={plan.model}: no such file; give the weights of the model that is deployed")
            recorded.ledger_of(config)
            # As if every target before it had been reached.
            config = plan.config(cycle, plan.model, _with(config, protects))
            data = DataSet.open(config.data.uri)
            tasks = resolve(config.task, data.attributes)
            if not ended:
                recorded.refuse_less(plan.ledger, protects, known, tasks)
            here = {task.name: f"cycles[{cycle.number - 1}]" for task in tasks.all}
            protects = here | protects
            known = here | {task.name: here[tasks.target.name] for task in tasks.without_data} | known
            check_per_task(config, tasks)
            check_examples(config, data, tasks)
            if cycle.verb == "tune":
                tune.check(config, data)
        except UsageError as error:
            raise named(cycle, error) from None
        state = "finished" if ended else "to come"
        found.append({
            "cycle": cycle.path, "verb": cycle.verb, "target": tasks.target.name, "protected": len(tasks.protected),
            "state": state,
        })  # fmt: skip
    return found


def conduct(
    plan: Plan, heading: Callable[[Cycle], None], ended: Ended, show: Show, take_over: bool = False
) -> list[dict[str, Any]]:
    """Run what the plan still lacks and write its page; the outcomes of the cycles that have ended, in order.

    Each cycle is recorded in the ledger once. The same plan goes on where it was stopped. `take_over` as in
    `driver.pretrain`.
    """
    check(plan)
    outcomes: list[dict[str, Any]] = []
    weights = plan.model
    with lease.held(plan.uri, show, take_over=take_over):
        for cycle in plan.cycles:
            heading(cycle)
            config = plan.config(cycle, weights)
            config = plan.config(cycle, weights, _protect(config, cycle))
            try:
                outcome = (tune.search if cycle.verb == "tune" else driver.finetune)(config, show, take_over)
            except UsageError as error:
                raise named(cycle, error) from None
            outcomes.append(outcome)
            ended(cycle, outcome)
            try:
                write_page(plan, show)
            except UsageError as error:  # a certificate that was altered is no reason not to go on
                show({"event": "note", "note": f"no page: {error}"})
            if outcome["outcome"] == "new":
                weights = outcome["weights"]
            elif not plan.goes_on:
                break
            elif outcome.get("parent") not in {None, storage.sha256(storage.read(weights))}:
                raise named(cycle, f"{weights}: is another file by now than the old model that was kept; put that back")
    return outcomes


def _protect(config: Config, cycle: Cycle) -> list[str]:
    """`task.protect` of a cycle, and what else the ledger protects; of one that was begun, what it was begun with."""
    stored = RunDirectory(config.run.uri).config()
    if stored is None:
        return _with(config, record.protected(Ledger(str(config.ledger.uri)).entries(), datetime.now(UTC).date()))
    begun = stored["task"].get("protect")
    if not isinstance(begun, list) or not set(config.task.protect) <= set(map(str, begun)):
        raise named(
            cycle,
            f"task.protect={config.task.protect}: it was begun with {begun} in {config.run.uri}; remove that directory "
            "to begin it anew",
        )
    return [str(name) for name in begun]


def _with(config: Config, names: Iterable[str]) -> list[str]:
    """`task.protect` with tasks that it lacks; the target is none of them."""
    tasks = resolve(config.task, DataSet.open(config.data.uri).attributes)
    return [*config.task.protect, *(name for name in names if name not in {task.name for task in tasks.all})]


def write_page(plan: Plan, show: Show) -> None:
    """The page of all cycles of the plan's ledger."""
    uri = storage.join(plan.uri, PAGE)
    storage.write(uri, history.render(records(Ledger(plan.ledger).entries())).encode())
    show({"event": "note", "note": f"history: {uri}"})


def records(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What `report.history` draws of the cycles in a ledger; UsageError where a certificate was altered since."""
    found: list[dict[str, Any]] = []
    waivers: list[dict[str, str]] = []
    for entry in entries:
        content = entry.content
        if entry.kind == "waive":
            said = {name: content[name] for name in ("reason", "expires")}
            waivers.append({"task": content["capability"], **said, "by": entry.author})
        elif entry.kind == "cycle":
            found.append({
                "number": len(found) + 1, "time": datetime.fromisoformat(entry.time).timestamp(),
                "run": content["run"] or "a certificate alone", "target": content["target"],
                "outcome": content["outcome"], "certificate": _certificate(content["certificate"]),
                "parent": content["parent"]["sha256"], "weights": content["weights"]["sha256"], "waivers": waivers,
            })  # fmt: skip
            waivers = []
    if waivers and found:
        found[-1]["waivers"] = [*found[-1]["waivers"], *waivers]
    return found


def _certificate(file: dict[str, Any] | None) -> dict[str, Any] | None:
    """A certificate that an entry names; None where there is none, or it is gone."""
    if file is None or file["uri"] is None or not storage.exists(file["uri"]):
        return None
    if storage.sha256(storage.read(file["uri"])) != file["sha256"]:
        raise UsageError(f"{file['uri']}: was altered since it was recorded; raymds ledger verify says what else was")
    return storage.read_json(file["uri"])
