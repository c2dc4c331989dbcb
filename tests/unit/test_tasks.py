"""Short names to tasks, and errors that name the key and the nearest valid name."""

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
    assert tasks.prompts["scene"] == ("the scene is a street.", "the scene is a tunnel.")


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
