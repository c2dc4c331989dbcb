"""Bytes that a rank exchanges in one step of the constrained cycle, for 1 to 8 ranks: counted, not timed.

    python benchmarks/scaling.py [--steps 3] [--json FILE]

Counted is what goes into each all-reduce and comes out of each all-gather. With P positives and N negatives of width D
(image and text), m protected tasks and w parameters, all of fp32 but the sums, a rank has

    gathered:  R·⌈(P+N)/R⌉·2·D·4   embeddings of pairs; a rank's positives and negatives may make one pair more
    reduced:   3·m·8               loss sums, counts and squares per task
               w·4 + used          gradients, and which parameters have one

for R > 1 and nothing for R = 1: beyond the rounding up to whole shares nothing grows with R.
"""

import argparse
import contextlib
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as td
import torch.multiprocessing as mp

from raymds.config import Config, load
from raymds.data.config import ScenesConfig
from raymds.data.loader import Loader
from raymds.data.sampler import shares
from raymds.data.shards import DataSet
from raymds.model import ClipWithHeads, pack_weights
from raymds.model import load as load_model
from raymds.scenes import dataset as scene_set
from raymds.tasks import resolve
from raymds.train.cycle import ConstrainedCycle
from raymds.train.limits import build_sampler

RANKS = range(1, 9)


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Bytes of the collectives called meanwhile: `reduced` and `gathered`; DDP's own go past Python."""
    count = {"reduced": 0, "gathered": 0}
    all_reduce, all_gather = td.all_reduce, td.all_gather

    def reduce(tensor: torch.Tensor, *rest: Any, **more: Any) -> Any:
        count["reduced"] += tensor.nbytes
        return all_reduce(tensor, *rest, **more)

    def gather(parts: list[torch.Tensor], *rest: Any, **more: Any) -> Any:
        count["gathered"] += sum(part.nbytes for part in parts)
        return all_gather(parts, *rest, **more)

    td.all_reduce, td.all_gather = reduce, gather
    try:
        yield count
    finally:
        td.all_reduce, td.all_gather = all_reduce, all_gather


def run_rank(rank: int, ranks: int, folder: str, config: Config, steps: int) -> None:
    """Some steps on one of `ranks` gloo ranks; rank 0 writes what it exchanged in the last one."""
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{folder}/rendezvous-{ranks}", rank=rank, world_size=ranks)
    data = DataSet.open(config.data.uri)
    tasks, train = resolve(config.task, data.attributes), data.load("train")
    net = load_model("tiny-64", config.model.weights, tasks.heads, config.model.head_rank, 0)
    sampler = build_sampler(train, tasks, config)
    training = ConstrainedCycle(net, train, tasks, sampler, config)
    training.measure_old()
    gradients = {"bytes": 0}
    if ranks > 1:

        def hook(state: dict[str, int], bucket: td.GradBucket) -> torch.futures.Future[torch.Tensor]:
            state["bytes"] += bucket.buffer().nbytes
            return td.all_reduce(bucket.buffer().div_(ranks), async_op=True).get_future().then(lambda f: f.value()[0])

        training._learner._towers.register_comm_hook(gradients, hook)
    loader = Loader(train, lambda step: sampler.batch(step).share(rank, ranks), net.preprocess, 0)
    for step in range(steps):
        gradients["bytes"] = 0
        loaded = loader.get(step)
        with counted() as count:
            training.step(loaded)
    loader.close()
    if rank == 0:
        found = {"gathered": count["gathered"], "reduced": count["reduced"] - gradients["bytes"]}
        found |= {"gradients": gradients["bytes"], "expected": expected(ranks, net, len(tasks.protected), config)}
        Path(folder, f"{ranks}.json").write_text(json.dumps(found))
    td.destroy_process_group()


def expected(ranks: int, net: ClipWithHeads, m: int, config: Config) -> dict[str, int]:
    """The formula above."""
    if ranks == 1:
        return {"gathered": 0, "reduced": 0, "gradients": 0}
    P = round(config.objective.batch * config.objective.positive_share)
    most = max(map(sum, zip(shares(P, ranks), shares(config.objective.batch - P, ranks), strict=True)))
    return {
        "gathered": ranks * most * 2 * net.clip.text.output_dim * 4,
        "reduced": 3 * m * 8,
        "gradients": sum(p.numel() for p in net.parameters() if p.requires_grad) * 4,
    }


def main() -> None:
    """Run the cycle on 1 to 8 ranks, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    multiprocessing.set_forkserver_preload(["raymds.train.cycle"])
    found = {}
    print(f"{'ranks':>5} {'gathered':>10} {'reduced':>8} {'gradients':>10}   bytes per rank and step")
    with tempfile.TemporaryDirectory() as folder:
        rows = ["rows.train=2000", "rows.val=10", "rows.test=10"]
        scene_set.make(f"{folder}/data", load(ScenesConfig, "demo-scenes", rows), 2, lambda record: None)
        Path(folder, "old.safetensors").write_bytes(pack_weights(ClipWithHeads("tiny-64", [], 32, 0)))
        given = [f"data.uri={folder}/data", f"model.weights={folder}/old.safetensors", f"run.uri={folder}/run"]
        config = load(Config, "demo", given)
        for ranks in RANKS:
            arguments = (ranks, folder, config, options.steps)
            mp.start_processes(run_rank, arguments, nprocs=ranks, start_method="forkserver")
            found[ranks] = row = json.loads(Path(folder, f"{ranks}.json").read_text())
            fits = all(row[name] == value for name, value in row["expected"].items())
            verdict = "as the formula says" if fits else f"the formula says {row['expected']}"
            print(f"{ranks:>5} {row['gathered']:>10} {row['reduced']:>8} {row['gradients']:>10}   {verdict}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
