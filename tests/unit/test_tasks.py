"""Short names to tasks, and errors that name the key and the nearest valid name."""

from typing import Any

import pytest

from raymds.config import Config, TaskConfig
from raymds.errors import UsageError
from raymds.tasks import check_per_task, resolve

VOCABULARIES = {"weather": ["clear", "rainy", "foggy"], "scene": ["street", "tunnel"]}
PROMPTS = {"weather": "the weather is {}.", "scene": "the scene is a {}."}


def test_an_attribute_means_all_its_classes_but_the_target() -> None:
    tasks = resolve(TaskConfig("weather:foggy", ["weather", "scene:tunnel"], 10, PROMPTS), VOCABULARIES)
    assert [task.name for task in tasks.protected] == ["weather:clear", "weather:rainy", "scene:tunnel"]
    assert tasks.heads == ["weather:clear", "weather:rainy", "weather:foggy", "scene:street", "scene:tunnel"]
    assert tasks.columns("scene") == slice(3, 5)
    assert tasks.prompts["scene"] == (("the scene is a street.",), ("the scene is a tunnel.",))


def test_naming_a_task_twice_protects_it_once() -> None:
    tasks = resolve(TaskConfig("weather:foggy", ["scene", "scene:tunnel"], 10, PROMPTS), VOCABULARIES)
    assert [task.name for task in tasks.protected] == ["scene:street", "scene:tunnel"]


@pytest.mark.parametrize(
    ("target", "protect", "message"),
    [
        ("weather:fogy", ["scene"], r"task\.target: 'fogy' is no class of weather .*did you mean 'foggy'\?"),
        ("wether:foggy", ["scene"], r"task\.target: 'wether' is no attribute .*did you mean 'weather'\?"),
        ("foggy", ["scene"], r"task\.target='foggy': has to be attribute:class"),
        ("weather:foggy", ["weather:foggy"], r"task\.protect: weather:foggy is the target"),
        ("weather:foggy", ["scene:tunnels"], r"task\.protect: 'tunnels' .*did you mean 'tunnel'\?"),
        ("weather:foggy", ["sene"], r"task\.protect: 'sene' .*did you mean 'scene'\?"),
        ("weather:foggy", [], r"task\.protect: names no task"),
        ("weather", ["scene"], r"task\.target='weather': has to be attribute:class"),
        ("weather@scene:tunnel", ["scene"], r"task\.target='weather@scene:tunnel': has to be attribute:class"),
        ("weather:foggy@scene:tunel", ["scene"], r"task\.target: 'tunel' .*did you mean 'tunnel'\?"),
        ("weather:foggy@scene", ["scene"], r"task\.target='scene': has to be attribute:class"),
        ("weather:foggy@", ["scene"], r"task\.target='': has to be attribute:class"),
        ("weather:foggy@weather:rainy", ["scene"], r"names weather twice; a slice is of other attributes"),
        ("weather:foggy", ["scene@scene:tunnel"], r"task\.protect='scene@scene:tunnel': names scene twice"),
        ("weather:foggy@scene:tunnel", ["weather:foggy@scene:tunnel"], r"task\.protect: .* is the target"),
    ],
)
def test_errors(target: str, protect: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(TaskConfig(target, protect, 10, PROMPTS), VOCABULARIES)


@pytest.mark.parametrize("key", ["select.tolerance", "constraints.slack", "constraints.beta"])
def test_a_value_of_no_protected_task_is_an_error_that_names_the_nearest(key: str) -> None:
    tasks = resolve(TaskConfig("weather:foggy", ["weather", "scene"], 10, PROMPTS), VOCABULARIES)
    section, name = key.split(".")

    def check(value: object) -> None:
        config = Config()
        setattr(getattr(config, section), name, value)
        check_per_task(config, tasks)

    check(0.01)
    check({"default": 0.0, "scene": 0.01, "scene:tunnel": 0.02})
    for wrong in ("scene:tunel", "weather:foggy"):
        with pytest.raises(UsageError, match=f"{key}: '{wrong}' is no protected task"):
            check({"default": 0.0, wrong: 0.01})
    with pytest.raises(UsageError, match=r"did you mean 'scene:tunnel'\?"):
        check({"scene:tunel": 0.01})


def test_a_prompt_without_a_place_for_the_class() -> None:
    with pytest.raises(UsageError, match=r"task\.prompts\.scene: has to be a sentence with \{\}"):
        resolve(TaskConfig("weather:foggy", ["scene"], 10, {"weather": "it is {}"}), VOCABULARIES)


def test_a_slice_is_a_class_among_the_rows_of_others() -> None:
    protect = ["weather", "scene@weather:rainy", "weather:rainy@scene:street"]
    tasks = resolve(TaskConfig("weather:foggy@scene:tunnel", protect, 10, PROMPTS), VOCABULARIES)
    assert (tasks.target.name, tasks.target.label, tasks.target.where) == (
        "weather:foggy@scene:tunnel",
        2,
        (("scene", 1),),
    )
    assert [task.name for task in tasks.protected] == [
        "weather:clear", "weather:rainy", "weather:foggy",  # the class as a whole is another capability than its slice
        "scene:street@weather:rainy", "scene:tunnel@weather:rainy", "weather:rainy@scene:street",
    ]  # fmt: skip
    assert list(tasks.classes) == ["weather", "scene"]


def test_a_slice_of_several_classes_and_of_an_attribute_without_a_task() -> None:
    vocabularies = VOCABULARIES | {"sign": ["stop, old", "yield@night"]}
    target = "weather:foggy@scene:tunnel, sign:stop, old"
    tasks = resolve(TaskConfig(target, ["weather"], 10, PROMPTS), vocabularies)
    assert tasks.target.where == (("scene", 1), ("sign", 0))
    assert (list(tasks.classes), tasks.attributes) == (["weather"], ["weather", "scene", "sign"])
    signs = TaskConfig("sign:yield@night", ["weather"], 10, PROMPTS | {"sign": "a {} sign"})
    assert resolve(signs, vocabularies).target.where == ()  # the @ is in the class's name


def test_a_label_set_stands_in_front_of_the_vocabulary_and_other_is_of_none() -> None:
    vocabularies = {"weather": ["clear", "rainy", "other", "foggy"], "scene": ["street", "tunnel"]}
    tasks = resolve(TaskConfig("weather:foggy", ["weather"], 10, PROMPTS), vocabularies)
    assert tasks.classes == {"weather": ("clear", "rainy", "foggy")}
    assert tasks.vocabularies == {"weather": ("clear", "rainy", "foggy", "other"), "scene": ("street", "tunnel")}
    chosen = TaskConfig("weather:foggy", ["weather"], 10, PROMPTS, classes={"weather": ["foggy", "clear"]})
    tasks = resolve(chosen, vocabularies)
    assert (tasks.target.label, [task.name for task in tasks.protected]) == (0, ["weather:clear"])
    assert tasks.vocabularies["weather"] == ("foggy", "clear", "rainy", "other")


def test_phrases_and_several_prompts() -> None:
    prompts = {"weather": ["the weather is {}.", "a {} day"], "scene": "a {}"}
    phrases = {"weather": {"foggy": "thick fog"}}
    tasks = resolve(TaskConfig("weather:foggy", ["scene"], 10, prompts, phrases=phrases), VOCABULARIES)
    assert tasks.prompts["weather"][2] == ("the weather is thick fog.", "a thick fog day")
    texts, heads = tasks.sentences()
    assert (texts[4:], heads) == (
        ["the weather is thick fog.", "a thick fog day", "a street", "a tunnel"],
        [0, 0, 1, 1, 2, 2, 3, 4],
    )
    assert tasks.sentences("scene") == (["a street", "a tunnel"], [3, 4])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": {"wether": ["clear"]}}, r"task\.classes: 'wether' is no attribute .*did you mean 'weather'\?"),
        ({"classes": {"weather": ["clear", "fogy"]}}, r"task\.classes\.weather: 'fogy' .*did you mean 'foggy'\?"),
        ({"classes": {"weather": ["foggy", "foggy"]}}, r"task\.classes\.weather: names 'foggy' twice"),
        ({"classes": {"weather": ["foggy"]}}, r"task\.classes\.weather=\['foggy'\]: has to list two classes or more"),
        ({"classes": {"weather": ["clear", "rainy"]}}, r"task\.target: 'foggy' is no class of weather"),
        (
            {"prompts": {"weather": "a {}.", "wether": "b {}."}},
            r"task\.prompts: 'wether' is no attribute .*'weather'\?",
        ),
        ({"phrases": {"weather": {"fogy": "fog"}}}, r"task\.phrases\.weather: 'fogy' is no class .*'foggy'\?"),
        ({"phrases": {"weather": {"foggy": " "}}}, r"task\.phrases\.weather\.foggy: is empty"),
        ({"prompts": {"weather": []}}, r"task\.prompts\.weather: has to be a sentence with \{\}"),
        ({"prompts": {"weather": ["it is {}", "fog"]}}, r"task\.prompts\.weather: has to be a sentence with \{\}"),
        ({"prompts": {"weather": 3}}, r"task\.prompts\.weather: has to be a sentence with \{\}"),
    ],
)
def test_errors_of_words_and_label_sets(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(TaskConfig("weather:foggy", ["weather"], 10, **{"prompts": PROMPTS, **given}), VOCABULARIES)


def test_a_class_without_data_has_a_constraint_and_is_not_protected() -> None:
    config = TaskConfig("weather:foggy", ["weather", "scene:tunnel"], 10, PROMPTS, without_data=["weather:rainy"])
    tasks = resolve(config, VOCABULARIES)
    assert [task.name for task in tasks.protected] == ["weather:clear", "scene:tunnel"]
    assert [task.name for task in tasks.without_data] == ["weather:rainy"]
    assert [task.name for task in tasks.constrained] == ["weather:clear", "scene:tunnel", "weather:rainy"]
    assert [task.name for task in tasks.all] == ["weather:foggy", "weather:clear", "scene:tunnel"]
    config.without_data = ["weather"]  # of an attribute all but the target
    assert [task.name for task in resolve(config, VOCABULARIES).without_data] == ["weather:clear", "weather:rainy"]


def test_a_class_that_the_data_set_no_longer_has_is_listed_in_the_label_set() -> None:
    label_sets = {"weather": ["clear", "snowy", "foggy"]}
    config = TaskConfig("weather:foggy", ["weather"], 10, PROMPTS, classes=label_sets, without_data=["weather:snowy"])
    tasks = resolve(config, VOCABULARIES)
    assert tasks.vocabularies["weather"] == ("clear", "snowy", "foggy", "rainy")
    assert ([t.name for t in tasks.protected], tasks.without_data[0].label) == (["weather:clear"], 1)
    config.without_data = []
    with pytest.raises(UsageError, match=r"task\.classes\.weather: 'snowy' is no class"):
        resolve(config, VOCABULARIES)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        (["weather:rany"], r"task\.without_data: 'rany' .*did you mean 'rainy'\?.*listed in task\.classes\.weather"),
        (["wether"], r"task\.without_data: 'wether' is no attribute .*did you mean 'weather'\?"),
        (["weather:foggy"], r"task\.without_data: weather:foggy is the target"),
        (["weather:rainy@scene:tunnel"], r"task\.without_data: .* is a slice.* name the class, weather:rainy"),
        (["weather", "scene"], r"task\.protect: names no task beside those of task\.without_data"),
    ],
)
def test_errors_of_classes_without_data(without: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(TaskConfig("weather:foggy", ["weather", "scene"], 10, PROMPTS, without_data=without), VOCABULARIES)


def test_one_without_data_may_have_a_slack_and_no_tolerance() -> None:
    given = TaskConfig("weather:foggy", ["weather"], 10, PROMPTS, without_data=["scene:tunnel"])
    tasks, config = resolve(given, VOCABULARIES), Config()
    config.constraints.slack = config.constraints.beta = {"default": 1.0, "scene:tunnel": 0.02}
    check_per_task(config, tasks)
    config.select.tolerance = {"default": 0.0, "scene:tunnel": 0.02}
    with pytest.raises(UsageError, match=r"select\.tolerance: 'scene:tunnel' is no protected task"):
        check_per_task(config, tasks)


def test_one_class_alone_is_no_label_set() -> None:
    with pytest.raises(UsageError, match=r"task\.classes\.weather: the label set is foggy alone.*foggy, other"):
        resolve(TaskConfig("weather:foggy", ["scene"], 10, PROMPTS), VOCABULARIES | {"weather": ["foggy", "other"]})
