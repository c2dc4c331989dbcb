"""`raymds classify` on a cluster: the rows, the order and the numbers of one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import raymds
from raymds import pool
from raymds.release import classify as classifying
from raymds.release import delivered, images
from raymds.release.export import export
from raymds.store import uri as storage
from tests.conftest import silent


@pytest.fixture
def items(data_uri: str, tmp_path: Path) -> list[images.Item]:
    """Rows of a data set, then files, one of them broken."""
    for number in range(20):
        Image.new("RGB", (90 - number, 70), (12 * number, 255 - 9 * number, 40)).save(tmp_path / f"{number:02d}.jpg")
    (tmp_path / "07.jpg").write_bytes(b"no image")
    return images.find([data_uri, str(tmp_path)], "test")


def test_a_cluster_gives_the_table_of_one_process(
    cluster: None, fog_run: Path, items: list[images.Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = raymds.load(str(fog_run))
    torch.set_num_threads(2)  # a worker has one
    here = classifying.classify(str(fog_run), model, items, silent, cores=1)
    monkeypatch.setattr(pool, "_CORES", 1)  # so that there are several workers, and parts for them
    monkeypatch.setattr(pool, "_LEAST", 10)
    seen: list[dict[str, Any]] = []
    there = classifying.classify(str(fog_run), model, items, seen.append, cores=None)
    assert there.equals(here)
    assert here["error"].null_count == len(here) - 1 == 139
    done = [record["done"] for record in seen]
    assert done == sorted(done)
    assert done[-1] == len(items)
    assert len(done) > 3


def test_a_run_as_it_comes_is_exported(undisturbed: Path, tmp_path: Path) -> None:
    outcome = json.loads((undisturbed / "outcome.json").read_text())
    exported = export(delivered.find(str(undisturbed)), str(tmp_path), onnx=False, show=silent)
    assert exported.content["weights"]["sha256"] == storage.sha256(storage.read(outcome["weights"]))
    assert (tmp_path / "certificate.json").exists() == (outcome["outcome"] == "new")
    # A new model says its classes; the old one of these tests is random weights that say none.
    assert (tmp_path / "labels.json").exists() == (outcome["outcome"] == "new")
