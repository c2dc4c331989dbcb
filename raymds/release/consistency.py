"""A certificate that comes from anywhere: whether it has its fields, and whether its numbers agree with each other."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from raymds.data.shards import TIME
from raymds.errors import UsageError
from raymds.method.certificate import SCHEMA, PairedCounts
from raymds.method.grouped import lower_mean
from raymds.method.verdict import VERDICTS, not_certifiable, of_task, verdict_of, worst

Certificate = Mapping[str, Any]
Rule = tuple[Callable[[Any], bool], str]

_CLOSE = 1e-6  # between bounds that two versions of SciPy compute
_MOST = 10**9  # images of a task


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in {int, float} and low <= value <= high


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _tolerances(value: Any) -> bool:
    return all(map(_number(0, 1), value.values() if isinstance(value, dict) else [value]))


def _created(value: Any) -> bool:
    try:
        return bool(datetime.strptime(value, TIME))
    except (TypeError, ValueError):
        return False


_VERDICT: Rule = (lambda v: v in VERDICTS, f"one of {', '.join(VERDICTS)}")
_SHARE: Rule = (_number(0, 1), "a fraction from 0 to 1")
_CHANGE: Rule = (_number(-1, 1), "a fraction from −1 to 1")
_TEXT: Rule = (lambda v: isinstance(v, str) and v != "", "a text")
_TEXTS: Rule = (lambda v: isinstance(v, list) and all(isinstance(t, str) and t for t in v), "a list of texts")
_OBJECT: Rule = (lambda v: isinstance(v, dict), "an object")
_COUNT: Rule = (_whole(0, _MOST), "a number of images")
_ENTRY: dict[str, Rule] = {
    "task": _TEXT,
    "n": (_whole(1, _MOST), "a number of images, 1 or more"),
    "old": _SHARE,
    "new": _SHARE,
    "delta": _CHANGE,
    "lower": _CHANGE,
    "upper": _CHANGE,
    "negative_flips": _COUNT,
    "positive_flips": _COUNT,
}
_TASK = {**_ENTRY, "tolerance": _SHARE, "verdict": _VERDICT}
_WHOLE: dict[str, Rule] = {
    "verdict": _VERDICT,
    "tolerance": (_tolerances, "a fraction, or one by task, attribute, default"),
    "confidence": (lambda v: _number(0, 1)(v) and 0 < v < 1, "between 0 and 1, both excluded"),
    "devsafety": _CHANGE,
    "target": _OBJECT,
    "tasks": (lambda v: isinstance(v, list), "a list"),
    "digests": _OBJECT,
}


def check(content: Certificate, where: str) -> None:
    """UsageError naming the first field that is missing or can't be; that the fields agree is `contradictions`'."""
    if "verdict" not in content:
        raise UsageError(f"{where}: is no certificate, as it has no verdict; give a certificate.json, or a run")
    schema = content.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise UsageError(
            f"{where}: schema={schema!r}: this raymds reads certificates of schema {SCHEMA}; make it again with "
            "raymds certify, or take the raymds that made it"
        )
    _fields(content, _WHOLE, where, "")
    _fields(content["digests"], {"parent": _TEXT, "weights": _TEXT}, where, "digests.")
    _fields(content["target"], _ENTRY, where, "target.")
    for i, task in enumerate(content["tasks"]):
        if not isinstance(task, dict):
            raise UsageError(f"{where}: tasks[{i}] is no object; make the certificate again")
        _fields(task, _TASK, where, f"tasks[{i}].")
    for i, entry in enumerate([content["target"], *content["tasks"]]):
        if "groups" in entry:
            _fields(entry, {"groups": (_whole(1, entry["n"]), "1 to n")}, where, f"tasks[{i - 1}]." if i else "target.")
    _fields({"not_certifiable": [], **content}, {"not_certifiable": _TEXTS}, where, "")
    names = [content["target"]["task"], *(task["task"] for task in content["tasks"]), *not_certifiable(content)]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UsageError(f"{where}: has the task {twice!r} twice; make the certificate again")
    data, measured = content.get("data", {}), content.get("measured", {})
    _fields({"data": data, "measured": measured}, {"data": _OBJECT, "measured": _OBJECT}, where, "")
    if data.get("created") is not None:
        _fields(data, {"created": (_created, "a date like 2026-01-31T12:00:00Z")}, where, "data.")


def contradictions(certificate: Certificate) -> Iterator[tuple[str, str]]:
    """(task, what differs) for every part whose numbers do not agree; the task is empty for the whole.

    Changes, bounds and verdicts are computed again from the counts. Of tasks whose images come in groups the counts do
    not give the bounds, so there it is looked at whether any groups could have them.
    """
    error, target, tasks = 1 - certificate["confidence"], certificate["target"], certificate["tasks"]
    if differs := "; ".join(_numbers(target, error)):
        yield target["task"], differs
    for task in tasks:
        if differs := "; ".join([*_numbers(task, error / len(tasks)), *_verdict(task, certificate)]):
            yield task["task"], differs
    whole = {
        "verdict": worst([task["verdict"] for task in tasks]),
        "devsafety": min((task["delta"] for task in tasks), default=0.0),
    }
    differ = {name: value for name, value in whole.items() if certificate[name] != value}
    if differ:
        yield "", "; ".join(f"{name} is {certificate[name]}, that of its tasks {differ[name]}" for name in differ)


def _fields(content: Mapping[str, Any], rules: Mapping[str, Rule], where: str, above: str) -> None:
    for name, (holds, words) in rules.items():
        if name not in content:
            raise UsageError(f"{where}: {above}{name} is missing; make the certificate again")
        if not holds(content[name]):
            shown = repr(content[name])
            shown = shown if len(shown) <= 60 else shown[:59] + "…"
            raise UsageError(f"{where}: {above}{name} is {shown}, and has to be {words}; make the certificate again")


def _numbers(entry: Mapping[str, Any], error: float) -> Iterator[str]:
    n, b, c = entry["n"], entry["negative_flips"], entry["positive_flips"]
    right = round(entry["old"] * n)
    if b + c > n or ("groups" not in entry and not b <= right <= n - c):
        yield f"{b} negative and {c} positive flips can't be, of {n} images with {right} right before"
        return
    if "groups" in entry:
        expected = {"delta": entry["new"] - entry["old"]}
        yield from _grouped(entry, error)
    else:
        counts = PairedCounts(entry["task"], n, right, b, c, 0.0, 0.0)
        expected = {name: getattr(counts, name) for name in ("old", "new", "delta")}
        expected |= {"lower": counts.lower(error), "upper": counts.upper(error)}
    for name, value in expected.items():
        if not abs(entry[name] - value) <= _CLOSE:
            yield f"{name} is {entry[name]:.6g}, by its other numbers {value:.6g}"


def _grouped(entry: Mapping[str, Any], error: float) -> Iterator[str]:
    """What no groups of images could give.

    A flip moves the mean of its group by 1 at most. Of all groups with one mean those that change alike have the
    highest lower bound, because the wealth of `lower_mean` is a product of concave functions of their changes.
    """
    delta, groups = entry["delta"], entry["groups"]
    lowest, highest = (min(entry[f"{sign}_flips"], groups) / groups for sign in ("negative", "positive"))
    if not -lowest - _CLOSE <= delta <= highest + _CLOSE:
        yield f"delta is {delta:.6g}, and its flips give {0.0 - lowest:.6g} to {highest:.6g}"
    lower, upper = (sign * lower_mean(np.array([sign * delta]), error, groups) for sign in (1.0, -1.0))
    if not entry["lower"] <= lower + _CLOSE:
        yield f"lower is {entry['lower']:.6g}, and {groups} groups give {lower:.6g} at most"
    if not entry["upper"] >= upper - _CLOSE:
        yield f"upper is {entry['upper']:.6g}, and {groups} groups give {upper:.6g} at least"


def _verdict(task: Mapping[str, Any], certificate: Certificate) -> Iterator[str]:
    tolerance = of_task(certificate["tolerance"], task["task"])
    if task["tolerance"] != tolerance:
        yield f"tolerance is {task['tolerance']:g}, that of the certificate {tolerance:g}"
    verdict = verdict_of(task["delta"], task["lower"], task["upper"], task["tolerance"])
    if task["verdict"] != verdict:
        yield f"verdict is {task['verdict']}, by its numbers {verdict}"
