"""Compiled towers: compiled once, with the gradients of those that are not, and not for what is measured."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager

from raymds.model import ClipWithHeads
from raymds.train.gradients import gradient
from tests.unit.model.small import CLASSES, TEXTS


def test_compiled_towers_are_compiled_once_for_all_sizes_and_measure_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        """Traced, forward and backward, and run as it is."""
        graphs.append(graph)
        return aot_eager(graph, inputs)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    net, other = (ClipWithHeads("tiny-64", CLASSES, 4, seed=0) for _ in range(2))
    other.compile_towers()

    def step(model: ClipWithHeads, images: int, tokens: Tensor) -> Tensor:
        row = torch.arange(len(tokens))
        pixels = torch.arange(images * 3 * 64 * 64).remainder(251).to(torch.uint8).view(images, 3, 64, 64)
        with model.compiled.steps():
            image, text = model(pixels, tokens, row, torch.full_like(row, -1))
        learned = [p for p in model.parameters() if p.requires_grad]
        first, second = image.sum() + text[0].sum(), image.sum() * text.sum()  # two losses of one graph
        gradients = [gradient(loss, learned) for loss in (first, second)]
        return torch.cat(gradients)

    for images, texts in ((64, TEXTS[:2]), (7, [*TEXTS, "a"]), (3, ["a", "b"])):
        tokens = net.tokenize(texts)
        torch.testing.assert_close(step(other, images, tokens), step(net, images, tokens))
    assert len(graphs) == 2
    label_sets = {"weather": {"foggy": ("the weather is foggy.",), "clear": ("sun",)}}
    pixels = torch.randint(0, 255, (5, 3, 64, 64), dtype=torch.uint8)
    with other.compiled.steps():
        measured, plain = (model.cosines(model.classifiers(label_sets), pixels)["weather"] for model in (other, net))
    assert torch.equal(measured, plain)
    assert torch.equal(other.encode_image(pixels), net.encode_image(pixels))  # beside a step
    assert len(graphs) == 2
