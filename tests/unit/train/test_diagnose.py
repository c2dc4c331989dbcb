"""The figures of a diagnosis, by hand and on the model that has not moved."""

import pytest
import torch

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.model import load
from raymds.tasks import resolve
from raymds.train.cycle import ConstrainedCycle
from raymds.train.diagnose import Cast, conditioning, cosines, diagnose, stationarity
from raymds.train.evaluate import evaluate
from raymds.train.limits import build_sampler

G = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])


def test_residual_with_the_solvers_multipliers_and_with_the_best() -> None:
    g_F = torch.tensor([3.0, -4.0, 0.0])
    found = stationarity(g_F, G, torch.tensor([1.0, 0.0]), torch.zeros(3))
    assert found["kkt_residual"] == pytest.approx((9 + 4) ** 0.5 / 5)
    assert found["least_residual"] == pytest.approx(3 / 5)  # with λ = (2, 0)
    found = stationarity(g_F, G, torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 5.0, 0.0]))
    assert found == {"kkt_residual": pytest.approx(3 / 5), "least_residual": pytest.approx(1 / 5)}  # with λ = 0


def test_conditioning_is_of_what_is_violated_or_else_the_smallest_singular_value() -> None:
    assert conditioning(G, torch.tensor([0.5, -1.0])) == pytest.approx(2.0)
    assert conditioning(G, torch.tensor([-0.5, -1.0])) == pytest.approx(1.0)
    assert conditioning(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.zeros(2)) == pytest.approx(0.0, abs=1e-6)


def test_cosines_name_the_most_contrary_pair_first() -> None:
    found = cosines(["a", "b", "c"], torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
    assert found[0] == {"of": ["a", "c"], "cosine": pytest.approx(-1.0)}
    assert [pair["cosine"] for pair in found[1:]] == pytest.approx([0.0, 0.0])


def test_an_epsilon_counts_as_in_training_and_tasks_that_are_not_compared_count_with_their_multipliers(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.constraints.slack, config.constraints.held_out = {"default": 0.0, "scene": -0.25}, 0.5
    config.task.retained = 10
    data = DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    train, val = data.load("train"), data.load("val")
    net = load(config.model.name, config.model.weights, tasks.heads, 4, 0)
    sampler, m = build_sampler(train, tasks, config), len(tasks.protected)
    training = ConstrainedCycle(net, train, tasks, sampler, config)
    old_losses = training.measure_old()
    same, w_old = evaluate(net, val, tasks, config.constraints.temperature), net.weights()
    multiplier = {task.name: 1.0 + k for k, task in enumerate(tasks.protected)}
    found = []
    for compared in (24, 4):
        monkeypatch.setattr("raymds.train.diagnose._TASKS", compared)
        found.append(diagnose(Cast(config, tasks, net, sampler, train, val), w_old, old_losses, multiplier, same, same))
    assert found[0]["h"]["train"] == found[0]["h"]["val"]
    assert {name: h for name, h in found[0]["h"]["val"].items() if h} == {
        task.name: 0.25 for task in tasks.protected if task.attribute == "scene"
    }
    assert [figures["violation"]["train"] for figures in found] == [0.25, 0.25]
    worst = max(multiplier[task.name] for task in tasks.protected if task.attribute == "scene")
    assert found[0]["complementarity"] == pytest.approx(worst * config.constraints.temperature / m * 0.25)
    assert abs(found[0]["kkt_residual"] - 1) > 0.01
    assert found[1]["kkt_residual"] == pytest.approx(found[0]["kkt_residual"], rel=1e-4)
    assert len(found[1]["cosines"]) == 5 * 4 / 2


@pytest.mark.parametrize(
    ("loss", "precision"), [("cross_entropy", "fp32"), ("cross_entropy", "bf16"), ("error", "fp32"), ("flips", "fp32")]
)
def test_the_unchanged_model_violates_nothing_and_its_objective_is_the_old_one(
    config: Config, loss: str, precision: str
) -> None:
    config.run.precision = precision
    config.constraints.loss, config.constraints.held_out, config.task.retained = loss, 0.5, 10
    data = DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    net, train, val = (
        load(config.model.name, config.model.weights, tasks.heads, 4, 0),
        data.load("train"),
        data.load("val"),
    )
    sampler = build_sampler(train, tasks, config)
    training = ConstrainedCycle(net, train, tasks, sampler, config)
    training.measure_old()
    same = evaluate(net, val, tasks, config.constraints.temperature)
    cast = Cast(config, tasks, net, sampler, train, val)
    found = diagnose(cast, net.weights(), training.old_losses, {}, same, same)
    assert set(found["h"]["train"].values()) | set(found["h"]["val"].values()) == {0.0}
    assert found["violation"] == {"train": 0.0, "val": 0.0}
    assert found["part"] == "held_out"
    assert found["kkt_residual"] == pytest.approx(1.0)  # λ = 0
    assert found["least_residual"] <= 1.0
    assert all(F["old"] == F["new"] for F in found["objective"].values())
    assert found["delta"]["with_heads"] >= found["delta"]["without_heads"] >= 0
