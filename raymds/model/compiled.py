"""Towers compiled for the steps of training; all else goes through them as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Compiled:
    """Passes through a model's towers, which are compiled where that was asked for."""

    def __init__(self) -> None:
        self._towers: dict[nn.Module, Any] = {}
        self._stepping = False

    def compile(self, *towers: nn.Module) -> None:
        """Have towers compiled, each when it first comes in a step."""
        self._towers = {tower: torch.compile(tower) for tower in towers}
        torch._functorch.config.donated_buffer = False  # a step takes several gradients of one graph

    @contextmanager
    def steps(self, stepping: bool = True) -> Iterator[None]:
        """Within a step of training, or in one outside it again."""
        before, self._stepping = self._stepping, stepping
        try:
            yield
        finally:
            self._stepping = before

    def through(self, tower: nn.Module, *inputs: Tensor | None) -> Tensor:
        """A tower's pass. Compiled it is once, whatever the number of images, or of texts and their tokens."""
        found = self._towers.get(tower, tower) if self._stepping else tower
        for values in inputs if found is not tower else ():
            if values is not None:
                for axis in range(1 if values.ndim == 4 else 2):  # images, else texts and tokens
                    torch._dynamo.maybe_mark_dynamic(values, axis)
        result: Tensor = found(*inputs)
        return result
