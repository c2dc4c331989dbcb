"""Several ranks pin rows: all have all of them, no shard is fetched twice, and no rank waits for one that failed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as td
import torch.multiprocessing as mp

from raymds.data import exchange
from raymds.data.exchange import pin
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.data.split import Split
from raymds.errors import UsageError
from raymds.store import uri as storage
from tests.multiproc.test_gradients import join

RANKS, SHARDS, PER_SHARD = 3, 5, 4
ROWS = np.array([0, 1, 5, 8, 11, 17])  # none of shard 3


def image(row: int) -> bytes:
    return bytes([row]) * (10 * row)


def opened(uri: str) -> Split:
    """Streamed shard by shard; a reader of its own, which has fetched nothing."""
    split = DataSet.open(uri).load("train")
    return Split(split.labels, split.files, split.reader, shard=0, window=1)


def run_rank(rank: int, ranks: int, folder: str, uri: str) -> None:
    """What a rank fetches and has; what it hears where a shard of rank 2's is gone, and where rank 0 can't write."""
    join(rank, ranks, f"{folder}/rendezvous")
    exchange._TURN = 100  # several turns, which end at another one on each rank
    fetched: list[str] = []
    read = storage.read

    def counted(where: str) -> bytes:
        fetched.append(where.rpartition("/")[2])
        return read(where)

    storage.read = counted
    split = opened(uri)
    pin(split, ROWS)
    shards = [name for name in fetched if name.startswith("train")]
    examples = [split.example(row) for row in ROWS.tolist()]
    had = [(example.id, bytes(example.image).hex(), example.caption) for example in examples]
    assert shards == [name for name in fetched if name.startswith("train")]

    def said(uri: str) -> str:
        try:
            pin(opened(uri), ROWS)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    heard = [said(f"{uri}-gone")]
    for failure in (UsageError("no room"), OSError("no such device")):

        def write(*_: Any, failure: Exception = failure) -> None:
            if rank == 0:
                raise failure

        exchange._write = write
        heard.append(said(uri))
    torch.save({"shards": shards, "had": had, "heard": heard}, f"{folder}/{rank}.pt")
    td.destroy_process_group()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    where = str(tmp_path / "set")
    parts = [range(PER_SHARD * part, PER_SHARD * (part + 1)) for part in range(SHARDS)]
    content = [[Row(f"id-{i}", image(i), f"caption {i}", {"sky": "clear"}) for i in part] for part in parts]
    shards = [write_shard(where, f"train-{p}.parquet", rows, {"sky": ["clear"]}) for p, rows in enumerate(content)]
    write_manifest(where, {"sky": ["clear"]}, {"train": shards}, {})
    shutil.copytree(where, f"{where}-gone")
    Path(f"{where}-gone", "train-4.parquet").unlink()
    return where


def test_ranks_share_the_reading_and_each_others_errors(uri: str, tmp_path: Path) -> None:
    mp.start_processes(run_rank, (RANKS, str(tmp_path), uri), nprocs=RANKS, start_method="forkserver")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    assert [rank["shards"] for rank in found] == [
        [f"train-{part}.parquet" for part in own] for own in ([0], [1], [2, 4])
    ]
    for rank in found:
        assert rank["had"] == [(f"id-{i}", image(i).hex(), f"caption {i}") for i in ROWS.tolist()]
        gone, full, _ = rank["heard"]
        assert gone.startswith(f"UsageError: {uri}-gone/train-4.parquet")
        assert full == "UsageError: no room"
    assert [rank["heard"][2] for rank in found] == [
        "OSError: no such device",
        *["RuntimeError: rank 0: OSError: no such device"] * 2,
    ]
