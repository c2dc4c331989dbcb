"""Task-dependent heads, METHOD 4: the text projection of class c is W + A_c·B_c, and a head is known by its class.

Legend of shapes: T texts, C heads, W text width, D embedding width, r rank.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raymds.errors import UsageError

HEADS = "heads."  # of the names of their tensors: heads.weather:foggy.A
SHARED = "shared"  # the head of pairs of no class, a name that no class has: theirs have a colon
RANK = 32  # r of METHOD 4, unless a file or the config says otherwise


class TaskHeads(nn.Module):
    """The heads of some classes and the shared one, stacked so that one product serves them all."""

    def __init__(self, classes: Sequence[str], width: int, embed_dim: int, rank: int, seed: int) -> None:
        """Untrained: B = 0, and A a function of seed and class alone, so the order of classes is no matter."""
        super().__init__()
        self.names = [*classes, SHARED]
        self.number = {name: i for i, name in enumerate(self.names)}
        A = [_directions(name, width, rank, seed) for name in self.names]
        self._untrained = dict(zip(self.names, A, strict=True))
        self.A = nn.Parameter(torch.stack(A))  # (C, W, r)
        self.B = nn.Parameter(torch.zeros(len(self.names), rank, embed_dim))  # (C, r, D)

    def forward(self, trunk_TW: Tensor, head_T: Tensor) -> Tensor:
        """What each text's head adds to its projection: (T, W), (T,) → (T, D); head −1 is the shared one."""
        head_T = torch.where(head_T < 0, self.A.shape[0] - 1, head_T)
        low_rank = torch.bmm(trunk_TW[:, None, :], self.A[head_T])
        return torch.bmm(low_rank, self.B[head_T])[:, 0, :]

    def weights(self) -> dict[str, Tensor]:
        """Every head's tensors by its class's name."""
        return place(self.names, self.A, self.B)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Take over the heads of these classes; a class that `tensors` have no head of is untrained afterwards.

        UsageError naming `source` and the class where a trained head, also one of another class, does not fit.
        """
        ranks = self._ranks(tensors, source)
        own = {name: ranks[name] for name in self.names if name in ranks}
        name, rank = next(((n, r) for n, r in own.items() if r != self.A.shape[2]), ("", 0))
        if name:
            several = "the file's heads differ in theirs, and can't be asked for together"
            one = f"give model.head_rank={rank}, or leave it out"
            raise UsageError(
                f"{source}: the trained head of {name} has rank {rank}, the model's have {self.A.shape[2]}; "
                f"{one if len(set(own.values())) == 1 else several}"
            )
        for i, name in enumerate(self.names):
            A, B = tensors.get(f"{HEADS}{name}.A"), tensors.get(f"{HEADS}{name}.B")
            if A is None or B is None or (A.shape, B.shape) != (self.A[i].shape, self.B[i].shape):
                A, B = self._untrained[name], torch.zeros_like(self.B[i])
            self.A[i] = A
            self.B[i] = B

    def _ranks(self, tensors: Mapping[str, Tensor], source: str) -> dict[str, int]:
        """Rank of every trained head by its class."""
        ranks = {}
        for name in (name[len(HEADS) : -2] for name in tensors if name.endswith(".B") and trained(tensors, name)):
            A, B = tensors[f"{HEADS}{name}.A"], tensors[f"{HEADS}{name}.B"]
            (_, width, _), (_, _, embed_dim) = self.A.shape, self.B.shape
            if not A.ndim == B.ndim == 2 or (*A.shape, *B.shape) != (width, len(B), len(B), embed_dim):
                raise UsageError(
                    f"{source}: the trained head of {name} is {tuple(A.shape)} × {tuple(B.shape)}, which does not fit "
                    f"a text tower of width {width} and embeddings of {embed_dim}"
                )
            ranks[name] = len(B)
        return ranks


def place(names: Sequence[str], A: Tensor, B: Tensor) -> dict[str, Tensor]:
    """Stacked heads, A (C, W, r) and B (C, r, D), under the names of their classes."""
    pairs = zip(names, A, B, strict=True)
    return {f"{HEADS}{name}.{part}": tensor for name, *both in pairs for part, tensor in zip("AB", both, strict=True)}


def head_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Classes whose heads are among named tensors, the shared one left out."""
    names = [name[len(HEADS) : -2] for name in tensors if name.startswith(HEADS) and name.endswith(".B")]
    return [name for name in names if name != SHARED]


def trained(tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether the head that a tensor belongs to changes anything: its B is not 0."""
    return bool(tensors[f"{name[:-2]}.B"].any())


def trained_rank(tensors: Mapping[str, Tensor], classes: Sequence[str]) -> int | None:
    """Rank of the trained heads of some classes and the shared one, else of any other; None where none is trained."""
    found = [tensors.get(f"{HEADS}{name}.B") for name in (*classes, SHARED, *head_names(tensors))]
    return next((B.shape[0] for B in found if B is not None and B.ndim and B.any()), None)


def _directions(name: str, width: int, rank: int, seed: int) -> Tensor:
    """A_c ~ N(0, 1/W): (W, r)."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    directions: Tensor = torch.randn(width, rank, generator=generator) * width**-0.5
    return directions
