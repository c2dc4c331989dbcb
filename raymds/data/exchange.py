"""Rows that are drawn again and again from all over a split too large for memory: kept at hand by every rank.

Each rank reads its part of them, and the ranks exchange what they have read, images encoded as they are: so a shard is
fetched by one rank, and once. They lie in an unnamed local file that is mapped into memory, so that they take none
which the system can't take back.

Legend of shapes: k rows of a turn, of one rank or of all.
"""

import errno
import mmap
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from raymds.data.reader import Example
from raymds.data.sampler import Rows
from raymds.data.split import Split
from raymds.errors import UsageError
from raymds.method import dist

_TURN = 32 * 2**20  # bytes that go from rank to rank in one turn, of all ranks together
_READ, _FAILED, _REFUSED = range(3)  # what a rank says of its turn; the last one: an error of the user's
_CPU = torch.device("cpu")


class _Piece(NamedTuple):
    """Some rows: of each its number and the bytes of id, caption and image, (k, 4); those bytes, row after row."""

    heads: Rows
    content: NDArray[np.uint8]


_NOTHING = _Piece(np.zeros((0, 4), np.int64), np.empty(0, np.uint8))


def pin(split: Split, rows: Rows, device: torch.device = _CPU) -> None:
    """Keep rows, in ascending order, at hand; all ranks call it with the same ones. A split in memory needs nothing.

    `device` is where collectives want their tensors. Where reading or writing fails on a rank, all ranks raise, its
    UsageError where it is one.
    """
    if not split.window or not len(rows):
        return
    pieces = _pieces(split.part(rows, dist.rank(), dist.world_size()), _TURN // dist.world_size())
    heads, given = list[Rows](), _NOTHING
    with tempfile.TemporaryFile(buffering=0) as file:

        def turn() -> _Piece:
            """Write what came in the last turn; what this rank gives in this one."""
            _write(file, given.content)
            return next(pieces, _NOTHING)

        while len((given := _exchanged(turn, device)).heads):
            heads.append(given.heads)
        split.pinned.hold(np.concatenate(heads), memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _write(file: IO[bytes], content: NDArray[np.uint8]) -> None:
    """UsageError where the disk is full."""
    left: memoryview = content.data
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UsageError(
            f"{tempfile.gettempdir()} on {socket.gethostname()}: no room for the positives and retained examples of a "
            "data set that is larger than data.memory; make room, set TMPDIR to a larger disk, or raise data.memory"
        ) from None


def _pieces(own: Iterable[tuple[int, Example]], most: int) -> Iterator[_Piece]:
    """Rows in pieces of `most` bytes, or a row more."""
    heads: list[tuple[int, int, int, int]] = []
    content = bytearray()
    for row, example in own:
        name, caption = example.id.encode(), example.caption.encode()
        heads.append((row, len(name), len(caption), len(example.image)))
        content += name + caption
        content += example.image
        if len(content) >= most:
            yield _Piece(np.array(heads), np.frombuffer(content, np.uint8))
            heads, content = [], bytearray()
    if heads:
        yield _Piece(np.array(heads), np.frombuffer(content, np.uint8))


def _exchanged(turn: Callable[[], _Piece], device: torch.device) -> _Piece:
    """What the ranks give in a turn as one piece, in their order; nothing where none of them has any more.

    Where one of them fails, its message takes the place of its piece.
    """
    failure: Exception | None = None
    try:
        piece, said = turn(), _READ
    except Exception as error:  # whatever it is, the others would wait for it
        failure, said = error, _REFUSED if isinstance(error, UsageError) else _FAILED
        message = str(error) if said == _REFUSED else f"{type(error).__name__}: {error}"
        piece = _Piece(_NOTHING.heads, np.frombuffer(bytearray(message.encode(errors="replace")), np.uint8))
    own = torch.tensor([[said, len(piece.heads), len(piece.content)]], device=device)
    states, rows, sizes = dist.all_gather(own, [1] * dist.world_size()).T.tolist()
    if not any(rows) and not any(states):
        return _NOTHING
    every = dist.all_gather(torch.from_numpy(piece.content).to(device), sizes).cpu().numpy()
    if failure is not None:
        raise failure
    for rank, part in enumerate(np.split(every, np.cumsum(sizes)[:-1])):
        if states[rank] == _REFUSED:
            raise UsageError(part.tobytes().decode())
        if states[rank] == _FAILED:
            raise RuntimeError(f"rank {rank}: {part.tobytes().decode()}")
    return _Piece(dist.all_gather(torch.from_numpy(piece.heads).to(device), rows).cpu().numpy(), every)
