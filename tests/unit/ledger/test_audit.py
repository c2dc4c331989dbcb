"""Whatever is altered, removed or moved in a ledger, or in a file that it names, is found."""

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from raymds.errors import UsageError
from raymds.ledger import audit, entry, facts, history, record
from raymds.ledger.chain import Ledger
from tests.unit.ledger import made

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PUBLIC = [KEY.public_key()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with an entry of every kind, and the runs that it names; signed."""
    root = tmp_path_factory.mktemp("whole")
    ledger = Ledger(str(root / "ledger"), "A. Nother", KEY)
    made.file(root / "old", made.WEIGHTS)
    fog = made.run(root / "fog", root / "old", "w:fog", ["w:rain", "s:city"])
    record.add(ledger, str(root / "old"))
    record.use(ledger, facts.identity(fog), "c" * 64, "s" * 64, 0.95)
    record.add_run(ledger, fog)
    record.waive(ledger, "w:rain", "there is none", "2199-01-01")
    record.add_run(ledger, made.run(root / "snow", root / "fog" / "weights.safetensors", "w:snow", ["w:fog", "s:city"]))
    return root


def faults(root: Path, **given: Any) -> list[str]:
    return audit.verify(Ledger(str(root / "ledger")), **given)[1]


def test_a_whole_ledger_has_no_fault(whole: Path) -> None:
    assert faults(whole) == faults(whole, keys=PUBLIC) == []
    entries, _ = audit.verify(Ledger(str(whole / "ledger")))
    assert [found.kind for found in entries] == ["model", "use", "cycle", "waive", "cycle"]
    assert all(faults(whole, head=found.head) == [] for found in entries)


def altered(value: Any) -> Iterator[Any]:
    """A JSON value in every way that it can be altered in one place."""
    if isinstance(value, dict):
        for name in value:
            yield {key: below for key, below in value.items() if key != name}
            yield {key if key != name else f"{name}x": below for key, below in value.items()}
            yield from ({**value, name: below} for below in altered(value[name]))
        yield {**value, "more": 1}
    elif isinstance(value, list):
        yield [*value, "more"]
        for at, item in enumerate(value):
            yield value[:at] + value[at + 1 :]
            yield from ([*value[:at], below, *value[at + 1 :]] for below in altered(item))
    else:
        yield "x" if value is None else f"{value}x" if isinstance(value, str) else None
        yield [value]


def every_alteration(data: bytes) -> Iterator[bytes]:
    """An entry's file with each field of its envelope and of its statement altered in turn."""
    envelope = json.loads(data)
    yield from (json.dumps(found, separators=(",", ":")).encode() + b"\n" for found in altered(envelope))
    for found in altered(json.loads(base64.b64decode(envelope["payload"]))):
        payload = base64.b64encode(json.dumps(found, separators=(",", ":")).encode()).decode()
        yield json.dumps({**envelope, "payload": payload}, separators=(",", ":")).encode() + b"\n"
    yield json.dumps(envelope).encode()  # the same content in another form


@pytest.mark.parametrize("number", range(1, 6))
def test_every_field_of_every_entry_altered_in_turn_is_found(whole: Path, tmp_path: Path, number: int) -> None:
    """Without a key: also in the newest entry, which no other names."""
    shutil.copytree(whole / "ledger", tmp_path / "ledger")
    file = tmp_path / "ledger" / f"{number:09d}.json"
    data, tried = file.read_bytes(), 0
    for content in every_alteration(data):
        file.write_bytes(content)
        found = faults(tmp_path, files=False)
        assert any(fault.startswith(f"entry {number}:") for fault in found), content
        tried += 1
    assert tried > 50
    file.write_bytes(data)
    assert faults(tmp_path, files=False) == []


def test_every_byte_of_an_entry_altered_is_found(whole: Path) -> None:
    """By the entry alone: no other names the newest."""
    data = (whole / "ledger" / "000000004.json").read_bytes()
    for at in range(len(data)):
        with pytest.raises(UsageError, match="here: "):
            entry.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "here")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"NaN", b"[" * 100_000, b"1" * 5000, b'"\\ud800"']
)
def test_whatever_a_file_has_is_a_fault_and_no_crash(whole: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(whole / "ledger", tmp_path / "ledger")
    (tmp_path / "ledger" / "000000002.json").write_bytes(content)
    assert any("entry 2: " in fault for fault in faults(tmp_path))
    with pytest.raises(UsageError, match=r"000000002\.json"):
        Ledger(str(tmp_path / "ledger")).entries()


def rewritten(root: Path, number: int, key: Any, **changes: Any) -> None:
    """An entry and all after it written anew, as by somebody who knows how and can write the ledger."""
    before = None
    for found in Ledger(str(root / "ledger")).entries():
        head = {name: getattr(found, name) for name in entry._HEAD}
        if found.number >= number:
            head |= {"previous": before, **(changes if found.number == number else {})}
            data = entry.encode(head, ("file", "0" * 64), key)
            (root / "ledger" / f"{found.number:09d}.json").write_bytes(data)
            before = entry.decode(data, "").sha256
        else:
            before = found.sha256


def test_what_is_written_anew_is_found_by_a_key_or_by_a_head(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "ledger", tmp_path / "ledger")
    head = Ledger(str(tmp_path / "ledger")).entries()[3].head
    rewritten(tmp_path, 4, None, author="somebody else")
    assert faults(tmp_path, files=False) == []  # nothing could tell
    assert [fault.partition(":")[0] for fault in faults(tmp_path, files=False, keys=PUBLIC)] == ["entry 4", "entry 5"]
    (fault,) = faults(tmp_path, files=False, head=head)
    assert fault.startswith("entry 4: is another one than --head names")
    rewritten(tmp_path, 4, OTHER)
    assert "is signed with the key" in faults(tmp_path, files=False, keys=PUBLIC)[0]
    assert faults(tmp_path, files=False, keys=[*PUBLIC, OTHER.public_key()]) == []


def test_removed_and_moved_entries_are_found(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "ledger", tmp_path / "ledger")
    files = [tmp_path / "ledger" / f"{number:09d}.json" for number in range(1, 6)]
    contents = [file.read_bytes() for file in files]
    head = Ledger(str(tmp_path / "ledger")).entries()[-1].head
    for at in range(4):
        files[at].unlink()
        assert faults(tmp_path, files=False)[0] == f"entry {at + 1}: is missing"
        files[at].write_bytes(contents[at])
        files[at].write_bytes(contents[at + 1])
        files[at + 1].write_bytes(contents[at])
        assert f"entry {at + 1}: says that it is entry {at + 2}; entries were moved" in faults(tmp_path, files=False)
        files[at + 1].write_bytes(contents[at + 1])
        files[at].write_bytes(contents[at])
    far = tmp_path / "ledger" / "999999999.json"  # no list of all that is missing has room in memory
    far.write_bytes(contents[4])
    assert faults(tmp_path, files=False)[0] == "entries 6 to 999999998: are missing"
    with pytest.raises(UsageError, match=r"000000006\.json: is missing, and 999999999\.json is there"):
        Ledger(str(tmp_path / "ledger")).entries()
    far.unlink()
    files[4].unlink()
    assert faults(tmp_path, files=False) == []  # a chain alone can't show it
    (fault,) = faults(tmp_path, files=False, head=head)
    assert fault == "entry 5: is missing; the ledger ends at 4, so its last entries were removed"
    for wrong in ("5", "5:x", f"x:{'0' * 64}", f"0:{'0' * 64}", ""):
        with pytest.raises(UsageError, match="--head"):
            faults(tmp_path, files=False, head=wrong)


@pytest.mark.parametrize("name", ["old", "fog/weights.safetensors", "fog/certificate.json", "snow/data/manifest.json"])
def test_an_altered_or_missing_file_that_an_entry_names_is_found(whole: Path, name: str) -> None:
    file = whole / name
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert any(f"{file}: is another file" in fault for fault in faults(whole))
    file.unlink()
    assert any(f"{file}: no such file" in fault for fault in faults(whole))
    assert faults(whole, files=False) == []
    file.write_bytes(data)


def test_a_use_that_is_miscounted_is_found(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger"), "a")
    record.use(ledger, "one", "c", "s", 0.9)
    ledger.append("use", {"split": "s", "number": 1, "confidence": 0.9, "spent": 0.1})
    assert faults(tmp_path) == ["entry 2: says use 1 of its test split, which is use 2"]


def test_more_uses_than_were_declared_are_found(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger"), "a")
    record.use(ledger, "one", "c", "s", 0.95, 1)
    use = {"split": "s", "confidence": 0.95, "spent": 0.05}
    ledger.append("use", {**use, "number": 2, "declared": 1})
    ledger.append("use", {**use, "number": 3, "declared": 9})
    assert faults(tmp_path) == [
        "entry 2: is use 2 of its test split, for which 1 were declared",
        "entry 3: declares 9 uses of its test split, whose first use declared 1",
    ]


@pytest.mark.parametrize(
    ("number", "confidence", "spent", "fault"),
    [
        (1, 0.95, 0.9, "entry 1: says that it spends an error of 0.9; use 1 has 0.0303964"),
        (1, 1.5, -0.3, "entry 1: says a confidence of 1.5, and it has to lie between 0 and 1"),
        (0, 0.95, 0.1, "entry 1: says use 0 of its test split, which is use 1"),
        (10**400, 0.95, 0.1, f"entry 1: says use {10**400} of its test split, which is use 1"),
    ],
)
def test_a_use_that_spends_another_share_is_found(
    tmp_path: Path, number: int, confidence: float, spent: float, fault: str
) -> None:
    content = {"split": "s", "number": number, "confidence": confidence, "spent": spent}
    Ledger(str(tmp_path / "ledger"), "a").append("use", content, ("f", "0" * 64))
    assert faults(tmp_path) == [fault]


@pytest.mark.parametrize(
    "more",
    [{"weights": 5}, {"parent": "x"}, {"data": [1]}, {"certificate": {"uri": 5}}, {"weights": {}}, {"weights": None}],
)
def test_fields_that_a_kind_of_entry_has_not_may_hold_anything(tmp_path: Path, more: dict[str, Any]) -> None:
    ledger = Ledger(str(tmp_path / "ledger"), "a")
    content = {"capability": "w", "reason": "r", "expires": "2030-01-01", **more}
    ledger.append("waive", content, ("f", "0" * 64))
    assert faults(tmp_path) == []
    with pytest.raises(UsageError, match="no such file, and no such digest"):
        history.trace(ledger.entries(), "ab" * 8)


@pytest.mark.parametrize("uri", ["a\0b", "x://y", "", "~nobody-of-this-name/x", "s3://"])
def test_a_file_by_whatever_name_is_a_fault_and_no_crash(tmp_path: Path, uri: str) -> None:
    content = {"weights": {"uri": uri, "sha256": "x"}}
    Ledger(str(tmp_path / "ledger"), "a").append("model", content, ("f", "0" * 64))
    assert len(faults(tmp_path)) == (uri != "")


def test_ten_thousand_cycles_are_verified_in_ten_seconds(tmp_path: Path, whole: Path) -> None:
    content = Ledger(str(whole / "ledger")).entries()[-1].content
    content |= {"settings": {f"section{i}": {f"key{j}": 0.5 for j in range(10)} for i in range(10)}}
    (tmp_path / "ledger").mkdir()
    before = None
    for number in range(1, 10_001):
        head = {"number": number, "previous": before, "kind": "cycle", "id": str(number), "time": "2030-01-01"}
        data = entry.encode({**head, "author": "a", "content": content}, ("file", "0" * 64), None)
        (tmp_path / "ledger" / f"{number:09d}.json").write_bytes(data)
        before = record.storage.sha256(data)
    begin = time.process_time()
    assert faults(tmp_path, files=False) == []
    assert time.process_time() - begin < 10
