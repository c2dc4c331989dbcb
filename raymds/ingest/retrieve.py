"""Pairs of the target out of a caption corpus: positives by the phrases in their captions, and negatives.

The unit of work is a row group. Its captions are read and decided first; only if rows of it are chosen, their images
are read. What is held is a label per row of one row group, the images of one shard and some of Parquet's pages,
whatever the size of the corpus. Negatives come from the row groups that have positives, or from the next ones where
those have too few. The result does not depend on how many rows are read at a time.

A caption that speaks of one class has that class. One that speaks of several is left out. One that speaks of none has
the class `other`, because training takes as negatives the rows of another class of the target's attribute, and as
neither those without a label. `other` is no capability: where this data set is trained on, `task.protect` lists
classes (`weather:rainy`), not the attribute.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from raymds import model
from raymds.data.config import RetrieveConfig, SimilarityConfig
from raymds.data.shards import MANIFEST, DataSet, write_manifest
from raymds.errors import UsageError
from raymds.ingest.corpus import Corpus, Group, mended
from raymds.ingest.take import Pair, Part, Taker
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import OTHER

Show = Callable[[dict[str, Any]], None]

_EMPTY, _SEVERAL = -1, -2  # labels of captions that are left out
_SEPARATOR = r"[\s\-\u2010-\u2015]+"  # between the words of a phrase: white space, hyphens, dashes
_TEXTS = 256  # captions per call of the text tower
_THREADS = 32  # images fetched at the same time


def retrieve(config: RetrieveConfig, show: Show) -> DataSet:
    """Publish the pairs as the train split of a data set at `config.out`; `show` gets progress records.

    The manifest's source has the settings and counts: captions read, mended (they were no UTF-8), empty, ambiguous (of
    several classes), matched (of the target alone) and dissimilar; images that failed, were too small to be one, or
    came again and again; positives and negatives. A data set that is there already is
    returned if it was made by these settings. UsageError for settings that can't be met, a corpus that can't be read,
    another data set at `config.out`, and where no positive is found.
    """
    objects.configure(config.storage)
    attribute, target = _checked(config)
    settings = {**asdict(config), "corpus": storage.absolute(config.corpus)}
    del settings["out"], settings["batch_rows"], settings["storage"]
    source = {"made_by": "raymds data retrieve", "settings": settings}
    if storage.exists(storage.join(config.out, MANIFEST)):
        found = DataSet.open(config.out)
        if {key: found.source.get(key) for key in source} != source:
            raise UsageError(f"{config.out}: already holds another data set; give another directory")
        return found
    objects.configure(config.storage, show)  # from here on a store that is gone is waited for
    chooser = _Chooser(config, target, show)
    attributes, counts = {attribute: chooser.vocabulary}, chooser.counts
    parts: list[Part] = []
    pairs, taker = chooser.pairs(), Taker(config, chooser.folder, attributes)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch") as pool:
        while chosen := list(islice(pairs, config.rows_per_shard)):
            parts.append(taker.take(len(parts), chosen, pool))
            for name, count in parts[-1].counts.items():
                counts[name] += count
    if not counts["positives"]:
        failure = next((part.failure for part in parts if part.failure), "")
        raise UsageError(_nothing_found(config, target, counts, failure))
    shards = [part.shard for part in parts if part.shard]
    return write_manifest(config.out, attributes, {"train": shards}, {**source, "counts": counts})


class Phrases:
    """Which class a caption speaks of: phrases as whole words, upper and lower case alike."""

    def __init__(self, phrases: dict[str, list[str]]) -> None:
        """`phrases`: class → phrases; between the words of one may be any white space, hyphens and dashes."""
        words = [[_words(phrase) for phrase in given] for given in phrases.values()]
        patterns = ["|".join(_SEPARATOR.join(phrase) for phrase in given) for given in words]
        self._patterns = [re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE) for pattern in patterns]
        # Hardly any caption has the first word of a phrase, and Arrow finds that out twenty times faster than re.
        self._first_words = "|".join(sorted({phrase[0] for given in words for phrase in given}))

    def labels(self, captions: Any) -> NDArray[np.int16]:
        """Arrow strings (R,) → (R,): index of the one class, number of classes where there is none, or below 0."""
        captions = pc.utf8_normalize(captions, "NFC")
        empty = pc.equal(pc.utf8_trim_whitespace(captions), "").fill_null(True)
        label_R = np.where(np.asarray(empty), _EMPTY, len(self._patterns)).astype(np.int16)
        possible = pc.match_substring_regex(captions, self._first_words, ignore_case=True).fill_null(False)
        for row in np.flatnonzero(np.asarray(possible)):
            caption = captions[int(row)].as_py()
            classes = [index for index, pattern in enumerate(self._patterns) if pattern.search(caption)]
            if classes:
                label_R[row] = classes[0] if len(classes) == 1 else _SEVERAL
        return label_R


class _Chooser:
    """Decides row group after row group which rows are positives and which negatives, and counts."""

    def __init__(self, config: RetrieveConfig, target: str, show: Show) -> None:
        columns = config.columns
        kinds = ((columns.caption, "string"), (columns.image, "binary"), (columns.url, "string"))
        self._columns = {name: kind for name, kind in kinds if name is not None}
        self._corpus = Corpus(config.corpus, self._columns)
        self._config = config
        self._show = show
        self._phrases = Phrases(config.phrases)
        self._similar = _similarity(config.similarity)
        self.vocabulary = [*config.phrases, OTHER]
        self._target = self.vocabulary.index(target)
        self._positives = self._negatives = 0  # chosen so far
        self.folder = self._corpus.folder
        read = ("read", "mended", "empty", "ambiguous", "matched", "dissimilar")
        self.counts = dict.fromkeys((*read, "failed", "small", "repeated", "positives", "negatives"), 0)

    def pairs(self) -> Iterator[Pair]:
        """The chosen rows in the order of the corpus, up to the limit."""
        for group in self._corpus.groups():
            chosen, complete = self._choose(group)
            record = {"what": "captions read", "done": self.counts["read"], "total": self._corpus.rows}
            self._show({"event": "progress", **record})
            if chosen:
                yield from self._read(group, chosen)
            if complete:
                return

    def _choose(self, group: Group) -> tuple[dict[int, str], bool]:
        """Row of the group → class of the chosen ones, and whether the limit is reached."""
        config, parts, texts = self._config, [np.empty(0, np.int16)], list[str]()
        for batch in group.read([config.columns.caption], config.batch_rows):
            captions, broken = mended(batch.column(0))
            self.counts["mended"] += broken
            parts.append(self._phrases.labels(captions))
            if self._similar:
                texts += captions.take(np.flatnonzero(parts[-1] == self._target)).to_pylist()
        label_R = np.concatenate(parts)
        positive = np.flatnonzero(label_R == self._target)
        # By row group, not by batch: a matrix product rounds by its size.
        close = self._similar(texts) if self._similar else np.ones(len(positive), np.bool_)
        self._count(label_R, len(positive), int((~close).sum()))
        left = None if config.limit is None else config.limit - self._positives
        positive = positive[close][:left]
        self._positives += len(positive)
        wanted = round(config.negatives * self._positives) - self._negatives
        negative = _drawn(np.flatnonzero((label_R >= 0) & (label_R != self._target)), wanted, group, config.seed)
        self._negatives += len(negative)
        chosen = {int(row): self.vocabulary[label_R[row]] for row in np.concatenate([positive, negative])}
        return chosen, self._positives == config.limit and len(negative) == wanted

    def _count(self, label_R: NDArray[np.int16], matched: int, dissimilar: int) -> None:
        empty, ambiguous = (int((label_R == label).sum()) for label in (_EMPTY, _SEVERAL))
        found = {"read": len(label_R), "empty": empty, "ambiguous": ambiguous}
        for name, count in {**found, "matched": matched, "dissimilar": dissimilar}.items():
            self.counts[name] += count

    def _read(self, group: Group, chosen: dict[int, str]) -> Iterator[Pair]:
        row = 0
        for batch in group.read(list(self._columns), min(self._config.batch_rows, self._config.rows_per_shard)):
            for index in range(len(batch)):
                if row + index in chosen:
                    values = self._values(batch.slice(index, 1))
                    yield self._pair(group, row + index, chosen[row + index], values)
            row += len(batch)

    def _values(self, row: Any) -> dict[str, Any]:
        """A batch of one row by column."""
        pairs = zip(self._columns.items(), row.columns, strict=True)
        return {name: (mended(cell)[0] if kind == "string" else cell)[0].as_py() for (name, kind), cell in pairs}

    def _pair(self, group: Group, row: int, label: str, values: dict[str, Any]) -> Pair:
        columns = self._config.columns
        image = values[columns.image] if columns.image else None
        url = values[columns.url] if columns.url else None
        where = f"{group.name}#{group.first + row}"
        return Pair(where, values[columns.caption], label, url if image is None else image)


def _drawn(rows: NDArray[np.int64], count: int, group: Group, seed: int) -> NDArray[np.int64]:
    """`count` of the rows, or all there are, drawn by seed, file and row group alone."""
    name = int(storage.sha256(group.name.encode())[:16], 16)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, name, group.number))))
    return rows[np.argsort(random.random(len(rows)), kind="stable")[:count]]


def _similarity(config: SimilarityConfig) -> Callable[[list[str]], NDArray[np.bool_]] | None:
    """Captions → whether each is as similar to the prompt as is asked for; None where nothing is."""
    if config.minimum is None:
        return None
    minimum, net = config.minimum, model.load(config.model, config.weights, [], None, seed=0)
    net.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.no_grad()
    def embedded(texts: list[str]) -> torch.Tensor:
        row_T = torch.arange(len(texts), device=net.mean.device)
        return net.encode_text(net.tokenize(texts).to(row_T.device), row_T, torch.full_like(row_T, -1))

    prompt_D = embedded([config.prompt])[0]

    def similar(texts: list[str]) -> NDArray[np.bool_]:
        parts = [texts[start : start + _TEXTS] for start in range(0, len(texts), _TEXTS)]
        close = [(embedded(part) @ prompt_D >= minimum).cpu().numpy() for part in parts]
        return np.concatenate([np.empty(0, np.bool_), *close])

    return similar


def _words(phrase: str) -> list[str]:
    """The words of a phrase, escaped for a pattern."""
    return [re.escape(word) for word in re.split(_SEPARATOR, unicodedata.normalize("NFC", phrase)) if word]


def _checked(config: RetrieveConfig) -> tuple[str, str]:
    """Attribute and class of the target; UsageError naming the first setting that can't be met."""
    attribute, _, target = config.target.partition(":")
    similarity = config.similarity
    # Shards left there by a run that was stopped would be taken for files of the corpus.
    within = (storage.absolute(config.out) + "/").startswith(storage.absolute(config.corpus).rstrip("/") + "/")
    asked = {similarity.minimum is not None, *map(bool, (similarity.prompt, similarity.model, similarity.weights))}
    rules: list[tuple[Any, str]] = [
        (attribute and target, f"target={config.target!r}: has to be attribute:class, like weather:foggy"),
        (config.phrases.get(target), f"phrases.{target}: the target's class needs a phrase or more"),
        (OTHER not in config.phrases, f"phrases.{OTHER}: is the class of captions that match no phrase"),
        (config.columns.image or config.columns.url, "columns.image: has no value, nor has columns.url; give one"),
        (len(asked) == 1, "similarity: needs minimum, prompt, model and weights, or none of them"),
        (not within, f"out={config.out}: lies within the corpus; give a directory elsewhere"),
        (0 <= config.negatives < math.inf, f"negatives={config.negatives}: has to be 0 or more"),
        (config.limit is None or config.limit > 0, f"limit={config.limit}: has to be above 0, or null"),
        (config.seed >= 0, f"seed={config.seed}: has to be 0 or more"),
        (config.batch_rows > 0, f"batch_rows={config.batch_rows}: has to be above 0"),
        (config.rows_per_shard > 0, f"rows_per_shard={config.rows_per_shard}: has to be above 0"),
        (config.resize >= 0, f"resize={config.resize}: has to be 0 or more"),
        (1 <= config.quality <= 100, f"quality={config.quality}: has to be 1 to 100"),
        (config.least >= 1, f"least={config.least}: has to be 1 or more"),
    ]
    for label, phrases in config.phrases.items():
        valid = phrases and all(_words(phrase) for phrase in phrases)
        rules.append((valid, f"phrases.{label}: has to be a list of phrases with a word or more each"))
    for holds, message in rules:
        if not holds:
            raise UsageError(message)
    return attribute, target


def _nothing_found(config: RetrieveConfig, target: str, counts: dict[str, int], failure: str) -> str:
    if counts["matched"] > counts["dissimilar"]:
        return f"corpus={config.corpus}: none of the positives' images could be had; the first failure: {failure}"
    if counts["matched"]:
        least = f"similarity.minimum={config.similarity.minimum}"
        return f"{least}: none of {counts['matched']} captions that match phrases.{target} is so similar; lower it"
    return (
        f"phrases.{target}: none of {counts['read']} captions speaks of {config.target} alone ({counts['ambiguous']} "
        f"speak of several classes); besides {', '.join(config.phrases[target])} give other forms and shorter phrases"
    )
