"""What a cycle's figures say, in sentences: which tasks pull against which; where nothing was found, what would help.

`diagnosis` is what `train/diagnose.py` measured, `evals` the records on val of the candidates in their order.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymds.method import verdict

Json = Mapping[str, Any]

_CONFLICT = -0.3  # cosine of two directions of descent below which they are said to pull against each other
_REST = 0.35  # KKT residual below which the run counts as having come to rest
_POINT = 0.01  # a change of accuracy that is worth a word
_NAMED = 3  # pairs that are named


def conflicts(diagnosis: Json) -> list[str]:
    """Which tasks pull against the target, and which against each other, the most contrary first."""
    target, others = [], []
    for pair in diagnosis["cosines"]:
        one, other = pair["of"]
        if pair["cosine"] > _CONFLICT:
            break
        told = f"their gradients' cosine is {pair['cosine']:.1f}"
        if one == "objective":
            target.append(f"{other} pulls against the target: {told}")
        else:
            others.append(f"{one} and {other} pull against each other: {told}")
    return target[:_NAMED] + others[:_NAMED]


def overfitted(diagnosis: Json) -> str | None:
    """Whether the objective was learned by heart: on train far below what it is on val."""
    F = diagnosis["objective"]
    gained = {split: F[split]["old"] - F[split]["new"] for split in ("train", "val")}
    if gained["train"] > 0 and gained["val"] < gained["train"] / 2:
        return (
            f"the objective fell by {gained['train']:.2f} on the training pairs and by {gained['val']:.2f} on val: the "
            "pairs of the target are being learned by heart; fewer steps or more of them would help"
        )
    return None


def says(diagnosis: Json) -> list[str]:
    """What is worth a word whatever the outcome: conflicts, pairs learned by heart."""
    learned = overfitted(diagnosis)
    return conflicts(diagnosis) + ([learned] if learned else [])


def advise(diagnosis: Json, evals: Sequence[Json], refused: Json | None = None, require: str = "retained") -> list[str]:
    """Why there is no feasible candidate with a gain, and whether steps, examples, model or tolerance would help.

    Where there was one that the test split refused, `refused` is its certificate, and `require` is select.require.
    """
    said = says(diagnosis)
    if refused:
        return [*said, *_on_test(refused, require)]
    late = [record for record in evals if record["step"] > 0]
    if not late:
        return said
    gaining = [record for record in late if record["target"]["delta"] > 0]
    nearest = max(gaining or late, key=lambda record: float(record["margin"]))
    if not gaining:
        return [*said, _no_gain(late)]
    if nearest["feasible"]:  # it was chosen, or may yet be
        return said
    said += _examples(diagnosis, nearest)
    said += _steps(late, diagnosis)
    said.append(_tolerance(nearest))
    return said


def _on_test(certificate: Json, require: str) -> list[str]:
    """What would help where val kept what the test split refuses."""
    said: list[str] = []
    target = certificate["target"]
    lost = [task for task in certificate["tasks"] if verdict.below(task["verdict"], require)]
    lost.sort(key=lambda task: float(task["delta"]))
    proven = [task for task in lost if task["verdict"] == "violated"]
    if proven:
        said.append(
            f"{proven[0]['task']} was kept on val and is lost on test: more val images, more retained examples "
            "(task.retained) or a larger constraints.margin would help"
        )
    elif lost:
        least = verdict.worst([task["verdict"] for task in lost])
        said.append(f"no loss is proven on test: select.require={least} would not have refused the model for that")
        said += [
            f"{task['task']} has {verdict.images(task)} images on test: {task['more_examples']:,} more that flip alike "
            "would decide"
            for task in lost[:_NAMED]
            if task["more_examples"]
        ]
    if target["delta"] <= 0 or not lost:
        said.append(f"the gain of the target is too small to be seen on its {verdict.images(target)} test images")
    return said


def _no_gain(late: Sequence[Json]) -> str:
    first, last = late[0]["target"]["new"], late[-1]["target"]["new"]
    if last > first + _POINT:
        return "the target was still rising at the last step: more steps (optim.steps) or a larger optim.lr would help"
    if max((task["delta"] for task in late[-1]["tasks"]), default=0.0) < -_POINT:
        return "neither the target nor anything else gained: optim.lr is too large for this model, or its data too few"
    if late[-1]["feasible"]:
        return "everything is kept and the target never gained: smaller penalties (constraints.beta, eta) would help"
    return "the target never gained: check that its captions and prompts speak of it, or raise optim.lr"


def _examples(diagnosis: Json, nearest: Json) -> list[str]:
    """Where the retained examples keep what val loses."""
    h, worst = diagnosis["h"], min(nearest["tasks"], key=lambda task: task["delta"] + task["tolerance"])
    train, val = h["train"][worst["task"]], h["val"][worst["task"]]
    said = []
    if val > 0 and train < val / 2:
        held = "" if diagnosis["part"] == "held_out" else " or constraints.held_out"
        said.append(
            f"{worst['task']} is kept on the retained examples (h {train:+.3f}) and not on val ({val:+.3f}): more "
            f"retained examples (task.retained){held} would help"
        )
    if "h" not in worst:  # in the log of an older version
        return said
    flips = 2 * worst["h"]["flips"] + worst["delta"]  # share of the images that changed sides
    noise = math.sqrt(max(flips - worst["delta"] ** 2, 0.0) / worst["n"])
    if -worst["delta"] - worst["tolerance"] < noise:
        said.append(
            f"{worst['task']} has {worst['n']} images on val, whose change is known to ±{100 * noise:.1f} points: the "
            "miss is within what chance does, and more val images would help"
        )
    return said


def _steps(late: Sequence[Json], diagnosis: Json) -> list[str]:
    """Whether the run was still on its way, or has come to rest where the constraints hold it."""
    residual, third = diagnosis["kkt_residual"], late[-max(2, len(late) // 3) :]
    nearer = float(third[-1]["margin"]) - float(third[0]["margin"])
    if len(late) > 1 and nearer > _POINT:
        return [
            f"the worst task was still coming back ({100 * nearer:+.1f} points over the last {len(third)} candidates): "
            "more steps (optim.steps) would help"
        ]
    if min(residual, diagnosis["least_residual"]) < _REST:
        return [
            f"the run has come to rest (KKT residual {residual:.2f}): more steps change little; a larger model, fewer "
            "frozen blocks or a tolerance would help"
        ]
    return []


def _tolerance(nearest: Json) -> str:
    worst = min(nearest["tasks"], key=lambda task: task["delta"])  # one number is to do for every task
    needed = math.ceil(-1000 * worst["delta"]) / 1000
    return (
        f"a tolerance of {100 * needed:.1f} points for {worst['task']} and the like (select.tolerance={needed:.3f}) "
        f"would have let step {nearest['step']} pass, with the target {100 * nearest['target']['delta']:+.1f}"
    )
