"""The search space: what a preset may say, and what is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from raymds.config import Config, load, to_yaml
from raymds.errors import UsageError
from raymds.search.space import Choice, Int, LogUniform, Uniform, default_space, live, own_setting, parse, trial_config


def config(*overrides: str) -> Config:
    settings = ["optim.steps=600", "search.steps=0", "search.trials=32", "constraints.beta=200"]
    settings += ["constraints.solver=squared_hinge", *overrides]
    return load(Config, "demo", ["model.weights=w", "data.uri=d", *settings])


def searching(**space: Any) -> Config:
    made = config()
    made.search.space = {key.replace("__", "."): value for key, value in space.items()}
    return made


def test_every_kind_is_typed() -> None:
    space = parse(
        searching(
            constraints__beta={"loguniform": [10, 1000]},
            constraints__gamma={"uniform": [0.1, 1]},
            constraints__images_per_task={"int": [4, 24]},
            constraints__solver={"choice": ["squared_hinge", "none"]},
            optim={"lr": {"choice": [1e-4, 3.5e-4]}},
        )
    )
    assert space == {
        "constraints.beta": LogUniform(10, 1000),
        "constraints.gamma": Uniform(0.1, 1),
        "constraints.images_per_task": Int(4, 24),
        "constraints.solver": Choice(("squared_hinge", "none")),
        "optim.lr": Choice((1e-4, 3.5e-4)),
    }


def test_an_override_replaces_what_the_preset_says_and_is_stored(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "{constraints: {solver: hinge, beta: 100}, search: {space: {constraints.beta: {loguniform: [10, 1000]}}}}\n"
    )
    loaded = load(Config, str(preset), ["search.space.constraints.beta={uniform: [50, 150]}"])
    assert parse(loaded) == {"constraints.beta": Uniform(50, 150)}
    preset.write_text(to_yaml(loaded))
    assert parse(load(Config, str(preset), [])) == {"constraints.beta": Uniform(50, 150)}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"constraints__betta": {"uniform": [1, 2]}},
            r"constraints\.betta: unknown key; .* search\.space\.constraints\.",
        ),
        ({"optim": {"lrr": {"uniform": [1, 2]}}}, r"optim\.lrr: unknown key; did you mean search\.space\.optim\.lr\?"),
        ({"beta": {"uniform": [1, 2]}}, r"beta: unknown key"),
        ({"run__seed": {"int": [0, 9]}}, r"run\.seed: can't be searched: the best of several seeds is luck"),
        ({"run__workers": {"int": [1, 2]}}, r"run\.workers: can't be searched: .* where a trial runs"),
        ({"storage__retries": {"int": [1, 9]}}, r"storage\.retries: can't be searched"),
        ({"data__uri": {"choice": ["d", "e"]}}, r"data\.uri: can't be searched: every trial sees the same data"),
        ({"task__target": {"choice": ["a:b"]}}, r"task\.target: can't be searched: .* the same tasks"),
        ({"model__weights": {"choice": ["w"]}}, r"model\.weights: can't be searched: .* the same old model"),
        ({"optim__steps": {"int": [9, 99]}}, r"optim\.steps: can't be searched: .* search\.steps"),
        ({"select__tolerance": {"uniform": [0, 0.1]}}, r"select\.tolerance: can't be searched: .* the same rule"),
        ({"search__trials": {"int": [1, 9]}}, r"search\.trials: can't be searched"),
        ({"constraints__beta": 100}, r"constraints\.beta=100: has to be one kind of uniform, loguniform, int, choice"),
        ({"constraints__beta": {"normal": [1, 2]}}, r"constraints\.beta=.*: has to be one kind"),
        ({"constraints__beta": {"uniform": [1, 2], "int": [1, 2]}}, r"constraints\.beta=.*: has to be one kind"),
        ({"constraints__beta": {"int": [1, 2]}}, r"int does not fit constraints\.beta; it takes uniform or loguniform"),
        ({"constraints__solver": {"uniform": [1, 2]}}, r"uniform does not fit constraints\.solver; it takes choice"),
        ({"constraints__images_per_task": {"uniform": [1, 20]}}, r"uniform does not fit .*; it takes int or choice"),
        ({"optim__lr": {"uniform": [1e-3, 1e-5]}}, r"optim\.lr\.uniform=.*: low has to be below high"),
        ({"optim__lr": {"loguniform": [0, 1]}}, r"optim\.lr\.loguniform=.*: low has to be above 0"),
        ({"optim__lr": {"uniform": [1e-5]}}, r"optim\.lr\.uniform=.*: has to be \[low, high\]"),
        (
            {"optim__lr": {"uniform": [0.1, float("nan")]}},
            r"optim\.lr\.uniform=.*: has to be \[low, high\], two numbers",
        ),
        ({"constraints__images_per_task": {"int": [1, 20.5]}}, r"has to be \[low, high\], whole numbers"),
        ({"constraints__solver": {"choice": []}}, r"constraints\.solver\.choice=\[\]: has to be a list"),
        ({"constraints__solver": {"choice": ["none", "none"]}}, r"has to be a list of different single values"),
        (
            {"constraints__gamma": {"uniform": [0.2, 1.5]}},
            r"gamma: 1\.5 can't be tried: constraints\.gamma=1\.5: has to",
        ),
        ({"constraints__solver": {"choice": ["squared_hinge", "hing"]}}, r"solver: hing can't be tried: .* one of"),
        (
            {"optim__warmup": {"choice": [20, "some"]}},
            r"optim\.warmup: some can't be tried: optim\.warmup: Value 'some'",
        ),
        ({"optim__warmup": {"int": [0, 600]}}, r"warmup: 600 can't be tried: .* has to be below optim\.steps=600"),
        ({"constraints__beta": {"uniform": [1, 2]}}, r"beta: leaves out 200, the preset's own value"),
        ({"constraints__tasks_per_step": {"int": [1, 2]}}, r"tasks_per_step: leaves out all, the preset's own value"),
        ({"task__retained": {"int": [1, 10**30]}}, r"task\.retained\.int=.*: has to lie within ±"),
        ({"model__freeze": {"choice": [1]}}, r"unknown key; did you mean search\.space\.model\.freeze\.image\?"),
    ],
)
def test_errors_name_the_key(space: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"^search\.space\.({message}|.*{message})"):
        parse(searching(**space))


@pytest.mark.parametrize("key", ["constraints.slack", "constraints.beta"])
def test_a_value_by_task_is_no_number_of_a_range(key: str) -> None:
    made = config(f"{key}={{default: 1.0}}")
    made.search.space = {key: {"uniform": [0, 2]}}
    with pytest.raises(UsageError, match=rf"{key}: leaves out .*default.*, the preset's own value"):
        parse(made)


def test_a_key_of_a_section_within_a_section_is_searched() -> None:
    for space in ({"model.freeze.image": {"int": [0, 2]}}, {"model": {"freeze": {"image": {"int": [0, 2]}}}}):
        made = config()
        made.search.space = space
        assert parse(made) == {"model.freeze.image": Int(0, 2)}
        assert own_setting(made, parse(made)) == {"model.freeze.image": 0}
        assert trial_config(made, {"model.freeze.image": 2}).model.freeze.image == 2


def test_two_ranges_that_are_fine_alone_are_tried_together() -> None:
    made = searching(objective__batch={"int": [4, 64]}, objective__positive_share={"uniform": [0.1, 0.5]})
    with pytest.raises(
        UsageError, match=r"objective\.batch with search\.space\.objective\.positive_share: objective\."
    ):
        parse(made)


def test_the_budget_of_a_trial() -> None:
    assert trial_config(config("search.steps=300"), {"constraints.beta": 50}).optim.steps == 300
    assert trial_config(config(), {"constraints.beta": 50}).constraints.beta == 50
    assert trial_config(config(), {}).optim.steps == 600
    with pytest.raises(UsageError, match=r"optim\.warmup=20: .*search\.steps=10 is optim\.steps of a trial"):
        parse(config("search.steps=10"))


def test_the_default_space_holds_the_preset_and_is_accepted() -> None:
    for preset in (
        config(),
        config("constraints.slack=0.3", "constraints.gamma=0.05", "constraints.images_per_task=1"),
    ):
        space = parse(preset)
        assert space == default_space(preset)
        assert {"optim.lr", "constraints.beta", "constraints.gamma", "constraints.slack"} < set(space)
        assert all(space[key].contains(value) for key, value in own_setting(preset, space).items())
    assert own_setting(config(), {"optim.lr": Uniform(0, 1)}) == {"optim.lr": 3.5e-4}


@pytest.mark.parametrize(
    ("solver", "numbers"),
    [
        ("squared_hinge", {"beta"}),
        ("smoothed_hinge", {"beta", "rho"}),
        ("augmented_lagrangian", {"beta", "start", "eta"}),
        ("multiplicative", {"start", "eta"}),
        ("none", set()),
        ("gem", set()),
        ("ewc", {"beta"}),
    ],
)
def test_the_default_space_has_the_numbers_that_the_solver_reads(solver: str, numbers: set[str]) -> None:
    space = parse(config(f"constraints.solver={solver}"))
    found = {key.removeprefix("constraints.") for key in space} & {"beta", "start", "eta", "rho"}
    assert found == numbers


def test_a_number_that_no_solver_of_the_space_reads_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^search\.space\.constraints\.rho: squared_hinge does not read it"):
        parse(searching(constraints__rho={"loguniform": [0.01, 0.1]}))
    both = {"choice": ["squared_hinge", "smoothed_hinge"]}
    assert "constraints.rho" in parse(searching(constraints__rho={"loguniform": [0.01, 0.1]}, constraints__solver=both))


def test_a_setting_has_the_numbers_of_its_own_solver_alone() -> None:
    full = {"constraints.solver": "smoothed_hinge", "constraints.rho": 0.1, "constraints.beta": 3.0, "optim.lr": 1e-3}
    assert live(config(), full) == full
    hinge = full | {"constraints.solver": "hinge"}
    assert live(config(), hinge) == {key: value for key, value in hinge.items() if key != "constraints.rho"}
    assert live(config(), {"constraints.rho": 0.1, "constraints.beta": 3.0}) == {"constraints.beta": 3.0}


def test_grids_span_the_range() -> None:
    assert Uniform(0, 1).grid(3) == [0, 0.5, 1]
    assert LogUniform(10, 1000).grid(3) == pytest.approx([10, 100, 1000])
    assert LogUniform(10, 1000).grid(1) == pytest.approx([100])
    assert max(LogUniform(10, 3e3).grid(7)) <= 3e3
    assert Int(1, 3).grid(9) == [1, 2, 3]
    assert Choice(("a", "b")).grid(1) == ["a", "b"]
