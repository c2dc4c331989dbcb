"""Images of a table are put aside: what lies where, that memory holds a few of them, that nothing is left."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymds.ingest import spool
from raymds.ingest.spool import Spool


def test_images_come_back_and_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_FILE", 10)
    images = [bytes([i]) * i for i in range(1, 9)]
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "00007.images").write_bytes(b"of an ingest that was killed")
    with Spool(str(tmp_path / "aside")) as aside:
        pieces = [aside.add(image) for image in images]
        aside.flush()
        assert [piece.read() for piece in pieces] == images
        assert len({piece.file for piece in pieces}) > 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


READ = """
import sys
from raymds.ingest.spool import Spool
from raymds.ingest.table import table

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

before, folder = peak(), sys.argv[1]
plan = table([folder + "/rows.parquet"], folder + "/map.yaml", Spool(folder + "/aside"))
assert [sum(map(len, plan.splits.values())), next(iter(plan.splits.values()))[0].image.size] == [300, 2**20]
print(peak() - before)
"""


def test_a_table_of_images_is_never_whole_in_memory(tmp_path: Path) -> None:
    """300 MiB of images in one row group, in pages of 8."""
    random = np.random.default_rng(0)
    images = [random.bytes(2**20) for _ in range(300)]
    rows = pa.table({"image": images, "sky": ["blue", "grey"] * 150})
    pq.write_table(rows, tmp_path / "rows.parquet", use_dictionary=False, compression="NONE", write_batch_size=8)
    (tmp_path / "map.yaml").write_text("{image: image, attributes: [sky]}")
    command = [sys.executable, "-c", READ, str(tmp_path)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 240 * 1024  # KiB: a file of 32 MiB, joined, and what is read ahead
