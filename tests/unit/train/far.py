"""A CPU that is taken for a GPU: which calls would wait for it, and which would mix its tensors with the CPU's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

# What asks for a value, or for a shape that depends on values.
_WAITS = {"cpu", "item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "nonzero"}
_WAITS |= {"unique", "masked_select", "equal", "allclose", "argwhere", "bincount", "repeat_interleave"}


class Far(TorchFunctionMode):
    """Within it what is moved to a `torch.device`, and all that is made of it, lies on a device far away."""

    def __init__(self) -> None:
        super().__init__()
        self._far = WeakIdKeyDictionary()
        self.waits: list[str] = []
        self.mixed: list[str] = []

    def holds(self, net: torch.nn.Module) -> None:
        """A model lies there."""
        self._mark([*net.parameters(), *net.buffers()])

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what is asked for and note what it would cost."""
        named, name = kwargs or {}, getattr(func, "__name__", "")
        given = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)]
        far = any(map(self._is_far, given))
        result = func(*args, **named)
        if name in {"to", "cpu"} and isinstance(args[0], Tensor):
            return self._moved(result, name, args, named)
        if name in _WAITS:
            if far:
                self.waits.append(name)
            return result
        if name in {"__getitem__", "__setitem__"} and self._is_far(args[0]):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if not all(i is None or isinstance(i, int | slice) or self._index(i) for i in index):
                self.waits.append(f"{name} with a mask, or by numbers of the CPU")
        elif name == "__setitem__" and far:
            self.waits.append(name)
            return result
        elif far and name != "__deepcopy__" and any(t.dim() and not self._is_far(t) for t in given):
            self.mixed.append(name)
        elif isinstance(named.get("device"), torch.device):
            far = True
            if name in {"tensor", "as_tensor"}:
                self.waits.append(f"torch.{name} with a device")
        if far:
            self._mark(result)
        return result

    def _moved(self, result: Tensor, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        """A tensor of its own where it goes elsewhere; that of one who waits for it is noted."""
        source, where = args[0], [*args[1:], named.get("device")]
        there = self._is_far(source)
        if name == "cpu" or "cpu" in [place for place in where if isinstance(place, str)]:
            away = False
        elif any(isinstance(place, torch.device) or self._is_far(place) for place in where):
            away = True
        else:
            away = there
        if there != away:
            if not named.get("non_blocking"):
                self.waits.append(name)
            result = result.clone()
        if away:
            self._mark(result)
        return result

    def _index(self, index: Any) -> bool:
        return self._is_far(index) and index.dtype != torch.bool

    def _is_far(self, thing: Any) -> bool:
        return isinstance(thing, Tensor) and thing in self._far

    def _mark(self, things: Any) -> None:
        tree_map(lambda leaf: self._far.update({leaf: True}) if isinstance(leaf, Tensor) else None, things)
