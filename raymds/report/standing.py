"""What a cycle's diagnosis says on its page: sentences, and figures with what they mean."""

from raymds.report.words import Json


def stands(outcome: Json) -> Json | None:
    """Sentences, advice and rows (name, value, meaning) of the outcome's diagnosis; None where there is none."""
    found = outcome.get("diagnosis")
    if found is None:
        return None
    unit, F, delta = found["loss"]["unit"], found["objective"], found["delta"]
    part = {"held_out": "held-out examples", "retained": "retained examples"}[found["part"]]
    violation = found["violation"]
    rows = [
        ("Largest h, train", _number(violation["train"]), f"{unit}, on the {part}; above 0 a constraint is violated"),
        ("Largest h, val", _number(violation["val"]), "far above train's: those were learned by heart"),
        ("Complementarity", _number(found["complementarity"]), "largest λ·|h|; 0: what pushes is at its limit"),
        (
            "KKT residual",
            f"{_number(found['kkt_residual'])}, least {_number(found['least_residual'])}",
            "length of objective's and constraints' gradient together, by that of the objective; 0: at rest. "
            "Least: with the best multipliers there are",
        ),
        (
            "δ with, without heads",
            f"{_number(delta['with_heads'])}, {_number(delta['without_heads'])}",
            "how strongly the parameters can act on a violation; the larger, the sooner it is mended",
        ),
        ("F on train", _moved(F["train"]), "the objective, old → new"),
        ("F on val", _moved(F["val"]), "where it fell on train alone, the target's pairs were learned by heart"),
    ]  # fmt: skip
    says = found.get("says", [])
    return {"says": says, "advice": [s for s in outcome.get("advice", []) if s not in says], "rows": rows}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _moved(pair: Json) -> str:
    return f"{_number(pair['old'])} → {_number(pair['new'])}"
