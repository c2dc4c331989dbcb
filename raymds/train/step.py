"""One optimisation step: of the constrained cycle (METHOD 2 to 5), and of pretraining.

Legend of shapes: P positives, N negatives, B examples, H heads, D embedding width, m protected tasks; lower case
p, n, b are this rank's part. R ranks.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from raymds.config import Config
from raymds.data.loader import Loaded
from raymds.data.sampler import Rows
from raymds.data.split import Split
from raymds.errors import DivergedError
from raymds.method import dist
from raymds.model import ClipWithHeads
from raymds.model.precision import products
from raymds.tasks import Tasks
from raymds.train.gradients import gradient
from raymds.train.parts import Parts


class Stopwatch:
    """Seconds spent in the named parts of a step; work queued on a GPU counts where it is queued."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._cuda = device.type == "cuda"

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of the body to a part."""
        begin = time.perf_counter()
        yield
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin


class Learner:
    """A model under data parallelism with AdamW, linear warm-up, cosine decay and gradient clipping."""

    def __init__(self, model: ClipWithHeads, config: Config) -> None:
        self.model = model
        self.config = config.optim
        self._micro_batch = config.run.micro_batch
        self._parts: Parts | None = None  # of the present step, where it has more than one
        self.names = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(self.names.values())
        decayed = [p for name, p in self.names.items() if p.ndim >= 2 and name not in model.embeddings]
        others = [p for name, p in self.names.items() if p.ndim < 2 or name in model.embeddings]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True)
        self._towers: torch.nn.Module = model
        if dist.active():
            # Without find_unused_parameters the buckets are laid out anew after the first step; a resumed run would
            # then add gradients in another order than one that never stopped.
            self._towers = DistributedDataParallel(model, find_unused_parameters=True, forward_sync_buffers=False)

    def embed(self, pixels: Tensor, tokens: Tensor, row: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of a step's images (B, 3, S, S) and texts (as of `encode_text`), once a step: (B, D), (T, D)."""
        size = self._micro_batch
        self._parts = None
        if not size or max(len(pixels), len(tokens)) <= size:
            image, text = self._towers(pixels.to(self.model.mean.device), tokens, row, head)
            return image, text
        self._parts = Parts(self.model, size, pixels, (tokens, row, head))
        return self._parts.image, self._parts.text

    def gradient(self, loss: Tensor) -> Tensor:
        """`gradients.gradient` of a loss of the step's embeddings."""
        if self._parts is None or not loss.requires_grad:
            return gradient(loss, self.parameters)
        return dist.all_reduce_sum(torch.cat([g.flatten() for g in self._parts.gradient(loss, self.parameters)]))

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warmup, steps, peak = self.config.warmup, self.config.steps, self.config.lr
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    def descend(self, loss: Tensor, step: int, clock: Stopwatch) -> float:
        """Backward, clip, update. `loss` is this rank's share of the global loss; returns the gradient's norm."""
        with clock("backward"), products():
            self.optimizer.zero_grad(set_to_none=True)
            # Data parallelism averages gradients over ranks; the global gradient is their sum.
            (loss * dist.world_size()).backward()  # type: ignore[no-untyped-call]
            if self._parts is not None:
                self._parts.backward(self._towers)
                self._parts = None
        with clock("optimiser"):
            norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip))
            if math.isfinite(norm):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate(step)
                self.optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """Optimiser state as named tensors."""
        state = self.optimizer.state
        return {
            f"optimizer.{name}.{key}": value.detach().cpu()
            for name, parameter in self.names.items()
            for key, value in state.get(parameter, {}).items()
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over the optimiser state of a checkpoint."""
        for name, parameter in self.names.items():
            found = {
                key: tensors[f"optimizer.{name}.{key}"].to(parameter.device, copy=True)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{name}.{key}" in tensors
            }
            if found:
                self.optimizer.state[parameter] = found


class Training(Protocol):
    """What the loop on a worker drives: one step at a time, all state in named tensors."""

    model: ClipWithHeads

    def step(self, loaded: Loaded) -> dict[str, Any]:
        """Take one optimisation step and return its metrics."""

    def state_dict(self) -> dict[str, Tensor]:
        """All state beside the weights."""

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over the state of a checkpoint."""


def distinct_tokens(model: ClipWithHeads, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token rows (U, L) of the distinct texts, and which of them each text is (T,): equal ones are encoded once."""
    index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    device = model.mean.device
    return model.tokenize(list(index)).to(device), torch.tensor([index[text] for text in texts], device=device)


def caption_heads(config: Config, split: Split, tasks: Tasks, positive: Rows, negative: Rows) -> Tensor:
    """The head of each pair's caption, (P + N,): its class's own; −1, the shared one, of a class without a head.

    With `objective.head: shared` those of all negatives are the shared one.
    """
    target = tasks.target.attribute
    label = torch.from_numpy(split.labels[target][np.concatenate([positive, negative])]).long()
    head = torch.where((label < 0) | (label >= len(tasks.classes[target])), -1, label + tasks.columns(target).start)
    if config.objective.head == "shared":
        head[len(positive) :] = -1
    return head


def finite(step: int, losses: dict[str, float]) -> None:
    """DivergedError naming step and task of the first loss that is not finite; NaN in one is NaN on every rank."""
    for name, value in losses.items():
        if not math.isfinite(value):
            raise DivergedError(
                f"step {step}: the loss of {name} is {value}; lower optim.lr (or raise optim.warmup) and start again: "
                "the last checkpoint before it is kept"
            )
