"""What checkpoints cost: share of the time of the steps between them, with one every 50 steps.

    python benchmarks/checkpoints.py [--steps 400] [--json FILE]

A cycle with the demo's settings on two workers. A checkpoint costs the seconds for which the loop is held (metrics are
published, tensors copied, Ray told), and what the steps after it take longer while a thread writes. The figure is the
median over the checkpoints. Measuring on val, which comes before each checkpoint, is no part of it.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from raymds.config import Config, load
from raymds.data.config import ScenesConfig
from raymds.log import records
from raymds.model import ClipWithHeads, pack_weights
from raymds.scenes import dataset as scene_set
from raymds.train import driver

EVERY, AFTER = 50, 10


def costs(records: list[dict[str, Any]], images: int) -> list[float]:
    """Per checkpoint but the last its cost as a share of `EVERY` steps."""
    seconds = {r["step"]: images / r["images_per_second"] for r in records if r["event"] == "step"}
    usual = statistics.median(seconds.values())
    found = []
    for record in records:
        if record["event"] == "checkpoint" and record["step"] + AFTER in seconds:
            slower = sum(seconds[record["step"] + i] - usual for i in range(1, AFTER + 1))
            found.append((record["seconds"] + slower) / (EVERY * usual))
    return found


def main() -> None:
    """Run the cycle, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = ["rows.train=2000", "rows.val=200", "rows.test=200"]
        scene_set.make(f"{folder}/data", load(ScenesConfig, "demo-scenes", rows), 2, lambda record: None)
        Path(folder, "old.safetensors").write_bytes(pack_weights(ClipWithHeads("tiny-64", [], 32, 0)))
        given = [f"data.uri={folder}/data", f"model.weights={folder}/old.safetensors", f"run.uri={folder}/run"]
        given += [f"optim.steps={options.steps}", f"select.every={EVERY}", "run.log_every=1", "select.tolerance=0.99"]
        config = load(Config, "demo", given)
        driver.finetune(config, lambda record: None)
        found = list(records(config.run.uri))
    protected = next(len(r["tasks"]) for r in found if r["event"] == "eval")
    shares = costs(found, config.objective.batch + config.constraints.images_per_task * protected)
    held = [r["seconds"] for r in found if r["event"] == "checkpoint"]
    share, pause = 100 * statistics.median(shares), statistics.median(held)
    print(f"a checkpoint every {EVERY} steps: {share:.1f} % of the time of the steps; the loop is held {pause:.3f} s")
    if options.json:
        Path(options.json).write_text(json.dumps({"shares": shares, "held": held}, indent=1) + "\n")


if __name__ == "__main__":
    main()
