"""The constrained step on one process: like for like, resumption, gradients against a naive computation."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from raymds.config import Config
from raymds.data.loader import Loaded, Loader, clean_pixels
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.errors import DivergedError, UsageError
from raymds.model import ClipWithHeads, clip, load
from raymds.tasks import Tasks, resolve
from raymds.train import cycle
from raymds.train.cycle import ConstrainedCycle
from raymds.train.evaluate import evaluate
from raymds.train.limits import build_sampler
from tests.towers import TOWERS, write_tower
from tests.unit.train.far import Far
from tests.unit.train.same import assert_same


@pytest.fixture
def train(data_uri: str, tasks: Tasks) -> Split:
    return DataSet.open(data_uri).load("train", tasks.vocabularies)


@pytest.fixture
def tasks(request: pytest.FixtureRequest, config: Config, data_uri: str) -> Tasks:
    """Those of the config, changed by what a test asks for."""
    for key, value in getattr(request, "param", {}).items():
        section, name = key.split(".")
        setattr(getattr(config, section), name, value)
    return resolve(config.task, DataSet.open(data_uri).attributes)


@pytest.fixture
def tower(request: pytest.FixtureRequest, config: Config, tmp_path: Path) -> str:
    """The kind of tower that a test asks for; its old model becomes the config's."""
    name: str = getattr(request, "param", "")
    if name:
        config.model.name, config.model.weights = "", write_tower(name, tmp_path)
        config.task.protect, config.task.retained, config.objective.batch = ["weather"], 5, 8
    return name


every_tower = pytest.mark.parametrize("tower", ["", *TOWERS], indirect=True)


@pytest.fixture
def build(config: Config, train: Split, tasks: Tasks, tower: str) -> Callable[[], tuple[ConstrainedCycle, Loader]]:
    def make() -> tuple[ConstrainedCycle, Loader]:
        net = load(config.model.name, config.model.weights, tasks.heads, config.model.head_rank, config.run.seed)
        sampler = build_sampler(train, tasks, config)
        return ConstrainedCycle(net, train, tasks, sampler, config), Loader(
            train, sampler.batch, net.preprocess, config.run.seed
        )

    return make


Build = Callable[[], tuple[ConstrainedCycle, Loader]]


@every_tower
def test_every_constraint_of_the_unchanged_model_is_exactly_zero(build: Build) -> None:
    """Invariant 1, over several batches of different composition."""
    training, loader = build()
    training.measure_old()
    with torch.no_grad():
        training.model.heads.A.mul_(3.0)  # untrained heads: whatever A is, B = 0
    for step in range(4):
        loaded = loader.get(step)
        for share in (loaded, _cut(loaded, 7), _cut(loaded, 1)):
            sums = training._changes(share)
            assert torch.equal(sums[0], torch.zeros_like(sums[0]))
            assert sums[1].sum() == len(share.examples)


@every_tower
def test_examples_that_go_through_the_tower_once_are_measured_to_the_same_bits(build: Build) -> None:
    """With a graph as without one; in the shape of measurements, which their number is not."""
    training, loader = build()
    training.measure_old()
    for step in range(2):
        loaded = loader.get(step)
        for share in (loaded, _cut(loaded, 7)):
            everything = torch.ones(len(share.examples), dtype=torch.bool)
            image, *_ = training._embed(share, everything, share.batch.tasks, apart=True)
            assert len(image) == len(share.pairs) + len(share.examples)
            assert image.requires_grad
            sums = training._changes(share, image[len(share.pairs) :].detach())
            assert torch.equal(sums, training._changes(share))
            assert not sums[0].any()


def test_one_pass_does_where_most_examples_are_violated(
    build: Build, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the step before: a step without violations, two with all of them, one after it without again."""
    monkeypatch.setattr(cycle, "STEP_CHUNK", 13)
    monkeypatch.setattr(clip, "STEP_CHUNK", 13)
    seen: list[int] = []
    encode = ClipWithHeads.encode_image
    monkeypatch.setattr(
        ClipWithHeads, "encode_image", lambda net, pixels: (seen.append(len(pixels)), encode(net, pixels))[1]
    )
    training, loader = build()
    training.measure_old()
    passes = []
    for step, old in enumerate((10.0, -10.0, -10.0, 10.0, 10.0)):
        for losses in training.old_losses:
            losses[:] = old
        loaded = loader.get(step)
        seen.clear()
        training.step(loaded)
        passes.append(sum(seen) - len(loaded.pairs))
    examples = len(loaded.examples)
    assert examples % 13 == 0
    assert passes == [examples, 2 * examples, examples, examples, examples]
    kept = training.state_dict()["active"]
    assert float(kept) == 0.0


def test_what_a_step_measures_goes_through_the_tower_in_small_chunks(
    build: Build, config: Config, train: Split, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU measurements have large ones, of which a rank's few examples of a step would fill a part."""
    monkeypatch.setattr(clip, "_CHUNK", {"cpu": 64})
    sizes: list[int] = []
    encode = ClipWithHeads.encode_image

    def counted(net: ClipWithHeads, pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        return encode(net, pixels)

    monkeypatch.setattr(ClipWithHeads, "encode_image", counted)
    training, loader = build()
    training.measure_old()
    evaluate(training.model, train, tasks, 0.05, np.arange(70))
    assert sizes == [32] * (len(sizes) - 2) + [64, 64]
    sizes.clear()
    assert not training._changes(_cut(loader.get(0), 7))[0].any()
    assert sizes == [32]


@every_tower
def test_so_it_is_in_bf16_which_changes_a_gradient_little_and_no_measurement(
    build: Build, config: Config, train: Split, tasks: Tasks
) -> None:
    rows, temperature = np.arange(30), config.constraints.temperature
    found: dict[str, list[torch.Tensor]] = {}
    for precision in ("fp32", "bf16"):
        config.run.precision = precision
        training, loader = build()
        training.measure_old()
        measured = evaluate(training.model, train, tasks, temperature, rows)
        assert not training.step(loader.get(0)).metrics()["h"].any()
        gradient = torch.cat([p.grad.flatten() for p in training._learner.parameters if p.grad is not None])
        found[precision] = [
            gradient,
            *training.old_losses,
            *(torch.tensor(x).nan_to_num() for x in measured.loss.values()),
        ]
    (exact, *old), (rough, *old_rough) = found.values()
    assert 0.999 < float(torch.cosine_similarity(exact, rough, dim=0)) < 1
    assert not torch.equal(old[0], old_rough[0])  # of the examples, measured as the steps measure them
    assert all(torch.equal(value, old_rough[i]) for i, value in enumerate(old) if i >= len(tasks.protected))


def _cut(loaded: Loaded, count: int) -> Loaded:
    batch = loaded.batch
    cut = type(batch)(
        batch.step, batch.positive, batch.negative, batch.tasks, batch.example[:count], batch.example_task[:count]
    )
    return Loaded(cut, loaded.pairs, loaded.captions, loaded.examples[:count])


@every_tower
def test_measuring_changes_nothing_and_each_image_is_measured_by_itself(
    build: Build, config: Config, train: Split, tasks: Tasks
) -> None:
    """Also after training: two evaluations are equal to the last bit, and to those of single images."""
    training, loader = build()
    net, temperature = training.model, config.constraints.temperature
    statistics = {name: value.clone() for name, value in net.clip.named_buffers()}
    training.measure_old()
    training.step(loader.get(0))
    assert all(torch.equal(statistics[name], value) for name, value in net.clip.named_buffers())
    before = net.weights()
    rows = np.arange(40)
    once, again = (evaluate(net, train, tasks, temperature, rows) for _ in range(2))
    single = [evaluate(net, train, tasks, temperature, rows[i : i + 1]) for i in (0, 3, 17, 39)]
    for attribute, loss in once.loss.items():
        assert np.array_equal(loss, again.loss[attribute], equal_nan=True)
        assert np.array_equal(loss[[0, 3, 17, 39]], [found.loss[attribute][0] for found in single], equal_nan=True)
    assert all(torch.equal(value, before[name]) for name, value in net.weights().items())


def test_a_model_of_which_nan_comes_out_is_not_measured(build: Build, train: Split, tasks: Tasks) -> None:
    """NaN would count as the first class; each tensor by itself is finite."""
    training, _ = build()
    state = training.model.weights()
    with pytest.raises(UsageError, match=r"model\.weights: no finite numbers come out of tiny-64"):
        training.model.load_weights({n: t * 1e30 if n.startswith("visual.") else t for n, t in state.items()}, "test")
        evaluate(training.model, train, tasks, 0.05, np.arange(3))
    found = evaluate(training.model, train, tasks, 0.05, diverging=True)
    assert not any(found.correct(task).any() for task in tasks.all)


def test_old_losses_are_those_of_an_evaluation(build: Build, config: Config, train: Split, tasks: Tasks) -> None:
    training, _ = build()
    training.measure_old()
    whole = evaluate(training.model, train, tasks, config.constraints.temperature)
    for k, task in enumerate(tasks.protected):
        rows = training.sampler.retained[k]
        assert np.array_equal(training.old_losses[k].numpy(), whole.loss[task.attribute][rows])


@pytest.mark.parametrize(
    ("tower", "average"), [("", 0.0), *((name, 0.9) for name in ("", *TOWERS))], indirect=["tower"]
)
def test_two_and_two_steps_equal_four(build: Build, config: Config, average: float) -> None:
    """Invariant 3 on one process: weights and every piece of state, bit for bit."""
    config.select.average = average
    whole, loader = build()
    whole.measure_old()
    for step in range(4):
        whole.step(loader.get(step))

    second = _resumed(build)
    assert_same(whole, second)
    assert {"u", "log_s", "old_losses.0", "optimizer.heads.B.exp_avg"} <= second.state_dict().keys()


def _resumed(build: Build) -> ConstrainedCycle:
    """After four steps, of which another cycle made the first two."""
    first, loader = build()
    first.measure_old()
    for step in range(2):
        first.step(loader.get(step))
    second, loader = build()
    second.model.load_weights(first.model.weights(), "test")
    kept = safetensors.torch.load(safetensors.torch.save(first.state_dict()))
    with pytest.raises(
        UsageError, match=r"run\.uri=.*: was begun by another version of raymds, .*; give another run\.uri"
    ):
        second.load_state_dict({name: value for name, value in kept.items() if name != "active"})
    second.load_state_dict(kept)
    for step in range(2, 4):
        second.step(loader.get(step))
    return second


def test_candidates_are_running_means_where_asked(build: Build, config: Config) -> None:
    config.select.average = 0.75
    training, loader = build()
    training.measure_old()
    mean = {name: value.double() for name, value in training.model.weights().items()}
    for step in range(3):
        training.step(loader.get(step))
        mean = {name: 0.75 * mean[name] + 0.25 * value for name, value in training.model.weights().items()}
    for name, value in training.candidate.weights().items():
        torch.testing.assert_close(value.double(), mean[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(
        training.candidate.weights()["heads.weather:foggy.B"], training.model.weights()["heads.weather:foggy.B"]
    )


PROMPTS = {"weather": ["the weather is {}.", "a {} day"], "scene": "a {}", "timeofday": ["at {}"]}
WORDS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "several prompts": {"task.prompts": PROMPTS, "task.phrases": {"weather": {"foggy": "thick fog"}}},
    "a label set": {
        "task.classes": {"weather": ["foggy", "rainy", "snowy"]},
        "task.protect": ["weather", "timeofday@weather:clear"],
    },
    "a shared head": {"objective.head": "shared"},
    "without data": {"task.protect": ["weather", "scene"], "task.without_data": ["weather:snowy", "timeofday:night"]},
    "a slice": {"task.target": "weather:foggy@timeofday:daytime", "task.protect": ["weather", "timeofday:night"]},
}


@pytest.mark.parametrize("tasks", WORDS.values(), ids=WORDS, indirect=True)
def test_gradient_equals_a_naive_one(build: Build, config: Config, train: Split, tasks: Tasks) -> None:
    """∇F + mean_k λ_k·τ₀·∇L̂_k, written with whole-batch autograd and loops, after weights have moved."""
    config.objective.gamma = 1.0
    config.constraints.gamma = 1.0
    config.constraints.slack = -0.05
    training, loader = build()
    training.model.double()
    training.measure_old()
    for parameter in training.model.heads.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    loaded = loader.get(0)
    captured: dict[str, torch.Tensor] = {}
    training._learner.descend = lambda loss, step, clock: (  # type: ignore[method-assign]
        captured.update(zip(names, torch.autograd.grad(loss, parameters), strict=True)) or torch.tensor(1.0)
    )
    names, parameters = zip(*training._learner.names.items(), strict=True)
    training.step(loaded)

    expected = torch.autograd.grad(_naive_loss(training, loaded, config, train, tasks), parameters, allow_unused=True)
    for name, want in zip(names, expected, strict=True):
        torch.testing.assert_close(captured[name], want, rtol=1e-9, atol=1e-12)
    assert all(value.abs().max() > 0 for value in captured.values())


@pytest.mark.parametrize("tasks", [{"task.without_data": ["weather:snowy"]}], indirect=True)
@pytest.mark.parametrize("held_out", [0.0, 0.4])
def test_a_task_without_data_begins_at_exactly_zero_and_is_resumed_to_the_bit(
    build: Build, config: Config, train: Split, tasks: Tasks, held_out: float
) -> None:
    config.constraints.held_out, config.constraints.loss = held_out, "error"
    config.constraints.images_per_task = 2
    whole, loader = build()
    whole.measure_old()
    (task,), k = tasks.without_data, len(tasks.protected)
    assert task not in tasks.protected
    rows, net = whole.sampler.retained[k], whole.model
    label = train.labels["weather"]
    assert len(rows) == 20
    assert set(label[rows]) == set(range(6)) - {task.label, tasks.target.label}
    if held_out:  # and λ of the other tasks still sees what nothing is trained on
        apart = np.setdiff1d(np.concatenate(whole.sampler.held or ()), np.concatenate(whole.sampler.retained))
        assert len(apart) > 10
    # What is kept of the old model is its own softmax, image by image.
    sentences = {"weather": tasks.label_sets["weather"]}
    cosines = net.cosines(net.classifiers(sentences), clean_pixels(train, rows, net.preprocess))["weather"]
    p = (cosines.double() / config.constraints.temperature).softmax(1)[:, task.label]
    torch.testing.assert_close((-whole.old_losses[k]).exp(), p, rtol=1e-5, atol=1e-8)
    for step in range(3):
        for share in (loader.get(step), _cut(loader.get(step), 7)):
            if share.held is None and held_out:
                continue
            assert torch.equal(whole._changes(share)[0], torch.zeros(k + 1, dtype=torch.float64))
    metrics = [whole.step(loader.get(step)).metrics() for step in range(4)]
    assert metrics[0]["h"][k] == 0.0
    assert 0 < metrics[-1]["h"][k] <= 1
    assert metrics[-1]["lambda"][k] > 0

    assert_same(whole, _resumed(build))


def _naive_loss(training: ConstrainedCycle, loaded: Loaded, config: Config, train: Split, tasks: Tasks) -> torch.Tensor:
    net, batch, t = training.model, loaded.batch, config.objective.temperature

    def text(sentence: str, head: int) -> torch.Tensor:
        full = net.tokenizer([sentence])  # the whole context, one sentence at a time
        return net.encode_text(full, torch.tensor([0]), torch.tensor([head]))[0]

    def head(row: int) -> int:
        label = int(train.labels["weather"][row])
        shared = label >= len(tasks.classes["weather"])
        shared |= config.objective.head == "shared" and label != tasks.target.label
        return -1 if shared else label + tasks.columns("weather").start

    def mean(sentences: Sequence[str], head: int) -> torch.Tensor:
        total = torch.stack([text(sentence, head) for sentence in sentences]).sum(0)
        return total / total.norm()

    rows = [*batch.positive, *batch.negative]
    image = net.encode_image(loaded.pairs)
    caption = [text(train.example(int(row)).caption, head(row)) for row in rows]
    P = len(batch.positive)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(P):
        for side in ("image", "text"):
            g = torch.zeros((), dtype=torch.float64)
            for j in range(P, len(rows)):
                other = image[i] @ caption[j] if side == "image" else image[j] @ caption[i]
                g = g + torch.exp((other - image[i] @ caption[i]) / t) / (len(rows) - P)
            total = total + t * torch.log(g) / P
    tau = config.constraints.temperature
    prompts = {a: [mean(p, tasks.columns(a).start + c) for c, p in enumerate(tasks.prompts[a])] for a in tasks.classes}
    examples = net.encode_image(loaded.examples)
    for k in batch.tasks:
        task, here = tasks.constrained[k], np.flatnonzero(batch.example_task == k)
        losses, olds, drifts = [], [], []
        for index in here:
            logits = torch.stack([examples[index] @ prompt for prompt in prompts[task.attribute]]) / tau
            losses.append(-torch.log_softmax(logits, 0)[task.label])
            olds.append(training.old_losses[k][np.searchsorted(training.sampler.retained[k], batch.example[index])])
            if task in tasks.without_data:
                p, was = torch.softmax(logits, 0)[task.label], math.exp(-olds[-1])
                drifts.append(abs(p.item() - was))
                losses[-1] = -was * torch.log(p) - (1 - was) * torch.log(1 - p)
        mean = torch.stack(losses).mean()
        change = np.mean(drifts) if drifts else mean.item() - torch.stack(olds).mean().item()
        h = change - config.constraints.slack
        total = total + config.constraints.beta * max(h, 0.0) * tau * mean / len(batch.tasks)
    return total


def test_no_gradient_is_computed_where_no_constraint_is_violated(build: Build, config: Config) -> None:
    training, loader = build()
    training.measure_old()
    sizes = []
    inner = training._learner._towers.forward
    training._learner._towers.forward = lambda pixels, *rest: (sizes.append(len(pixels)), inner(pixels, *rest))[1]
    training.step(loader.get(0))
    assert sizes == [config.objective.batch]


def test_prompts_are_encoded_of_the_label_sets_that_need_a_gradient(build: Build, config: Config, tasks: Tasks) -> None:
    training, loader = build()
    training.measure_old()
    heads: list[set[int]] = []
    inner = training._learner._towers.forward
    training._learner._towers.forward = lambda pixels, tokens, row, head: (
        heads.append(set(head[config.objective.batch :].tolist())), inner(pixels, tokens, row, head),
    )[1]  # fmt: skip
    training.step(loader.get(0))
    for k, task in enumerate(tasks.protected):
        training.old_losses[k][:] = -10 if task.attribute == "scene" else 10
    training.step(loader.get(1))
    columns = tasks.columns("scene")
    assert heads == [set(), set(range(columns.start, columns.stop))]


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_names_step_and_task(build: Build, loss: float) -> None:
    training, loader = build()
    training.measure_old()
    weights = training.model.weights()
    training.old_losses[2][:] = loss
    with pytest.raises(DivergedError, match=r"step 0: the loss of weather:overcast is (-inf|nan)"):
        training.step(loader.get(0))
    for k in (1, 2):
        training.old_losses[k][:] = -10  # violated
    training._aggregator.measured(torch.tensor(1e300, dtype=torch.float64))  # too much for the weights' own type
    taken = training.step(loader.get(1))
    with pytest.raises(DivergedError, match=r"step 1: the loss of weather:foggy \(its gradient\) is (nan|inf)"):
        taken.metrics()
    for name, value in training.model.weights().items():
        assert torch.equal(value, weights[name])


def test_the_mean_multiplier_of_a_task_is_that_of_the_steps_which_sampled_it(build: Build, config: Config) -> None:
    config.constraints.solver, config.constraints.tasks_per_step = "regularize", 2
    training, loader = build()
    training.measure_old()
    for step in range(3):
        training.step(loader.get(step))
    sampled = {training.tasks.protected[k].name for step in range(3) for k in training.sampler.batch(step).tasks}
    assert len(sampled) == 6 < len(training.tasks.protected)
    assert training.named(training.multiplier) == pytest.approx(dict.fromkeys(sampled, 1000.0))


WAITING: dict[str, dict[str, Any]] = {
    "published": {"constraints.slack": -0.05},
    "default": {
        "constraints.solver": "augmented_lagrangian",
        "constraints.units": "objective",
        "constraints.loss": "error",
        "constraints.held_out": 0.4,
        "constraints.images_per_task": 2,
        "constraints.margin": 2.0,
        "constraints.slack": -0.05,
        "task.without_data": ["weather:snowy"],
        "select.average": 0.9,
    },
    "in parts": {"constraints.slack": -0.05, "run.micro_batch": 5},
}


@pytest.mark.parametrize("tasks", WAITING.values(), ids=WAITING, indirect=True)
def test_a_step_waits_for_a_gpu_once_and_mixes_nothing_of_it_with_the_cpu(
    build: Build, config: Config, train: Split, tasks: Tasks
) -> None:
    _, loader = build()
    net = load(config.model.name, config.model.weights, tasks.heads, config.model.head_rank, config.run.seed)
    with Far() as far:
        far.holds(net)
        training = ConstrainedCycle(net, train, tasks, build_sampler(train, tasks, config), config)
        assert far.waits == []
        far.holds(training.candidate)  # a copy that nobody sees being made
        training.measure_old()
        for step in range(2):  # of which the first measures the scale
            far.waits.clear()
            taken = training.step(loader.get(step))
            assert (far.waits, far.mixed) == (["cpu"], [])
            assert (taken.metrics()["lambda"] > 0).any()
            assert far.waits == ["cpu"]


def test_metrics_name_every_task_and_part_of_a_step(build: Build, tasks: Tasks) -> None:
    training, loader = build()
    training.measure_old()
    metrics = training.step(loader.get(0)).metrics()
    assert all(metrics[kind].shape == (len(tasks.constrained),) for kind in ("h", "u", "lambda"))
    assert set(metrics["seconds"]) == {"forward", "exchange", "backward", "optimiser"}


@pytest.mark.parametrize("tasks", [{"task.target": "weather:foggy@scene:city street,timeofday:daytime"}], indirect=True)
def test_positives_fewer_than_a_step_draws_come_again_within_it(build: Build, train: Split, tasks: Tasks) -> None:
    training, loader = build()
    pool = training.sampler.positive
    assert 0 < len(pool) < training.sampler.positives
    slices = {"weather": "foggy", "scene": "city street", "timeofday": "daytime"}
    where = {name: tasks.vocabularies[name].index(label) for name, label in slices.items()}
    assert all((train.labels[name][pool] == label).all() for name, label in where.items())
    negative = train.labels["weather"][training.sampler.negative]
    assert not (negative == where["weather"]).any()  # fog elsewhere is no negative
    training.measure_old()
    for step in range(3):
        training.step(loader.get(step))
    assert torch.isfinite(training._objective.log_s).all()  # after one step each has been seen
