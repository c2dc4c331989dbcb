"""A corpus of captions with images, and what retrieval makes of it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from PIL import Image

from raymds.data.config import RetrieveColumns, RetrieveConfig
from raymds.data.shards import DataSet
from raymds.ingest.retrieve import retrieve

PHRASES = {"foggy": ["fog", "foggy", "dense mist"], "rainy": ["rain", "rainy"]}
CAPTIONS = [
    "a foggy street",
    "rain on the road",
    "fog and rain",
    "a red car",
    "a blue car",
    "dense  mist at dawn",
    "foghorn for sale",
    "",
    None,
    "two dogs",
]


def jpeg(shade: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.full((8, 8, 3), shade % 256, np.uint8)))


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, captions: list[Any], group: int = 100, **columns: Any) -> None:
    """A file of the corpus; its images are its row numbers' unless columns are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = columns or {"image": [jpeg(row) for row in range(len(captions))]}
    arrays = {
        name: pa.array(values, pa.binary() if name == "image" else pa.string()) for name, values in content.items()
    }
    pq.write_table(pa.table({"caption": pa.array(captions, pa.string()), **arrays}), path, row_group_size=group)


def settings(tmp_path: Path, **changes: Any) -> RetrieveConfig:
    given = {
        "corpus": str(tmp_path / "corpus"),
        "out": str(tmp_path / "out"),
        "columns": RetrieveColumns(image="image"),
        "target": "weather:foggy",
        "phrases": PHRASES,
        "least": 8,
    }
    return RetrieveConfig(**(given | changes))


def run(config: RetrieveConfig) -> DataSet:
    return retrieve(config, lambda record: None)


def rows(data: DataSet) -> list[dict[str, Any]]:
    files = [Path(data.uri, shard.file) for shard in data.splits["train"]]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def labels(data: DataSet) -> dict[str, str]:
    return {row["id"]: row["weather"] for row in rows(data)}


def counts(data: DataSet) -> dict[str, int]:
    return {name: count for name, count in data.source["counts"].items() if count}
