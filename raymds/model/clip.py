"""Any open_clip model with task-dependent low-rank text heads, METHOD 4.

Legend of shapes: B images, T texts, U distinct token rows, L tokens, W text width, D embedding width, C classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Self

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from raymds.errors import UsageError
from raymds.model import build, precision
from raymds.model.compiled import Compiled
from raymds.model.freeze import freeze
from raymds.model.heads import HEADS, RANK, TaskHeads
from raymds.model.identity import Asked, Identity, Prompts, identify

LabelSets = Mapping[str, Mapping[str, Sequence[str]]]  # attribute -> class -> its sentences

_CACHED = 65_536  # texts whose tokens are kept
_CHUNK = {"cpu": 32}  # images that go through the tower together where they are measured
_CHUNK_GPU = 256
STEP_CHUNK = 32  # of those that λ is measured on, of which a rank has few at a step
TEXT_CHUNK = 128  # sentences of a label set that go through the tower together where it has more
_CLOSE = 1e-3  # largest difference of unit-norm embeddings that two ways through one tower may have in 32 bits

# With it a pass without gradient would round differently from the same pass with one.
torch.backends.mha.set_fastpath_enabled(False)


@dataclass(frozen=True)
class LabelSet:
    """The sentences of an attribute's classes as a model takes them."""

    tokens: Tensor  # (T, L)
    head: Tensor  # (T,)
    classes: int  # T is a multiple of it


class ClipWithHeads(nn.Module):
    """An open_clip model whose text side ends in task heads. Embeddings have unit norm.

    It is in evaluation mode always, in training too: BatchNorm uses its running statistics and leaves them as they are,
    dropout and stochastic depth are off. So a row's result depends on no other row, and what a step improves is the
    function that is measured.
    """

    def __init__(self, architecture: str | Identity, classes: Sequence[str], head_rank: int | None, seed: int) -> None:
        """Random weights; `classes` names the heads ('weather:foggy', …)."""
        super().__init__()
        self.identity = architecture if isinstance(architecture, Identity) else identify(Asked(architecture), None)
        self.classes = list(classes)
        self.clip = build.network(self.identity, seed)
        self.tokenizer = tokenizer = build.tokenizer(self.identity)
        # Prompts come at every step and captions at every epoch; in Python they take a tenth of a small model's step.
        self._token_row = lru_cache(_CACHED)(lambda text: tokenizer([text])[0].long().numpy().tobytes())
        text = self.clip.text
        # What stands behind a class's last token can't change it where the tower is causal.
        self._cut = text.attn_mask is not None and text.pool_type in {"argmax", "eos"}
        width = text.width if text.text_projection is None else text.output_dim
        self.heads = TaskHeads(classes, text.width, width, head_rank or RANK, seed)
        self.note = ""  # what people should know of how its file was read
        self._carried: dict[str, Tensor] = {}  # heads of classes that are not asked for
        self.compiled = Compiled()
        self.measured_in = "fp32"
        self.preprocess = self.identity.preprocess
        self.image_size = self.preprocess.size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(self.preprocess.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.preprocess.std).view(3, 1, 1), persistent=False)
        # The losses fix their temperatures; a learned scale would be a parameter without a gradient.
        self.clip.logit_scale.requires_grad_(False)
        if self.clip.logit_bias is not None:
            self.clip.logit_bias.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, whatever is asked for."""
        return super().train(False)

    @property
    def embeddings(self) -> set[str]:
        """Names of the parameters that are looked up or added by position: no matrices, though they have two axes."""
        tables = {f"{name}.weight" for name, module in self.named_modules() if isinstance(module, nn.Embedding)}
        places = ("embedding", "pos_embed", "cls_emb", "cls_token", "reg_token", "relative_position_bias_table")
        return tables | {name for name, _ in self.named_parameters() if name.rpartition(".")[2].endswith(places)}

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token rows (U, L); cut after the longest text's end where the tower is causal: that changes nothing."""
        tokens = self.whole(texts)
        return tokens[:, : self.length(tokens)]

    def whole(self, texts: Sequence[str]) -> Tensor:
        """Token rows at full context; put together as bytes, as thousands of tensors take their time."""
        if not texts:
            return self.whole([""])[:0]
        rows = bytearray().join(self._token_row(text) for text in texts)
        return torch.frombuffer(rows, dtype=torch.int64).view(len(texts), -1)

    def length(self, tokens_UL: Tensor) -> int:
        """Up to where a causal tower has to read token rows; all of their context where it is not."""
        if not self._cut or not len(tokens_UL):
            return tokens_UL.shape[1] if len(tokens_UL) else 0
        text = self.clip.text
        end = tokens_UL.argmax(dim=1) if text.pool_type == "argmax" else (tokens_UL == text.eos_id).int().argmax(dim=1)
        return int(end.max()) + 1

    def here(self, values: Tensor) -> Tensor:
        """Values of the CPU on the model's device, without waiting for what that computes; those there as they are."""
        pinned = values.pin_memory() if self.mean.is_cuda and not (values.is_cuda or values.is_pinned()) else values
        return pinned.to(self.mean.device, non_blocking=True)

    def check_prompts(self, label_sets: LabelSets) -> None:
        """UsageError naming two classes whose sentences are the same to the model: it could not tell them apart."""
        for attribute, labels in label_sets.items():
            seen: dict[bytes, str] = {}
            for label, sentences in labels.items():
                other = seen.setdefault(b"".join(map(self._token_row, sentences)), label)
                if other != label:
                    raise UsageError(
                        f"task.prompts.{attribute}: the sentences of {other!r} and {label!r} are the same to the "
                        f"model, which may not tell capitals and reads {self.clip.text.context_length} tokens; give "
                        f"other words (task.phrases.{attribute}), or shorter sentences"
                    )

    def require_finite(self, result: Tensor) -> None:
        """UsageError where NaN came out, which a comparison takes for an answer: of numbers too large to multiply."""
        if not result.isfinite().all():
            raise UsageError(
                f"model.weights: no finite numbers come out of {self.identity.called}: its tensors are damaged; take "
                "another copy of the file"
            )

    def encode_image(self, pixels_BCHW: Tensor) -> Tensor:
        """Raw uint8 pixels (B, 3, H, W) → (B, D)."""
        normal = (pixels_BCHW.to(self.heads.A.dtype) / 255 - self.mean) / self.std
        with precision.towers(self.mean.device):
            features = self.compiled.through(self.clip.visual, normal)
        return nn.functional.normalize(features.to(self.heads.A.dtype), dim=-1)

    def encode_text(self, tokens_UL: Tensor, row_T: Tensor, head_T: Tensor) -> Tensor:
        """Texts as (token row, head) pairs → (T, D). Equal token rows go through the tower once, for all heads."""
        with precision.towers(self.mean.device):
            trunk_UW = self._trunk(tokens_UL)
        trunk_UW = trunk_UW.to(self.heads.A.dtype)
        projected = self._projected(trunk_UW)
        return nn.functional.normalize(projected[row_T] + self.heads(trunk_UW[row_T], head_T), dim=-1)

    def forward(
        self, pixels: Tensor, tokens: Tensor, row: Tensor, head: Tensor, apart: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Image and text embeddings in one call, as data parallelism needs it.

        The last `apart` images go through the tower as `cosines` has them in chunks of STEP_CHUNK, to the same bits.
        """
        together = len(pixels) - apart
        parts = [self.encode_image(pixels[:together])] if together else []
        parts += [part[:count] for part, count in self._chunks(pixels[together:], STEP_CHUNK)]
        return torch.cat(parts), self.encode_text(tokens, row, head)

    def classifiers(self, label_sets: LabelSets) -> dict[str, Tensor]:
        """Zero-shot classifiers, without gradient: per attribute its classes' `class_means`, (C, D).

        Each attribute is computed by itself: its bits depend on no other attribute that happens to be asked for.
        """
        return {name: self.classifier(self.label_set(name, labels)) for name, labels in label_sets.items()}

    def label_set(self, attribute: str, labels: Mapping[str, Sequence[str]]) -> LabelSet:
        """An attribute's sentences by class, tokenised, on the model's device."""
        tokens = self.tokenize([text for sentences in labels.values() for text in sentences])
        head_C = torch.tensor([self.heads.number[f"{attribute}:{label}"] for label in labels])
        return LabelSet(self.here(tokens), self.here(head_C.repeat_interleave(len(tokens) // len(labels))), len(labels))

    def classifier(self, of: LabelSet) -> Tensor:
        """As `classifiers`, of one attribute: (C, D)."""
        return class_means(self.sentences(of, slice(0, len(of.tokens))), of.classes)

    def sentences(self, of: LabelSet, some: slice) -> Tensor:
        """Embeddings of some of its sentences, from a multiple of TEXT_CHUNK on, without gradient: (t, D).

        Of more than TEXT_CHUNK each chunk has that shape, so that their bits are the same whoever computes which.
        """
        tokens_TL, head_T = of.tokens[some], of.head[some]
        size = min(len(of.tokens), TEXT_CHUNK)
        row_t = torch.arange(size, device=tokens_TL.device)
        parts = [self.heads.A.new_empty(0, self.heads.B.shape[2])]
        with self._measured():
            for start in range(0, len(tokens_TL), size):
                tokens, head = tokens_TL[start : start + size], head_T[start : start + size]
                missing = size - len(tokens)
                if missing:
                    tokens = torch.cat([tokens, tokens[:1].expand(missing, -1)])
                    head = torch.cat([head, head[:1].expand(missing)])
                parts.append(self.encode_text(tokens, row_t, head)[: size - missing])
        return torch.cat(parts)

    def cosines(
        self, classifiers: Mapping[str, Tensor], pixels_BCHW: Tensor, chunk: int | None = None
    ) -> dict[str, Tensor]:
        """Cosines of images with each attribute's classes, (B, C), without gradient, in chunks of one fixed shape.

        A matrix product may round differently for another number of rows. With a fixed shape an image's row does not
        depend on what it is batched with, so that the old loss and the new loss of an unchanged model are equal to the
        last bit, whichever step or rank computes them. `chunk` is their size, unless it is that of measurements.
        """
        chunk = chunk or _CHUNK.get(self.mean.device.type, _CHUNK_GPU)
        with self._measured():
            return _multiplied(classifiers, self._chunks(pixels_BCHW, chunk))

    def _chunks(self, pixels_BCHW: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
        """Embeddings of images in chunks of one shape, (size, D), and how many of each count."""
        for part in torch.split(pixels_BCHW, size) if len(pixels_BCHW) else ():
            padding = part.new_zeros((size - len(part), *part.shape[1:]))
            yield self.encode_image(self.here(torch.cat([part, padding]))), len(part)

    @torch.no_grad()
    def products(self, classifiers: Mapping[str, Tensor], features_BD: Tensor) -> dict[str, Tensor]:
        """As `cosines` in chunks of STEP_CHUNK, of images that were embedded so, with a graph: (B, C)."""
        parts = torch.split(features_BD, STEP_CHUNK) if len(features_BD) else ()
        padding = features_BD.new_zeros(STEP_CHUNK, features_BD.shape[1])
        return _multiplied(classifiers, ((torch.cat([part, padding[len(part) :]]), len(part)) for part in parts))

    @cached_property
    def _all(self) -> list[nn.Parameter]:
        """All parameters, which it takes long to walk through, once the model is where it is used."""
        return [*self.parameters()]

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """Without gradient, and with the same bits whether a parameter is trained, frozen or part of a mean.

        torch multiplies in another order where the weights of a product can have no gradient, even if none is taken.
        """
        frozen = [parameter for parameter in self._all if not parameter.requires_grad]
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            with torch.no_grad(), self.compiled.steps(False), precision.measured_in(self.measured_in):
                yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def weights(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of all parameters and buffers under open_clip's names, with every head."""
        state = self.clip.state_dict() | self.heads.weights() | self._carried
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}

    def load_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """Take over weights whole. Heads of other classes than the model's are carried along as they are.

        UsageError naming `source`, the architecture and the tensor where they do not fit.
        """
        heads = {name: tensor for name, tensor in state.items() if name.startswith(HEADS)}
        tensors = {name: tensor for name, tensor in state.items() if name not in heads}
        own = self.clip.state_dict()
        for name in ("logit_scale", "logit_bias"):  # of shape () or (1,), and no part of what is measured
            if name in own and (name not in tensors or tensors[name].numel() == 1):
                tensors[name] = tensors[name].reshape(own[name].shape) if name in tensors else own[name]
        build.refuse_others(tensors, own, source, self.identity)
        for name, tensor in (tensors | heads).items():
            counts = name in own and not own[name].is_floating_point()  # of batches, in BatchNorm
            if not counts and not (tensor.is_floating_point() and tensor.isfinite().all()):
                raise UsageError(f"{source}: {name} does not hold finite floating-point numbers; take another copy")
        self.clip.load_state_dict(tensors)
        self.heads.load(heads, source)
        own_heads = self.heads.weights()
        self._carried = {name: tensor for name, tensor in heads.items() if name not in own_heads}

    def freeze(self, image: Any, text: Any) -> None:
        """Leave a tower (`all`), or its first blocks (a number), as it is in training; heads are always trained."""
        freeze(self.clip.visual, image, "model.freeze.image")
        freeze(self.clip.text, text, "model.freeze.text")

    def checkpoint_blocks(self) -> None:
        """Have both towers keep the inputs of their blocks alone for the gradient; UsageError where one can't."""
        build.checkpoint_blocks(self.clip, self.identity)

    def compile_towers(self) -> None:
        """Have the towers compiled for what goes through them within `compiled.steps()`."""
        self.compiled.compile(self.clip.visual, self.clip.text.transformer)

    def describe(self, prompts: Prompts, parent: str | None) -> Identity:
        """What a model that was developed from this one says of itself: also the words of its label sets."""
        return replace(self.identity, prompts=self.identity.prompts | prompts, parent=parent)

    def _projected(self, trunk_UW: Tensor) -> Tensor:
        projection = self.clip.text.text_projection
        if projection is None:
            return trunk_UW
        projected: Tensor = projection(trunk_UW) if isinstance(projection, nn.Linear) else trunk_UW @ projection
        return projected

    def _trunk(self, tokens_UL: Tensor) -> Tensor:
        """The text tower up to its projection: (U, L) → (U, W)."""
        text, length = self.clip.text, tokens_UL.shape[1]
        mask = None if text.attn_mask is None else text.attn_mask[:length, :length]
        x_ULW = text.token_embedding(tokens_UL) + text.positional_embedding[:length]
        x_ULW = text.ln_final(self.compiled.through(text.transformer, x_ULW, mask))
        pooled: Tensor = text_global_pool(x_ULW, tokens_UL, text.pool_type, text.eos_id)
        return pooled

    @torch.no_grad()
    def check_text_tower(self) -> None:
        """That texts come out as open_clip's own `encode_text` has them; the context is cut only where they do.

        UsageError where even the whole context gives something else, or no finite numbers at all.
        """
        texts = ["a", "the weather is foggy.", "driving on a highway on a partly cloudy day"]
        want = self.clip.encode_text(self.whole(texts).to(self.mean.device), True)
        self.require_finite(want)
        for cut in dict.fromkeys((self._cut, False)):
            self._cut = cut
            got = nn.functional.normalize(self._projected(self._trunk(self.tokenize(texts).to(want.device))), dim=-1)
            if float((got - want).abs().max()) < _CLOSE:
                return
        raise UsageError(f"model.name={self.identity.called}: its text tower is of a kind that raymds does not know")


def _multiplied(classifiers: Mapping[str, Tensor], chunks: Iterable[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """Products of chunks of embeddings, of which some count, with each classifier: (B, C)."""
    parts = {name: [matrix.new_empty((0, len(matrix)))] for name, matrix in classifiers.items()}
    for features, count in chunks:
        for name, matrix in classifiers.items():
            parts[name].append((features @ matrix.T)[:count])
    return {name: torch.cat(found) for name, found in parts.items()}


def class_means(text_TD: Tensor, classes: int) -> Tensor:
    """Classes' embeddings, the directions of the means of their sentences', as many of each: (T, D) → (C, D).

    A class of one sentence has that one's to the last bit.
    """
    if len(text_TD) == classes:
        return text_TD
    return nn.functional.normalize(text_TD.view(classes, -1, text_TD.shape[1]).sum(dim=1), dim=-1)
