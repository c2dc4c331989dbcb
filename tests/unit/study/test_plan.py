"""From a study file to cells, trials and their configs; what is wrong with it, by key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raymds.errors import UsageError
from raymds.study.plan import Cell, Trial, load_plan
from tests.unit.study.made import content, plan


def test_the_grid_goes_seed_by_seed(tmp_path: Path) -> None:
    made = plan(tmp_path, seeds=[3, 0])
    assert [(cell.method, cell.seed) for cell in made.cells] == [("raymds", 3), ("RM", 3), ("raymds", 0), ("RM", 0)]
    assert made.cells[1].path == "cells/scenes/foggy/RM/seed-3"
    assert made.trials == [Trial("scenes", "foggy", "RM", 0), Trial("scenes", "foggy", "RM", 1)]
    assert made.trials[1].path == "trials/scenes/foggy/RM/01"
    assert made.main == "raymds"


def test_a_target_belongs_to_the_data_sets_that_it_names(tmp_path: Path) -> None:
    data = {"a": {"data.uri": "a"}, "b": {"data.uri": "b"}}
    shared: dict[str, Any] = {"model.weights": "w"}
    targets = {
        "foggy": {"task.target": "weather:foggy", **shared},
        "rainy": {"task.target": "weather:rainy", "on": ["b"], **shared},
    }
    assert plan(tmp_path, data=data, targets=targets).pairs == [("a", "foggy"), ("b", "foggy"), ("b", "rainy")]


def test_on_is_read_from_yaml_as_it_is_written(tmp_path: Path) -> None:
    """Where YAML by itself reads the key as true."""
    file = tmp_path / "study.yaml"
    text = yaml.safe_dump(content(tmp_path / "study"), sort_keys=False)
    file.write_text(text.replace("task.target: weather:foggy", "task.target: weather:foggy\n    on: [scenes]"))
    made = load_plan(str(file), ["seeds=[5]"])
    assert [cell.seed for cell in made.cells] == [5, 5]
    assert made.config(made.cells[0], {}).run.seed == 5


def test_a_config_has_all_layers_the_later_over_the_earlier(tmp_path: Path) -> None:
    made = plan(tmp_path, retained=[100, 20], methods={"x": {"optim.steps": 9, "optim.lr": 1e-5}})
    cells = {cell.retained: cell for cell in made.cells if cell.seed == 2}
    config = made.config(cells[20], {"constraints.beta": {"default": 1.5, "weather:rainy": 2}})
    assert (config.optim.steps, config.optim.warmup, config.optim.lr) == (9, 2, 1e-5)
    assert config.constraints.beta == {"default": 1.5, "weather:rainy": 2}
    assert (config.task.retained, config.run.seed) == (20, 2)
    assert config.run.uri == f"{tmp_path}/cells/scenes/foggy/x/20/seed-2"
    assert config.data.uri == str(Path("data/scenes").absolute())


def test_settings_are_tried_on_the_first_seed_with_the_most_retained_examples(tmp_path: Path) -> None:
    made = plan(tmp_path, retained=[100, 20], seeds=[4, 1])
    config = made.config(made.trials[1], made.settings["RM"][1])
    assert (config.task.retained, config.run.seed, config.constraints.beta) == (100, 4, 3)


def test_a_product_of_two_keys_is_tried(tmp_path: Path) -> None:
    grid = {"constraints.beta": [1, 2], "optim": {"lr": [1e-4, 1e-5]}}
    made = plan(tmp_path, trials=4, methods={"x": {"try": grid}, "y": {"try": {"optim.lr": [1e-3]}}})
    assert made.settings["x"] == [{"constraints.beta": b, "optim.lr": lr} for b in (1, 2) for lr in (1e-4, 1e-5)]
    assert len(made.trials) == 4  # one setting alone needs no trial
    assert made.settings["y"] == [{"optim.lr": 1e-3}]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"metods": {}}, "metods: unknown key; did you mean methods?"),
        ({"targets": {}}, "targets: has no value"),
        ({"trials": -1}, r"trials=-1: has to be 0 or more"),
        ({"trials": 1}, r"methods.RM.try: has 2 settings, and trials=1 of each method"),
        ({"main": "FLYP"}, "main=FLYP: is no method of the study; give one of raymds, RM"),
        ({"methods": {"a b": {}}}, "methods.a b: a name consists of"),
        ({"methods": {"a": 3}}, "methods.a=3: has to be a mapping"),
        ({"methods": {"a": {"try": {"optim.lr": 1}}}}, r"methods.a.try.optim.lr=1: has to be a list"),
        ({"methods": {"a": {"try": {"optim.lr": [1, 1]}}}}, r"has to be a list of different values"),
        ({"methods": {"a": {"run.seed": 1}}}, "methods.a.run.seed: can't be given: `seeds` has it"),
        ({"set": {"run": {"uri": "x"}}}, "set.run.uri: can't be given: each cell has a directory"),
        ({"targets": {"a": {"on": ["b"]}}}, r"targets.a.on=\['b'\]: has to list data sets of the study: scenes"),
        ({"targets": {"a": {"on": 3}}}, r"targets.a.on=3: has to list data sets of the study: scenes"),
        ({"targets": {"a": {"on": {"scenes": 1}}}}, r"targets.a.on=.*: has to list data sets of the study: scenes"),
        ({"methods": {"a": {"task.target": "weather:rainy"}}}, r"methods.a.task.target: can't be of a method"),
        ({"methods": {"a": {"task": {"protect": ["scene"]}}}}, r"methods.a.task.protect: can't be of a method"),
        ({"methods": {"a": {"try": {"data.uri": ["x", "y"]}}}}, r"methods.a.data.uri: can't be of a method"),
        ({"methods": {"a": {"model.weights": "x"}}}, r"methods.a.model.weights: can't be of a method"),
        (
            {"retained": [3], "methods": {"a": {"task.retained": 5}}},
            r"retained=\[3\]: a method gives task.retained too",
        ),
        ({"seeds": []}, "seeds=.*: has to name a seed"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: has to be a list of different numbers"),
        ({"retained": [0]}, r"retained=\[0\]: has to be a list of different numbers, 1 or more"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(tmp_path, **more)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"constraints.sovler": "none"}, "constraints.sovler: unknown key; did you mean constraints.solver?"),
        ({"optim.lr": "fast"}, "optim.lr: "),
        ({"optim.lr": -1}, "optim.lr=-1"),
    ],
)
def test_a_wrong_config_is_named_with_its_method_target_and_data(
    tmp_path: Path, method: dict[str, Any], message: str
) -> None:
    made = plan(tmp_path, methods={"FLYP": method})
    with pytest.raises(UsageError, match=f"^methods.FLYP, targets.foggy, data.scenes: {message}"):
        made.config(made.cells[0], {})


def test_a_study_without_data_has_that_of_its_base(tmp_path: Path) -> None:
    made = plan(tmp_path, data={}, base={"data": {"uri": "mine"}})
    assert made.cells[0] == Cell("data", "foggy", "raymds", 0)
    assert made.config(made.cells[0], {}).data.uri == str(Path("mine").absolute())
