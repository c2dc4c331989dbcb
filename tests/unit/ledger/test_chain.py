"""Two writers, and readers of what they wrote."""

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raymds.errors import UsageError
from raymds.ledger import chain
from raymds.ledger.chain import Ledger
from raymds.ledger.entry import Entry
from raymds.store import uri as storage

ENTRIES = 200
_WRITER = """
import sys
from raymds.ledger.chain import Ledger
ledger = Ledger(sys.argv[1], sys.argv[2])
for number in range(int(sys.argv[3])):
    ledger.append("waive", {"capability": f"{sys.argv[2]} {number}", "reason": "r", "expires": "2030-01-01"})
"""


def append(ledger: Ledger, what: str) -> None:
    ledger.append("waive", {"capability": what, "reason": "r", "expires": "2030-01-01"}, ("file", "0" * 64))


def write_at_once(ledger: str, entries: int) -> None:
    """Two processes that append at the same time."""
    command = [sys.executable, "-c", _WRITER, ledger]
    writers = [subprocess.Popen([*command, name, str(entries)]) for name in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]


def check_whole(ledger: str, entries: int) -> None:
    """Every entry is there once, and the chain is whole, by a reader that shares no code with the ledger's."""
    found, before = [], hashlib.sha256(storage.read(storage.join(ledger, "000000001.json"))).hexdigest()
    for number in range(2, 2 * entries + 2):
        data = storage.read(storage.join(ledger, f"{number:09d}.json"))
        predicate = json.loads(base64.b64decode(json.loads(data)["payload"]))["predicate"]
        assert (predicate["number"], predicate["previous"]) == (number, before)
        before = hashlib.sha256(data).hexdigest()
        found.append((predicate["author"], predicate["content"]["capability"]))
    assert sorted(found) == sorted((name, f"{name} {n}") for name in ("one", "two") for n in range(entries))
    for name in ("one", "two"):  # each writer's own, in its order
        assert [what for author, what in found if author == name] == [f"{name} {n}" for n in range(entries)]
    names = [name for name in storage.sizes(ledger) if not name.startswith("000000")]
    assert names == []


def test_two_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path / "ledger")
    append(Ledger(uri, "first"), "x")
    write_at_once(uri, ENTRIES)
    check_whole(uri, ENTRIES)


def test_a_writer_that_finds_its_number_taken_goes_on_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer comes between the look at the newest entry and the writing, every time but the last."""
    uri = str(tmp_path)
    ours, other = Ledger(uri, "ours"), Ledger(uri, "other")
    append(ours, "first")
    create, between = storage.create, [2]

    def late(path: str, data: bytes) -> bool:
        if between[0]:
            between[0] -= 1
            monkeypatch.setattr(storage, "create", create)
            append(other, "between")
            monkeypatch.setattr(storage, "create", late)
        return create(path, data)

    monkeypatch.setattr(storage, "create", late)
    append(ours, "late")
    assert [entry.content["capability"] for entry in ours.entries()] == ["first", "between", "between", "late"]


def test_an_answer_that_was_lost_does_not_make_two_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store wrote the entry, its answer got lost, and the request that was sent again found it there."""
    ledger, create = Ledger(str(tmp_path), "somebody"), storage.create
    monkeypatch.setattr(storage, "create", lambda path, data: create(path, data) and False)
    append(ledger, "once")
    assert len(ledger.entries()) == 1


def test_what_is_recorded_once_is_found_the_second_time(tmp_path: Path) -> None:
    uri, made = str(tmp_path), {"split": "s", "number": 1, "confidence": 0.9, "spent": 0.1}

    def append_once(name: str) -> Entry:
        def told(known: list[Entry]) -> Entry | tuple[str, dict[str, Any]]:
            return next((entry for entry in known if entry.id == name), (name, made))

        return Ledger(uri, "a").append_once("use", ("f", "0"), told)

    assert append_once("run") == append_once("run")
    assert append_once("another").number == 2


def test_where_a_store_lets_both_write_the_later_content_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that wrote the same number, the one whose content is gone takes the next."""
    ledger, other, slept = Ledger(str(tmp_path), "a"), Ledger(str(tmp_path), "b"), []
    append(ledger, "first")
    append(other, "other")
    taken = Path(ledger.path(2)).read_bytes()
    Path(ledger.path(2)).unlink()

    def settle(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:  # after the writing
            Path(ledger.path(2)).write_bytes(taken)

    monkeypatch.setattr(storage, "exclusive", lambda uri: False)
    monkeypatch.setattr(chain.time, "sleep", settle)
    append(Ledger(ledger.uri, "a"), "late")
    assert [entry.content["capability"] for entry in Ledger(ledger.uri).entries()] == ["first", "other", "late"]


def test_appending_reads_the_newest_entry_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        append(Ledger(str(tmp_path), "a"), str(number))
    read, files = storage.read, list[str]()
    monkeypatch.setattr(storage, "read", lambda uri: files.append(Path(uri).name) or read(uri))
    append(Ledger(str(tmp_path), "a"), "new")
    assert files == ["000000020.json", "000000021.json"]  # and what was written, to see that it stands


def test_an_entry_that_a_listing_skipped_is_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is listed while others write to it may show what was written last, and not what was before it."""
    ledger = Ledger(str(tmp_path), "a")
    for name in "abc":
        append(ledger, name)
    monkeypatch.setattr(Ledger, "numbers", lambda self: [1, 3])
    assert [entry.content["capability"] for entry in Ledger(str(tmp_path)).entries()] == ["a", "b", "c"]


def test_the_author_is_gits_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = tmp_path / "config"
    git.write_text("[user]\n name = A. Nother\n email = a@example.org\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(git))
    assert Ledger("x").author == "A. Nother <a@example.org>"
    git.write_text("")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    with pytest.raises(UsageError, match="--author: has no value"):
        chain.git_author("--author")
    with pytest.raises(UsageError, match=r"ledger\.author: has no value, and git config user\.name has none"):
        _ = Ledger("x").author
    assert Ledger("x", "given").author == "given"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"ledger\.author"):
        _ = Ledger("x").author
