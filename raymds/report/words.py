"""Numbers, tasks and settings as the page words them."""

import math
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def attribute(task: str) -> str:
    """`weather` of `weather:clear`; empty for a task that is not of that form."""
    return task.partition(":")[0] if ":" in task else ""


def label(task: str) -> str:
    """`clear` of `weather:clear`."""
    return task.partition(":")[2] if ":" in task else task


def named(task: str) -> str:
    """`clear (weather)` of `weather:clear`."""
    return f"{label(task)} ({attribute(task)})" if attribute(task) else task


def percent(fraction: float | None) -> str:
    """`0.412` as `41.2 %`; `–` where there is no number."""
    return "–" if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.1f} %"


def points(fraction: float | None, sign: bool = True) -> str:
    """A difference of fractions in percentage points: `-0.012` as `−1.2`. A small one keeps a digit that is not 0."""
    if fraction is None or not math.isfinite(fraction):
        return "–"
    value = 100 * fraction
    digits = next((d for d in (1, 2, 3) if round(value, d) != 0), 1)
    rounded = round(value, digits)
    return (("+" if rounded > 0 else "−") if sign and rounded else "") + f"{abs(rounded):.{digits}f}"


def losses(lost: Sequence[tuple[str, float]]) -> str:
    """`night (timeofday) 3.4 points` of each task and its change, worst first; beyond five, how many more."""
    words = ", ".join(f"{named(task)} {points(-delta, sign=False)} points" for task, delta in lost[:5])
    return words + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")


def count(number: float | None) -> str:
    """`12345` as `12,345`; `–` where there is no number."""
    return "–" if number is None else f"{float(number):,.0f}"


def short(text: str, most: int = 15) -> str:
    """At most so many characters, with … for what was cut off."""
    return text if len(text) <= most else text[: most - 1] + "…"


def setting(value: Any) -> str:
    """The value of a parameter, short: `1e-06`, `true`, `hinge`."""
    if isinstance(value, float):
        size = f"{abs(value):.0f}" if 1000 <= abs(value) < 1e5 else f"{abs(value):.3g}"
        return "−" + size if value < 0 else size
    return {"True": "true", "False": "false", "None": "none"}.get(str(value), str(value))
