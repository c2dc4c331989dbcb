"""Data in the shape of the real sets, through ingest into a cycle with its published preset."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
from PIL import Image

from raymds.cli import main as cli
from raymds.data.shards import DataSet
from raymds.model import ClipWithHeads, pack_weights
from raymds.scenes.render import BALANCED, render

PRESETS = Path(__file__).parents[2] / "jobs" / "presets"
SMALL = ["model.name=tiny-64", "data.image_size=64", "run.workers=2", "run.gpus_per_worker=0", "select.tolerance=0.9"]
SMALL += ["optim.warmup=1", "optim.steps=4", "select.every=2"]
pytestmark = pytest.mark.usefixtures("cluster")


def bdd100k(root: Path, rows: dict[str, int]) -> None:
    """Folders of 1280 x 720 JPEGs; labels of train in the older form, of val in the newer one."""
    index = 0
    for split, count in rows.items():
        folder = root / "images" / "100k" / split
        folder.mkdir(parents=True)
        entries = []
        for _ in range(count):
            scene = render(3, index, 128, {**BALANCED, "scene": {**BALANCED["scene"], "tunnel": 0.2}})
            buffer = io.BytesIO()
            Image.fromarray(scene.pixels).resize((1280, 720)).save(buffer, "JPEG", quality=80)
            name = f"{index:08x}.jpg"
            (folder / name).write_bytes(buffer.getvalue())
            labels = {attribute: label or "undefined" for attribute, label in scene.attributes.items()}
            entries.append({"name": name, "attributes": labels, "labels": [{"category": "car", "box2d": {}}]})
            index += 1
        file = root / "labels" / f"bdd100k_labels_images_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(entries if split == "train" else {"name": "bdd100k", "frames": entries}))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """BDD100K dealt anew, and pairs of a caption corpus mixed in."""
    folder = tmp_path_factory.mktemp("mixed")
    root, driving, pairs, both = (str(folder / name) for name in ("bdd100k", "driving", "pairs", "both"))
    bdd100k(Path(root), {"train": 300, "val": 60})
    command = ["data", "ingest", "bdd100k", "--images", root, "--labels", f"{root}/labels", "--out", driving]
    deal = ["test_share=0.2", "val_share=0.1", "min_test=6"]
    assert cli.main([*command, "resize=72", "rows_per_shard=50", *deal]) == 0
    rows = {split: sum(shard.rows for shard in shards) for split, shards in DataSet.open(driving).splits.items()}
    assert sum(rows.values()) == 360
    assert 72 <= rows["test"] < 110
    scenes = [render(4, i, 64, BALANCED) for i in range(60)]
    captions = [f"{'thick fog' if i % 2 else 'a car'}, picture {i}" for i in range(60)]
    images = [simplejpeg.encode_jpeg(np.ascontiguousarray(scene.pixels)) for scene in scenes]
    (folder / "corpus").mkdir()
    pq.write_table(pa.table({"TEXT": captions, "image": images}), folder / "corpus" / "0.parquet")
    preset = {
        "target": "weather:foggy",
        "columns": {"caption": "TEXT", "image": "image"},
        "phrases": {"foggy": ["fog"]},
    }
    (folder / "fog.yaml").write_text(json.dumps(preset))
    assert cli.main(["data", "retrieve", str(folder / "fog.yaml"), f"corpus={folder}/corpus", f"out={pairs}"]) == 0
    assert cli.main(["data", "mix", driving, pairs, "--out", both]) == 0
    assert cli.main(["data", "verify", both]) == 0
    return both


@pytest.mark.parametrize(
    ("preset", "tasks"),
    [
        ("foggy", ["clear", "partly cloudy", "overcast", "rainy", "snowy"]),
        ("overcast", ["clear", "partly cloudy", "rainy", "snowy"]),
        ("tunnel", ["city street", "highway", "residential", "parking lot"]),
    ],
)
def test_bdd100k_into_the_published_presets(
    preset: str, tasks: list[str], mixed: str, tmp_path: Path, old_weights: str
) -> None:
    """Nothing is overridden but URIs, sizes, and what makes it short."""
    run = tmp_path / "run"
    given = [f"data.uri={mixed}", f"model.weights={old_weights}", f"run.uri={run}", "model.head_rank=4"]
    assert cli.main(["finetune", str(PRESETS / f"{preset}.yaml"), *SMALL, *given]) in {0, 3}
    outcome = json.loads((run / "outcome.json").read_text())
    assert outcome["steps"] == 4
    attribute = "scene" if preset == "tunnel" else "weather"
    assert [task["task"] for task in outcome["val"]["tasks"]] == [f"{attribute}:{name}" for name in tasks]
    both = ["--old", old_weights, "--new", old_weights, "--out", str(tmp_path / "certificate.json")]
    assert cli.main(["certify", str(PRESETS / f"{preset}.yaml"), *both, *SMALL, *given[:1], given[3]]) in {0, 3}
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    parts = certificate["data"]["parts"]
    assert [part["rows"]["train"] for part in parts][1] == 60
    words = certificate["measured"]["label_sets"][attribute]
    assert set(words) == {*tasks, preset}  # neither `other` nor what the label set leaves out
    if preset == "tunnel":
        assert words["residential"] == ["the scene is a residential area."]
    assert parts[1]["uri"].endswith("/pairs")


def places365(root: Path, train: int) -> list[str]:
    """365 categories, three of them real names; `train` images of each and one of val."""
    names = ["/a/airfield", "/d/dressing_room", "/a/apartment_building/outdoor"]
    names += [f"/s/scene_{number}" for number in range(362)]
    (root / "labels").mkdir(parents=True)
    (root / "labels" / "categories_places365.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(names)))
    lists: dict[str, list[str]] = {"train_standard": [], "val": []}
    random = np.random.default_rng(0)
    for number, name in enumerate(names):
        for copy in range(train + 1):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(9, 0).repeat(9, 1)
            path = f"Places365_val_{number:08d}.jpg" if copy == train else f"{name}/{copy:08d}.jpg"
            file = root / ("val_256" if copy == train else "data_256") / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(simplejpeg.encode_jpeg(pixels, 80))
            lists["val" if copy == train else "train_standard"].append(f"{path} {number}\n")
    for split, lines in lists.items():
        (root / "labels" / f"places365_{split}.txt").write_text("".join(lines))
    return names


def test_places365_into_the_dressing_room_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, data, run = tmp_path / "places365", str(tmp_path / "data"), str(tmp_path / "run")
    places365(root, train=4)
    ingest = ["data", "ingest", "places365", "--images", str(root), "--labels", str(root / "labels"), "--out", data]
    assert cli.main([*ingest, "resize=72", "rows_per_shard=300"]) == 0
    found = DataSet.open(data)
    assert len(found.attributes["scene"]) == 365
    assert {"airfield", "dressing room", "apartment building outdoor"} <= set(found.attributes["scene"])
    weights = tmp_path / "old.safetensors"
    weights.write_bytes(pack_weights(ClipWithHeads("tiny-64", [], 4, seed=3)))
    given = [f"data.uri={data}", f"model.weights={weights}", f"run.uri={run}", "model.head_rank=4"]
    small = ["objective.batch=4", "optim.steps=2", "select.interpolate=false"]
    assert cli.main(["finetune", str(PRESETS / "dressing_room.yaml"), *SMALL, *small, *given]) in {0, 3}
    outcome = json.loads((Path(run) / "outcome.json").read_text())
    assert len(outcome["val"]["tasks"]) == 364
    steps = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    assert next(len(record["h"]) for record in steps if record["event"] == "step") == 240
