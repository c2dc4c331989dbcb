"""Certificates that are damaged or edited; what `certify` makes agrees with itself."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raymds.errors import UsageError
from raymds.method.grouped import Groups
from raymds.release.consistency import check, contradictions
from tests.unit.release.made import certificate

GROUPS = Groups(np.array([0.5, 1.0, 0.75]), np.array([0.75, 1.0, 0.5]))


@pytest.mark.parametrize(
    "made",
    [
        certificate(),
        certificate(("a:b", 1, 1, 1, 0), ("a:c", 1, 0, 0, 1), ("a:d", 3, 2, 0, 0)),
        certificate(("a:lost", 1000, 900, 200, 5), ("a:even", 10**6, 10**5, 10**5, 10**5)),
        certificate(groups=GROUPS),
    ],
)
def test_what_certify_makes_agrees(made: dict[str, Any]) -> None:
    check(made, "c.json")
    assert list(contradictions(made)) == []


def without(name: str) -> Callable[[Any], None]:
    return lambda c: c.pop(name)


def put(value: Any, *path: str | int) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("schema"), "schema=None: this raymds reads certificates of schema 2"),
        (put(3, "schema"), "schema=3: this raymds reads certificates of schema 2"),
        (put(True, "schema"), "schema=True"),
        (without("tasks"), "tasks is missing"),
        (without("digests"), "digests is missing"),
        (put({}, "tasks"), "tasks is {}, and has to be a list"),
        (put([1], "tasks"), "tasks[0] is no object"),
        (put([], "target"), "target is [], and has to be an object"),
        (put("fine", "verdict"), "verdict is 'fine', and has to be one of"),
        (put(["certified"], "verdict"), "verdict is ['certified'], and has to be one of"),
        (put(math.nan, "tasks", 1, "delta"), "tasks[1].delta is nan, and has to be a fraction"),
        (put(math.inf, "tasks", 1, "upper"), "tasks[1].upper is inf, and has to be a fraction"),
        (put(10**400, "tasks", 0, "n"), "tasks[0].n is 1000000"),
        (put(10**400, "tasks", 0, "old"), "tasks[0].old is 1000000"),
        (put(0, "tasks", 0, "n"), "tasks[0].n is 0"),
        (put(10.0, "tasks", 0, "n"), "tasks[0].n is 10.0"),
        (put(True, "tasks", 0, "negative_flips"), "tasks[0].negative_flips is True"),
        (put(-1, "tasks", 0, "positive_flips"), "tasks[0].positive_flips is -1"),
        (put("0.1", "target", "delta"), "target.delta is '0.1'"),
        (put(None, "target", "lower"), "target.lower is None"),
        (put("", "tasks", 2, "task"), "tasks[2].task is ''"),
        (put(7, "tasks", 2, "task"), "tasks[2].task is 7"),
        (put("weather:clear", "tasks", 2, "task"), "has the task 'weather:clear' twice"),
        (put("weather:foggy", "tasks", 2, "task"), "has the task 'weather:foggy' twice"),
        (put(1, "confidence"), "confidence is 1"),
        (put({"default": "x"}, "tolerance"), "tolerance is {'default': 'x'}"),
        (put({"parent": "a"}, "digests"), "digests.weights is missing"),
        (put({"parent": "a", "weights": None}, "digests"), "digests.weights is None"),
        (put(0, "tasks", 0, "groups"), "tasks[0].groups is 0"),
        (put(1001, "tasks", 0, "groups"), "tasks[0].groups is 1001"),
        (put([], "data"), "data is [], and has to be an object"),
        (put("x", "measured"), "measured is 'x', and has to be an object"),
        (put({"created": "yesterday"}, "data"), "data.created is 'yesterday'"),
        (put({"created": 1.0}, "data"), "data.created is 1.0"),
    ],
)
def test_a_field_that_can_not_be_is_named(change: Callable[[Any], None], message: str) -> None:
    content = copy.deepcopy(certificate())
    change(content)
    with pytest.raises(UsageError) as error:
        check(content, "c.json")
    assert str(error.value).startswith(f"c.json: {message}")


@pytest.mark.parametrize(
    ("change", "task", "message"),
    [
        (put("certified", "tasks", 2, "verdict"), "scene:tunnel", "verdict is certified, by its numbers retained"),
        (put("certified", "verdict"), "", "verdict is certified, that of its tasks retained"),
        (put(0.0, "devsafety"), "", "devsafety is 0.0, that of its tasks -0.004"),
        (put(0, "tasks", 2, "negative_flips"), "scene:tunnel", "delta is -0.004, by its other numbers 0.004"),
        (put(0.0, "tasks", 2, "delta"), "scene:tunnel", "delta is 0, by its other numbers -0.004"),
        (put(0.9, "tasks", 2, "new"), "scene:tunnel", "new is 0.9, by its other numbers 0.796"),
        (put(0.0, "tasks", 2, "lower"), "scene:tunnel", "lower is 0, by its other numbers -0.0"),
        (put(1.0, "tasks", 2, "upper"), "scene:tunnel", "upper is 1, by its other numbers 0.0"),
        (put(401, "tasks", 2, "negative_flips"), "scene:tunnel", "401 negative and 2 positive flips can't be, of 500"),
        (put(499, "tasks", 2, "positive_flips"), "scene:tunnel", "4 negative and 499 positive flips can't be, of 500"),
        (put(0.5, "tasks", 2, "tolerance"), "scene:tunnel", "tolerance is 0.5, that of the certificate 0.01"),
        (put(0.5, "confidence"), "weather:rainy", "lower is -0.0"),
        (put(0.5, "target", "delta"), "weather:foggy", "delta is 0.5, by its other numbers 0.3"),
        (put(0.35, "target", "lower"), "weather:foggy", "lower is 0.35, by its other numbers 0.2"),
    ],
)
def test_an_edited_number_is_found(change: Callable[[Any], None], task: str, message: str) -> None:
    content = copy.deepcopy(certificate())
    change(content)
    check(content, "c.json")
    assert message in dict(contradictions(content))[task]


def test_a_task_left_out_changes_the_bounds_of_the_others() -> None:
    """Bonferroni's m is the number of tasks, so what was dropped afterwards shows."""
    content = copy.deepcopy(certificate())
    del content["tasks"][3]
    assert len(list(contradictions(content))) >= 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("new", 0.95, "delta is"),
        ("lower", 0.0, "lower is 0, and 3 groups give -0."),
        ("upper", 0.1, "upper is 0.1, and 3 groups give 0."),
        ("positive_flips", 0, "and its flips give -1 to 0"),
    ],
)
def test_of_groups_what_none_could_give_is_found(field: str, value: float, message: str) -> None:
    content = copy.deepcopy(certificate(groups=Groups(np.array([0.5, 1.0, 0.75]), np.array([0.9, 1.0, 0.8]))))
    content["tasks"][0][field] = value
    assert message in dict(contradictions(content))["weather:clear"]


def test_groups_without_a_flip_certify_nothing() -> None:
    content = copy.deepcopy(certificate())
    for task in content["tasks"]:
        task |= {"groups": 1, "old": 0.1, "new": 0.4, "delta": 0.3, "lower": 0.3, "upper": 0.9, "verdict": "certified"}
        task |= {"negative_flips": 0, "positive_flips": 0}
    content |= {"verdict": "certified", "devsafety": 0.3}
    check(content, "c.json")
    differs = dict(contradictions(content))
    assert set(differs) == {task["task"] for task in content["tasks"]}
    assert all("its flips give" in words and "lower is 0.3, and 1 groups give" in words for words in differs.values())


def test_bounds_of_any_groups_agree() -> None:
    """Against groups drawn at random, the most that equal changes allow is never below what is computed of them."""
    random = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        old, new = random.integers(0, 5, (2, size)) / 4
        flips = int(4 * np.maximum(old - new, 0).sum()), int(4 * np.maximum(new - old, 0).sum())
        right = int(4 * old.sum())
        made = certificate(("a:b", 4 * size, right, *flips), groups=Groups(old, new))
        assert "a:b" not in dict(contradictions(made))


@pytest.mark.parametrize("given", ["weather:snowy", [1], [""], {"weather:snowy": 1}])
def test_what_is_not_certifiable_is_a_list_of_names(given: Any) -> None:
    check(certificate(not_certifiable=["weather:snowy"]), "c.json")
    with pytest.raises(UsageError, match=r"not_certifiable is .* and has to be a list of texts"):
        check(certificate(not_certifiable=given), "c.json")
    with pytest.raises(UsageError, match="has the task 'scene:tunnel' twice"):
        check(certificate(not_certifiable=["scene:tunnel"]), "c.json")
