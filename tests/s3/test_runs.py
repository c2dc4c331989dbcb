"""Cycles whose data, weights and run directory are in a bucket: the same bits as on a disk, on bad days too."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from raymds import cli, storage
from raymds.config import Config, load
from raymds.errors import UsageError
from raymds.train import driver
from tests.conftest import ROWS, overrides, write_scenes
from tests.s3.servers import BUCKET, Server


@pytest.fixture(scope="module", autouse=True)
def cluster(server: Server) -> Iterator[None]:
    """One Ray per server, whose workers find the server by the environment."""
    driver.start_ray(lambda record: None)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def stored(server: Server, data_uri: str, old_weights: str) -> list[str]:
    """Settings of a cycle on the session's data set and old model, both in the bucket."""
    uri = f"s3://{BUCKET}/data"
    for path in Path(data_uri).iterdir():
        storage.write(storage.join(uri, path.name), path.read_bytes())
    weights = f"s3://{BUCKET}/old/weights.safetensors"
    storage.write(weights, Path(old_weights).read_bytes())
    return [*overrides(uri, weights, "unset"), "run.workers=2", "storage.timeout=2"]


def finetune(settings: list[str], run: str, *more: str, show: Any = lambda record: None) -> dict[str, Any]:
    return driver.finetune(load(Config, None, [*settings, f"run.uri={run}", *more]), show)


def last(run: str) -> list[bytes]:
    names = ("weights.safetensors", "state.safetensors")
    return [storage.read(storage.join(run, "checkpoints/train/step-0000008", name)) for name in names]


@pytest.fixture(scope="module")
def undisturbed(stored: list[str]) -> str:
    run = f"s3://{BUCKET}/runs/undisturbed"
    finetune(stored, run)
    return run


def test_a_bucket_changes_no_bit(
    undisturbed: str, data_uri: str, old_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = str(tmp_path / "run")
    finetune([*overrides(data_uri, old_weights, "unset"), "run.workers=2"], local)
    assert last(undisturbed) == last(local)
    here, there = (json.loads(storage.read(storage.join(run, "outcome.json"))) for run in (local, undisturbed))
    assert here["val"] == there["val"]
    assert here["outcome"] == there["outcome"]
    assert cli.main(["report", undisturbed]) == 0
    assert storage.read(storage.join(undisturbed, "report.html")).startswith(b"<!doctype html>")
    assert f"report: {undisturbed}/report.html" in capsys.readouterr().out


def test_data_streamed_through_a_cache_give_a_run_that_ends(stored: list[str], tmp_path: Path) -> None:
    """With less memory than data: shards come and go, retained rows are pinned, the cache fills."""
    outcome = finetune(stored, f"s3://{BUCKET}/runs/streamed", "data.memory=1", f"data.cache={tmp_path}")
    assert outcome["steps"] == 8
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("lock-")]


def test_a_store_gone_in_mid_training_changes_nothing(server: Server, undisturbed: str, stored: list[str]) -> None:
    run, gone = f"s3://{BUCKET}/runs/outage", threading.Event()

    def outage() -> None:
        server.kill()
        time.sleep(8)
        server.start()

    back = threading.Thread(target=outage)

    def at_step_three(record: dict[str, Any]) -> None:
        if record["event"] == "step" and record["step"] >= 3 and not gone.is_set():
            gone.set()
            back.start()

    finetune(stored, run, show=at_step_three)
    assert gone.is_set()
    back.join()
    assert last(run) == last(undisturbed)
    logged = [json.loads(line) for line in storage.read(storage.join(run, "metrics.jsonl")).splitlines()]
    assert [record["step"] for record in logged if record["event"] == "start"] == [0]  # it waited, it did not restart
    assert sum(record["seconds"] for record in logged if record["event"] == "pause") > 1


def test_images_that_cant_be_decoded_are_named_or_skipped(stored: list[str]) -> None:
    uri = f"s3://{BUCKET}/damaged"
    first_val, first_test = ROWS["train"], ROWS["train"] + ROWS["val"]
    write_scenes(uri, {*range(0, 400, 4), first_val, first_val + 1, first_test})
    named = rf"{uri}/(train|val)-[01]\.parquet row \d+ \(id row-\d+\): image can't be decoded"
    with pytest.raises(UsageError, match=named):
        finetune(stored, f"s3://{BUCKET}/runs/named", f"data.uri={uri}")
    outcome = finetune(stored, f"s3://{BUCKET}/runs/skipped", f"data.uri={uri}", "data.on_corrupt=skip")
    assert 20 < outcome["skipped_images"]["train"] <= 100
    assert outcome["skipped_images"]["val"] == 2
    rows = [task["n"] for task in outcome["val"]["tasks"] if task["task"].startswith("timeofday")]
    assert len(rows) == 3
    assert sum(rows) < ROWS["val"]


def test_a_damaged_shard_ends_the_run_by_name(server: Server, stored: list[str], data_uri: str) -> None:
    uri = f"s3://{BUCKET}/flipped"
    for path in Path(data_uri).iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "train-1.parquet":
            content[len(content) // 3] ^= 1
        storage.write(storage.join(uri, path.name), bytes(content))
    with pytest.raises(UsageError, match=rf"{uri}/train-1\.parquet: shard is damaged: \d+ bytes with SHA-256"):
        finetune(stored, f"s3://{BUCKET}/runs/flipped", f"data.uri={uri}")
