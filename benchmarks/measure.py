"""How fast a model is measured, beside what its images and its arithmetic allow; and what of a run goes on that.

    python benchmarks/measure.py [RUN] [--model tiny-64] [--images 2048] [--size 256] [--repeats 5] [--json FILE]

Images per second, medians of readings that take turns: of `evaluate`; of decoding alone, with as many threads as
`evaluate` has; of the model alone, on pixels that are there. Where the model has a GPU the two go on at once, and
`evaluate` can't be faster than the slower one (`of the slower`). On a CPU they share the cores: `of both` compares with
an image's time in the one and in the other added up. The JPEGs show driving scenes, 200 pictures that repeat.

With RUN, the directory of a cycle: what share of its steps and measurements of candidates on val went on val.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

from raymds.config import TaskConfig
from raymds.data.loader import clean_batches, clean_pixels
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.log import records
from raymds.model import load
from raymds.scenes.render import render
from raymds.tasks import resolve
from raymds.train.evaluate import evaluate

DISTINCT, PART = 200, 16  # rendered pictures; images per background call, as in `clean_batches`
KINDS = ["road", "street", "lane"]


def data_set(folder: str, images: int, size: int) -> DataSet:
    """A val split of JPEGs."""
    pictures = [np.ascontiguousarray(render(0, i, size).pixels) for i in range(min(DISTINCT, images))]
    encoded = [simplejpeg.encode_jpeg(picture, 90, fastdct=False) for picture in pictures]
    rows = [Row(str(i), encoded[i % len(encoded)], "a road.", {"kind": KINDS[i % 3]}) for i in range(images)]
    return write_manifest(
        folder, {"kind": KINDS}, {"val": [write_shard(folder, "val-0.parquet", rows, {"kind": KINDS})]}, {}
    )


def measure(data: DataSet, model: str, repeats: int) -> dict[str, Any]:
    """Rates, and their ratios."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tasks = resolve(
        TaskConfig(target="kind:road", protect=["kind"], prompts={"kind": "a photo of a {}."}), data.attributes
    )
    val = data.load("val", tasks.vocabularies)
    net = load(model, None, tasks.heads, None, 0).to(device)
    rows = np.arange(len(val))
    val.example(0)  # the shard is in memory from here on
    pixels = [block for _, block in clean_batches(val, rows, net.preprocess, substitutes=False)]
    classifiers = net.classifiers(tasks.label_sets)

    def decode() -> None:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(lambda i: clean_pixels(val, rows[i : i + PART], net.preprocess), range(0, len(rows), PART)))

    def compute() -> None:
        for block in pixels:
            net.cosines(classifiers, block)["kind"].cpu()

    kinds: dict[str, Callable[[], Any]] = {"evaluate": lambda: evaluate(net, val, tasks, 0.05), "decoding": decode}
    kinds["model"] = compute
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for repeat in range(repeats + 1):
        for name, work in kinds.items():
            begin = time.perf_counter()
            work()
            if repeat:  # the first one allocates
                rates[name].append(len(rows) / (time.perf_counter() - begin))
    rate = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "images_per_second": rate,
        "of the slower": rate["evaluate"] / min(rate["decoding"], rate["model"]),
        "of both": rate["evaluate"] * (1 / rate["decoding"] + 1 / rate["model"]),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "readings": rates,
    }


def share(run: str) -> dict[str, float | None]:
    """Seconds of a run's steps and of its candidates' measurements, and the share of the latter.

    None where its log does not say how long they took: an older version made it, or nothing was measured.
    """
    log = list(records(run))
    steps = {record["step"]: sum(record["seconds"].values()) for record in log if record["event"] == "step"}
    stepping = statistics.fmean(steps.values()) * max(steps)  # the log of a long run has some of its steps
    by_workers = [record for record in log if record["event"] == "eval" and not record.get("beside")]
    measuring = sum(record.get("seconds", 0.0) for record in by_workers)
    return {"steps": stepping, "val": measuring, "share": measuring / (stepping + measuring) if measuring else None}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", metavar="RUN")
    parser.add_argument("--model", default="tiny-64")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=256, help="pixels a side of the JPEGs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(data_set(folder, options.images, options.size), options.model, options.repeats)
    for name, rate in found["images_per_second"].items():
        print(f"{name:<10}{rate:>8.0f} images/s")
    print(f"evaluate: {found['of the slower']:.2f} of the slower, {found['of both']:.2f} of both ({found['device']})")
    if options.run:
        found["run"] = share(options.run)
        known = found["run"]["share"]
        print(f"{options.run}: {'its log has no times of val' if known is None else f'{known:.1%} of its time on val'}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
