"""Cycles whose data, weights and run directory are in a bucket: the same bits as on a disk, on bad days too."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raymds.cli import main as cli
from raymds.errors import UsageError
from raymds.store import uri as storage
from tests.conftest import ROWS, finetune, last_checkpoint, overrides, records, write_scenes
from tests.s3.servers import BUCKET, Server

pytestmark = pytest.mark.usefixtures("cluster")
one_kind = pytest.mark.parametrize("server", ["rclone"], indirect=True)


@pytest.fixture
def stored(server: Server, data_uri: str, old_weights: str) -> list[str]:
    """Settings of a cycle on the session's data set and old model, both in the bucket."""
    uri, weights = f"s3://{BUCKET}/data", f"s3://{BUCKET}/old/weights.safetensors"
    if not storage.exists(weights):
        for path in Path(data_uri).iterdir():
            storage.write(storage.join(uri, path.name), path.read_bytes())
        storage.write(weights, Path(old_weights).read_bytes())
    reached = [f"storage.endpoint={server.endpoint}", "storage.timeout=2"]
    return [*overrides(uri, weights, "unset"), *reached, "run.workers=2"]


def test_neither_a_bucket_nor_its_outage_changes_a_bit(
    server: Server, stored: list[str], undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bucket is gone from the third step on, for longer than the clients' own tries."""
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
    assert last_checkpoint(run) == last_checkpoint(undisturbed)
    assert [r["step"] for r in records(run) if r["event"] == "start"] == [0]  # it waited, it did not restart
    assert sum(r["seconds"] for r in records(run) if r["event"] == "pause") > 1
    here, there = (json.loads(storage.read(storage.join(str(at), "outcome.json"))) for at in (undisturbed, run))
    assert (here["val"], here["outcome"]) == (there["val"], there["outcome"])
    assert cli.main(["report", run]) == 0
    assert storage.read(storage.join(run, "report.html")).startswith(b"<!DOCTYPE html>")
    assert f"report: {run}/report.html" in capsys.readouterr().out


@one_kind
def test_a_run_streams_through_a_cache_and_skips_what_cant_be_decoded(stored: list[str], tmp_path: Path) -> None:
    """With less memory than data: shards come and go, retained rows are pinned, the cache fills."""
    uri, first_val = f"s3://{BUCKET}/spoiled", ROWS["train"]
    write_scenes(uri, {*range(0, 400, 20), first_val, first_val + 1, first_val + ROWS["val"]})
    small = [f"data.uri={uri}", "data.on_corrupt=skip", "data.memory=1", f"data.cache={tmp_path}"]
    outcome = finetune(stored, f"s3://{BUCKET}/runs/skipped", *small)
    assert outcome["steps"] == 8
    assert 0 < outcome["skipped_images"]["train"] <= 20
    assert outcome["skipped_images"]["val"] == 2
    rows = [task["n"] for task in outcome["val"]["tasks"] if task["task"].startswith("timeofday")]
    assert len(rows) == 3
    assert sum(rows) <= ROWS["val"] - 2
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("lock-")]


@one_kind
def test_a_damaged_shard_ends_the_run_by_name(stored: list[str], data_uri: str) -> None:
    """One flipped bit; the run ends at once, as the bit would be flipped at another try as well."""
    uri, run = f"s3://{BUCKET}/flipped", f"s3://{BUCKET}/runs/flipped"
    for path in Path(data_uri).iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "train-1.parquet":
            content[len(content) // 3] ^= 1
        storage.write(storage.join(uri, path.name), bytes(content))
    with pytest.raises(UsageError, match=rf"{uri}/train-1\.parquet: shard is damaged: \d+ bytes with SHA-256"):
        finetune(stored, run, f"data.uri={uri}")
