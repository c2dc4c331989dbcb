"""Target after target: what is handed on, what is protected, what is recorded, and what a plan may not say."""

from pathlib import Path
from typing import Any

import pytest

from raymds.config import Config, to_yaml
from raymds.cycles import conduct as conducting
from raymds.cycles.plan import Plan, load_plan
from raymds.errors import StoppedError, UsageError
from raymds.ledger import record
from raymds.ledger.chain import Ledger
from raymds.run import RunDirectory
from raymds.store import uri as storage
from raymds.train import driver
from tests.conftest import silent

TARGETS = ["weather:foggy", "scene:tunnel", "weather:overcast"]


@pytest.fixture
def content(data_uri: str, old_weights: str, tmp_path: Path) -> dict[str, Any]:
    base = {
        "model": {"head_rank": 4},
        "data": {"uri": data_uri},
        "task": {"protect": ["weather", "scene:tunnel"], "prompts": PROMPTS, "retained": 20},
        "objective": {"batch": 16},
        "constraints": {"images_per_task": 3, "held_out": 0},
        "ledger": {"author": "Ann"},
    }
    cycles = [{"task.target": target} for target in TARGETS]
    return {"uri": str(tmp_path / "plan"), "model": old_weights, "base": base, "cycles": cycles}


PROMPTS = {attribute: f"{attribute} {{}}" for attribute in ("weather", "scene", "timeofday")}


class Trainer:
    """Stands in for Ray: each cycle delivers a file of its own, or the old model; remembers the configs it got."""

    def __init__(self, outcomes: dict[str, str]) -> None:
        self.outcomes, self.configs = outcomes, []  # type: tuple[dict[str, str], list[Config]]

    def __call__(self, config: Config, show: Any, take_over: bool = False) -> dict[str, Any]:
        self.configs.append(config)
        run = RunDirectory(config.run.uri)
        run.claim(config)
        finished = run.read_json("outcome.json")
        if finished is None:
            how = self.outcomes.get(config.task.target, "new")
            if how == "stopped":
                raise StoppedError("stopped")
            weights = run.path("weights.safetensors") if how == "new" else str(config.model.weights)
            if how == "new":
                storage.write(weights, config.task.target.encode())
            val = {"target": {"task": config.task.target}, "tasks": [{"task": "weather:clear"}]}
            finished = {"outcome": how, "reason": "made by a test", "weights": weights, "val": val, "step": 1}
            finished |= {"parent": storage.sha256(storage.read(weights))} if how == "old" else {}
            run.write_json("outcome.json", finished)
        record.add_run(Ledger(str(config.ledger.uri), config.ledger.author), run.uri, "code")
        return finished


def conduct(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **outcomes: str) -> tuple[Plan, Trainer]:
    trainer, plan = Trainer({name.replace("_", ":"): how for name, how in outcomes.items()}), load_plan(content, [])
    monkeypatch.setattr(driver, "finetune", trainer)
    conducting.conduct(plan, lambda cycle: None, lambda cycle, outcome: None, silent)
    return plan, trainer


def test_each_cycle_develops_what_the_last_delivered_and_protects_what_it_reached(
    content: dict[str, Any], old_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content["base"]["task"]["protect"] = ["weather:clear"]
    plan, trainer = conduct(content, monkeypatch)
    names = ["01-weather-foggy", "02-scene-tunnel", "03-weather-overcast"]
    delivered = [f"{plan.uri}/cycles/{name}/weights.safetensors" for name in names]
    assert [config.model.weights for config in trainer.configs] == [old_weights, *delivered[:2]]
    assert [config.task.protect for config in trainer.configs] == [
        ["weather:clear"],
        ["weather:clear", "weather:foggy"],
        ["weather:clear", "weather:foggy", "scene:tunnel"],
    ]
    entries = Ledger(plan.ledger).entries()
    assert [(entry.kind, entry.content["target"]) for entry in entries] == [("cycle", target) for target in TARGETS]
    page = Path(plan.uri, conducting.PAGE).read_text()
    assert all(target in page for target in TARGETS)


def test_an_attribute_that_is_protected_has_the_target_already(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trainer = conduct(content, monkeypatch)
    kept = [["weather", "scene:tunnel"], ["weather"], ["weather", "scene:tunnel"]]
    assert [config.task.protect for config in trainer.configs] == kept


@pytest.mark.parametrize(("on_old", "begun"), [("stop", 2), ("next", 3)])
def test_a_target_that_is_not_reached(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, on_old: str, begun: int
) -> None:
    plan, trainer = conduct(content | {"on_old": on_old}, monkeypatch, scene_tunnel="old")
    first = f"{plan.uri}/cycles/01-weather-foggy/weights.safetensors"
    assert [config.model.weights for config in trainer.configs][1:] == [first] * (begun - 1)
    assert [entry.content["outcome"] for entry in Ledger(plan.ledger).entries()] == ["new", "old", "new"][:begun]
    if on_old == "next":
        storage.write(first, b"another model")
        with pytest.raises(UsageError, match=r"cycles\[1\] .*is another file by now than the old model that was kept"):
            conduct(content | {"on_old": on_old}, monkeypatch)


def test_a_stopped_plan_goes_on_with_what_it_was_begun_with(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiver of the meantime counts for the next cycle, not for the one that was begun."""
    content["base"]["task"]["protect"] = ["weather:clear"]
    with pytest.raises(StoppedError):
        conduct(content, monkeypatch, scene_tunnel="stopped")
    record.waive(Ledger(load_plan(content, []).ledger, "Ann"), "weather:foggy", "no camera", "2999-01-01")
    plan, trainer = conduct(content, monkeypatch)
    assert [config.task.protect for config in trainer.configs] == [
        ["weather:clear"],
        ["weather:clear", "weather:foggy"],
        ["weather:clear", "scene:tunnel"],
    ]
    kinds = [entry.kind for entry in Ledger(plan.ledger).entries()]
    assert kinds == ["cycle", "waive", "cycle", "cycle"]
    assert "no camera" in Path(plan.uri, conducting.PAGE).read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"on_old": "go"}, r"on_old=go: has to be one of stop, next"),
        ({"cycles": []}, r"cycles: has no value"),
        ({"cycles": [{}]}, r"cycles\[0\]\.task\.target: has no value"),
        (
            {"cycles": [{"task": {"target": "weather:foggy"}, "verb": "train"}]},
            r"cycles\[0\]\.verb=train: has to be",
        ),
        ({"cycles": [{"task.target": "weather:foggy", "name": "a/b"}]}, r"cycles\[0\]\.name=a/b: has to be a text"),
        (
            {"cycles": [{"task.target": "weather:foggy", "run.uri": "x"}]},
            r"cycles\[0\]\.run\.uri: can't be given",
        ),
        ({"set": {"model": {"weights": "x"}}}, r"set\.model\.weights: can't be given"),
        ({"set": {"ledger.uri": "x"}}, r"set\.ledger\.uri: can't be given: `ledger` has it"),
        ({"cycles": [{"task.target": "weather:fogy"}]}, r"cycles\[0\] \(weather-fogy\): .*'fogy' is no class"),
        ({"set": {"optim.lrr": 1}}, r"cycles\[0\] \(weather-foggy\): optim\.lrr: unknown key; did you mean optim\.lr"),
        ({"base": 3}, r"base=3: has to be a preset's name"),
        ({"cycles": {"task.target": "weather:foggy"}}, r"cycles"),
        ({"cycles": [{"task.target": "weather:foggy", "name": 1}]}, r"cycles\[0\]\.name=1: has to be a text"),
        ({"cycles": [{"task.target": "weather:foggy", "task": {"target": "weather:rainy"}}]}, r"is given twice"),
        (
            {
                "cycles": [
                    {"task.target": "weather:foggy", "verb": "tune", "search.space": {"optim.lrr": {"choice": [1]}}}
                ]
            },
            r"cycles\[0\] \(weather-foggy\): search\.space",
        ),
        ({"cycles": ["weather:foggy"]}, r"cycles\[0\]=weather:foggy: has to be a mapping, like"),
        ({"cycles": [None]}, r"cycles\[0\]=None: has to be a mapping, like"),
        ({"model": "/nowhere.safetensors"}, r"model=/nowhere\.safetensors: no such file"),
        ({"set": {"ledger.key": "/nowhere.pem"}}, r"cycles\[0\] \(weather-foggy\): ledger\.key: /nowhere\.pem"),
        ({"cycle": []}, r"cycle: unknown key; did you mean cycles"),
        ({"set": {"data.uri": "/nowhere"}}, r"cycles\[0\] \(weather-foggy\): .*/nowhere"),
    ],
)
def test_what_a_plan_may_not_say(content: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        conducting.check(load_plan({**content, **change}, []))


def test_a_mistake_in_the_last_cycle_is_found_before_the_first(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content["cycles"][2]["constraints.images_per_task"] = 9999
    with pytest.raises(UsageError, match=r"cycles\[2\] \(weather-overcast\): constraints\.images_per_task=9999"):
        conduct(content, monkeypatch)
    assert not Path(content["uri"]).exists()


def test_another_protection_of_a_cycle_that_was_begun_is_refused(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content["base"]["task"]["protect"] = ["weather:clear"]
    with pytest.raises(StoppedError):
        conduct(content, monkeypatch, weather_foggy="stopped")
    content["base"]["task"]["protect"] = ["weather:clear", "weather:snowy"]
    with pytest.raises(UsageError, match=r"cycles\[0\] .*task\.protect=.*snowy.*it was begun with \['weather:clear'\]"):
        conduct(content, monkeypatch)


def test_what_earlier_targets_ask_of_later_cycles_is_found_before_the_first(content: dict[str, Any]) -> None:
    content["base"]["task"]["protect"] = ["weather:clear"]
    content["cycles"][1]["task.classes"] = {"weather": ["clear", "rainy"]}  # without foggy, which is protected by then
    with pytest.raises(UsageError, match=r"cycles\[1\] \(scene-tunnel\): .*foggy"):
        conducting.check(load_plan(content, []))


def test_a_later_cycle_may_not_hold_without_examples_what_an_earlier_one_protects(content: dict[str, Any]) -> None:
    content["base"]["task"]["protect"] = ["weather:clear", "weather:rainy"]
    content["cycles"][1]["task.without_data"] = ["weather:rainy"]
    with pytest.raises(UsageError, match=r"cycles\[1\] .*task\.without_data: .*weather:rainy \(cycles\[0\]\)"):
        conducting.check(load_plan(content, []))


def test_what_an_earlier_cycle_holds_without_examples_has_to_be_named_again(content: dict[str, Any]) -> None:
    content["base"]["task"]["protect"] = ["weather:clear"]
    content["cycles"][0]["task.without_data"] = ["weather:rainy"]
    with pytest.raises(UsageError, match=r"cycles\[1\] .*task\.protect: leaves out .*weather:rainy \(cycles\[0\]\)"):
        conducting.check(load_plan(content, []))


def test_a_dry_run_counts_what_earlier_cycles_protect(content: dict[str, Any]) -> None:
    content["base"]["task"]["protect"] = ["weather:clear"]
    content["cycles"][0]["task.protect"] = ["weather:clear", "weather:rainy", "weather:snowy"]
    assert [cycle["protected"] for cycle in conducting.check(load_plan(content, []))] == [3, 4, 5]


@pytest.mark.parametrize("override", ["optim.steps=900", "task.retained=3"])
def test_a_setting_of_all_cycles_stands_in_set(content: dict[str, Any], override: str) -> None:
    with pytest.raises(UsageError, match=rf"^{override}: is of a cycle's preset; give set\.{override}"):
        load_plan(content, [override])
    plan = load_plan(content, [f"set.{override}"])
    assert f"{override.split('=', maxsplit=1)[0].split('.')[1]}: {override.split('=')[1]}" in to_yaml(
        plan.config(plan.cycles[0], "w")
    )


def test_the_model_of_a_plan_may_be_given_beside_its_file(content: dict[str, Any]) -> None:
    assert load_plan(content, ["model=/models/weather.safetensors"]).model == "/models/weather.safetensors"


def test_texts_stay_as_they_are_written(content: dict[str, Any]) -> None:
    content["set"] = {"task.prompts": dict.fromkeys(("weather", "scene", "timeofday"), "😀 {}")}
    plan = load_plan(content, [])
    assert plan.config(plan.cycles[0], "w").task.prompts["weather"] == "😀 {}"


def test_an_altered_certificate_is_not_drawn(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = conduct(content, monkeypatch)
    entry = Ledger(plan.ledger).entries()[0]
    made = Path(plan.uri, "certificate.json")
    made.write_text("{}")
    entry.content["certificate"] = {"uri": str(made), "sha256": storage.sha256(b"{}")}
    assert conducting.records([entry])[0]["certificate"] == {}
    made.write_text("{ }")
    with pytest.raises(UsageError, match=r"certificate\.json: was altered since it was recorded"):
        conducting.records([entry])
    made.unlink()
    assert conducting.records([entry])[0]["certificate"] is None


def test_the_config_of_a_cycle_is_an_ordinary_one(content: dict[str, Any]) -> None:
    plan = load_plan(content, [f"ledger={content['uri']}/elsewhere"])
    config = plan.config(plan.cycles[1], "w.safetensors", ["weather:foggy"])
    assert (config.task.target, config.task.protect) == ("scene:tunnel", ["weather:foggy"])
    assert config.ledger.uri == f"{plan.uri}/elsewhere"
    assert "scene:tunnel" in to_yaml(config)
