"""One delivered file is one model, whatever it is asked for, in what order, and whoever saved it again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from raymds.config import Config, load
from raymds.data.loader import Loader
from raymds.data.shards import DataSet
from raymds.model import ClipWithHeads, pack_weights, read_weights
from raymds.model import load as load_model
from raymds.model.files import tensors_digest
from raymds.scenes.render import ATTRIBUTES
from raymds.tasks import resolve
from raymds.train import cycle, ending, limits, measure, worker
from tests.conftest import overrides, silent, write_scenes
from tests.unit.train.conftest import Recorder, payload_of

CLASSES = [f"{attribute}:{label}" for attribute, labels in ATTRIBUTES.items() for label in labels]
Accuracies = dict[str, tuple[float, float]]  # task -> accuracy, loss


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose heads decide what it says: every class's B is far from 0."""
    net = ClipWithHeads("tiny-64", CLASSES, 4, seed=3)
    with torch.no_grad():
        net.heads.B.copy_(torch.randn(net.heads.B.shape, generator=torch.Generator().manual_seed(1)))
    path = tmp_path_factory.mktemp("delivered") / "weights.safetensors"
    path.write_bytes(pack_weights(net))
    return str(path)


@pytest.fixture(scope="module")
def expected(delivered: str, data_uri: str) -> Accuracies:
    torch.set_num_threads(1)  # as every test has: the last bits of a loss depend on it
    return evaluated(load(Config, None, overrides(data_uri, delivered, "unused")))


def evaluated(config: Config) -> Accuracies:
    found = measure.evaluate_model(config, "test", silent)
    return {task["task"]: (task["accuracy"], task["loss"]) for task in found["tasks"]}


def shared(one: Accuracies, other: Accuracies) -> None:
    """Both say the same of the tasks that both have, to the last bit."""
    names = set(one) & set(other)
    assert names
    assert {name: one[name][0] for name in names} == {name: other[name][0] for name in names}
    # A softmax adds up its classes in their order, so the last bits of a loss depend on it.
    for name in names:
        assert one[name][1] == pytest.approx(other[name][1], rel=1e-6)


def resaved_without_metadata(path: str, folder: Path) -> list[str]:
    again = folder / "again.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), again)
    return [f"model.weights={again}", "model.name=tiny-64"]


def resaved_by_torch(path: str, folder: Path) -> list[str]:
    state = {f"module.{name}": tensor for name, tensor in reversed(safetensors.torch.load_file(path).items())}
    torch.save({"epoch": 3, "state_dict": state}, folder / "again.safetensors")  # whatever its ending says
    return [f"model.weights={folder / 'again.safetensors'}", "model.name=tiny-64"]


def as_the_first_versions_wrote_it(path: str, folder: Path) -> list[str]:
    """Heads stacked in an order that the metadata have."""
    tensors, order = safetensors.torch.load_file(path), [*reversed(CLASSES), "shared"]
    stacked = {f"heads.{part}": torch.stack([tensors.pop(f"heads.{name}.{part}") for name in order]) for part in "AB"}
    about = {"architecture": "tiny-64", "classes": order[:-1]}
    safetensors.torch.save_file(tensors | stacked, folder / "first.safetensors", {"raymds": json.dumps(about)})
    return [f"model.weights={folder / 'first.safetensors'}", "model.name=''"]


def another_order_of_classes(path: str, folder: Path) -> list[str]:
    write_scenes(str(folder / "data"), attributes={a: list(reversed(c)) for a, c in reversed(ATTRIBUTES.items())})
    return [f"data.uri={folder / 'data'}"]


VARIANTS: dict[str, Callable[[str, Path], list[str]]] = {
    "another order": lambda path, folder: ["task.protect=[timeofday, weather, scene]"],
    "a subset": lambda path, folder: ["task.protect=[weather]"],
    "single classes": lambda path, folder: ["task.protect=[timeofday:night, weather:rainy, weather:clear]"],
    "the next cycle's target": lambda path, folder: ["task.target=scene:tunnel"],
    "the file's own word": lambda path, folder: ["model.name=''", "model.head_rank=null", "run.seed=9"],
    "frozen towers": lambda path, folder: ["model.freeze.image=all", "model.freeze.text=1"],
    "re-saved, names alone": resaved_without_metadata,
    "re-saved by torch": resaved_by_torch,
    "an older file": as_the_first_versions_wrote_it,
    "another vocabulary": another_order_of_classes,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_verb_measures_the_delivered_model(
    name: str,
    delivered: str,
    expected: Accuracies,
    data_uri: str,
    tmp_path: Path,
    recorder: Recorder,
) -> None:
    """`evaluate`, `certify`, what `finetune` and `tune` start from, and what their winner is certified with."""
    more = VARIANTS[name](delivered, tmp_path)
    config = load(Config, None, [*overrides(data_uri, delivered, str(tmp_path / "run")), *more])
    shared(evaluated(config), expected)

    certificate = measure.certify_models(config, str(config.model.weights), "test", silent)
    result = worker.run_certification({"config": config, "monitor": recorder, "winner": config.model.weights})
    digest = tensors_digest(read_weights(delivered).tensors)
    for found in (certificate, result["certificate"]):
        entries = [found["target"], *found["tasks"]]
        shared({e["task"]: (e["new"], e["loss_new"]) for e in entries}, expected)
        shared({e["task"]: (e["old"], e["loss_old"]) for e in entries}, expected)
        assert found["measured"]["tensors"] == dict.fromkeys(("parent", "weights"), digest)
        assert set(found["measured"]["label_sets"]) == {entry["task"].partition(":")[0] for entry in entries}
        assert {e["negative_flips"] + e["positive_flips"] for e in entries} == {0}

    # And what was published again is the model that came in.
    assert tensors_digest(read_weights(result["weights"]["uri"]).tensors) == digest


@pytest.mark.parametrize("interpolate", ["true", "false"])
def test_heads_that_a_cycle_does_not_ask_for_go_through_it_unchanged(
    delivered: str,
    data_uri: str,
    tmp_path: Path,
    recorder: Recorder,
    interpolate: str,
) -> None:
    more = [
        "task.protect=[weather]",
        "optim.weight_decay=0.5",
        "select.average=0.5",
        f"select.interpolate={interpolate}",
    ]
    config = load(Config, None, [*overrides(data_uri, delivered, str(tmp_path / "run")), *more, "optim.lr=1e-2"])
    net = worker._old_net(config, resolve(config.task, DataSet.open(data_uri).attributes), torch.device("cpu"))
    assert net.classes == [f"weather:{label}" for label in ATTRIBUTES["weather"]]
    worker.run_cycle(payload_of(config, recorder))
    before = read_weights(delivered).tensors
    after = read_weights(ending.checkpoint_uri(config, "step-0000008") + "/weights.safetensors").tensors
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        carried = name.startswith(("heads.scene:", "heads.timeofday:"))
        assert torch.equal(after[name], tensor) == (carried or name == "logit_scale"), name


def test_a_second_cycle_starts_exactly_at_the_delivered_model(delivered: str, data_uri: str, tmp_path: Path) -> None:
    """Tunnels after fog: every h_k is 0, with heads that the first cycle trained."""
    more = ["task.target=scene:tunnel", "task.protect=[timeofday, weather, scene]"]
    config = load(Config, None, [*overrides(data_uri, delivered, str(tmp_path / "run")), *more])
    data = DataSet.open(data_uri)
    tasks, train = resolve(config.task, data.attributes), data.load("train")
    net = load_model("", delivered, tasks.heads, None, 0)
    sampler = limits.build_sampler(train, tasks, config)
    training = cycle.ConstrainedCycle(net, train, tasks, sampler, config)
    training.measure_old()
    loader = Loader(train, sampler.batch, net.preprocess, 0)
    for step in range(3):
        sums, counts, _ = training._changes(loader.get(step))
        assert not sums.any()
        assert counts.sum() == 3 * len(tasks.protected)
    loader.close()


def test_a_developed_file_says_what_it_is(
    delivered: str,
    data_uri: str,
    tmp_path: Path,
    recorder: Recorder,
) -> None:
    config = load(Config, None, [*overrides(data_uri, delivered, str(tmp_path / "run")), "task.protect=[weather]"])
    result: dict[str, Any] = worker.run_certification(
        {"config": config, "monitor": recorder, "winner": config.model.weights}
    )
    about = read_weights(result["weights"]["uri"]).found.metadata
    assert about["architecture"] == "tiny-64"
    assert about["activation"] == "gelu"
    assert about["preprocess"]["size"] == 64
    assert sorted(about["classes"]) == sorted(CLASSES)
    assert about["prompts"] == {"weather": {label: [f"the weather is {label}."] for label in ATTRIBUTES["weather"]}}
    assert about["parent"] == measure.evaluate_model(config, "test", silent)["digests"]["weights"]
