"""Models measured part by part say what they say when they are measured at once."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.model.files import tensors_digest
from raymds.tasks import resolve
from raymds.train import measure, spread
from raymds.train.evaluate import evaluate
from raymds.train.net import open_net
from raymds.train.placement import Room
from tests.conftest import silent


def in_two(worker: Any, arguments: Any, rows: int, part: Callable[[range], Any], *_: Any) -> Iterator[Any]:
    """As `on_cluster`, in this process: two parts, the second one first."""
    made = worker(*arguments, torch.get_num_threads())
    for numbers in (range(40, rows), range(40)):
        yield pa.concat_tables(made(part(numbers)))


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "on_cluster", in_two)
    monkeypatch.setattr(measure.cluster, "start_ray", lambda show: None)
    monkeypatch.setattr(spread, "room", lambda show, growing: Room(()))


@pytest.mark.parametrize("what", ["data", "weights"])
def test_another_machine_that_sees_something_else_is_named(
    fog_config: Config, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    without_ray(monkeypatch)
    data = DataSet.open(fog_config.data.uri)
    tasks = resolve(fog_config.task, data.attributes)
    rows, weights = data.load("test", tasks.vocabularies), str(fog_config.model.weights)
    own = tensors_digest(open_net(fog_config, tasks.heads).weights())
    uri, digest, data = (data.uri, own, replace(data, digest="0" * 64)) if what == "data" else (weights, "0" * 64, data)
    with pytest.raises(UsageError, match=f"{uri}: is something else on .*, where a worker runs"):
        spread.evaluate_on_cluster(fog_config, "test", data, rows, tasks, [(weights, digest)], silent)


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (Room((({"CPU": 2.0}, 3),)), [({"CPU": 2.0}, 3)]),
        (Room((), known=False), [({"CPU": 4.0, "GPU": 1.0}, 8)]),
        (Room((({"CPU": 2.0, "GPU": 1.0}, 1),), known=False), [({"CPU": 2.0, "GPU": 1.0}, 1)]),
    ],
)
def test_machines_that_are_to_come(there: Room, found: Any, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config.run.workers, config.run.cpus_per_worker, config.run.gpus_per_worker = 8, 4.0, 1.0
    monkeypatch.setattr(spread, "room", lambda show, growing: there)
    assert list(spread._machines(config, silent)) == found


def test_parts_put_together_are_the_whole(fog_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    data = DataSet.open(fog_config.data.uri)
    tasks = resolve(fog_config.task, data.attributes)
    rows = data.load("test", tasks.vocabularies)
    net, shown = open_net(fog_config, tasks.heads), list[dict[str, Any]]()
    model = str(fog_config.model.weights), tensors_digest(net.weights())
    first, second = spread.evaluate_on_cluster(fog_config, "test", data, rows, tasks, [model, model], shown.append)
    whole = evaluate(net, rows, tasks, fog_config.constraints.temperature)
    for found in (first, second):
        for name in ("labels", "predicted", "loss"):
            for attribute, values in getattr(whole, name).items():
                np.testing.assert_array_equal(getattr(found, name)[attribute], values)
    assert [first.accuracy(task) for task in tasks.all] == [whole.accuracy(task) for task in tasks.all]
    assert [(record["done"], record["total"]) for record in shown] == [(80, 120), (120, 120)]


def test_a_certificate_is_the_same(fog_run: Path, fog_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = str(fog_run / "weights.safetensors")
    here = measure.certify_models(fog_config, weights, "val", silent)
    without_ray(monkeypatch)
    monkeypatch.setattr(measure.cluster, "named", lambda: True)
    assert measure.certify_models(fog_config, weights, "val", silent) == here
