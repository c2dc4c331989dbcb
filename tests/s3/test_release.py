"""A delivered model whose run, export, images and labels are in a bucket."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raymds.cli.main import main
from raymds.store import uri as storage
from tests.s3.servers import BUCKET, Server


@pytest.mark.parametrize("server", ["rclone"], indirect=True)
def test_export_and_classify_between_prefixes_of_a_bucket(server: Server, fog_run: Path, tmp_path: Path) -> None:
    run, images, out = (f"s3://{BUCKET}/release/{name}" for name in ("run", "images", "labels.parquet"))
    for path in fog_run.iterdir():
        storage.write(storage.join(run, path.name), path.read_bytes())
    for number in range(3):
        Image.new("RGB", (90, 70), (80 * number, 200, 40)).save(tmp_path / f"{number}.jpg")
        storage.write(f"{images}/drive/{number}.jpg", (tmp_path / f"{number}.jpg").read_bytes())
    assert main(["export", run, "--to", f"s3://{BUCKET}/release/export"]) == 0
    listed = json.loads(storage.read(f"s3://{BUCKET}/release/export/export.json"))
    for name, entry in listed["files"].items():
        assert storage.sha256(storage.read(f"s3://{BUCKET}/release/export/{name}")) == entry["sha256"]
    assert main(["classify", run, images, "--out", out]) == 0
    there = pq.read_table(pa.BufferReader(storage.read(out)))
    assert there["image"].to_pylist() == [f"{images}/drive/{number}.jpg" for number in range(3)]
    assert main(["classify", str(fog_run), str(tmp_path), "--out", str(tmp_path / "here.parquet")]) == 0
    assert pq.read_table(tmp_path / "here.parquet").drop_columns("image").equals(there.drop_columns("image"))
