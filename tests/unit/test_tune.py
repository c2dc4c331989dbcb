"""What a search says without Ray: before it starts, and where every trial failed."""

import copy
from pathlib import Path

import pytest

from raymds import tune
from raymds.config import Config, load
from raymds.errors import RaymdsError, UsageError
from raymds.search.book import Book
from raymds.search.space import parse
from tests.conftest import overrides, silent


def test_an_end_of_a_range_that_the_data_have_too_few_images_for_is_named(
    data_uri: str, old_weights: str, tmp_path: Path
) -> None:
    space = "search.space={constraints.images_per_task: {int: [2, 40]}}"
    made = load(Config, None, [*overrides(data_uri, old_weights, str(tmp_path)), space])
    with pytest.raises(
        UsageError, match=r"search\.space\.constraints\.images_per_task: 40 can't be tried: .*lower it to 20"
    ):
        tune.search(made, silent)
    assert not (tmp_path / "config.yaml").exists()


def test_where_every_trial_failed_the_search_says_why(config: Config) -> None:
    book = Book(config, parse(config), silent)
    assert book.next() is not None
    book.ended(0, "step 3: the loss of weather:foggy is nan")
    with pytest.raises(RaymdsError, match="no trial of the search measured anything; the first failed: step 3"):
        tune._conclude(book, copy.deepcopy(config), silent)
