"""The class prompts of a step: without gradient, as they are measured, and with one.

A label set of more than TEXT_CHUNK sentences is shared out: each rank embeds its part, and all of them get the whole.

Legend of shapes: T sentences, C classes, H heads, D embedding width.
"""

import itertools
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from raymds.data.sampler import shares
from raymds.method import dist
from raymds.model import TEXT_CHUNK, ClipWithHeads, class_means
from raymds.tasks import Tasks
from raymds.train.step import Sentences


class Prompts:
    """The sentences of all label sets of a cycle's tasks."""

    def __init__(self, model: ClipWithHeads, tasks: Tasks, *, shared: bool = True) -> None:
        """`shared`: whether ranks share large label sets; who takes other gradients than a step's needs the whole."""
        self._model, self._tasks = model, tasks
        self._label_sets = {name: model.label_set(name, labels) for name, labels in tasks.label_sets.items()}
        size = {name: len(of.tokens) for name, of in self._label_sets.items()}
        ranks = dist.world_size()
        self._chunks, self._sizes = dict[str, list[int]](), dict[str, list[int]]()  # sentences of each rank
        for name in (name for name, count in size.items() if count > TEXT_CHUNK and shared and ranks > 1):
            ends = [TEXT_CHUNK * chunks for chunks in shares(-(-size[name] // TEXT_CHUNK), ranks)]
            before = [min(sum(ends[:rank]), size[name]) for rank in range(ranks + 1)]
            self._chunks[name] = [end - start for start, end in itertools.pairwise(before)]
            self._sizes[name] = shares(size[name], ranks)
        self._known: dict[tuple[str, ...], tuple[Sentences, Tensor]] = {}  # of some label sets, with their heads

    def classifiers(self, names: Collection[str]) -> dict[str, Tensor]:
        """Those of label sets, (C, D) each, without gradient, to the bits of `ClipWithHeads.classifier`."""
        return {name: self._classifier(name) for name in names}

    def wanted(self, own: Collection[str], every: Collection[str]) -> list[str]:
        """Which label sets this rank embeds: its `own`, and of those that are shared out what any rank needs."""
        return [name for name in self._label_sets if name in (every if name in self._sizes else own)]

    def behind(self, captions: Sequence[str], names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, and rows and heads of texts, as of `encode_text`: of the rank's part of label sets, after captions.

        The heads are those of the label sets' sentences alone. All of them are on the CPU.
        """
        if tuple(names) not in self._known:
            texts, heads = list[str](), list[int]()
            for name in names:
                found = self._tasks.sentences(name)
                own = self._part(self._sizes[name]) if name in self._sizes else slice(None)
                texts, heads = texts + found[0][own], heads + found[1][own]
            self._known[tuple(names)] = Sentences(self._model, texts), torch.tensor(heads, dtype=torch.long)
        sentences, head = self._known[tuple(names)]
        return *sentences.behind(captions), head

    def classes(self, text: Tensor, names: Sequence[str]) -> Tensor:
        """Class prompts from the embeddings of what `behind` gave of label sets, (T, D) → (H, D); others are 0."""
        count = {name: len(of.tokens) for name, of in self._label_sets.items()}
        sizes = [self._sizes[name][dist.rank()] if name in self._sizes else count[name] for name in names]
        parts = dict(zip(names, torch.split(text, sizes) if names else (), strict=True))
        none = text.new_zeros(max(of.classes for of in self._label_sets.values()), text.shape[1])
        found = []
        for name, of in self._label_sets.items():
            own = parts.get(name)
            if own is not None and name in self._sizes:
                own = dist.all_gather_summed(own, self._sizes[name])
            found.append(none[: of.classes] if own is None else class_means(own, of.classes))
        return torch.cat(found)

    def _classifier(self, name: str) -> Tensor:
        of = self._label_sets[name]
        if name not in self._chunks:
            return self._model.classifier(of)
        sizes = self._chunks[name]
        return class_means(dist.all_gather(self._model.sentences(of, self._part(sizes)), sizes), of.classes)

    @staticmethod
    def _part(sizes: Sequence[int]) -> slice:
        start = sum(sizes[: dist.rank()])
        return slice(start, start + sizes[dist.rank()])
