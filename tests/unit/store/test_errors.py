"""What is said of an object store's errors."""

import pytest

from raymds.store.errors import reason


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "AWS Error REQUEST_TIME_TOO_SKEWED during GetObject operation: The difference between the request time and",
            "this machine's clock differs from the store's by too much; set it (TIME_TOO_SKEWED)",
        ),
        ("AWS Error NO_SUCH_BUCKET during HeadObject", "no such bucket; check its name and storage.endpoint"),
        ("No space left on device", "No space left on device"),
    ],
)
def test_an_error_is_said_with_what_to_check(said: str, message: str) -> None:
    assert reason(OSError(said)).startswith(message)
