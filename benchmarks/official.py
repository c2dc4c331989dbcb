"""BDD100K and Places365 with as many rows of every class as they officially have, through the published presets.

    python benchmarks/official.py DIR [bdd100k places365] [--share 1.0] [--json FILE]

Every image is a small one of its own. The commands are a user's own: `data ingest` (of BDD100K dealt anew, and mixed
with retrieved pairs of fog), `data verify`, then two steps of each preset with a tiny model. Of each command it prints
seconds and the peak memory of its own process. What a real image costs more is its decoding (`loader.py`). With
--share 0.01 there are a hundredth of the rows of every class. What is there already is kept.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from raymds.model import ClipWithHeads, pack_weights

PRESETS = Path(__file__).parents[1] / "jobs" / "presets"
WEATHER = ("clear", "overcast", "undefined", "snowy", "rainy", "partly cloudy", "foggy")
SCENE = ("city street", "highway", "residential", "undefined", "parking lot", "tunnel", "gas stations")
TIME = ("daytime", "night", "dawn/dusk", "undefined")
BDD100K = {  # official numbers of rows, in the order of the names above
    "train": (
        (37344, 8770, 8119, 5549, 5070, 4881, 130),
        (43516, 17379, 8074, 361, 377, 129, 27),
        (36728, 27971, 5027, 137),
    ),
    "val": ((5346, 1239, 1157, 769, 738, 738, 13), (6112, 2499, 1253, 53, 49, 27, 7), (5258, 3929, 778, 35)),
}
PLACES365 = {"train": 1_803_460, "val": 36_500}
CLASSES = 365
PAIRS = 20_000  # of the corpus that pairs of fog are retrieved from, a tenth of them
SMALL = [
    "model.name=tiny-64", "model.head_rank=4", "data.image_size=64",
    "run.workers=2", "run.cpus_per_worker=1", "run.gpus_per_worker=0",
    "optim.steps=2", "optim.warmup=1", "select.every=2", "select.interpolate=false",
]  # fmt: skip
PEAK = """
import sys
from raymds.cli.main import main
status = main(sys.argv[2:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
open(sys.argv[1], "w").write(peak)
sys.exit(status)
"""


class Commands:
    """Runs `raymds` and keeps what each command took."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.taken = folder, dict[str, dict[str, float]]()

    def run(self, name: str, *arguments: object) -> None:
        """One command; it may end with the old model."""
        begin, peak = time.perf_counter(), self.folder / "peak"
        command = [sys.executable, "-c", PEAK, str(peak), *map(str, arguments)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        if ended.returncode not in {0, 3}:
            sys.exit(f"{name}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
        self.taken[name] = {"seconds": time.perf_counter() - begin, "MiB": int(peak.read_text()) / 1024}
        print(f"{name:32} {self.taken[name]['seconds']:8.0f} s {self.taken[name]['MiB']:8,.0f} MiB", flush=True)


def images(seed: int) -> Iterator[bytes]:
    """Small JPEGs, no two alike."""
    random = np.random.default_rng(seed)
    while True:
        yield simplejpeg.encode_jpeg(random.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1), 90)


def bdd100k(root: Path, share: float) -> None:
    """The official folders and label files."""
    random, small = np.random.default_rng(1), images(2)
    for split, counts in BDD100K.items():
        folder = root / "images" / "100k" / split
        folder.mkdir(parents=True)
        columns = []
        for names, of_class in zip((WEATHER, SCENE, TIME), counts, strict=True):
            columns.append(np.repeat(names, [max(2, round(share * count)) for count in of_class]))
        rows = max(map(len, columns))
        entries = []
        for index, labels in enumerate(zip(*(random.permutation(np.resize(c, rows)) for c in columns), strict=True)):
            name = f"{split[0]}{index:07x}.jpg"
            (folder / name).write_bytes(next(small))
            attributes = dict(zip(("weather", "scene", "timeofday"), map(str, labels), strict=True))
            entries.append({"name": name, "attributes": attributes})
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"bdd100k_labels_images_{split}.json").write_text(json.dumps(entries))


def corpus(folder: Path, share: float) -> None:
    """Captions and images of a corpus; a tenth of the captions speak of fog."""
    small, rows = images(3), max(40, round(share * PAIRS))
    folder.mkdir(parents=True)
    captions = [f"{'thick fog' if row % 10 == 0 else 'a car'}, picture {row}" for row in range(rows)]
    pq.write_table(pa.table({"TEXT": captions, "image": [next(small) for _ in range(rows)]}), folder / "0.parquet")
    words = {"target": "weather:foggy", "columns": {"caption": "TEXT", "image": "image"}, "phrases": {"foggy": ["fog"]}}
    (folder.parent / "fog.yaml").write_text(json.dumps({**words, "least": 1, "resize": 0}))


def places365(root: Path, share: float) -> None:
    """The official lists, train in folders of classes, val flat."""
    small = images(4)
    names = [f"/{'abcdefghij'[n % 10]}/class_{n}" for n in range(CLASSES - 1)] + ["/d/dressing_room"]
    labels = root / "labels"
    labels.mkdir(parents=True)
    (labels / "categories_places365.txt").write_text("".join(f"{name} {n}\n" for n, name in enumerate(names)))
    for split, total in PLACES365.items():
        with io.StringIO() as lines:
            for index in range(max(6 * CLASSES, round(share * total))):
                name = names[index % CLASSES]
                path = f"Places365_val_{index:08d}.jpg" if split == "val" else f"{name}/{index:08d}.jpg"
                file = root / ("val_256" if split == "val" else "data_256") / path.lstrip("/")
                if index < CLASSES:
                    file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(next(small))
                lines.write(f"{path} {index % CLASSES}\n")
            (labels / f"places365_{'val' if split == 'val' else 'train_standard'}.txt").write_text(lines.getvalue())


def ingest(commands: Commands, name: str, share: float) -> Path:
    """Make a set's files and the data set out of them."""
    root, data = commands.folder / f"{name}-{share:g}", commands.folder / f"{name}-{share:g}-data"
    if not root.exists():
        half = root.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        {"bdd100k": bdd100k, "places365": places365}[name](half, share)
        half.rename(root)
    deal = ["test_share=0.2", "val_share=0.1"] if name == "bdd100k" else []
    given = ["--images", root, "--labels", root / "labels", "--out", data, "resize=0", *deal]
    commands.run(f"ingest {name}", "data", "ingest", name, *given)
    commands.run(f"verify {name}", "data", "verify", data)
    return data


def mixed(commands: Commands, data: Path, share: float) -> Path:
    """A data set with pairs of fog mixed in."""
    folder = commands.folder
    if not (folder / "fog.yaml").exists():  # written last
        shutil.rmtree(folder / "corpus", ignore_errors=True)
        corpus(folder / "corpus", share)
    commands.run("retrieve", "data", "retrieve", folder / "fog.yaml", f"corpus={folder}/corpus", f"out={folder}/pairs")
    commands.run("mix", "data", "mix", data, folder / "pairs", "--out", folder / "mixed")
    return folder / "mixed"


def measure(folder: Path, sets: list[str], share: float) -> Mapping[str, Any]:
    """Run all commands of these sets."""
    folder.mkdir(parents=True, exist_ok=True)
    old, commands = folder / "old.safetensors", Commands(folder)
    old.write_bytes(pack_weights(ClipWithHeads("tiny-64", [], 4, seed=3)))
    for name in sets:
        data = ingest(commands, name, share)
        if name == "bdd100k":
            data = mixed(commands, data, share)
        for preset in ("foggy", "overcast", "tunnel") if name == "bdd100k" else ("dressing_room",):
            run = folder / f"run-{preset}-{time.time_ns()}"
            given = [f"data.uri={data}", f"model.weights={old}", f"run.uri={run}"]
            commands.run(f"two steps of {preset}", "finetune", PRESETS / f"{preset}.yaml", *SMALL, *given)
    return commands.taken


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR", type=Path, help="where files, data sets and runs are made")
    parser.add_argument("sets", nargs="*", metavar="SET", help="bdd100k, places365 (default: both)")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows of every class (default: 1)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    unknown = set(options.sets) - {"bdd100k", "places365"}
    if unknown:
        parser.error(f"there is no set {', '.join(sorted(unknown))}; there are bdd100k, places365")
    found = measure(options.directory.absolute(), options.sets or ["bdd100k", "places365"], options.share)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
