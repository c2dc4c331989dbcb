"""The shape that an entry has to have."""

import pytest

from raymds.errors import UsageError
from raymds.ledger.entry import SHAPES, decode, encode, fits

HEAD = {"number": 1, "previous": None, "kind": "model", "id": "x", "time": "2026-01-01T00:00:00+00:00", "author": "a"}
CONTENT = {"weights": {"uri": None, "sha256": "s"}}


def test_an_entry_is_what_was_said() -> None:
    data = encode({**HEAD, "content": CONTENT}, ("file", "s"), None)
    found = decode(data, "here")
    assert {name: getattr(found, name) for name in HEAD} == HEAD
    assert found.content == CONTENT
    assert found.to_json()["signed_by"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"number": "1"}, {"number": True}, {"number": 1.0}, {"kind": "party"}, {"content": {}}, {"content": []},
        {"content": {"weights": "s"}}, {"content": {"weights": {"uri": 1, "sha256": "s"}}}, {"author": None},
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_no_entry(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"^here: is "):
        decode(encode({**HEAD, "content": CONTENT, **change}, ("file", "s"), None), "here")


@pytest.mark.parametrize("expires", ["never", "31.12.2020", "2020-1-1", "20200101", "", "9999", 1])
def test_a_waiver_whose_last_day_is_none_is_no_entry(expires: object) -> None:
    """As text "never" comes after every day, so that it would be waived for ever."""
    content = {"capability": "w:rain", "reason": "r", "expires": expires}
    with pytest.raises(UsageError, match="can't read"):
        decode(encode({**HEAD, "kind": "waive", "content": content}, ("file", "s"), None), "here")


@pytest.mark.parametrize("time", ["yesterday", "2026-02-30T00:00:00+00:00", ""])
def test_a_time_that_is_none_is_no_entry(time: str) -> None:
    with pytest.raises(UsageError, match="is no entry"):
        decode(encode({**HEAD, "content": CONTENT, "time": time}, ("file", "s"), None), "here")


def test_fits() -> None:
    assert fits({"a": [1], "b": None, "more": 1}, {"a": [int], "b": (str, type(None))})
    assert not fits({"a": [1, "x"]}, {"a": [int]})
    assert not fits({}, {"a": int})
    assert not fits(True, int)
    assert set(SHAPES) == {"cycle", "model", "use", "waive"}


def test_an_entry_of_before_there_was_a_field_is_read_and_a_wrong_one_is_not() -> None:
    named = {"uri": None, "sha256": "s"}
    content = {
        "run": None, "outcome": "new", "reason": "r", "parent": named, "weights": named, "target": "w:fog",
        "data": {"digest": "d", "manifest": None}, "protected": ["w:rain"], "certificate": None, "capabilities": {},
        "settings": {}, "code": None,
    }  # fmt: skip
    head = {**HEAD, "kind": "cycle", "content": content}
    assert decode(encode(head, ("file", "s"), None), "here").content == content
    for wrong in ({"not_certifiable": "w:snow"}, {"outcome": "New"}, {"outcome": []}):
        head["content"] = content | wrong
        with pytest.raises(UsageError, match="can't read"):
            decode(encode(head, ("file", "s"), None), "here")
