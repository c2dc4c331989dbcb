"""Memory of a step: open_clip's own, ours, and ours in parts with a batch that is sixteen times larger.

    python benchmarks/memory.py [--model ViT-B-32] [--batch 32] [--times 16] [--json FILE]

Each kind of step runs twice, in a process of its own; the figure is by how much its peak lies above what it held before
there was a model: weights, gradients, AdamW's moments, and what a step keeps. On a GPU it is what CUDA allocated.

- open_clip: `open_clip.ClipLoss` on as many images and captions as the batch has;
- ours: the constrained step, that batch of pairs and images of four constraints, all violated: about a fifth as many,
  in whole images of each;
- again: the same with `run.grad_checkpointing`;
- in parts: ours with `run.micro_batch` of that batch, and everything else `--times` larger.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from step import Shape, configured

from raymds.config import Config
from raymds.data.loader import Loader
from raymds.data.shards import DataSet
from raymds.model import load as load_model
from raymds.tasks import resolve
from raymds.train import cycle, limits

PROTECTED, STEPS = 4, 2


def resident(field: str = "VmHWM") -> float:
    """MiB of this process: at its peak, or with VmRSS now."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def open_clip_steps(model: str, batch: int, device: torch.device) -> None:
    """The step that open_clip trains with."""
    clip = load_model(model, None, [], None, 0).clip.to(device)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-6, fused=True)
    text, size = clip.text, clip.visual.image_size
    images = torch.rand(batch, 3, *(size if isinstance(size, tuple) else (size, size)), device=device)
    tokens = torch.randint(1, 400, (batch, text.context_length), device=device)
    tokens[:, -1] = text.token_embedding.num_embeddings - 1
    for _ in range(STEPS):
        optimizer.zero_grad()
        embedded = clip.encode_image(images, normalize=True), clip.encode_text(tokens, normalize=True)
        open_clip.ClipLoss()(*embedded, clip.logit_scale.exp()).backward()
        optimizer.step()


def our_steps(config: Config, device: torch.device) -> None:
    """The constrained step, every constraint violated."""
    data = DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    train = data.load("train", tasks.vocabularies)
    sampler = limits.build_sampler(train, tasks, config)
    net = load_model(config.model.name, None, tasks.heads, None, 0).to(device)
    loader = Loader(train, sampler.batch, net.preprocess, 0, ahead=0)
    ours = cycle.ConstrainedCycle(net, train, tasks, sampler, config)
    ours.old_losses = [torch.full((len(rows),), -10.0, dtype=torch.float64) for rows in sampler.seen]
    for step in range(STEPS):
        ours.step(loader.get(step))


def peak(kind: str, model: str, batch: int, micro_batch: int) -> float:
    """MiB of one kind of step, in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        shape = Shape(PROTECTED, batch, PROTECTED, max(1, batch // 5 // PROTECTED))
        config = configured(folder, shape, model, STEPS)
        config.run.micro_batch, config.run.grad_checkpointing = micro_batch, kind == "again"
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        open_clip_steps(model, batch, device) if kind == "open_clip" else our_steps(config, device)
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident() - before


def measure(model: str, batch: int, times: int) -> dict[str, float]:
    """MiB by kind."""
    jobs = {"open_clip": (batch, 0), "ours": (batch, 0), "again": (batch, 0), "in parts": (times * batch, batch)}
    found = {}
    for kind, sizes in jobs.items():
        command = [sys.executable, __file__, "--alone", kind, model, *map(str, sizes)]
        found[kind] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--times", type=int, default=16)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--alone", nargs=4, metavar=("KIND", "MODEL", "BATCH", "MICRO_BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        kind, model, batch, micro_batch = options.alone
        print(peak(kind, model, int(batch), int(micro_batch)))
        return
    found: dict[str, Any] = measure(options.model, options.batch, options.times)
    for kind, size in found.items():
        batch = options.batch * (options.times if kind == "in parts" else 1)
        print(f"{kind:10} batch {batch:6,}: {size:8,.0f} MiB, {size / found['open_clip']:.2f} of open_clip's")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
