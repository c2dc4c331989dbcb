"""What is made once per test session: a small data set, a small old model, a Ray cluster, a run nothing disturbs."""

import signal
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from raymds import log
from raymds.config import Config, load, to_yaml
from raymds.data.shards import Row, write_manifest, write_shard
from raymds.model import ClipWithHeads, pack_weights
from raymds.scenes.render import ATTRIBUTES, BALANCED, render
from raymds.store import uri as storage
from raymds.tasks import resolve
from raymds.train import driver
from raymds.train.cluster import start_ray
from raymds.train.evaluate import label_sets
from raymds.train.measure import certify_models
from tests.s3.servers import CREDENTIALS

import simplejpeg  # isort: skip

ROWS = {"train": 400, "val": 120, "test": 120}

PROMPTS = "{weather: 'the weather is {}.', scene: 'the scene is a {}.', timeofday: 'the time of day is {}.'}"


def write_scenes(uri: str, spoiled: Container[int] = (), attributes: Mapping[str, Sequence[str]] = ATTRIBUTES) -> None:
    """Balanced rendered scenes, in two shards per split; the images of `spoiled` rows can't be decoded."""
    splits, index = {}, 0
    for split, rows in ROWS.items():
        shards = []
        for part in range(2):
            content = []
            for _ in range(rows // 2):
                scene = render(7, index, 64, BALANCED)
                image = simplejpeg.encode_jpeg(np.ascontiguousarray(scene.pixels), quality=95)
                image = image[:60] if index in spoiled else image
                content.append(Row(f"row-{index}", image, scene.caption, scene.attributes))
                index += 1
            shards.append(write_shard(uri, f"{split}-{part}.parquet", content, attributes))
        splits[split] = shards
    write_manifest(uri, attributes, splits, {"made_by": "tests"})


@pytest.fixture(scope="session")
def data_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("data"))
    write_scenes(uri)
    return uri


def overrides(data_uri: str, weights: str, run_uri: str) -> list[str]:
    """A cycle small enough for a test."""
    return [
        "model.name=tiny-64",
        f"model.weights={weights}",
        "model.head_rank=4",
        f"data.uri={data_uri}",
        f"run.uri={run_uri}",
        "task.target=weather:foggy",
        "task.protect=[weather, scene, timeofday]",
        f"task.prompts={PROMPTS}",
        "task.retained=20",
        "objective.batch=16",
        "constraints.images_per_task=3",
        "constraints.solver=squared_hinge",
        "constraints.loss=cross_entropy",
        "constraints.units=absolute",
        "constraints.margin=0",
        "constraints.held_out=0",
        "constraints.gamma=0.8",
        "constraints.beta=1000",
        "optim.lr=1e-4",
        "optim.warmup=2",
        "optim.steps=8",
        "select.every=4",
        "select.average=0",
        "select.tolerance=0.5",
    ]


@pytest.fixture(scope="session")
def old_weights(tmp_path_factory: pytest.TempPathFactory, data_uri: str) -> str:
    """Random weights of the tiny model stand in for a deployed one."""
    net = ClipWithHeads("tiny-64", [], 4, seed=3)
    path = tmp_path_factory.mktemp("old") / "weights.safetensors"
    path.write_bytes(pack_weights(net))
    return str(path)


@pytest.fixture
def config(data_uri: str, old_weights: str, tmp_path: Path) -> Config:
    return load(Config, None, overrides(data_uri, old_weights, str(tmp_path / "run")))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray on this machine, whose workers can reach the S3 servers of the tests."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        # A process more per run, which takes seconds to start, and no test of this cluster drains a node.
        environment.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        start_ray(silent)
        yield
        ray.shutdown()


def silent(record: dict[str, Any]) -> None:
    """Records of runs that are not looked at."""


def finetune(settings: list[str], run: str | Path, *more: str, show: Any = silent) -> dict[str, Any]:
    """A cycle in a run directory of its own."""
    return driver.finetune(load(Config, None, [*settings, f"run.uri={run}", *more]), show)


def records(run: str | Path) -> list[dict[str, Any]]:
    """What a run has logged."""
    return list(log.records(str(run)))


def last_checkpoint(run: str | Path, step: int = 8) -> list[bytes]:
    """Weights and state at the end of a run."""
    names = ("weights.safetensors", "state.safetensors")
    return [storage.read(storage.join(str(run), f"checkpoints/train/step-{step:07d}", name)) for name in names]


@pytest.fixture(scope="session")
def settings(data_uri: str, old_weights: str) -> list[str]:
    return [*overrides(data_uri, old_weights, "unset"), "run.workers=2"]


@pytest.fixture(scope="session")
def undisturbed(cluster: None, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finetune(settings, run)
    return run


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as in a terminal; what is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained_heads(net: ClipWithHeads, seed: int = 1) -> None:
    """Heads as training leaves them: B is not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        net.heads.B.copy_(0.5 * torch.randn(net.heads.B.shape, generator=generator))


@pytest.fixture(scope="session")
def fog_config(data_uri: str, old_weights: str, tmp_path_factory: pytest.TempPathFactory) -> Config:
    run = str(tmp_path_factory.mktemp("delivered") / "run")
    return load(Config, None, [*overrides(data_uri, old_weights, run), "constraints.temperature=0.03"])


@pytest.fixture(scope="session")
def fog_run(fog_config: Config) -> Path:
    """The directory of a finished run with a new model and its certificate."""
    tasks = resolve(fog_config.task, ATTRIBUTES)
    net = ClipWithHeads("tiny-64", tasks.heads, 4, seed=3)
    trained_heads(net)
    weights = storage.join(fog_config.run.uri, "weights.safetensors")
    storage.write(weights, pack_weights(net, identity=net.describe(label_sets(tasks), "0" * 64)))
    certificate = certify_models(fog_config, weights, "test", silent)
    storage.write(storage.join(fog_config.run.uri, "config.yaml"), to_yaml(fog_config).encode())
    storage.write_json(storage.join(fog_config.run.uri, "certificate.json"), certificate)
    outcome = {"schema": 1, "outcome": "new", "reason": "made by a test", "weights": weights}
    storage.write_json(storage.join(fog_config.run.uri, "outcome.json"), outcome)
    return Path(fog_config.run.uri)
