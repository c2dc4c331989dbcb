"""Files appear whole or not at all; the run directory."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raymds.config import Config, load, to_yaml
from raymds.errors import UsageError
from raymds.run import RunDirectory, code_digest
from raymds.store import uri as storage


def test_what_is_written_is_read(tmp_path: Path) -> None:
    uri = str(tmp_path / "a" / "b")
    assert not storage.exists(uri)
    assert storage.read_or_none(uri) is None
    storage.write(uri, b"one")
    storage.write(uri, b"two")
    assert (storage.read(uri), storage.size(uri)) == (b"two", 3)
    assert storage.read(f"file://{uri}") == b"two"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = tmp_path / "a"
    storage.write(str(uri), b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UsageError, match=r"a: can't be written: No space left on device"):
        storage.write(str(uri), b"new and longer")
    assert uri.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("write", [storage.write, storage.create])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, write: Callable[[str, bytes], object]) -> None:
    (tmp_path / "file").write_text("")
    for below, why in (("a", rf"{tmp_path}/file is no directory$"), ("a/b", r"Not a directory$")):
        with pytest.raises(UsageError, match=rf"file/{below}: can't be written: {why}"):
            write(f"{tmp_path}/file/{below}", b"x")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "empty URI"),
        ("a\0b", "holds a NUL character"),
        ("a\ud800b", "no text in UTF-8"),
        ("ftp://user:key@host/file", r"^ftp://…@host/file: not a URI that can be read, such as a path, s3"),
        ("abfs://box@account.dfs.core.windows.net/a", "not a URI that can be read, .*; mount Azure's storage, or copy"),
        ("http://host/a.jpg", "not a URI that can be read, .*; what lies on a web server has to be downloaded first"),
        ("gcs://bucket/a", "^gcs://bucket/a: write it as gs://bucket/a$"),
        ("s3a://bucket/a", "^s3a://bucket/a: write it as s3://bucket/a$"),
        (" S3://bucket/a", "write it as s3://bucket/a$"),
        ("s3:/bucket/runs", r"^s3:/bucket/runs: has to begin with s3://$"),
    ],
)
def test_uris_that_cant_be_used(uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        storage.read(uri)


def test_two_writers_are_exact_where_there_are_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new"
    assert storage.exclusive(str(folder))

    def link(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", link)
    assert not storage.exclusive(str(folder))
    assert list(folder.iterdir()) == []
    with pytest.raises(UsageError, match="can't be written"):
        storage.exclusive("/proc/nothing")


@pytest.mark.parametrize("conditional", [True, False])
def test_a_bucket_that_forbids_to_delete_can_be_asked(monkeypatch: pytest.MonkeyPatch, conditional: bool) -> None:
    stored = dict[str, bytes]()

    class Store:
        def delete_file(self, path: str) -> None:
            raise OSError("ACCESS_DENIED: s3:DeleteObject")

    def create(path: str, data: bytes) -> bool:
        if conditional and path in stored:
            return False
        stored[path] = data
        return True

    monkeypatch.setattr(storage.objects, "create", create)
    monkeypatch.setattr(storage, "resolve", lambda uri: (Store(), uri))
    assert [storage.exclusive("s3://bucket/ledger") for _ in range(3)] == [conditional] * 3
    assert list(stored) == ["s3://bucket/ledger/.probe"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing: no such file"):
        storage.read(str(tmp_path / "nothing"))


def test_a_run_directory_belongs_to_one_config(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    run.claim(load(Config, None, ["optim.lr=1e-5"]))
    run.claim(load(Config, None, ["optim.lr=1e-5", "run.log_every=10", "run.workers=2"]))
    with pytest.raises(UsageError, match=r"holds a run with another config \(-\s+lr: 1.0e-05; \+\s+lr: 2.0e-05\)"):
        run.claim(load(Config, None, ["optim.lr=2e-5"]))


def test_a_run_does_not_depend_on_what_a_search_would_try(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    config = load(Config, None, ["search.trials=4", "search.space.optim.lr={loguniform: [1e-6, 1e-4]}"])
    run.claim(config)
    run.claim(load(Config, None, []))
    without = to_yaml(config).partition("search:")[0]  # as runs stored it before there were searches
    (tmp_path / "config.yaml").write_text(without)
    run.claim(config)


def test_the_code_digest_is_stable_and_has_the_version() -> None:
    assert code_digest() == code_digest()
    assert code_digest().startswith("0.1.0+")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' stands twice in one object"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_can_not_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    assert storage.read_json(str(path)) is None
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        storage.read_json(str(path))
    assert str(error.value).startswith(f"{path}: damaged: ")
    storage.write_json(str(path), {"a": [1, {"a": 2}]})
    assert storage.read_json(str(path)) == {"a": [1, {"a": 2}]}


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    with pytest.raises(UsageError, match=r"a\.json: is a file; give the folder that it is in"):
        storage.sizes(f"{tmp_path}/a.json")
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.O_CREAT))
    with pytest.raises(UsageError, match=r"the name of b'.*caf\\xe9\.jpg' is not UTF-8; rename it"):
        storage.sizes(str(tmp_path))
