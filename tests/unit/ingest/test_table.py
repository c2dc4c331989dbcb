"""Tables of images as people have them become plans of rows; what is wrong in them is named."""

import contextlib
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raymds.errors import UsageError
from raymds.ingest.sources import Entry, Plan
from raymds.ingest.spool import Piece, Spool
from raymds.ingest.table import table

MAP = "{image: file, caption: text, split: part, attributes: [sky, lane]}"
CSV = 'file,text,part,sky,lane,extra\na.jpg,"one, two",train,blue,1,x\ns3://b/c.jpg,two,test,,NA,\n'


def from_table(folder: Path, content: str | dict[str, Any], mapping: str = MAP) -> Plan:
    name = "rows.csv" if isinstance(content, str) else "rows.parquet"
    if isinstance(content, str):
        (folder / name).write_text(content)
    else:
        pq.write_table(pa.table(content), folder / name)
    (folder / "map.yaml").write_text(mapping)
    return read([str(folder / name)], str(folder / "map.yaml"))


def read(rows: Sequence[str], map_file: str, **more: Any) -> Plan:
    return table(rows, map_file, Spool(str(Path(map_file).with_name("spool"))), **more)


def encoded(image: str | Piece) -> str | bytes:
    return image.read() if isinstance(image, Piece) else image


def test_a_csv_table(tmp_path: Path) -> None:
    plan = from_table(tmp_path, CSV)
    assert plan.root == str(tmp_path)
    assert plan.attributes == {"sky": ["blue"], "lane": ["1", "NA"]}
    assert plan.splits == {
        "train": [Entry("row-0000000", "a.jpg", "one, two", ("blue", "1"))],
        "test": [Entry("row-0000001", "s3://b/c.jpg", "two", (None, "NA"))],
    }


def test_a_parquet_table_with_images_in_it(tmp_path: Path) -> None:
    columns = {
        "file": [b"\xff1", b"\xff2"],
        "text": ["a", "b"],
        "part": ["val"] * 2,
        "sky": ["x", None],
        "lane": [2, 1],
    }
    plan = from_table(tmp_path, columns)
    assert plan.attributes == {"sky": ["x"], "lane": ["1", "2"]}
    assert [entry.id for entry in plan.splits["val"]] == ["row-0000000", "row-0000001"]
    assert content(plan) == {"val": [(b"\xff1", "a", ("x", "2")), (b"\xff2", "b", (None, "1"))]}


@pytest.mark.parametrize(
    ("content", "mapping", "message"),
    [
        (CSV, MAP.replace("text", "texts"), r"map\.yaml: caption: .*rows\.csv has .* 'texts'; it has file, text, part"),
        (CSV, MAP.replace("sky", "weather"), "attributes: .* has to have one column 'weather'; it has file"),
        (CSV, MAP.replace("image: file, ", ""), "has to have the keys image"),
        (CSV, MAP.replace("[sky, lane]", "sky"), "attributes: has to be a list of columns"),
        (CSV, MAP.replace("text", "[text]"), "caption: has to be a column"),
        (CSV.replace("extra", "id"), MAP.replace("sky", "id"), "attributes: 'id' can't name an attribute"),
        (CSV, "{", r"map\.yaml: not YAML"),
        (CSV.replace("test", "tset"), MAP, r"row 1, counted from 0: part='tset' has to be train, val, test"),
        (CSV.replace("two,test", ",test"), MAP, r"row 1, counted from 0: text is empty"),
        (CSV.replace("a.jpg", ""), MAP, r"rows\.csv row 0, counted from 0: file is empty"),
        (CSV + "one,two\n", MAP, r"--rows .*rows\.csv: can't be read: line 4 has 2 columns, the first line 6"),
        (CSV + '"open', MAP, r"--rows .*rows\.csv: can't be read: unexpected end of data"),
        (CSV.replace("blue", "Blue") + "d.jpg,x,val,blue,1,\n", MAP, "sky: has 'Blue' and 'blue', one class in two"),
        (CSV, MAP.replace("sky", "s:ky"), "attributes: 's:ky' can't name an attribute"),
        (CSV, MAP.replace("text", "'a {sky} sky'"), r"row 1, counted from 0: sky is undefined, and the map's caption"),
        (CSV.splitlines()[0] + "\n", MAP, "table has no rows"),
        ({"file": ["a"], "text": ["b"], "part": ["val"], "sky": [["x"]], "lane": ["y"]}, MAP, "'sky' of type list"),
        (CSV, MAP.replace("sky", "file"), "image: 'file' is named for something else too"),
        (
            {"file": [{"path": 7}], "text": ["b"], "part": ["val"], "sky": ["x"], "lane": ["y"]},
            MAP,
            "file has to hold an",
        ),
        ({"file": ["a"], "text": [[""]], "part": ["val"], "sky": ["x"], "lane": ["y"]}, MAP, "text is empty"),
    ],
)
def test_a_wrong_table(tmp_path: Path, content: str | dict[str, Any], mapping: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_table(tmp_path, content, mapping)


def test_a_table_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").touch()
    (tmp_path / "map.yaml").write_text(MAP)
    with pytest.raises(UsageError, match=r"rows\.xlsx: has to end in \.csv, .*\.parquet, or one of those and \.gz"):
        read([str(tmp_path / "rows.xlsx")], str(tmp_path / "map.yaml"))


def test_a_table_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(MAP)
    for name in ("rows.csv", "rows.parquet"):
        with pytest.raises(UsageError, match=rf"^{tmp_path}/{name}: no such file$"):
            read([str(tmp_path / name)], str(tmp_path / "map.yaml"))


WANT = {"train": [("a/1.jpg", "one, two", ("blue", "1"))], "test": [("b.jpg", "zwei ü", (None, "NA"))]}
LINES = ["file,text,part,sky,lane", 'a/1.jpg,"one, two",train,blue,1', "b.jpg,zwei ü,test,,NA"]
OBJECTS = [
    {"file": "a/1.jpg", "text": "one, two", "part": "train", "sky": "blue", "lane": 1, "boxes": [{"x": 1}]},
    {"file": "b.jpg", "text": "zwei ü", "part": "test", "sky": None, "lane": "NA"},
]


def content(plan: Plan) -> dict[str, list[tuple[Any, ...]]]:
    return {split: [(encoded(e.image), e.caption, e.labels) for e in entries] for split, entries in plan.splits.items()}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.csv", "\n".join(LINES).encode()),
        ("rows.csv", "\r\n".join(LINES).encode("utf-8-sig")),
        ("rows.csv", "\n".join(LINES).encode("utf-16")),
        ("rows.csv", "\n".join(LINES).replace(",", ", ").replace("one,  two", "one, two").encode() + b"\n\n"),
        ("rows.csv", "\n".join(LINES).replace(",", ";").replace("one; two", "one, two").encode()),
        ("rows.tsv", "\n".join(LINES).replace(",", "\t").replace("one\t two", "one, two").encode()),
        ("rows.csv", "\n".join(LINES).replace("a/1.jpg", "a\\1.jpg").replace("train", "Training").encode()),
        ("rows.csv", "\n".join(LINES).replace(",,NA", ",undefined,NA").encode()),
        ("rows.csv", "\n".join(LINES).replace(",,NA", ",nan,NA").encode()),
        ("rows.csv", "\n".join(LINES).replace(",,NA", ",None,NA").replace("test", "testing").encode()),
        ("rows.csv.gz", gzip.compress("\n".join(LINES).encode())),
        ("rows.jsonl", "\n".join(map(json.dumps, OBJECTS)).encode()),
        ("rows.json", json.dumps([row | {"file": {"path": row["file"], "bytes": None}} for row in OBJECTS]).encode()),
        ("rows.json", json.dumps(OBJECTS).encode("utf-8-sig")),
        ("rows.ndjson.gz", gzip.compress("\n".join(map(json.dumps, OBJECTS)).encode())),
    ],
    ids=range(15),  # compressed bytes have the time in them
)
def test_tables_as_people_have_them(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "map.yaml").write_text(MAP)
    assert content(read([str(tmp_path / name)], str(tmp_path / "map.yaml"))) == WANT


def test_a_parquet_file_of_the_hub(tmp_path: Path) -> None:
    """Images as structs, captions as lists, labels as integers that the schema names, strings in dictionaries."""
    features = {"kind": {"names": ["shirt", "coat"], "_type": "ClassLabel"}}
    images = (b"\xff1", "1.jpg"), (None, "2.jpg"), (b"\xff3", None)
    made = pa.table(
        {
            "image": [{"bytes": data, "path": path} for data, path in images],
            "caption": [["", "first", "second"], ["one"], ["two"]],
            "kind": pa.array([0, 1, -1], pa.int64()),
            "sky": pa.array(["blue", "grey", None]).dictionary_encode(),
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})  # fmt: skip
    files = [str(tmp_path / f"{split}-00000-of-00001.parquet") for split in ("train", "validation")]
    for file in files:
        pq.write_table(made, file)
    (tmp_path / "map.yaml").write_text("{image: image, caption: caption, attributes: [kind, sky]}")
    plan = read(files, str(tmp_path / "map.yaml"), images="/pictures")
    assert plan.attributes == {"kind": ["coat", "shirt"], "sky": ["blue", "grey"]}
    rows = [
        (b"\xff1", "first", ("shirt", "blue")),
        ("/pictures/2.jpg", "one", ("coat", "grey")),
        (b"\xff3", "two", (None, None)),
    ]
    assert content(plan) == {"train": rows, "val": rows}
    pq.write_table(made.set_column(2, "kind", pa.array([0, 1, 2])), files[0])
    with pytest.raises(UsageError, match="column 'kind' has class 2, and the schema names 2 classes"):
        read(files, str(tmp_path / "map.yaml"))


def test_a_file_for_every_split_captions_that_are_made_and_another_root(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("file,sky\n1.jpg,blue\n2.jpg,grey\n")
    (tmp_path / "map.yaml").write_text("{image: file, attributes: [sky], caption: 'a {sky} sky'}")
    rows = [f"{split}={tmp_path}/{split}.csv" for split in ("train", "validation")]
    plan = read(rows, str(tmp_path / "map.yaml"), images="s3://bucket/pictures")
    want = [
        ("s3://bucket/pictures/1.jpg", "a blue sky", ("blue",)),
        ("s3://bucket/pictures/2.jpg", "a grey sky", ("grey",)),
    ]
    assert content(plan) == {"train": want, "val": want}
    (tmp_path / "map.yaml").write_text("{image: file, attributes: [sky]}")
    assert read(rows, str(tmp_path / "map.yaml")).splits["val"][0].caption == "a photo, the sky is blue."
    with pytest.raises(UsageError, match=r"--rows tain=.*'tain' has to be train, val, test"):
        read([f"tain={tmp_path}/train.csv"], str(tmp_path / "map.yaml"))


def test_a_table_without_splits_is_dealt_and_groups_stay_together(tmp_path: Path) -> None:
    lines = [f"{i}.jpg,{('blue', 'grey')[i % 2]},drive-{i // 10}" for i in range(400)]
    (tmp_path / "rows.csv").write_text("\n".join(["file,sky,drive", *lines]))
    (tmp_path / "map.yaml").write_text("{image: file, attributes: [sky], group: drive}")
    plan = read([str(tmp_path / "rows.csv")], str(tmp_path / "map.yaml"))
    drives = {split: {int(str(e.image)[:-4]) // 10 for e in rows} for split, rows in plan.splits.items()}
    assert (
        not drives["train"] & drives["val"]
        and not drives["train"] & drives["test"]
        and not drives["val"] & drives["test"]
    )
    assert min(len(plan.splits["test"]), len(plan.splits["val"])) >= 80
    lines = ["1.jpg,blue,nan,train", "2.jpg,blue,NaN,test", "3.jpg,blue, ,test", "4.jpg,blue,b,test"]
    (tmp_path / "rows.csv").write_text("\n".join(["file,sky,drive,split", *lines]))
    (tmp_path / "map.yaml").write_text("{image: file, attributes: [sky], group: drive, split: split}")
    plan = read([str(tmp_path / "rows.csv")], str(tmp_path / "map.yaml"))  # whose rows without a drive are in none
    assert [entry.group for rows in plan.splits.values() for entry in rows] == [None, None, None, "b"]
    (tmp_path / "rows.csv").write_text("\n".join(["file,sky,drive,split", "1.jpg,blue,a,train", "2.jpg,blue,a,test"]))
    with pytest.raises(UsageError, match=r"row-0000001: its group 'a' is in test, and with row-0000000 in train"):
        read([str(tmp_path / "rows.csv")], str(tmp_path / "map.yaml"))


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_bytes_are_a_table_or_a_usage_error(tmp_path: Path, data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet", ".csv.gz"]))
    kinds: list[st.SearchStrategy[bytes]] = [st.binary(max_size=80), st.text(max_size=80).map(str.encode)]
    cells = st.lists(st.text(max_size=6), min_size=1, max_size=4).map(",".join)
    lines = st.lists(cells, max_size=4).map(lambda found: "\n".join(["file,sky", *found]).encode())
    objects = st.dictionaries(st.sampled_from(["file", "sky", "x"]), st.none() | st.text(max_size=4) | st.integers())
    jsons = st.lists(objects, max_size=3).map(lambda found: "\n".join(map(json.dumps, found)).encode())
    content = data.draw(st.one_of(*kinds, lines, jsons))
    (tmp_path / f"rows{end}").write_bytes(content)
    (tmp_path / "map.yaml").write_text("{image: file, attributes: [sky]}")
    with contextlib.suppress(UsageError):
        plan = read([str(tmp_path / f"rows{end}")], str(tmp_path / "map.yaml"))
        assert all(entry.image and entry.caption for rows in plan.splits.values() for entry in rows)
