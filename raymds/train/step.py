"""One optimisation step: of the constrained cycle (METHOD 2 to 5), and of pretraining.

Legend of shapes: P positives, N negatives, B examples, H heads, D embedding width, m protected tasks; lower case
p, n, b are this rank's part. R ranks.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
    """Seconds spent in the named parts of a step; on a GPU as it counts them, so that nobody waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._parts: list[tuple[str, Any, Any]] = []  # name, begin, end

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of the body to a part."""
        begin = self._now()
        yield
        self._parts.append((part, begin, self._now()))

    def seconds(self) -> dict[str, float]:
        """By part, once the step is done."""
        found: dict[str, float] = {}
        for part, begin, end in self._parts:
            taken = begin.elapsed_time(end) / 1000 if self._cuda else end - begin
            found[part] = found.get(part, 0.0) + taken
        return found

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class Taken:
    """A step that was taken, by a GPU perhaps not to its end; its numbers are on their way to the CPU, all at once."""

    def __init__(self, step: int, of: str, clock: Stopwatch, known: dict[str, Any], coming: dict[str, Tensor]) -> None:
        """`known`: metrics that the CPU has; `coming`: those of the device, with `grad_norm` and the `loss` of `of`."""
        self._step, self._of, self._clock, self._known = step, of, clock, known
        self._shapes = {name: value.shape for name, value in coming.items()}
        numbers = torch.cat([value.detach().double().reshape(-1) for value in coming.values()])
        self._numbers = numbers.to("cpu", non_blocking=True)
        self._done = torch.cuda.Event() if numbers.is_cuda else None  # type: ignore[no-untyped-call]
        if self._done:
            self._done.record()

    def metrics(self) -> dict[str, Any]:
        """What the step has to say: numbers, and arrays, (m,), of tasks. DivergedError where a loss is not finite."""
        if self._done:
            self._done.synchronize()
        parts = torch.split(self._numbers, [shape.numel() for shape in self._shapes.values()])
        pairs = zip(self._shapes.items(), parts, strict=True)
        found: dict[str, Any] = {name: part.numpy() if len(shape) else part.item() for (name, shape), part in pairs}
        finite(self._step, {self._of: found["loss"], f"{self._of} (its gradient)": found["grad_norm"]})
        return self._known | found | {"seconds": self._clock.seconds()}


class Learner:
    """A model under data parallelism with AdamW, linear warm-up, cosine decay and gradient clipping."""

    def __init__(self, model: ClipWithHeads, config: Config) -> None:
        self.model = model
        self.config = config.optim
        self._micro_batch = config.run.micro_batch
        if config.run.grad_checkpointing:
            model.checkpoint_blocks()
        if config.run.compile:
            model.compile_towers()
        # What the device copies beside what it computes.
        self._copies = torch.cuda.Stream(model.mean.device) if model.mean.is_cuda else None  # type: ignore[no-untyped-call]
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

    def send(self, loaded: Loaded) -> Loaded:
        """A step's images on their way to a GPU, which still computes the last step; in parts they go when due."""
        if self._micro_batch or self._copies is None:
            return loaded
        now = torch.cuda.current_stream(self.model.mean.device)
        with torch.cuda.stream(self._copies):
            given = {"pairs": loaded.pairs, "examples": loaded.examples, "held": loaded.held}
            sent = {name: self.model.here(pixels) for name, pixels in given.items() if pixels is not None}
        now.wait_stream(self._copies)
        for pixels in sent.values():
            pixels.record_stream(now)
        return replace(loaded, **sent)  # type: ignore[arg-type]

    def picked(self, pixels: Tensor, which: Tensor) -> Tensor:
        """Some of the images, which are named by numbers of the CPU."""
        return pixels[self.model.here(which) if pixels.is_cuda else which]

    def embed(
        self, pixels: Sequence[Tensor], tokens: Tensor, row: Tensor, head: Tensor, apart: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of a step's images (B, 3, S, S) and texts (as of `encode_text`), once a step: (B, D), (T, D).

        The images are given in several tensors, each as it was sent; all else comes from the CPU. The last `apart` of
        them are embedded as they are measured.
        """
        size = self._micro_batch
        self._parts = None
        if not size or max(sum(map(len, pixels)), len(tokens)) <= size:
            images = torch.cat([self.model.here(some) for some in pixels])
            image, text = self._towers(images, *map(self.model.here, (tokens, row, head)), *([apart] if apart else []))
            return image, text
        self._parts = Parts(self.model, size, torch.cat(list(pixels)), (tokens, row, head))
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

    def descend(self, loss: Tensor, step: int, clock: Stopwatch) -> Tensor:
        """Backward, clip, update. `loss` is this rank's share of the global loss; returns the gradient's norm, ().

        Where that is not finite nothing is updated.
        """
        with clock("backward"), products():
            self.optimizer.zero_grad(set_to_none=True)
            # Data parallelism averages gradients over ranks; the global gradient is their sum.
            (loss * dist.world_size()).backward()  # type: ignore[no-untyped-call]
            if self._parts is not None:
                self._parts.backward(self._towers)
                self._parts = None
        with clock("optimiser"):
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(step)
            # The fused kernel looks at it on the device; it is there for scaled gradients in half precision.
            self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """Optimiser state as named tensors."""
        state = self.optimizer.state
        return {
            f"optimizer.{name}.{key}": value.detach().cpu().contiguous()
            for name, parameter in self.names.items()
            for key, value in state.get(parameter, {}).items()
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over the optimiser state of a checkpoint."""
        for name, parameter in self.names.items():
            kept = {key: tensors.get(f"optimizer.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
            like = {"step": parameter.new_empty(())}  # the moments lie in memory as the parameter does
            found = {k: torch.empty_like(like.get(k, parameter)).copy_(v) for k, v in kept.items() if v is not None}
            if found:
                self.optimizer.state[parameter] = found


class Training(Protocol):
    """What the loop on a worker drives: one step at a time, all state in named tensors."""

    model: ClipWithHeads

    def step(self, loaded: Loaded) -> Taken:
        """Take one optimisation step."""

    def state_dict(self) -> dict[str, Tensor]:
        """All state beside the weights."""

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over the state of a checkpoint."""


class Sentences:
    """Texts that come in step after step, tokenised once."""

    def __init__(self, model: ClipWithHeads, texts: Sequence[str]) -> None:
        self._model = model
        self._index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        self._tokens = model.whole(list(self._index))
        self._length = model.length(self._tokens)
        self._row = [self._index[text] for text in texts]

    def behind(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As `distinct_tokens`, of captions and then of these texts; on the CPU."""
        index = dict(self._index)
        row = [index.setdefault(caption, len(index)) for caption in captions]
        more = self._model.whole(list(index)[len(self._index) :])
        length = max(self._length, self._model.length(more))
        tokens = torch.cat([self._tokens[:, :length], more[:, :length]])
        return tokens, torch.tensor(row + self._row, dtype=torch.long)


def distinct_tokens(model: ClipWithHeads, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token rows (U, L) of the distinct texts, and which of them each text is (T,): equal ones are encoded once."""
    tokens, row = Sentences(model, texts).behind([])
    return model.here(tokens), model.here(row)


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
