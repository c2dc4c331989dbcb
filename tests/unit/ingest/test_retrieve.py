"""Retrieval: which captions are chosen, and that nothing depends on how the corpus is read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymds import model
from raymds.config import load
from raymds.data.config import RetrieveColumns, RetrieveConfig, SimilarityConfig
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.ingest import corpus
from raymds.ingest.retrieve import OTHER, Phrases, retrieve
from tests.unit.ingest.captions import CAPTIONS, counts, jpeg, labels, put, rows, run, settings


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
        files = {file.name: file.read_bytes() for file in out.rglob("*") if file.is_file()}
        manifest = json.loads(files.pop("manifest.json"))
        assert manifest.pop("created")  # the second that it was made in
        return files | {"manifest.json": json.dumps(manifest).encode()}

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
    overrides = [
        "least=8",
        f"corpus={three_files / 'corpus'}",
        f"out={three_files / 'out'}",
        "similarity.minimum=null",
        "limit=3",
    ]
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
