"""Retrieval: where the images of chosen captions come from, and that none of it needs memory for the whole corpus."""

import multiprocessing
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from raymds.data import decode
from raymds.data.config import RetrieveColumns
from raymds.errors import UsageError
from raymds.ingest import corpus, take
from tests.unit.ingest.captions import counts, jpeg, labels, png, put, rows, run, settings


def test_images_from_paths_and_uris(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "images").mkdir(parents=True)
    (tmp_path / "corpus" / "images" / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "2.jpg").write_bytes(jpeg(2))
    there = ["images/0.jpg", f"{tmp_path}/1.png", f"file://{tmp_path}/2.jpg"]
    urls = [*there, "images/none.jpg", "s4://x/y", None, ""]
    put(tmp_path / "corpus" / "deep" / "a.parquet", ["fog"] * 7, url=urls)
    for name, where in (("a", f"{tmp_path}/corpus"), ("b", f"{tmp_path}/corpus/"), ("c", f"file://{tmp_path}/corpus")):
        data = run(
            settings(tmp_path, corpus=where, columns=RetrieveColumns(url="url", local=True), out=str(tmp_path / name))
        )
        assert [row["image"] for row in rows(data)] == [jpeg(0), png(1), jpeg(2)]
        assert list(labels(data)) == [f"deep/a.parquet#{row}" for row in range(3)]
        assert counts(data)["failed"] == 4


def test_paths_are_relative_to_the_folder_of_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    put(tmp_path / "table", ["fog"], url=["0.jpg"])  # of any name
    data = run(settings(tmp_path, corpus=str(tmp_path / "table"), columns=RetrieveColumns(url="url")))
    assert labels(data) == {"table#0": "foggy"}


def test_an_image_is_taken_before_its_url(tmp_path: Path) -> None:
    put(tmp_path / "corpus" / "a.parquet", ["fog", "fog"], image=[jpeg(0), None], url=["none", str(tmp_path / "1.jpg")])
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    data = run(settings(tmp_path, columns=RetrieveColumns(image="image", url="url", local=True)))
    assert [row["image"] for row in rows(data)] == [jpeg(0), jpeg(1)]


def test_images_that_do_not_decode_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = png(4)
    images = [jpeg(0)[:-9], jpeg(1)[:40], b"text", b"", None, whole[: len(whole) // 2], whole, jpeg(7)]
    put(tmp_path / "corpus" / "a.parquet", ["fog"] * 8, image=images)
    assert [int(name[-1]) for name in labels(run(settings(tmp_path)))] == [6, 7]
    monkeypatch.setattr(decode, "MOST_PIXELS", 63)
    with pytest.raises(
        UsageError, match=r"none of the positives' images could be had; the first failure: a\.parquet#0"
    ):
        run(settings(tmp_path, out=str(tmp_path / "small")))
    assert not (tmp_path / "small" / "manifest.json").exists()


class Server(BaseHTTPRequestHandler):
    """/N.jpg, /moved, /html, /large, /slow; anything else is not there."""

    stop = threading.Event()

    def do_GET(self) -> None:
        name = self.path[1:]
        status = 302 if name == "moved" else 200 if name.endswith(".jpg") or name in {"html", "large", "slow"} else 404
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/7.jpg")
        self.end_headers()
        if name == "large":
            self.wfile.write(jpeg(0) + bytes(5000))
        elif name == "slow":
            while not self.stop.wait(0.02):
                self.wfile.write(b"x")
        elif status == 200:
            self.wfile.write(b"<html>" if name == "html" else jpeg(len(name)))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Server.stop.clear()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    serving.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is meant
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    Server.stop.set()
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_downloads(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_SECONDS", 1)
    monkeypatch.setattr(corpus, "_LARGEST", 4000)
    names = ["1.jpg", "é 2.jpg", "moved", "none", "html", "large", "slow"]
    urls = [f"{server}/{name}" for name in names] + ["http://127.0.0.1:1/x.jpg", "http://[", "HTTP://"]
    put(tmp_path / "corpus" / "a.parquet", [f"fog {i}" for i in range(10)], url=urls)
    data = run(settings(tmp_path, columns=RetrieveColumns(url="url", local=True)))
    assert [(row["id"][-1], row["image"]) for row in rows(data)] == [("0", jpeg(5)), ("1", jpeg(14)), ("2", jpeg(5))]
    assert counts(data) == {"read": 10, "matched": 10, "failed": 7, "positives": 3}


def peaks(directory: Path, name: str) -> tuple[int, int]:
    """Peaks of Python's memory and of Arrow's while one corpus is retrieved."""
    arrow, read = [0], corpus.Group.read

    def noted(group: corpus.Group, columns: list[str], size: int) -> Iterator[Any]:
        for batch in read(group, columns, size):
            arrow.append(pa.total_allocated_bytes())
            yield batch

    corpus.Group.read, take._AGAIN = noted, 1000  # type: ignore[method-assign]
    config = settings(directory, corpus=f"{directory}/{name}", out=f"{directory}/{name}-out", negatives=0)
    config.batch_rows, config.rows_per_shard = 500, 8
    tracemalloc.start()
    assert counts(run(config))["positives"] == (400 if name == "ten" else 40)
    return tracemalloc.get_traced_memory()[1], max(arrow)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    captions = ["a foggy street" if row % 100 == 0 else f"a car of make {row}" for row in range(4000)]
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    image = bytes(simplejpeg.encode_jpeg(noise, quality=95))
    images = [image if row % 100 == 0 else None for row in range(4000)]
    for name, files in (("one", 1), ("ten", 10)):
        for part in range(files):
            put(tmp_path / name / f"{part:02d}.parquet", captions, 2000, image=images)
    # In a process of its own: what is counted is all of a process, also what threads of Ray and servers allocate.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        one, ten = (process.submit(peaks, tmp_path, name).result() for name in ("one", "ten"))
    retrieved = 400 * len(image)
    assert retrieved > 16_000_000
    assert ten[0] - one[0] < retrieved / 10, (one, ten)
    assert ten[1] - one[1] < retrieved / 10, (one, ten)


def test_memory_does_not_grow_with_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    images = [jpeg(0) if row % 100 == 0 else random.bytes(50_000) for row in range(200)]
    captions = ["fog" if row % 100 == 0 else "a car" for row in range(200)]
    # A page is the least that can be read; it has so many values of any length as are written together.
    pq.write_table(pa.table({"caption": captions, "image": images}), tmp_path / "a.parquet", write_batch_size=8)
    held, read = [0], corpus.Group.read

    def noted(group: corpus.Group, columns: list[str], size: int) -> Iterator[Any]:
        for batch in read(group, columns, size):
            held.append(pa.total_allocated_bytes() - before)
            yield batch

    monkeypatch.setattr(corpus.Group, "read", noted)
    monkeypatch.setattr(corpus, "_BUFFER", 2**20)
    before = pa.total_allocated_bytes()
    data = run(settings(tmp_path, corpus=str(tmp_path / "a.parquet"), rows_per_shard=8, negatives=0))
    assert counts(data)["positives"] == 2
    assert max(held) < 5_000_000  # the row group has 10 MB of images


def test_a_corpus_may_name_nothing_of_this_machine_or_its_network(tmp_path: Path, server: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg(1))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "own.jpg").write_bytes(jpeg(2))
    secret = f"{tmp_path}/secret.jpg"
    urls = [secret, f"file://{secret}", "../secret.jpg", "deep/../../secret.jpg", f"{server}/1.jpg", f"{server}/moved"]
    urls += ["ftp://example.com/1.jpg", "own.jpg"]
    put(tmp_path / "corpus" / "a.parquet", ["fog"] * len(urls), url=urls)
    data = run(settings(tmp_path, columns=RetrieveColumns(url="url")))
    assert [(row["id"], row["image"]) for row in rows(data)] == [("a.parquet#7", jpeg(2))]
    assert counts(data)["failed"] == 7
    put(tmp_path / "other" / "a.parquet", ["fog"], url=[f"{server}/1.jpg"])
    with pytest.raises(UsageError, match=r"has the private address 127\.0\.0\.1; columns\.local=true allows that"):
        run(settings(tmp_path, corpus=str(tmp_path / "other"), columns=RetrieveColumns(url="url"), out=f"{tmp_path}/o"))


def test_placeholders_are_left_out_and_large_images_are_shrunk(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    images = [jpeg(9)] * 6 + [bytes(simplejpeg.encode_jpeg(noise[:7])), bytes(simplejpeg.encode_jpeg(noise))]
    put(tmp_path / "corpus" / "a.parquet", [f"fog {i}" for i in range(8)], image=images)
    data = run(settings(tmp_path, resize=30))
    assert counts(data) == {"read": 8, "matched": 8, "small": 1, "repeated": 3, "positives": 4}
    assert [decode.decode(row["image"]).shape for row in rows(data)] == [(8, 8, 3)] * 3 + [(30, 40, 3)]


def test_captions_that_are_no_utf8(tmp_path: Path) -> None:
    captions = pa.array([b"fog at d\xe9p\xf4t", b"a car", b"\xff fog"], pa.binary()).cast(pa.string(), safe=False)
    (tmp_path / "corpus").mkdir()
    images = pa.array([jpeg(i) for i in range(3)], pa.binary())
    pq.write_table(pa.table({"caption": captions, "image": images}), tmp_path / "corpus" / "a.parquet")
    data = run(settings(tmp_path, negatives=0))
    assert [row["caption"] for row in rows(data)] == ["fog at d\ufffdp\ufffdt", "\ufffd fog"]
    assert counts(data)["mended"] == 2


def test_what_was_fetched_before_a_kill_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "corpus" / "a.parquet", [f"fog {i}" for i in range(10)])
    config = settings(tmp_path, rows_per_shard=3, negatives=0)
    whole = run(settings(tmp_path, rows_per_shard=3, negatives=0, out=str(tmp_path / "whole")))
    fetch, fetched = take.fetch, list[bytes]()

    def killed(image: bytes, *given: Any, **more: Any) -> bytes:
        if image == jpeg(7):
            raise KeyboardInterrupt
        fetched.append(image)
        return fetch(image, *given, **more)

    monkeypatch.setattr(take, "fetch", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not (tmp_path / "out" / "manifest.json").exists()
    fetched.clear()
    monkeypatch.setattr(take, "fetch", lambda image, *a, **k: fetched.append(image) or fetch(image, *a, **k))
    (tmp_path / "out" / "train-00001.parquet").write_bytes(b"half")
    data = run(config)
    assert sorted(fetched) == sorted(jpeg(i) for i in (3, 4, 5, 6, 7, 8, 9))
    assert (data.splits, data.source["counts"]) == (whole.splits, whole.source["counts"])


def test_images_of_another_column_are_not_those_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    put(tmp_path / "corpus" / "a.parquet", ["fog"], url=["small.jpg"], large=["large.jpg"])
    for number, name in enumerate(("small", "large")):
        (tmp_path / "corpus" / f"{name}.jpg").write_bytes(jpeg(number))
    run(settings(tmp_path, columns=RetrieveColumns(url="url")))
    (tmp_path / "out" / "manifest.json").unlink()  # as before its end
    data = run(settings(tmp_path, columns=RetrieveColumns(url="large")))
    assert [row["image"] for row in rows(data)] == [jpeg(1)]
