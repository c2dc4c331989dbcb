"""What the constrained step costs on a GPU at published sizes, in every precision, beside the plain published step.

    python benchmarks/gpu.py [--device cuda|cpu] [--model ViT-B-16] [--scale 1.0] [--steps 10] [--json FILE]

One process, random weights, random images, no Ray, no network. Per shape of `step.py` (m = 5: 256 pairs + 50 images;
m = 364: 64 pairs + 480 images, 365 prompts), with 30 % of the constraints violated:

- ms: median time of a step whose images are in memory; `faster`: the published step's in fp32, divided by it;
- outside: the share of that time in which no matrix product, convolution or attention runs, by torch.profiler;
- MFU: operations of the step (counted by torch, those of the published step in its row) per second, of what a product
  of two large square matrices reaches in the same precision, `TFLOPS`;
- MiB: the peak of what CUDA allocated (nothing on a CPU);
- h: the largest |h_k| of the unchanged model, which has to be 0;
- cosine: of the gradient of a step, every constraint violated, with that of fp32.

`compile` is `run.compile` in fp32, `all on` bf16 with it.
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from step import SHAPES, Published, Shape, configured, violate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from raymds.config import Config
from raymds.data.loader import Loaded, Loader
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.model import ClipWithHeads
from raymds.model import load as load_model
from raymds.model.precision import trained_in
from raymds.tasks import Tasks, resolve
from raymds.train import cycle, limits

WARM = 3  # steps before the clock; compiled towers meet the sizes of a step in them
VIOLATED = 0.3
PRODUCT = re.compile(
    r"::(.*(mm|matmul|conv|attention).*)$"
)  # operators; those that call others have no time of their own


@dataclass(frozen=True)
class Variant:
    """A row: the precision, and whether the towers are compiled."""

    precision: str = "fp32"
    compiled: bool = False


VARIANTS = {
    "fp32": Variant(),
    "tf32": Variant("tf32"),
    "bf16": Variant("bf16"),
    "compile": Variant(compiled=True),
    "all on": Variant("bf16", compiled=True),
}


@dataclass(frozen=True)
class Case:
    """What the rows of a shape have in common."""

    config: Config
    tasks: Tasks
    train: Split
    loaded: list[Loaded]  # of the steps
    device: str

    def model(self) -> ClipWithHeads:
        """Random weights, the same in all rows."""
        return load_model(self.config.model.name, None, self.tasks.heads, None, 0).to(self.device)

    def ours(self, variant: Variant) -> cycle.ConstrainedCycle:
        """The constrained cycle at its start."""
        self.config.run.precision, self.config.run.compile = variant.precision, variant.compiled
        sampler = limits.build_sampler(self.train, self.tasks, self.config)
        made = cycle.ConstrainedCycle(self.model(), self.train, self.tasks, sampler, self.config)
        made.measure_old()
        return made


def opened(config: Config, steps: int, device: str) -> Case:
    """A data set's batches, decoded."""
    data = DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    train = data.load("train", tasks.vocabularies)
    sampler = limits.build_sampler(train, tasks, config)
    fit = load_model(config.model.name, None, [], None, 0).preprocess
    loader = Loader(train, sampler.batch, fit, 0, ahead=0, threads=torch.get_num_threads())
    loaded = [loader.get(step) for step in range(steps)]
    loader.close()
    return Case(config, tasks, train, loaded, device)


def synchronised(device: str) -> float:
    """The time, when everything queued is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matrix_rate(device: str, precision: str) -> float:
    """Operations per second of a product of two square matrices, median of 10."""
    n = 8192 if device == "cuda" else 512
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    times = []
    for _ in range(13):
        begin = synchronised(device)
        a @ a
        times.append(synchronised(device) - begin)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * n**3 / statistics.median(times[3:])


def outside(step: Callable[[Loaded], Any], loaded: Loaded, device: str, seconds: float) -> float:
    """Share of a step's `seconds` without a product; on a CPU of the processor's time of the step that is watched."""
    cuda = device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        step(loaded)
        synchronised(device)
    # Operators alone: kernels have rows of their own, which would count a second time.
    events = seen.key_averages()
    products = [event for event in events if PRODUCT.search(event.key)]
    if cuda:
        return 1 - sum(event.self_device_time_total for event in products) / 1e6 / seconds
    times = [sum(event.self_cpu_time_total for event in some) for some in (products, events)]
    return 1 - float(times[0] / times[1])


def gradient(case: Case, ours: cycle.ConstrainedCycle) -> Tensor:
    """Direction of the first step, every constraint violated: (all parameters,), on the CPU in fp64."""
    violate(ours, len(case.tasks.protected))
    ours.step(case.loaded[0])
    for losses in ours.old_losses:
        losses.add_(10)  # as they were before
    parts = [p.grad.flatten() for p in ours.model.parameters() if p.grad is not None]
    return torch.cat(parts).double().cpu()


def timed(case: Case, step: Callable[[Loaded], Any], rate: float, count: bool) -> dict[str, Any]:
    """Times of the steps, time in products, peak of memory; with `count` the operations of a step."""
    device, times, operations = case.device, [], 0
    for number, loaded in enumerate(case.loaded):
        with FlopCounterMode(display=False) if count and number == 1 else nullcontext() as counted:
            begin = synchronised(device)
            step(loaded)
            if number >= WARM:
                times.append(synchronised(device) - begin)
        operations = counted.get_total_flops() if counted else operations
    seconds = statistics.median(times)
    share = outside(step, case.loaded[-1], device, seconds)
    found = {"ms": 1000 * seconds, "outside": share, "times": times, "TFLOPS": rate / 1e12}
    found["MiB"] = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None
    return found | ({"operations": operations} if count else {})


def row(case: Case, variant: Variant, rate: float, of_fp32: Tensor, count: bool) -> dict[str, Any]:
    """One row of ours."""
    ours = case.ours(variant)
    with trained_in(variant.precision):
        h = float(ours._changes(case.loaded[0])[0].abs().max())
    first = gradient(case, ours)  # of the towers that are timed, so that they are compiled once
    violate(ours, round(VIOLATED * len(case.tasks.protected)))
    found = timed(case, ours.step, rate, count)
    found["h"] = h
    found["cosine"] = float(torch.nn.functional.cosine_similarity(first, of_fp32, dim=0))
    return found


def measure(shape: Shape, model: str, steps: int, device: str) -> dict[str, Any]:
    """All rows of a shape; of one that can't be, why."""
    with tempfile.TemporaryDirectory() as folder:
        case = opened(configured(folder, shape, model, steps + WARM), steps + WARM, device)
    rates = {name: matrix_rate(device, name) for name in ("fp32", "tf32", "bf16")}
    fresh(device)
    published = Published(case.config, case.tasks, constrained=True, device=device)
    result: dict[str, Any] = {"published": timed(case, published.step, rates["fp32"], count=True)}
    del published
    of_fp32 = gradient(case, case.ours(VARIANTS["fp32"]))
    for name, variant in VARIANTS.items():
        fresh(device)
        try:
            result[name] = row(case, variant, rates[variant.precision], of_fp32, count=name == "fp32")
        except Exception as error:  # a machine without a compiler, or without memory for this row: the others go on
            result[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:100]}
    for name, found in result.items():
        if "ms" in found:
            operations = result["published" if name == "published" else "fp32"].get("operations", 0)
            found["faster"] = result["published"]["ms"] / found["ms"]
            found["MFU"] = operations / (found["ms"] / 1000) / (found["TFLOPS"] * 1e12)
    return result


def fresh(device: str) -> None:
    """As if nothing had run before."""
    torch.compiler.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def show(protected: int, found: dict[str, Any]) -> None:
    """Print the rows of a shape."""
    for name, r in found.items():
        if "failed" in r:
            print(f"{protected:>4} {name:<10} {r['failed']}")
            continue
        memory = f"{r['MiB']:9,.0f}" if r["MiB"] is not None else f"{'-':>9}"
        ours = f"{r['h']:9.1e}{r['cosine']:9.5f}" if "h" in r else ""
        numbers = f"{r['ms']:9.1f}{r['faster']:8.2f}{r['outside']:9.1%}{r['MFU']:7.1%}{r['TFLOPS']:8.1f}"
        print(f"{protected:>4} {name:<10}{numbers}{memory}{ours}", flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--shapes", type=int, nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--scale", type=float, default=1.0, help="as in step.py")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    result: dict[str, Any] = {"device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu"}
    columns = zip(("faster", "outside", "MFU", "TFLOPS", "MiB", "h", "cosine"), (8, 9, 7, 8, 9, 9, 9), strict=True)
    print(f"{'m':>4} {'step':<10}{'ms':>9}" + "".join(f"{name:>{width}}" for name, width in columns))
    for protected in options.shapes:
        shape = SHAPES[protected].scaled(options.scale)
        result[str(protected)] = measure(shape, options.model, options.steps, options.device)
        show(shape.protected, result[str(protected)])
        if options.json:  # what is known, should the next shape take too long
            Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
