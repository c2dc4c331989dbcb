"""Rows that are pinned: each shard is read once, what is in the way is said; `tests/multiproc` has several ranks."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymds.data import exchange
from raymds.data.exchange import pin
from raymds.data.reader import Columns, File, Reader
from raymds.data.split import Split
from raymds.errors import UsageError


class Counting:
    """Shards of ten rows in memory, and which of them were asked for."""

    def __init__(self) -> None:
        self.read: set[int] = set()

    def ahead(self, shards: Any) -> None:
        """Nothing to fetch."""

    def rows(self, shard: int) -> Columns:
        self.read.add(shard)
        rows = range(10 * shard, 10 * shard + 10)
        return Columns([f"id-{i}" for i in rows], [memoryview(bytes([i] * i)) for i in rows], [f"of {i}" for i in rows])


def streaming(window: int = 1) -> tuple[Split, Counting]:
    reader, files = Counting(), [(File(f"bucket/{shard}.parquet", 0, ""), 10) for shard in range(5)]
    return Split({}, files, reader, shard=0, window=window), reader  # type: ignore[arg-type]


@pytest.mark.parametrize("turn", [1, 60, 10**6])
def test_pinned_rows_are_read_once_and_stay(monkeypatch: pytest.MonkeyPatch, turn: int) -> None:
    monkeypatch.setattr(exchange, "_TURN", turn)
    split, reader = streaming()
    pin(split, np.array([1, 4, 12, 45]))
    assert reader.read == {0, 1, 4}
    reader.read.clear()
    for row in (45, 1, 12, 4):
        example = split.example(row)
        assert (example.id, bytes(example.image), example.caption) == (f"id-{row}", bytes([row] * row), f"of {row}")
    assert reader.read == set()
    assert split.example(2).id == "id-2"
    assert reader.read == {0}


def test_a_split_that_fits_in_memory_pins_nothing() -> None:
    split, reader = streaming(window=0)
    pin(split, np.arange(5))
    assert reader.read == set()


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_have_parts_of_which_no_shard_is_in_two(ranks: int) -> None:
    split, _ = streaming()
    rows = np.array([0, 3, 9, 10, 20, 29, 45])
    parts = [[row for row, _ in split.part(rows, rank, ranks)] for rank in range(ranks)]
    assert [*chain(*parts)] == rows.tolist()
    shards = [{row // 10 for row in part} for part in parts]
    assert sum(map(len, shards)) == 4


def test_a_disk_without_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115, `pin` closes it
    monkeypatch.setattr(exchange.tempfile, "TemporaryFile", lambda buffering: full)
    with pytest.raises(UsageError, match=r"no room for the positives and retained examples .* TMPDIR"):
        pin(streaming()[0], np.array([1]))


def test_a_shard_that_is_missing_is_said(tmp_path: Path) -> None:
    gone = File(str(tmp_path / "gone.parquet"), 0, "")
    with pytest.raises(UsageError, match=r"gone\.parquet"):
        pin(Split({}, [(gone, 10)], Reader([gone], 1), shard=0, window=1), np.array([1]))
