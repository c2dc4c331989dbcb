"""Verification: every kind of damage is found, in every file, and named by file and row."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raymds.data import shards
from raymds.data.shards import Row, write_manifest, write_shard
from raymds.data.verify import Findings, verify
from raymds.errors import UsageError

ATTRIBUTES = {"weather": ["clear", "foggy"], "scene": ["street", "tunnel"]}


def picture(number: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def row(number: int, **change: Any) -> Row:
    labels = {"weather": ("clear", "foggy", None)[number % 3], "scene": "street"}
    kind = ("JPEG", "PNG", "WEBP")[number % 3]
    return Row(**{"id": f"id-{number}", "image": picture(number, kind), "caption": "", "attributes": labels} | change)


def make(uri: Path, train: list[list[Row]]) -> str:
    """A data set with these rows in its train shards, and four rows in one test shard."""
    splits = {
        "train": [write_shard(str(uri), f"train-{n}.parquet", rows, ATTRIBUTES) for n, rows in enumerate(train)],
        "test": [write_shard(str(uri), "test-0.parquet", [row(n) for n in range(100, 104)], ATTRIBUTES)],
    }
    write_manifest(str(uri), ATTRIBUTES, splits, {"made_by": "tests"})
    return str(uri)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return make(tmp_path / "set", [[row(n) for n in range(10)], [row(n) for n in range(10, 20)]])


def found(uri: str) -> Findings:
    return verify(uri, lambda record: None)


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def sign(uri: str, change: Callable[[Any], None]) -> None:
    """Change a manifest and give it the digest of its new content."""
    path = Path(uri, "manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["digest"]
    manifest.pop("created", None)  # no part of what is digested
    change(manifest)
    path.write_text(json.dumps({**manifest, "digest": shards._digest(manifest)}))


def test_a_sound_data_set_has_no_findings(uri: str) -> None:
    records: list[dict[str, Any]] = []
    Path(uri, "ingest").mkdir()
    Path(uri, "ingest", "train-0.json").write_text("{}")
    findings = verify(uri, records.append)
    assert findings.lines() == [f"{uri}: 2 splits, 3 shards, 24 images, all as the manifest says"]
    assert findings.count == 0
    assert records[-1] == {"event": "progress", "what": "images verified", "done": 24, "total": 24}


def test_rendered_scenes_are_sound(data_uri: str) -> None:
    assert found(data_uri).count == 0


def test_other_files_are_noted_and_no_problem(uri: str) -> None:
    Path(uri, "notes.txt").write_text("mine")
    findings = found(uri)
    assert findings.lines()[0] == "note: not of the data set: notes.txt (1 in all)"
    assert findings.count == 0


def test_a_flipped_byte_is_named_with_both_digests_and_its_rows(uri: str) -> None:
    path = Path(uri, "train-1.parquet")
    told = shards.storage.sha256(path.read_bytes())
    flip(path, path.read_bytes().index(picture(16, "PNG")) + 500)
    findings = found(uri)
    digests = [shards.storage.sha256(path.read_bytes()), told]
    assert len(findings.files) == len(findings.rows) == 1
    assert findings.files[0].startswith(f"{path}: shard is damaged")
    assert all(digest in findings.files[0] for digest in digests)
    assert findings.rows[0].startswith(f"{path} rows 0 to 9: can't be read: ")


def test_all_files_are_looked_at_and_problems_of_files_come_first(uri: str) -> None:
    rows = [row(n) for n in range(10)]
    rows[7] = row(7, image=b"no image")
    write_shard(uri, "train-0.parquet", rows, ATTRIBUTES)
    Path(uri, "train-1.parquet").unlink()
    cut = Path(uri, "test-0.parquet")
    cut.write_bytes(cut.read_bytes()[:-10])
    first, second, third, fourth, fifth = found(uri).problems
    assert first.startswith(f"{uri}/train-0.parquet: shard is damaged")
    assert second == f"{uri}/train-1.parquet: no such file"
    assert third.startswith(f"{cut}: shard is damaged")
    assert fourth.startswith(f"{cut}: can't be read as Parquet: ")
    assert fifth.startswith(f"{uri}/train-0.parquet row 7 (id id-7): image can't be decoded: ")


def replaced(name: str, values: Callable[[list[Any]], list[Any]], kind: Any = None) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        column = pa.array(values(table[name].to_pylist()), kind or table.schema.field(name).type)
        return table.set_column(table.schema.get_field_index(name), name, column)

    return change


def at(number: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:number], value, *values[number + 1 :]]


HEAD = "train-1.parquet"


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (lambda t: t.drop_columns("caption"), [f"{HEAD}: column caption is missing"]),
        (lambda t: t.drop_columns("weather"), [f"{HEAD}: column weather is missing"]),
        (lambda t: t.drop_columns("id"), [f"{HEAD}: column id is missing"]),
        (
            lambda t: t.drop_columns("image").append_column("extra", t["image"]),
            [f"{HEAD}: column image is missing", f"{HEAD}: column extra is not of the data set"],
        ),
        (
            replaced("scene", lambda labels: [0] * len(labels), pa.int64()),
            [f"{HEAD}: column scene is int64, has to be string"],
        ),
        (
            lambda t: t.slice(0, 9),
            [
                f"{HEAD}: 9 rows, the manifest says 10",
                f"{HEAD}: weather='foggy' in 3 rows, the manifest says 4",
                f"{HEAD}: scene='street' in 9 rows, the manifest says 10",
            ],
        ),
        (replaced("id", at(3, None)), [f"{HEAD} row 3: id is null"]),
        (replaced("id", at(3, "")), [f"{HEAD} row 3: id is empty"]),
        (replaced("caption", at(4, None)), [f"{HEAD} row 4 (id id-14): caption is null"]),
        (replaced("image", at(4, None)), [f"{HEAD} row 4 (id id-14): image is null"]),
        (
            replaced("scene", at(5, "beach")),
            [
                f"{HEAD}: scene='street' in 9 rows, the manifest says 10",
                f"{HEAD} row 5 (id id-15): scene='beach' is not in the vocabulary",
                f"{HEAD} row 5 (id id-15): scene='beach', the labels file says 'street'",
            ],
        ),
        (
            replaced("weather", at(1, "clear")),
            [
                f"{HEAD}: weather='clear' in 4 rows, the manifest says 3",
                f"{HEAD} row 1 (id id-11): weather='clear', the labels file says None",
            ],
        ),
        (replaced("id", at(2, "id-5")), [f"{HEAD} row 2: has the id of {{uri}}/train-0.parquet row 5"]),
    ],
)
def test_what_differs_in_a_shard_is_named(uri: str, change: Callable[[Any], Any], problems: list[str]) -> None:
    path = Path(uri, HEAD)
    pq.write_table(change(pq.read_table(path)), path, row_group_size=4)
    damaged, *others = found(uri).problems
    assert damaged.startswith(f"{path}: shard is damaged")
    assert others == [f"{uri}/{problem.format(uri=uri)}" for problem in problems]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_an_image_cut_short_is_named(tmp_path: Path, kind: str) -> None:
    image = picture(1, kind)
    uri = make(tmp_path, [[row(0), row(1, image=image[: len(image) // 2])]])
    findings = found(uri)
    assert findings.count == 1
    assert findings.rows[0].startswith(f"{uri}/train-0.parquet row 1 (id id-1): image can't be decoded: ")


def test_ids_that_come_twice_are_named_and_those_that_lack_are_not_alike(tmp_path: Path) -> None:
    uri = make(tmp_path, [[row(0, id=""), row(1, id=""), row(2)], [row(3), row(4, id="id-2"), row(5, id="id-103")]])
    assert found(uri).rows == [
        f"{uri}/train-0.parquet row 0: id is empty",
        f"{uri}/train-0.parquet row 1: id is empty",
        f"{uri}/train-1.parquet row 1: has the id of {uri}/train-0.parquet row 2",
        f"{uri}/test-0.parquet row 3: has the id of {uri}/train-1.parquet row 2",
    ]


def test_a_labels_file_that_is_missing_or_damaged_is_named(uri: str) -> None:
    path = Path(uri, "labels-train.parquet")
    flip(path, 20)
    (problem,) = found(uri).problems
    assert problem.startswith(f"{path}: shard is damaged")
    path.unlink()
    assert found(uri).problems == [f"{path}: no such file"]


def test_a_labels_file_of_other_labels_is_named(uri: str) -> None:
    path = Path(uri, "labels-train.parquet")
    table = pq.read_table(path)

    def publish(content: bytes) -> list[str]:
        path.write_bytes(content)
        entry = {"file": path.name, "bytes": len(content), "sha256": shards.storage.sha256(content)}
        sign(uri, lambda manifest: manifest["labels"].update(train=entry))
        return found(uri).problems

    changed = replaced("weather", at(13, "foggy"))(table)
    expected = f"{uri}/train-1.parquet row 3 (id id-13): weather='foggy', the labels file says 'clear'"
    assert publish(shards.table_bytes(replaced("weather", at(13, "clear"))(changed))) == [expected]
    assert publish(shards.table_bytes(table.slice(0, 19))) == [f"{path}: 19 rows, the manifest says 20"]
    for other in (b"no parquet", shards.table_bytes(table.drop_columns("scene"))):
        (problem,) = publish(other)
        assert problem.startswith(f"{path}: can't be read as labels: ")


def test_a_manifest_that_says_otherwise_is_found(uri: str) -> None:
    sign(uri, lambda manifest: manifest["splits"]["train"][0]["classes"]["scene"].update(street=8, tunnel=2))
    assert found(uri).problems == [
        f"{uri}/train-0.parquet: scene='street' in 10 rows, the manifest says 8",
        f"{uri}/train-0.parquet: scene='tunnel' in 0 rows, the manifest says 2",
    ]


def test_of_many_problems_the_first_are_told_and_all_counted(tmp_path: Path) -> None:
    uri = make(tmp_path, [[row(n, image=b"x") for n in range(part, part + 40)] for part in (0, 40)])
    Path(uri, "test-0.parquet").unlink()
    lines = found(uri).lines()
    assert lines[0] == f"{uri}/test-0.parquet: no such file"
    assert (len(lines), lines[-2]) == (52, "and 31 more")
    assert lines[-1] == f"{uri}: 2 splits, 3 shards, 84 images, 81 problems"


def test_a_damaged_manifest_is_an_error_of_its_own(uri: str) -> None:
    flip(Path(uri, "manifest.json"), 30)
    with pytest.raises(UsageError, match=r"manifest\.json: damaged"):
        found(uri)
