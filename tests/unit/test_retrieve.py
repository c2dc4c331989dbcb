"""Retrieval: which captions are chosen, where their images come from, and that nothing depends on how it is read."""

import io
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch
from PIL import Image

from raymds import model
from raymds.config import load
from raymds.data import corpus
from raymds.data.config import RetrieveColumns, RetrieveConfig, SimilarityConfig
from raymds.data.retrieve import OTHER, Phrases, retrieve
from raymds.data.shards import DataSet
from raymds.errors import UsageError

PHRASES = {"foggy": ["fog", "foggy", "dense mist"], "rainy": ["rain", "rainy"]}
CAPTIONS = [
    "a foggy street",
    "rain on the road",
    "fog and rain",
    "a red car",
    "a blue car",
    "dense  mist at dawn",
    "foghorn for sale",
    "",
    None,
    "two dogs",
]


def jpeg(shade: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.full((8, 8, 3), shade % 256, np.uint8)))


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, captions: list[Any], group: int = 100, **columns: Any) -> None:
    """A file of the corpus; its images are its row numbers' unless columns are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = columns or {"image": [jpeg(row) for row in range(len(captions))]}
    arrays = {
        name: pa.array(values, pa.binary() if name == "image" else pa.string()) for name, values in content.items()
    }
    pq.write_table(pa.table({"caption": pa.array(captions, pa.string()), **arrays}), path, row_group_size=group)


def settings(tmp_path: Path, **changes: Any) -> RetrieveConfig:
    given = {
        "corpus": str(tmp_path / "corpus"),
        "out": str(tmp_path / "out"),
        "columns": RetrieveColumns(image="image"),
        "target": "weather:foggy",
        "phrases": PHRASES,
    }
    return RetrieveConfig(**(given | changes))


def run(config: RetrieveConfig) -> DataSet:
    return retrieve(config, lambda record: None)


def rows(data: DataSet) -> list[dict[str, Any]]:
    files = [Path(data.uri, shard.file) for shard in data.splits["train"]]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def labels(data: DataSet) -> dict[str, str]:
    return {row["id"]: row["weather"] for row in rows(data)}


def counts(data: DataSet) -> dict[str, int]:
    return {name: count for name, count in data.source["counts"].items() if count}


@pytest.fixture
def three_files(tmp_path: Path) -> Path:
    """60 rows in 3 files and 9 row groups: 12 positives."""
    for part in range(3):
        put(tmp_path / "corpus" / f"part-{part}.parquet", CAPTIONS * 2, group=7)
    return tmp_path


@pytest.mark.parametrize(
    ("caption", "label"),
    [
        ("fog", 0),
        ("A FOG-covered road", 0),
        ("Morning fog.", 0),
        ("(fog)", 0),
        ("fog's end", 0),
        ("the foghorn", 2),
        ("a fogger", 2),
        ("to defog a window", 2),
        ("fog_machine", 2),
        ("fog2", 2),
        ("dense mist", 0),
        ("Dense-Mist", 0),
        ("dense \n\t mist", 0),
        ("dense – mist", 0),
        ("dense\u00a0mist", 0),
        ("dense, mist", 2),
        ("densemist", 2),
        ("dense mists", 2),
        ("dense car in mist", 2),
        ("rain", 1),
        ("train in Spain", 2),
        ("rainy, foggy", -2),
        ("NÉBOA NO PORTO", 0),
        ("ne\u0301boa no porto", 0),
        ("néboas", 2),
        ("туман над рекой", 0),
        ("Туман", 0),
        ("туманность", 2),
        ("C++ & fog-lights (50%)", 0),
        ("in 50% haze", 0),
        ("in 150% haze", 2),
        ("", -1),
        (" \n", -1),
        (None, -1),
    ],
)
def test_phrases_match_whole_words(caption: str | None, label: int) -> None:
    phrases = Phrases(
        {"foggy": ["fog", "foggy", "dense mist", "néboa", "туман", "50% haze"], "rainy": ["rain", "rainy"]}
    )
    assert phrases.labels(pa.array([caption], pa.string())).tolist() == [label]
    assert phrases.labels(pa.array([caption, "fog"], pa.large_string())).tolist() == [label, 0]


def test_what_is_chosen_from_a_file(tmp_path: Path) -> None:
    put(tmp_path / "corpus" / "a.parquet", CAPTIONS)
    data = run(settings(tmp_path, negatives=100))
    assert labels(data) == {
        "a.parquet#0": "foggy",
        "a.parquet#1": "rainy",
        "a.parquet#3": OTHER,
        "a.parquet#4": OTHER,
        "a.parquet#5": "foggy",
        "a.parquet#6": OTHER,
        "a.parquet#9": OTHER,
    }
    assert data.attributes == {"weather": ["foggy", "rainy", OTHER]}
    assert counts(data) == {"read": 10, "empty": 2, "ambiguous": 1, "matched": 2, "positives": 2, "negatives": 5}
    for row in rows(data):
        number = int(row["id"].partition("#")[2])
        assert (row["caption"], row["image"]) == (CAPTIONS[number], jpeg(number))


def test_rows_come_in_the_order_of_files_and_have_their_numbers(three_files: Path) -> None:
    data = run(settings(three_files, negatives=0))
    assert list(labels(data)) == [f"part-{part}.parquet#{row}" for part in range(3) for row in (0, 5, 10, 15)]
    assert {row["id"]: row["image"] for row in rows(data)}["part-1.parquet#15"] == jpeg(15)


def test_the_result_does_not_depend_on_how_it_is_read(three_files: Path) -> None:
    def content(name: str, **changes: int) -> dict[str, bytes]:
        out = three_files / name
        run(settings(three_files, out=str(out), **changes))
        return {file.name: file.read_bytes() for file in out.iterdir()}

    first = content("a", rows_per_shard=5)
    assert sum(name.startswith("train-") for name in first) == 5  # 12 positives and 12 negatives, 5 in a shard
    for batch_rows in (1, 3, 50):
        assert content(f"b{batch_rows}", rows_per_shard=5, batch_rows=batch_rows) == first
    run(settings(three_files, out=str(three_files / "c"), rows_per_shard=100))
    assert labels(DataSet.open(str(three_files / "c"))) == labels(DataSet.open(str(three_files / "a")))


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12), (2.0, 24), (9.0, 30)])
def test_negatives_are_as_many_as_asked_for_or_all_there_are(three_files: Path, ratio: float, expected: int) -> None:
    data = run(settings(three_files, negatives=ratio))
    assert (data.source["counts"]["positives"], data.source["counts"]["negatives"]) == (12, expected)


def test_negatives_are_drawn_by_the_seed_and_evenly(tmp_path: Path) -> None:
    put(tmp_path / "corpus.parquet", ["fog"] + [f"car {i}" for i in range(19)])
    times: dict[str, int] = {}
    for seed in range(60):
        data = run(
            settings(tmp_path, corpus=str(tmp_path / "corpus.parquet"), seed=seed, out=str(tmp_path / str(seed)))
        )
        drawn = [name for name, label in labels(data).items() if label == OTHER]
        assert len(drawn) == 1
        times[drawn[0]] = times.get(drawn[0], 0) + 1
    assert len(times) >= 14  # of 19; 60 even draws see fewer once in 10 million
    assert max(times.values()) <= 14  # expected: 3


def test_what_a_row_group_lacks_in_negatives_the_next_ones_make_up_for(tmp_path: Path) -> None:
    put(tmp_path / "corpus" / "a.parquet", ["fog"] * 4 + ["a car"] * 2 + ["a dog"] * 8, group=2)
    data = run(settings(tmp_path))
    assert [name.partition("#")[2] for name in labels(data)] == [str(row) for row in range(8)]


def test_a_limit_takes_the_first_positives_and_ends_the_reading(three_files: Path) -> None:
    data = run(settings(three_files, limit=5))
    positives = [name for name, label in labels(data).items() if label == "foggy"]
    assert positives == [f"part-{part}.parquet#{row}" for part, row in ((0, 0), (0, 5), (0, 10), (0, 15), (1, 0))]
    assert counts(data)["read"] == 27
    assert counts(data)["negatives"] == 5


def test_images_are_read_of_row_groups_with_chosen_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "corpus" / "a.parquet", ["a car"] * 50 + ["fog", "a dog"] + ["a car"] * 48, group=10)
    seen, read = [], corpus.Group.read

    def noted(group: corpus.Group, columns: list[str], size: int) -> Iterator[Any]:
        seen.append((group.number, "image" in columns))
        return read(group, columns, size)

    monkeypatch.setattr(corpus.Group, "read", noted)
    run(settings(tmp_path))
    assert [number for number, image in seen if not image] == list(range(10))
    assert [number for number, image in seen if image] == [5]


def test_images_from_paths_and_uris(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "images").mkdir(parents=True)
    (tmp_path / "corpus" / "images" / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "2.jpg").write_bytes(jpeg(2))
    there = ["images/0.jpg", f"{tmp_path}/1.png", f"file://{tmp_path}/2.jpg"]
    urls = [*there, "images/none.jpg", "s4://x/y", None, ""]
    put(tmp_path / "corpus" / "deep" / "a.parquet", ["fog"] * 7, url=urls)
    for name, where in (("a", f"{tmp_path}/corpus"), ("b", f"{tmp_path}/corpus/"), ("c", f"file://{tmp_path}/corpus")):
        data = run(settings(tmp_path, corpus=where, columns=RetrieveColumns(url="url"), out=str(tmp_path / name)))
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
    data = run(settings(tmp_path, columns=RetrieveColumns(image="image", url="url")))
    assert [row["image"] for row in rows(data)] == [jpeg(0), jpeg(1)]


def test_images_that_do_not_decode_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = png(4)
    images = [jpeg(0)[:-9], jpeg(1)[:40], b"text", b"", None, whole[: len(whole) // 2], whole, jpeg(7)]
    put(tmp_path / "corpus" / "a.parquet", ["fog"] * 8, image=images)
    assert [int(name[-1]) for name in labels(run(settings(tmp_path)))] == [6, 7]
    monkeypatch.setattr(corpus, "_MOST_PIXELS", 63)
    with pytest.raises(
        UsageError, match=r"none of the positives' images could be had; the first failure: a\.parquet#0"
    ):
        run(settings(tmp_path, out=str(tmp_path / "small")))
    assert not (tmp_path / "small").exists()


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
    data = run(settings(tmp_path, columns=RetrieveColumns(url="url")))
    assert [(row["id"][-1], row["image"]) for row in rows(data)] == [("0", jpeg(5)), ("1", jpeg(14)), ("2", jpeg(5))]
    assert counts(data) == {"read": 10, "matched": 10, "failed": 7, "positives": 3}


def test_similarity_is_a_further_condition(tmp_path: Path, old_weights: str) -> None:
    captions = [f"fog {word} {i}" for i, word in enumerate(("road", "red car", "street at night", "tunnel") * 3)]
    put(tmp_path / "corpus" / "a.parquet", [*captions, "rain", "a car"], group=5)
    net = model.load("tiny-64", old_weights, [], 4, 0)
    tokens = net.tokenizer(["fog on a road", *captions])
    with torch.no_grad():
        embeddings = net.encode_text(tokens, torch.arange(13), torch.full((13,), -1)).double()
    cosine = (embeddings[1:] @ embeddings[0]).numpy()
    middle = float(np.sort(cosine)[5:7].mean())
    asked = SimilarityConfig(middle, "fog on a road", "tiny-64", old_weights)
    for batch_rows in (1, 4096):
        out = str(tmp_path / str(batch_rows))
        data = run(settings(tmp_path, similarity=asked, negatives=9, batch_rows=batch_rows, out=out))
        chosen = [int(name.partition("#")[2]) for name, label in labels(data).items() if label == "foggy"]
        assert chosen == np.flatnonzero(cosine >= middle).tolist()
        assert counts(data) == {"read": 14, "matched": 12, "dissimilar": 6, "positives": 6, "negatives": 2}
    asked = SimilarityConfig(1.1, "fog on a road", "tiny-64", old_weights)
    with pytest.raises(UsageError, match=r"minimum=1\.1: none of 12 captions that match phrases\.foggy is so similar"):
        run(settings(tmp_path, similarity=asked, out=str(tmp_path / "none")))


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["a foggy street" if row % 100 == 0 else f"a car of make {row}" for row in range(4000)]
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    image = bytes(simplejpeg.encode_jpeg(noise, quality=95))
    images = [image if row % 100 == 0 else None for row in range(4000)]
    for name, files in (("one", 1), ("ten", 10)):
        for part in range(files):
            put(tmp_path / name / f"{part:02d}.parquet", captions, 2000, image=images)
    arrow, read = [0], corpus.Group.read

    def noted(group: corpus.Group, columns: list[str], size: int) -> Iterator[Any]:
        for batch in read(group, columns, size):
            arrow.append(pa.total_allocated_bytes())
            yield batch

    monkeypatch.setattr(corpus.Group, "read", noted)

    def most(name: str) -> tuple[int, int]:
        """Peaks of Python's memory and of Arrow's."""
        config = settings(tmp_path, corpus=f"{tmp_path}/{name}", out=f"{tmp_path}/{name}-out", negatives=0)
        config.batch_rows, config.rows_per_shard = 500, 8
        arrow[:] = [0]
        tracemalloc.start()
        assert counts(run(config))["positives"] == (400 if name == "ten" else 40)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, max(arrow)

    one, ten = most("one"), most("ten")
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


def test_a_second_run_returns_what_is_there(three_files: Path) -> None:
    first = run(settings(three_files))
    for file in (three_files / "corpus").iterdir():
        file.unlink()
    assert run(settings(three_files, batch_rows=2)) == first
    with pytest.raises(UsageError, match="out: already holds another data set; give another directory"):
        run(settings(three_files, seed=1))


def test_progress_counts_captions(three_files: Path) -> None:
    records: list[dict[str, Any]] = []
    retrieve(settings(three_files), records.append)
    assert all(
        (record["event"], record["what"], record["total"]) == ("progress", "captions read", 60) for record in records
    )
    assert [record["done"] for record in records] == [7, 14, 20, 27, 34, 40, 47, 54, 60]


def test_settings_come_from_yaml_and_overrides(three_files: Path) -> None:
    preset = three_files / "retrieve.yaml"
    phrases = "{foggy: [fog, foggy, dense mist], rainy: [rain, rainy]}"
    preset.write_text(f"target: weather:foggy\ncolumns: {{image: image}}\nphrases: {phrases}\n")
    overrides = [f"corpus={three_files / 'corpus'}", f"out={three_files / 'out'}", "similarity.minimum=null", "limit=3"]
    config = load(RetrieveConfig, str(preset), overrides)
    assert config == settings(three_files, limit=3)
    assert counts(run(config))["positives"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "foggy"}, "target='foggy': has to be attribute:class, like weather:foggy"),
        ({"target": ":foggy"}, "target=':foggy': has to be attribute:class"),
        ({"target": "weather:snowy"}, "phrases.snowy: the target's class needs a phrase or more"),
        ({"phrases": {}}, "phrases.foggy: the target's class needs"),
        ({"phrases": {"foggy": []}}, "phrases.foggy: the target's class needs"),
        ({"phrases": {"foggy": ["fog"], "rainy": []}}, "phrases.rainy: has to be a list of phrases"),
        ({"phrases": {"foggy": ["fog", " - "]}}, "phrases.foggy: has to be a list of phrases with a word or more"),
        ({"phrases": {"foggy": ["fog"], "other": ["car"]}}, "phrases.other: is the class of captions that match no"),
        (
            {"phrases": {"foggy": ["smog"]}},
            "phrases.foggy: none of 20 captions speaks of weather:foggy alone (0 speak of",
        ),
        ({"columns": RetrieveColumns()}, "columns.image: has no value, nor has columns.url"),
        ({"columns": RetrieveColumns(image="jpg")}, "a.parquet: has no column 'jpg'; its columns are caption, image"),
        ({"columns": RetrieveColumns("TEXT", "image")}, "a.parquet: has no column 'TEXT'"),
        ({"columns": RetrieveColumns(url="image")}, "a.parquet: column 'image' is binary, it has to be string"),
        ({"similarity": SimilarityConfig(prompt="fog")}, "similarity: needs minimum, prompt, model and weights"),
        ({"negatives": -1.0}, "negatives=-1.0: has to be 0 or more"),
        ({"negatives": float("nan")}, "negatives=nan: has to be 0 or more"),
        ({"limit": 0}, "limit=0: has to be above 0, or null"),
        ({"seed": -1}, "seed=-1: has to be 0 or more"),
        ({"batch_rows": 0}, "batch_rows=0: has to be above 0"),
        ({"rows_per_shard": 0}, "rows_per_shard=0: has to be above 0"),
        ({"out": "OUT", "corpus": "."}, "out=OUT: lies within the corpus; give a directory elsewhere"),
        ({"corpus": "/nowhere"}, "corpus=/nowhere: can't be read"),
    ],
)
def test_bad_settings_are_named_and_nothing_is_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    put(tmp_path / "corpus" / "a.parquet", CAPTIONS * 2)
    with pytest.raises(UsageError) as error:
        run(settings(tmp_path, **changes))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "notes.txt").write_text("text")
    with pytest.raises(UsageError, match=r"corpus: no \*\.parquet file there"):
        run(settings(tmp_path))
    put(folder / "a.parquet", CAPTIONS)
    (folder / "b.parquet").write_text("text")
    with pytest.raises(UsageError, match=r"b\.parquet: can't be read as Parquet"):
        run(settings(tmp_path))
    content = bytearray((folder / "a.parquet").read_bytes())
    content[4:40] = bytes(36)
    (folder / "b.parquet").write_bytes(content)
    with pytest.raises(UsageError, match=r"b\.parquet row group 0: can't be read"):
        run(settings(tmp_path))
    assert not (tmp_path / "out" / "manifest.json").exists()
