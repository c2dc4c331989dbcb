"""The baselines in the step, and held-out multipliers, on one process against naive computations."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from raymds.config import Config
from raymds.data.loader import Loader, clean_pixels
from raymds.data.sampler import Rows, Sampler
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.errors import DivergedError
from raymds.method.constraints import LOSSES
from raymds.model import load
from raymds.tasks import Tasks, resolve
from raymds.train import baselines
from raymds.train.cycle import ConstrainedCycle
from raymds.train.evaluate import Evaluation, evaluate
from raymds.train.limits import build_sampler
from tests.towers import write_tower
from tests.unit.train.same import assert_same

Build = Callable[..., tuple[ConstrainedCycle, Loader, Sampler]]


@pytest.fixture(scope="module")
def data(data_uri: str) -> DataSet:
    return DataSet.open(data_uri)


@pytest.fixture(scope="module")
def train(data: DataSet) -> Split:
    return data.load("train")


@pytest.fixture
def tasks(config: Config, data: DataSet) -> Tasks:
    config.task.protect = ["weather"]
    config.constraints.beta = 1.0
    return resolve(config.task, data.attributes)


@pytest.fixture
def build(config: Config, train: Split, tasks: Tasks) -> Build:
    def make(sampler: Sampler | None = None) -> tuple[ConstrainedCycle, Loader, Sampler]:
        """A cycle with the old model's losses, ready for its first step."""
        net = load(config.model.name, config.model.weights, tasks.heads, config.model.head_rank, config.run.seed)
        sampler = sampler or build_sampler(train, tasks, config)
        training = ConstrainedCycle(net, train, tasks, sampler, config)
        training.measure_old()
        return training, Loader(train, sampler.batch, net.preprocess, config.run.seed), sampler

    return make


@pytest.mark.parametrize(
    ("solver", "tower"),
    [
        *((name, "") for name in ("gem", "wccl", "lwf", "focal_distillation", "ewc", "regularize", "none")),
        ("ewc", "ResNet"),
    ],
)
def test_two_and_two_steps_equal_four(build: Build, config: Config, solver: str, tower: str, tmp_path: Path) -> None:
    config.constraints.solver = solver
    if tower:
        config.model.name, config.model.weights = "", write_tower(tower, tmp_path)
        config.task.protect, config.task.retained, config.objective.batch = ["weather"], 5, 8
    whole, loader, _ = build()
    whole.begin()
    first, _, _ = build()
    first.begin()
    for step in range(4):
        whole.step(loader.get(step))
    for step in range(2):
        first.step(loader.get(step))
    second, _, _ = build()
    second.model.load_weights(first.model.weights(), "test")
    second.load_state_dict(safetensors.torch.load(safetensors.torch.save(first.state_dict())))
    for step in range(2, 4):
        second.step(loader.get(step))

    assert_same(whole, second)


def moved(training: ConstrainedCycle) -> None:
    """In fp64, away from the old model: there no head has a gradient in A, and nothing differs from the old one."""
    training.model.double()
    for parameter in training.model.heads.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def gradient_of_step(build: Build, step: int = 0) -> Tensor:
    training, loader, _ = build()
    moved(training)
    training._learner.config.clip = 1e9
    training.step(loader.get(step))
    return torch.cat([p.grad.flatten() for p in training._learner.parameters])


def loss_of(training: ConstrainedCycle, train: Split, tasks: Tasks, row: int, k: int, temperature: float) -> Tensor:
    """Cross-entropy of one image, with the whole context of every sentence."""
    net, task = training.model, tasks.protected[k]
    columns = tasks.columns(task.attribute)
    image = net.encode_image(clean_pixels(train, [row], net.preprocess))[0]
    prompts = [
        net.encode_text(net.tokenizer([sentence]), torch.tensor([0]), torch.tensor([columns.start + c]))[0]
        for c, (sentence,) in enumerate(tasks.prompts[task.attribute])
    ]
    return -torch.log_softmax(torch.stack([image @ prompt for prompt in prompts]) / temperature, 0)[task.label]


def test_a_gradient_that_is_not_finite_is_said_of_gem_too(build: Build, config: Config) -> None:
    config.constraints.solver = "gem"
    training, loader, _ = build()
    config.objective.temperature = 1e-40  # whose exponents no fp32 holds
    with pytest.raises(DivergedError, match=r"step 0: the loss of weather:foggy \(its gradient\) is nan"):
        training.step(loader.get(0)).metrics()


def test_after_gem_no_sampled_task_loses_to_first_order(
    build: Build, config: Config, train: Split, tasks: Tasks
) -> None:
    config.constraints.solver = "none"
    target = gradient_of_step(build)
    config.constraints.solver = "gem"
    combined = gradient_of_step(build)

    training, _, sampler = build()
    moved(training)
    batch, parameters = sampler.batch(0), training._learner.parameters
    protected = []
    for k in batch.tasks:
        rows = batch.example[batch.example_task == k]
        losses = [loss_of(training, train, tasks, int(row), k, config.constraints.temperature) for row in rows]
        parts = torch.autograd.grad(torch.stack(losses).mean(), parameters, materialize_grads=True)
        protected.append(torch.cat([part.flatten() for part in parts]))
    G = torch.stack(protected)
    cosine = torch.nn.functional.normalize(G, dim=1) @ target / target.norm()
    assert float(cosine.min()) < -1e-3  # the objective alone does make a task lose
    assert float((torch.nn.functional.normalize(G, dim=1) @ combined).min()) >= -1e-9 * float(target.norm())
    v = torch.linalg.lstsq(G.T, (combined - target)[:, None]).solution[:, 0]
    torch.testing.assert_close(target + v @ G, combined, rtol=0, atol=1e-9)
    assert bool((v >= -1e-9).all())


def test_fisher_information_equals_a_loop_over_examples(
    build: Build, config: Config, train: Split, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, _, sampler = build()
    moved(training)
    temperature, parameters = config.constraints.temperature, training._learner.parameters
    monkeypatch.setattr(baselines, "FISHER", 2)
    retained: list[Rows] = [sampler.retained[0][:5], sampler.retained[1][:1], *[np.empty(0, np.int64)] * 10]
    retained = retained[: len(tasks.protected)]
    found = baselines.fisher_information(training.model, train, tasks, retained, temperature)
    looked = [(0, retained[0][0]), (0, retained[0][4]), (1, retained[1][0])]  # evenly spread
    want = [torch.zeros_like(p) for p in parameters]
    for k, row in looked:
        loss = loss_of(training, train, tasks, int(row), k, temperature)
        parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
        want = [total + part**2 / len(looked) for total, part in zip(want, parts, strict=True)]
    assert len(found) == len(want)
    for F, expected in zip(found, want, strict=True):
        torch.testing.assert_close(F, expected, rtol=1e-8, atol=1e-14)
    assert max(float(F.max()) for F in found) > 1e-6


def test_examples_that_multipliers_are_measured_on_are_never_trained_on(
    build: Build, config: Config, train: Split, tasks: Tasks
) -> None:
    config.constraints.held_out = 0.4
    once, again = (build_sampler(train, tasks, config) for _ in range(2))
    config.run.seed = 1
    other = build_sampler(train, tasks, config)
    for k in range(len(tasks.protected)):
        assert len(once.retained[k]) + len(once.held[k]) == 20
        assert len(once.held[k]) >= 8
        # Nor by another task, as a positive or as a negative: a picture of the rainy night is of both attributes.
        for others in (*once.retained, once.positive, once.negative):
            assert not set(others) & set(once.held[k])
        assert np.array_equal(once.retained[k], again.retained[k])
        assert np.array_equal(once.held[k], again.held[k])
    assert any(not np.array_equal(a, b) for a, b in zip(once.held, other.held, strict=True))
    for step in range(12):
        batch, same = once.batch(step), again.batch(step)
        assert np.array_equal(batch.held, same.held)
        assert np.array_equal(batch.example, same.example)
        for k in batch.tasks:
            here = batch.example_task == k
            assert set(batch.example[here]) <= set(once.retained[k])
            assert set(batch.held[here]) <= set(once.held[k])


def test_held_out_constraints_of_the_unchanged_model_are_exactly_zero(build: Build, config: Config) -> None:
    config.constraints.held_out = 0.4
    training, loader, _ = build()
    for step in range(4):
        loaded = loader.get(step)
        sums = training._changes(loaded)
        assert torch.equal(sums[0], torch.zeros_like(sums[0]))
        assert sums[1].sum() == len(loaded.batch.held) == len(loaded.held)


def mean_change(old: Evaluation, new: Evaluation, tasks: Tasks) -> float:
    changes = [
        LOSSES["error"].change(new.values(task, "error"), old.values(task, "error")).mean() for task in tasks.protected
    ]
    return float(torch.stack(changes).mean())


def test_examples_learned_by_heart_flatter_and_held_out_ones_do_not(
    build: Build, config: Config, data: DataSet, tasks: Tasks
) -> None:
    """u of the same weights, on what they were trained on and on the rest, against val."""
    limits = config.constraints
    limits.solver, limits.loss, limits.gamma = "multiplicative", "error", 1.0
    limits.start, limits.eta, limits.lambda_max = 1000.0, 0.0, 1000.0
    config.task.retained, limits.held_out, limits.images_per_task = 8, 0.5, 4
    config.optim.lr, config.optim.warmup, config.optim.steps, config.optim.clip = 1e-3, 1, 60, 1e9
    training, loader, sampler = build()
    val = data.load("val")
    old = evaluate(training.model, val, tasks, limits.temperature)
    for step in range(40):
        training.step(loader.get(step))
    change = mean_change(old, evaluate(training.model, val, tasks, limits.temperature), tasks)
    u = {}
    for name, seen in (("held out", sampler), ("trained", replace(sampler, held=None))):
        measuring, loader, _ = build(seen)
        measuring.model.load_weights(training.model.weights(), "test")
        u[name] = float(np.mean(measuring.step(loader.get(40)).metrics()["u"]))
    assert u["trained"] < u["held out"] - 0.1, (u, change)
    assert abs(u["held out"] - change) < abs(u["trained"] - change) / 2, (u, change)
