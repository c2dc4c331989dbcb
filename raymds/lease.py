"""Who works on a run directory: a lease with a heartbeat, so that no two commands do at once.

`lease/N.json` is its N-th lease. It is created, not written, so exactly one command can have it; that command writes it
anew every few seconds. A lease that stays unchanged for longer is taken over by creating the next one, which its former
holder finds at its next beat, and stops. Clocks of two machines are compared nowhere.
"""

import contextlib
import getpass
import json
import os
import re
import secrets
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any

from raymds.errors import RaymdsError, UsageError
from raymds.store import uri as storage

_BEAT = 10.0  # seconds between heartbeats
_STALE = 60.0  # seconds without one after which a lease is nobody's

_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("id", "user", "place", "since"), str),
    **{"process": int, "started": (str, NoneType), "ended": bool},
}

Show = Callable[[dict[str, Any]], None]


@contextlib.contextmanager
def held(
    uri: str, show: Show, *, take_over: bool = False, beat: float = _BEAT, stale: float = _STALE
) -> Iterator[None]:
    """Hold the lease of a run directory; UsageError naming who has it where somebody works there.

    A holder without a heartbeat is waited for, `stale` seconds, then the lease is taken over; with `take_over` at once.
    Where this command's own is taken over, or can't be beaten for `stale` seconds, the main thread is interrupted, and
    the end is a RaymdsError.
    """
    lease = _acquire(uri, show, take_over, beat, stale)
    ended, lost = threading.Event(), threading.Event()
    failures: list[Exception] = []

    def keep() -> None:
        last = time.monotonic()
        while not ended.wait(beat):
            try:
                if lease.is_taken():
                    failures.clear()
                    break
                lease.write()
                last = time.monotonic()
            except Exception as error:  # a store that is away: the next beat may reach it
                failures[:] = [error]
            if time.monotonic() - last > stale:
                break
        if not ended.is_set():
            lost.set()
            interrupt()

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    with _interruptible() as interrupt:
        thread.start()
        try:
            yield
        except KeyboardInterrupt:
            if not lost.is_set():
                raise
        finally:
            ended.set()
            thread.join(beat)
            if not lost.is_set():
                with contextlib.suppress(UsageError):
                    lease.write(ended=True)
    if lost.is_set():
        why = f"can't be written any more: {failures[0]}" if failures else f"{_who(_latest(uri)[1])} has taken over"
        raise RaymdsError(f"run.uri={uri}: {why}; this command stops")


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """What interrupts the main thread; not SIGINT, which Ray's jobs and commands in the background don't hear."""
    main = threading.main_thread()
    if threading.current_thread() is not main or main.ident is None:
        yield lambda: None
        return
    thread = main.ident
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        yield lambda: signal.pthread_kill(thread, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


class _Lease:
    """One that this process holds."""

    def __init__(self, uri: str, number: int) -> None:
        self.number, self._uri, self._run, self._beats = number, _path(uri, number), uri, 0
        self._writing, self._ended = threading.Lock(), False
        self._holder = {
            "id": secrets.token_hex(8),
            "user": _user(),
            "place": _place(),
            "process": os.getpid(),
            "started": _started(os.getpid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }

    def create(self) -> bool:
        """Whether it is this process's: stores without conditional writes let two think so, and keep the later one."""
        return storage.create(self._uri, self._content(ended=False)) and self._is_own()

    def is_taken(self) -> bool:
        """Whether another command has this lease, or the next one."""
        return _latest(self._run)[0] > self.number or not self._is_own()

    def write(self, ended: bool = False) -> None:
        """A heartbeat, or the last one."""
        with self._writing:
            if not self._ended:
                self._beats, self._ended = self._beats + 1, ended
                storage.write(self._uri, self._content(ended))

    def _is_own(self) -> bool:
        return (_parse(storage.read(self._uri)) or {}).get("id") == self._holder["id"]

    def _content(self, ended: bool) -> bytes:
        return json.dumps(self._holder | {"beats": self._beats, "ended": ended}).encode()


def _acquire(uri: str, show: Show, take_over: bool, beat: float, stale: float) -> _Lease:
    number, found = _latest(uri)
    if found is not None and not take_over:
        _require_gone(uri, number, found, show, beat, stale)
    lease = _Lease(uri, number + 1)
    if not lease.create():
        raise _taken(uri, _latest(uri)[1])
    if number > 1:  # the one before stays, for its holder to be told of
        storage.delete(_path(uri, number - 1))
    return lease


def _require_gone(uri: str, number: int, found: bytes, show: Show, beat: float, stale: float) -> None:
    """Return once nobody holds the lease; UsageError where somebody does."""
    holder = _parse(found)
    if holder is not None and holder["ended"]:
        return
    if holder is not None and holder["place"] == _place():  # this machine can tell
        if holder["started"] is not None and holder["started"] == _started(holder["process"]):
            raise _taken(uri, found)
        return
    show({"event": "note", "note": f"{_who(found)} worked on {uri}; waiting {stale:g} s for a sign of life"})
    end = time.monotonic() + stale
    while time.monotonic() < end:
        time.sleep(beat / 2)
        if _latest(uri) != (number, found):
            now = _parse(_latest(uri)[1])
            if now is not None and now["ended"]:
                return
            raise _taken(uri, _latest(uri)[1])


def _taken(uri: str, content: bytes | None) -> UsageError:
    return UsageError(
        f"run.uri={uri}: {_who(content)} works on it; wait for that, or, where it is known to be gone, give --take-over"
    )


def _latest(uri: str) -> tuple[int, bytes | None]:
    """Number and content of the newest lease; 0 and None where there is none."""
    folder = storage.join(uri, "lease")
    names = (re.fullmatch(r"([0-9]{1,9})\.json", name) for name in storage.sizes(folder))
    number = max((int(name[1]) for name in names if name), default=0)
    return number, storage.read_or_none(_path(uri, number)) if number else None


def _path(uri: str, number: int) -> str:
    return storage.join(uri, f"lease/{number}.json")


def _parse(content: bytes | None) -> dict[str, Any] | None:
    """A lease's content, None where it is none."""
    try:
        holder = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(holder, dict) or not all(isinstance(holder.get(name), kind) for name, kind in _FIELDS.items()):
        return None
    return holder


def _who(content: bytes | None) -> str:
    holder = _parse(content)
    if holder is None:
        return "another command"
    machine = holder["place"].partition(" ")[0]
    return f"{holder['user']} on {machine} (process {holder['process']}, since {holder['since']})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def _place() -> str:
    """The machine since it was started, and on Linux which of its containers: where process numbers mean the same."""
    started = Path("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {started.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    return f"{socket.gethostname()} {uuid.getnode()}"


def _started(process: int) -> str | None:
    """When a process of this machine began, in the system's own unit; None where there is none, or it has ended."""
    with contextlib.suppress(OSError):
        # The name, in brackets, may hold anything.
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
