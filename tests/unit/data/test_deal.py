"""Rows of a streamed pool go to the rank that reads their shard; no rank has more than its room."""

import numpy as np
import pytest

from raymds.data.deal import Layout, cut, deal


def test_rows_lie_in_their_window_shard_after_shard_each_as_long_as_it_has_rows() -> None:
    shard = np.repeat([0, 1, 3], [4, 2, 2])  # shard 2 has no row of the pool
    place = np.array([1, 0, 2, 3])  # windows of two: shards 1 and 0, then 2 and 3
    along = Layout.of(shard, place, 2).along(np.arange(8))
    ends = [2.5 / 6, 3.5 / 6, 4.5 / 6, 5.5 / 6], [0.5 / 6, 1.5 / 6], [0.25, 0.75]
    assert along == pytest.approx(np.concatenate(ends))


def test_a_window_without_rows_and_a_last_one_of_fewer_shards() -> None:
    along = Layout.of(np.array([2, 2]), np.array([0, 1, 2]), 2).along(np.array([1, 0]))
    assert along == pytest.approx([0.75, 0.25])


ALONG = np.array([0.9, 0.1, 0.3, 0.6, 0.2, 0.7])


@pytest.mark.parametrize(
    ("room", "dealt"),
    [
        ([6, 6, 6], [[1, 4, 2], [3], [5, 0]]),  # thirds of the line
        ([2, 2, 2], [[1, 4], [2, 3], [5, 0]]),  # what one has no room for, its neighbour takes
        ([4, 1, 1], [[1, 4, 2, 3], [5], [0]]),  # and those before it, where those behind have none
        ([6, 0, 0], [[1, 4, 2, 3, 5, 0], [], []]),
        ([0, 0, 6], [[], [], [1, 4, 2, 3, 5, 0]]),
    ],
)
def test_cuts_are_as_near_to_the_ranks_own_parts_as_there_is_room(room: list[int], dealt: list[list[int]]) -> None:
    assert [part.tolist() for part in deal(np.arange(6), ALONG, room)] == dealt


def test_every_row_is_dealt_once_and_no_rank_gets_more_than_its_room() -> None:
    dice = np.random.default_rng(0)
    for ranks in range(1, 14):
        for n in (0, 1, 7, 40):
            rows, spare = dice.permutation(n), dice.integers(0, 4, size=ranks)
            room = (dice.multinomial(n, np.full(ranks, 1 / ranks)) + spare).tolist()
            parts = deal(rows, dice.random(n) ** 3, room)
            assert len(parts) == ranks
            assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
            assert all(len(part) <= most for part, most in zip(parts, room, strict=True))


def test_slices_have_the_sizes_asked_for() -> None:
    assert [part.tolist() for part in cut(np.arange(5), [2, 0, 3])] == [[0, 1], [], [2, 3, 4]]
