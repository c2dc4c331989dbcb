"""A ledger: a directory with one file per entry, `000000017.json`, each naming the SHA-256 of the one before it.

An entry is created only where there is none of its number, so of two writers one finds the other's and takes the next
number: nothing is lost, and no file is ever written a second time. Appending lists the names and reads the newest
entry.
"""

import re
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from raymds.errors import UsageError
from raymds.ledger.entry import Entry, decode, encode
from raymds.store import uri as storage

_NAME = re.compile(r"([0-9]{9})\.json")
_THREADS = 32  # requests at a time
_SETTLE = 1.0  # seconds in which writers of a store without conditional writes see each other

Subject = tuple[str, str]  # name of a file, its SHA-256


class Ledger:
    """Reads and appends entries; `key` signs what is appended, `author` says who appends."""

    def __init__(self, uri: str, author: str | None = None, key: Ed25519PrivateKey | None = None) -> None:
        self.uri, self._author, self._key = storage.absolute(uri), author, key
        self._known: list[Entry] = []

    @cached_property
    def author(self) -> str:
        """Who appends: as given, else as git knows them; UsageError where nobody is known."""
        return self._author or git_author("ledger.author")

    def path(self, number: int) -> str:
        """URI of an entry."""
        return storage.join(self.uri, f"{number:09d}.json")

    def numbers(self) -> list[int]:
        """Numbers of the entries that are there, in order."""
        names = (_NAME.fullmatch(name) for name in storage.sizes(self.uri))
        return sorted(int(found[1]) for found in names if found)

    def raw(self, numbers: Sequence[int]) -> list[bytes]:
        """The bytes of entries."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda number: storage.read(self.path(number)), numbers))

    def entries(self) -> list[Entry]:
        """All entries in order, of which only those not read before are read; UsageError where the chain is broken."""
        return self._read_to(self._last())

    def append(self, kind: str, content: dict[str, Any], subject: Subject | None = None) -> Entry:
        """Append an entry; its subject is the entry before it where no file is given."""
        newest = self._newest()
        while True:
            placed = self._place(newest, kind, uuid.uuid4().hex, content, subject)
            if placed is not None:
                return placed
            newest = self._newest()

    def append_once(
        self, kind: str, subject: Subject, told: Callable[[list[Entry]], tuple[str, dict[str, Any]] | Entry]
    ) -> Entry:
        """Append an entry whose id and content `told` says from those before it, or find the one that it returns."""
        while True:
            newest = self._last()
            self._settle()
            known = self._read_to(newest)
            found = told(known)
            if isinstance(found, Entry):
                return found
            placed = self._place(known[-1] if known else None, kind, *found, subject)
            if placed is not None:
                return placed

    def _last(self) -> int:
        """The number of the newest entry, 0 where there is none; UsageError where one before it is missing."""
        numbers = [number for number in self.numbers() if number]
        gap = next((number for number, there in enumerate(numbers, 1) if number != there), None)
        # One that was written while the names were listed may not be among them.
        if gap is not None and not storage.exists(self.path(gap)):
            raise UsageError(
                f"{self.path(gap)}: is missing, and {numbers[-1]:09d}.json is there; raymds ledger verify {self.uri} "
                "says what else was altered; put it back"
            )
        return max(numbers, default=0)

    def _read_to(self, newest: int) -> list[Entry]:
        wanted = range(len(self._known) + 1, newest + 1)
        for number, data in zip(wanted, self.raw(wanted), strict=True):
            entry = decode(data, self.path(number))
            before = self._known[-1].sha256 if self._known else None
            if (entry.number, entry.previous) != (number, before):
                raise UsageError(
                    f"{self.path(number)}: does not follow on the entry before it; raymds ledger verify {self.uri} "
                    "says what was altered"
                )
            self._known.append(entry)
        return list(self._known)

    def _newest(self) -> Entry | None:
        number = self._last()
        self._settle()
        return decode(storage.read(self.path(number)), self.path(number)) if number else None

    def _place(
        self, before: Entry | None, kind: str, name: str, content: dict[str, Any], subject: Subject | None
    ) -> Entry | None:
        """The entry after `before`, or None where another writer was first."""
        number = 1 if before is None else before.number + 1
        if subject is None:
            assert before is not None, "the first entry is about a file"
            subject = f"{before.number:09d}.json", before.sha256
        head: dict[str, Any] = {"number": number, "previous": before and before.sha256, "kind": kind, "id": name}
        head |= {"time": datetime.now(UTC).isoformat(timespec="seconds"), "author": self.author, "content": content}
        data, uri = encode(head, subject, self._key), self.path(number)
        made = decode(data, uri)  # what could not be read again is never written
        if storage.create(uri, data):
            self._settle()
        # What stands there decides: an answer may have been lost on the way, and the request sent again.
        return made if storage.read(uri) == data else None

    @cached_property
    def _exclusive(self) -> bool:
        return storage.exclusive(self.uri)

    def _settle(self) -> None:
        """Wait until what two writers began to write at the same moment is there, where a store lets both write."""
        if not self._exclusive:
            time.sleep(_SETTLE)


def git_author(named: str) -> str:
    """`Name <email>` as git knows them; UsageError where it knows nobody, for what is called `named`."""
    found = []
    for key in ("user.name", "user.email"):
        try:
            run = subprocess.run(["git", "config", key], capture_output=True, check=False)
        except OSError:
            break
        found.append(run.stdout.decode(errors="replace").strip())
    if not any(found):
        raise UsageError(f"{named}: has no value, and git config user.name has none; give one of the two")
    name, email = (*found, "")[:2]
    return f"{name} <{email}>" if name and email else name or email
