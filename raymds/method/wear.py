"""How a test split wears out, METHOD 6: every certificate made on it tells the developer something.

The j-th certificate on a split may err with probability α·6/(π²j²). Over all j that sums to α, so with probability
1 − α no bound of any of them is wrong, however many there are and whichever of them is chosen for its result. That is
a union bound over models that were made without the split's labels: one that is built from the certificates' own
numbers (say, a vote of the models that did well) is not covered.

Who declares beforehand that there will be J certificates may give each α/J instead, and none to a later one.
"""

import math

SEEN = ("train", "val")  # splits that models are made and chosen with: they certify nothing, and are not counted
_DUE = 2 / 3  # of its images


def spent(confidence: float, number: int, declared: int | None = None) -> float:
    """The error that use `number` (from 1 on) of a test split may make, where `confidence` holds over all uses.

    `declared`: how many there will be, where that was said before the first one.
    """
    return (1 - confidence) / declared if declared else (1 - confidence) * 6 / (math.pi * number) ** 2


def worth(confidence: float, tasks: int, number: int) -> float:
    """The share of its images that would give at the first use the bounds that use `number` has, if none is declared.

    An exact bound's distance goes as √(log(1/error)/n), so what the error loses n could make up for.
    """
    first, now = (math.log(max(tasks, 1) / spent(confidence, use)) for use in (1, number))
    return first / now


def said(confidence: float, tasks: int, number: int, declared: int | None = None) -> str:
    """What a use of a test split is worth, in sentences, and whether fresh test data are due."""
    share = worth(confidence, tasks, number)
    of = f" of the {declared} declared ones" if declared else ""
    words = (
        f"Use {number}{of} of this test split: {100 * confidence:g} % confidence over all uses leaves "
        f"{100 * (1 - spent(confidence, number, declared)):.6g} % for this one"
    )
    if declared:
        last = " It is the last one: a rotate is due (fresh test data, mixed in)." if number == declared else ""
        return f"{words}, as for each of them.{last}"
    if number == 1:
        return f"{words}."
    words += f", with the bounds that {100 * share:.0f} % of its images would have given at the first use"
    return f"{words}. It is worn: a rotate is due (fresh test data, mixed in)." if share < _DUE else f"{words}."
