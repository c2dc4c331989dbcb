"""Verdicts of METHOD 6: what was measured, and which joint bound excludes what; what may become the outcome."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Verdict = Literal["violated", "undecided", "retained", "certified"]
VERDICTS: tuple[str, ...] = ("violated", "undecided", "retained", "certified")  # from the worst to the best
NOT_CERTIFIABLE = "not certifiable"  # what stands in the place of a verdict where a task has no examples
PerTask = float | Mapping[str, float]  # a number for all tasks, or one by task, by attribute and `default`
_NAMED = 5  # tasks that a reason names; a hundred would hide what it says


def of_task(value: PerTask, task: str) -> float:
    """What holds for `attribute:class`: its own value, else its attribute's, else `default`, else 0."""
    if not isinstance(value, Mapping):
        return float(value)
    keys = (task, task.partition(":")[0], "default")
    return float(next((value[key] for key in keys if key in value), 0.0))


def verdict_of(delta: float, lower: float, upper: float, tolerance: float) -> Verdict:
    """A task's verdict from its measured change and the one-sided joint bounds of its true change, all fractions."""
    if upper < -tolerance:
        return "violated"
    if lower >= -tolerance:
        return "certified"
    return "retained" if delta >= -tolerance else "undecided"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """A model's verdict is its worst task's."""
    return min(verdicts, key=VERDICTS.index, default="certified")


def below(verdict: str, required: str) -> bool:
    """Whether a verdict is less than what is asked for."""
    return VERDICTS.index(verdict) < VERDICTS.index(required)


def refusal(certificate: Mapping[str, Any], require: str, require_target: str) -> str | None:
    """Why a certified model may not become the outcome, or None where it may.

    Its verdict has to be `require` (select.require) or better, and the target has to gain on test: Δtarget > 0
    (`gain`), or its lower bound too (`proven`: select.require_target).
    """
    reasons = []
    lacking = {verdict: [t for t in certificate["tasks"] if t["verdict"] == verdict] for verdict in VERDICTS}
    if lacking["violated"]:
        reasons.append(f"the test split proves a loss of {_listed(lacking['violated'])}")
    if lacking["undecided"] and below("undecided", require):
        open_ = _listed(lacking["undecided"])
        reasons.append(f"the test split leaves open whether {open_} is a loss, and select.require is {require}")
    if lacking["retained"] and below("retained", require):
        reasons.append(
            f"the bounds do not exclude a loss of {_listed(lacking['retained'])}, and select.require is {require}"
        )
    target = certificate["target"]
    if target["delta"] <= 0:
        reasons.append(f"the target {_moved(target)} does not gain on the test split")
    elif require_target == "proven" and target["lower"] <= 0:
        reasons.append(f"the gain of the target {_moved(target)} is not proven, and select.require_target is proven")
    return "; ".join(reasons) or None


def images(entry: Mapping[str, Any]) -> str:
    """A task's test images in words: `1200`, or `1200 in 40 groups`."""
    return f"{entry['n']} in {entry['groups']} groups" if "groups" in entry else str(entry["n"])


def not_certifiable(found: Mapping[str, Any]) -> list[str]:
    """Tasks without data of a certificate or a record on val: neither kept nor lost, as nothing of them is measured."""
    return list(found.get("not_certifiable", ()))


def in_groups(certificate: Mapping[str, Any]) -> str | None:
    """What groups did to a certificate's numbers, in a sentence; None where every image is by itself."""
    if not any("groups" in entry for entry in [certificate["target"], *certificate["tasks"]]):
        return None
    return (
        "Images of one group, such as a drive, are alike, so every group counts once, however many images it has: "
        "accuracies are means over groups, and the bounds count groups."
    )


def _listed(tasks: Sequence[Mapping[str, Any]]) -> str:
    """`a:b -3.1 points, a:c -2.0 points and 7 more`, the worst first."""
    ordered = sorted(tasks, key=lambda task: task["delta"] + task["tolerance"])
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(map(_moved, ordered[:_NAMED])) + more


def _moved(task: Mapping[str, Any]) -> str:
    return f"{task['task']} ({100 * task['delta']:+.1f} points)"
