"""`raymds certify` where a cluster does the work."""

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raymds import pool
from raymds.config import Config
from raymds.errors import UsageError
from raymds.train import measure
from tests.conftest import silent


def test_a_cluster_gives_the_certificate_of_one_process(
    cluster: None, fog_run: Path, fog_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And names the shard that is damaged, as one process does."""
    weights, shown = str(fog_run / "weights.safetensors"), list[dict[str, Any]]()
    here = measure.certify_models(fog_config, weights, "val", silent)
    monkeypatch.setattr(measure.cluster, "named", lambda: True)
    monkeypatch.setattr(pool, "_CORES", 1)  # so that there are several workers, and parts for them
    monkeypatch.setattr(pool, "_LEAST", 10)
    monkeypatch.setattr(pool, "_PATIENCE", 0.5)
    assert measure.certify_models(fog_config, weights, "val", shown.append) == here
    done = [record["done"] for record in shown if record["event"] == "progress"]
    assert len(done) > 3
    assert {"event": "phase", "phase": "waiting for a machine with 1 CPUs and 0 GPUs to spare"} in shown

    moved = copy.deepcopy(fog_config)
    moved.data.uri = str(shutil.copytree(fog_config.data.uri, tmp_path / "data"))
    shard = sorted(Path(moved.data.uri).glob("val-*.parquet"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UsageError, match=rf"{shard.name}"):
        measure.certify_models(moved, weights, "val", silent)


class Dies:
    """A worker whose process dies once."""

    def __init__(self, once: Path, threads: int) -> None:
        self._once = once

    def __call__(self, part: Any) -> Iterator[Any]:
        if not self._once.exists():
            self._once.touch()
            os._exit(1)
        yield part


def test_a_worker_that_dies_is_made_again(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LEAST", 10)

    def part(rows: range) -> Any:
        return pa.table({"row": list(rows)})

    found = pa.concat_tables(pool.on_cluster(Dies, (tmp_path / "once",), 25, part, silent))
    assert sorted(found["row"].to_pylist()) == list(range(25))
