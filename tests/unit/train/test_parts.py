"""Towers in parts: the gradient of the whole batch, whatever is frozen, however many texts there are to an image."""

import pytest
import torch
from torch import Tensor

from raymds.model import ClipWithHeads
from raymds.train.parts import Parts
from raymds.train.step import distinct_tokens


@pytest.mark.parametrize("frozen", [(0, 0), ("all", 0), (0, "all"), (1, 1)])
@pytest.mark.parametrize(("images", "texts", "size"), [(7, 3, 2), (2, 9, 2), (5, 5, 1), (6, 6, 4)])
def test_a_gradient_is_that_of_the_whole(
    frozen: tuple[int | str, int | str], images: int, texts: int, size: int
) -> None:
    net = ClipWithHeads("tiny-64", ["w:a", "w:b"], 4, seed=0).double()
    net.freeze(*frozen)
    generator = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(net.heads.B, generator=generator)
    pixels = torch.randint(0, 256, (images, 3, 64, 64), dtype=torch.uint8, generator=generator)
    tokens, row = distinct_tokens(net, [f"a picture of {i}" for i in range(texts)] + ["a picture of 0"])
    head = torch.arange(texts + 1) % 3 - 1
    parameters = [p for p in net.parameters() if p.requires_grad]

    def loss(image: Tensor, text: Tensor) -> Tensor:
        return torch.logsumexp(8 * image @ text.T, dim=1).square().sum() + (image[0] - image[-1]).sum()

    want = torch.autograd.grad(loss(*net(pixels, tokens, row, head)), parameters, allow_unused=True)
    parts = Parts(net, size, pixels, (tokens, row, head))
    value = loss(parts.image, parts.text)
    got = parts.gradient(value, parameters)
    value.backward()  # type: ignore[no-untyped-call]
    parts.backward(net)
    assert any(gradient is not None and float(gradient.abs().max()) > 1e-3 for gradient in want)
    for one, other, p in zip(want, got, parameters, strict=True):
        whole = torch.zeros_like(p) if one is None else one
        assert torch.allclose(other, whole, rtol=1e-10, atol=1e-10)
        assert torch.allclose(torch.zeros_like(p) if p.grad is None else p.grad, whole, rtol=1e-10, atol=1e-10)
