"""The figures that the page of a run is about, and its verdict as a word and a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

from raymds.errors import UsageError
from raymds.method.verdict import not_certifiable
from raymds.report.files import RunFiles
from raymds.report.words import Json, count, label, losses, named, percent, points


@dataclass(frozen=True)
class Measured:
    """The figures that the page is about: the certificate's, or else the validation split's."""

    split: str
    target: Json
    tasks: list[Json]
    """Each with its `tolerance`."""
    devsafety: float
    tolerance: float | None
    """What every task may lose; None where they may lose different amounts."""
    role: str
    """chosen, or where the outcome is the old model: rejected (by the test split), nearest miss (nothing feasible)."""
    step: int | None
    validation: Json
    """Target, tasks and DevSafety of the same model on the validation split."""
    trial: int | None
    """Of a search: the one that the figures are of."""
    not_certifiable: list[str]
    """Tasks without data, of which nothing is measured."""

    @property
    def where(self) -> str:
        """`step 160`, in a search `trial 7, step 160`; empty where there is no step."""
        trial = "" if self.trial is None else f"trial {self.trial}, "
        return "" if self.step is None else f"{trial}step {count(self.step)}"


def measured_of(run: RunFiles) -> Measured:
    """The test split's figures where there is a certificate of a new model, else the validation split's."""
    outcome = run.outcome
    if outcome is None:
        raise UsageError("outcome.json is missing: the run has not finished (or this is no run directory)")
    val, certificate = outcome["val"], run.certificate
    if outcome["outcome"] == "new":
        role, step = "chosen", outcome["step"]
    else:
        # A search of which no trial measured anything has no candidate.
        role, step = "rejected" if certificate else "nearest miss", (outcome.get("candidate") or {}).get("step")
    found, split = (certificate, "test") if certificate else (val, "validation")
    common = found.get("tolerance", 0.0)  # the tasks of an older version have none of their own
    tasks = [{"tolerance": common} | task for task in found["tasks"]]
    allowed = {float(task["tolerance"]) for task in tasks}
    tolerance = allowed.pop() if len(allowed) == 1 else None
    return Measured(
        split,
        found["target"],
        tasks,
        found["devsafety"],
        tolerance,
        role,
        step,
        val,
        outcome.get("trial"),
        not_certifiable(found),
    )


def verdict(run: RunFiles) -> tuple[str, str]:
    """The outcome as one word and as one plain sentence.

    The word is the certificate's verdict, `uncertified` without one, `old` where the old model stays though no loss is
    proven.
    """
    outcome, certificate, measured = run.outcome or {}, run.certificate, measured_of(run)
    rejected = outcome["outcome"] == "old"
    if certificate is None:
        return ("old", _old(measured)) if rejected else ("uncertified", _uncertified(measured))
    word, joint = certificate["verdict"], f"{100 * certificate['confidence']:g} % joint confidence"
    m, head, lose = len(measured.tasks), _moved(measured.target, measured.split), _lose(measured)
    if word == "violated":
        bad = [task for task in measured.tasks if task.get("verdict") == "violated"]
        end = "the outcome is the old model" if rejected else "keep the old model in service"
        return word, f"{head}, but {len(bad)} of {m} protected capabilities lost{lose}: {_losers(bad)}; {end}."
    end = "; that is not enough, and the outcome is the old model" if rejected else ""
    if word == "certified":
        words = f"{head} and none of {m} protected capabilities lost{lose}: certified at {joint}"
    elif word == "retained":
        words = f"{head} and none of {m} protected capabilities was measured to lose{lose}: retained but not certified"
        words += f", because {_open(certificate, measured)}"
    else:
        bad = [task for task in measured.tasks if task.get("verdict") == "undecided"]
        words = (
            f"{head}; {len(bad)} of {m} protected capabilities {'was' if len(bad) == 1 else 'were'} measured to lose"
        )
        words += f"{lose}: {_losers(bad)}, but at {joint} no loss is proven: chance alone puts some there"
        words += _to_decide(bad)
    return ("old" if rejected else word), f"{words}{end}."


def _lose(measured: Measured) -> str:
    """What a lost capability lost, to stand after the verb."""
    if measured.tolerance is None:
        return " more than their tolerance"
    tolerance = points(measured.tolerance, sign=False)
    return f" more than the tolerance of {tolerance} points" if measured.tolerance else " accuracy"


def _losers(tasks: Sequence[Json]) -> str:
    worst_first = sorted(tasks, key=lambda task: task["delta"] + task["tolerance"])
    return losses([(task["task"], task["delta"]) for task in worst_first])


def _uncertified(measured: Measured) -> str:
    """The sentence for a new model that nothing has certified."""
    m, head, lose = len(measured.tasks), _moved(measured.target, measured.split), _lose(measured)
    bad = [task for task in measured.tasks if task["delta"] < -task["tolerance"]]
    if bad:
        end = "keep the old model in service"
        return f"{head}, but {len(bad)} of {m} protected capabilities lost{lose}: {_losers(bad)}; {end}."
    return (
        f"{head} and none of {m} protected capabilities was measured to lose{lose}: there is no certificate, so "
        "nothing is known about the test split."
    )


def _open(certificate: Json, measured: Measured) -> str:
    """What a retained model lacks: which capabilities the joint bound leaves open, and how many images would decide."""
    still = [t for t in measured.tasks if t.get("lower") is None or t["lower"] < -t["tolerance"]]
    words = f"at {100 * certificate['confidence']:g} % joint confidence a "
    words += f"{'' if measured.tolerance == 0 else 'larger '}loss is not yet ruled out for {len(still)} of them"
    return words + _to_decide(still)


def _to_decide(still: Sequence[Json]) -> str:
    """How many more images would decide these capabilities, to stand after what is said of them."""
    words, known = "", [t for t in still if t.get("more_examples") is not None]
    if known:
        most = max(known, key=lambda t: (t["more_examples"], t["task"]))
        words += f", which up to {count(most['more_examples'])} more test images each would decide"
        words += f" ({named(most['task'])} needs the most)" if len(known) > 1 else ""
    if len(known) < len(still):
        words += f"; {len(still) - len(known)} of those lie too close to the tolerance for any number to decide"
    return words


def _old(measured: Measured) -> str:
    """The sentence for a cycle in which nothing was feasible."""
    target, loser = measured.target, min(measured.tasks, key=lambda t: t["delta"] + t["tolerance"])
    loss = f"but lost {points(-loser['delta'], sign=False)} points on {named(loser['task'])}"
    if loser["delta"] >= -loser["tolerance"]:
        loss = "and lost nothing" if loser["delta"] >= 0 else "and lost no more than it may"
    old, new = percent(target["old"]), percent(target["new"])
    where = f", {measured.where}," if measured.where else ""
    return (
        f"No candidate both improved {label(target['task'])} and kept all {len(measured.tasks)} protected "
        f"capabilities, so the outcome is the old model; on the validation split the nearest miss{where} "
        f"took it from {old} to {new} {loss}."
    )


def _moved(target: Json, split: str) -> str:
    old, new = percent(target["old"]), percent(target["new"])
    how = "rose" if target["new"] > target["old"] else "fell"
    change = f"stayed at {old}" if target["new"] == target["old"] else f"{how} from {old} to {new}"
    name = label(target["task"])
    return f"{name[:1].upper()}{name[1:]} recognition {change} on {count(target['n'])} {split} images"
