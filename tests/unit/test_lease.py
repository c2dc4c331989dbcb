"""Who may work on a run directory: one command at a time, and another one where the first is gone."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raymds import lease
from raymds.errors import RaymdsError, UsageError

SHORT = {"beat": 0.05, "stale": 0.5}
HOLD = """
import sys, time
from raymds import lease
with lease.held(sys.argv[1], lambda record: None, beat=0.05, stale=0.5):
    print("held", flush=True)
    time.sleep(60)
"""


def silent(record: dict[str, Any]) -> None:
    pass


def newest(run: Path) -> dict[str, Any]:
    path = max((run / "lease").glob("*.json"), key=lambda path: int(path.stem))
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_lease_is_given_back(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with lease.held(str(tmp_path), silent, **SHORT):
            assert not newest(tmp_path)["ended"]
        assert newest(tmp_path)["ended"]
        assert (tmp_path / "lease" / f"{number}.json").is_file()
    assert len(list((tmp_path / "lease").iterdir())) == 2


def test_an_error_gives_it_back_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lease.held(str(tmp_path), silent, **SHORT):
        raise ZeroDivisionError
    assert newest(tmp_path)["ended"]


def test_the_second_of_two_is_told_who_works_there(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    message = rf"run\.uri={tmp_path}: \S+ on \S+ \(process {holder.pid}, since 20.*\) works on it; .*--take-over"
    with pytest.raises(UsageError, match=message), lease.held(str(tmp_path), silent, **SHORT):
        pass


def test_a_killed_holder_of_this_machine_is_not_waited_for(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.kill()  # and not waited for: its number is still there, of a process that has ended
    time.sleep(0.2)
    notes: list[dict[str, Any]] = []
    with lease.held(str(tmp_path), notes.append, beat=0.05, stale=1e6):
        assert newest(tmp_path)["process"] == os.getpid()
    assert notes == []


def elsewhere(run: Path, process: int = 7, since: str = "then") -> Path:
    """A lease of a machine that can't be asked."""
    place = run / "lease" / "5.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    holder = {
        "id": "a",
        "user": "ann",
        "place": "far boot pid:[1]",
        "process": process,
        "started": "3",
        "since": since,
    }
    place.write_text(json.dumps({**holder, "beats": 1, "ended": False}))
    return place


@pytest.mark.parametrize("since", ["1970-01-01 00:00:00 +0000", "2999-01-01 00:00:00 +0000"])
def test_a_holder_on_another_machine_is_waited_for_whatever_its_clock_says(tmp_path: Path, since: str) -> None:
    elsewhere(tmp_path, since=since)
    notes: list[dict[str, Any]] = []
    begin = time.monotonic()
    with lease.held(str(tmp_path), notes.append, **SHORT):
        assert time.monotonic() - begin > SHORT["stale"]
        assert (tmp_path / "lease" / "6.json").is_file()
    assert notes == [
        {
            "event": "note",
            "note": f"ann on far (process 7, since {since}) worked on {tmp_path}; waiting 0.5 s for a sign of life",
        }
    ]


@pytest.mark.parametrize("since", ["1970-01-01 00:00:00 +0000", "2999-01-01 00:00:00 +0000"])
def test_a_holder_on_another_machine_that_is_alive_keeps_it(tmp_path: Path, since: str) -> None:
    place = elsewhere(tmp_path, since=since)
    holder = json.loads(place.read_text())

    def beat(record: dict[str, Any]) -> None:
        place.write_text(json.dumps({**holder, "beats": 2}))

    with pytest.raises(UsageError, match=r"ann on far .* works on it"), lease.held(str(tmp_path), beat, **SHORT):
        pass


def test_a_machine_of_the_same_name_is_another(tmp_path: Path) -> None:
    place = elsewhere(tmp_path)
    machine, _, container = lease._place().split(" ")
    place.write_text(json.dumps({**json.loads(place.read_text()), "place": f"{machine} other-boot {container}"}))
    begin = time.monotonic()
    with lease.held(str(tmp_path), silent, **SHORT):
        assert time.monotonic() - begin > SHORT["stale"]


def test_a_process_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    place = elsewhere(tmp_path, process=999_999_999)
    content = json.loads(place.read_text()) | {"place": lease._place(), "started": None}
    place.write_text(json.dumps(content))
    place.with_name("12345.txt2").write_text("no lease")
    with lease.held(str(tmp_path), silent, beat=0.05, stale=1e6):
        assert (tmp_path / "lease" / "6.json").is_file()


def test_take_over_waits_for_nobody(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    with lease.held(str(tmp_path), silent, take_over=True, beat=0.05, stale=1e6):
        assert newest(tmp_path)["process"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"ended": true}', b"\xff"])
def test_a_lease_that_is_none_is_waited_for(tmp_path: Path, content: bytes) -> None:
    elsewhere(tmp_path).write_bytes(content)
    with lease.held(str(tmp_path), silent, **SHORT):
        assert newest(tmp_path)["process"] == os.getpid()


@pytest.mark.parametrize("how", [signal.default_int_handler, signal.SIG_IGN])
@pytest.mark.parametrize("blocked", [True, False])
def test_who_was_taken_over_stops(tmp_path: Path, how: Any, blocked: bool) -> None:
    """At once, also where Ctrl-C is not heard: in a job of Ray it is blocked, in the background ignored."""
    before = signal.signal(signal.SIGINT, how)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT} if blocked else set())
    begin = time.monotonic()
    try:
        message = r"ann on far .* has taken over; this command stops"
        with pytest.raises(RaymdsError, match=message), lease.held(str(tmp_path), silent, **SHORT):
            elsewhere(tmp_path)
            time.sleep(60)
    finally:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert time.monotonic() - begin < 30
    assert not newest(tmp_path)["ended"]


def test_work_that_ended_after_the_loss_does_not_count(tmp_path: Path) -> None:
    """On another thread nothing can interrupt it."""
    found: list[Exception] = []

    def work() -> None:
        try:
            with lease.held(str(tmp_path), silent, **SHORT):
                elsewhere(tmp_path)
                time.sleep(1)
        except RaymdsError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == 1


def test_the_same_lease_of_another_is_noticed(tmp_path: Path) -> None:
    """A store without conditional writes may let two create it; the later content stays."""
    with pytest.raises(RaymdsError, match="ann on far"), lease.held(str(tmp_path), silent, **SHORT):
        elsewhere(tmp_path).rename(tmp_path / "lease" / "1.json")
        time.sleep(60)
    assert newest(tmp_path)["user"] == "ann"


def test_a_holder_that_can_not_beat_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(uri: str, data: bytes) -> None:
        raise UsageError("the store is away")

    with (
        pytest.raises(RaymdsError, match="can't be written any more: the store is away"),
        lease.held(str(tmp_path), silent, **SHORT),
    ):
        monkeypatch.setattr(lease.storage, "write", away)
        time.sleep(60)


def test_ctrl_c_stays_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lease.held(str(tmp_path), silent, **SHORT):
        raise KeyboardInterrupt
    assert newest(tmp_path)["ended"]


def try_once(run: str, start: Any, answers: Any, end: Any) -> None:
    start.wait()
    try:
        with lease.held(run, silent, beat=0.05, stale=0.5):
            answers.put("held")
            end.wait()
    except UsageError:
        answers.put("refused")


def test_of_many_that_begin_at_once_one_holds_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, answers, end = context.Event(), context.Queue(), context.Event()
    tries = [context.Process(target=try_once, args=(str(tmp_path), start, answers, end)) for _ in range(8)]
    for one in tries:
        one.start()
    start.set()
    found = sorted(answers.get(timeout=30) for _ in tries)
    end.set()
    for one in tries:
        one.join()
    assert found == ["held", *["refused"] * 7]
