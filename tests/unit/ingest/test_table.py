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
from raymds.ingest.sources import Entry, Plan, Shares
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
        (
            CSV,
            "image: file\nattributes: [sky]\nattributes: [lane]",
            r"map\.yaml: not YAML: (?s:.)*duplicate key attributes",
        ),
        (CSV, "{image: 2024-13-45, attributes: [sky]}", "image: .* has to have one column '2024-13-45'"),
        (CSV, "[" * 3000, r"map\.yaml: not YAML"),
        (CSV, "7", "has to have the keys image"),
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
    with pytest.raises(UsageError, match=rf"^{tmp_path}/no\.yaml: no such file$"):
        read([str(tmp_path / "rows.csv")], str(tmp_path / "no.yaml"))


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


def test_classes_that_the_hub_names(tmp_path: Path) -> None:
    """Integers beside missing ones are floating-point numbers; a name may be none; splits may have names, too."""

    def plan(kind: Any, names: Any, **more: Any) -> Plan:
        features = {"kind": {"names": names}, "part": {"names": ["train", "test"]}}
        made = pa.table({"file": ["1.jpg", "2.jpg"], "kind": kind, **more})
        pq.write_table(
            made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
            tmp_path / "rows.parquet",
        )
        split = ", split: part" if more else ""
        (tmp_path / "map.yaml").write_text(f"{{image: file, attributes: [kind]{split}}}")
        return read([str(tmp_path / "rows.parquet")], str(tmp_path / "map.yaml"))

    def labels(plan: Plan) -> list[str | None]:
        return [entry.labels[0] for entry in sorted(plan.splits["train"])]

    assert labels(plan(pa.array([1.0, None]), ["shirt", "coat"])) == ["coat", None]
    assert labels(plan([1, 0], ["shirt", "undefined"])) == [None, "shirt"]
    assert labels(plan([1, 0], ["dark  shirt ", ""])) == [None, "dark shirt"]
    assert labels(plan([1, 0], {"0": "shirt"})) == ["1", "0"]
    assert set(plan([1, 0], ["shirt", "coat"], part=[0, 1]).splits) == {"train", "test"}
    with pytest.raises(UsageError, match="'kind' of type double has to hold whole numbers"):
        plan(pa.array([0.5, None]), ["shirt", "coat"])


@pytest.mark.parametrize(
    "texts",
    [
        pa.array([["  ", "a"], ["b"]]),
        pa.array([["a"], ["b"]], pa.list_(pa.string_view())),
        pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)),
        pa.array([["a"], ["b"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    ],
    ids=["blank", "view", "fixed", "dictionary"],
)
def test_captions_in_lists(tmp_path: Path, texts: Any) -> None:
    pq.write_table(pa.table({"file": ["1", "2"], "text": texts, "sky": ["x", "y"]}), tmp_path / "rows.parquet")
    (tmp_path / "map.yaml").write_text("{image: file, caption: text, attributes: [sky]}")
    plan = read([str(tmp_path / "rows.parquet")], str(tmp_path / "map.yaml"))
    assert [entry.caption for entry in sorted(plan.splits["train"])] == ["a", "b"]


def test_a_caption_of_classes(tmp_path: Path) -> None:
    """A class's own braces are no names; a name that is no attribute is said; a missing caption is none."""
    mapping = "{image: file, attributes: [sky, lane], caption: 'a {sky} sky on {lane}'}"
    plan = from_table(tmp_path, "file,sky,lane\n1.jpg,{lane},x\n", mapping)
    assert plan.splits["train"][0].caption == "a {lane} sky on x"
    with pytest.raises(UsageError, match=r"map\.yaml: caption: \{skies\} is none of the attributes, sky, lane"):
        from_table(tmp_path, "file,sky,lane\n1.jpg,a,x\n", mapping.replace("{sky}", "{skies}"))
    with pytest.raises(UsageError, match="text is empty"):
        from_table(tmp_path, CSV.replace('"one, two"', "nan"))


def test_paths_of_windows(tmp_path: Path) -> None:
    rows = "file,sky\na/b\\1.jpg,x\n.\\2.jpg,x\ns3://b/c\\3.jpg,x\n"
    plan = from_table(tmp_path, rows, "{image: file, attributes: [sky]}")
    entries = sorted(entry for dealt in plan.splits.values() for entry in dealt)
    assert [entry.image for entry in entries] == ["a/b/1.jpg", "./2.jpg", "s3://b/c\\3.jpg"]


def test_several_tables_each_have_a_split_or_none_has(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.csv") for name in ("train-00000-of-00001", "dev-00000-of-00001", "more")]
    for number, file in enumerate(files):
        Path(file).write_text(f"file,sky\n{number}.jpg,x\n")
    map_file = tmp_path / "map.yaml"
    map_file.write_text("{image: file, attributes: [sky]}")
    assert set(read(files[:2], str(map_file)).splits) == {"train", "val"}
    with pytest.raises(UsageError, match=r"more\.csv: nothing says the split of its rows, and others have one"):
        read([f"train={files[0]}", files[2]], str(map_file))
    with pytest.raises(UsageError, match=r"more\.csv: is given twice"):
        read([files[2], f"{tmp_path}/./more.csv"], str(map_file))
    assert len(read(files[:2], str(map_file), shares=Shares(test=0.3)).splits["train"]) == 2  # too few for more
    with pytest.raises(UsageError, match=r"test_share=0\.3: the rows have their splits already"):
        read([f"train={files[0]}", f"val={files[1]}"], str(map_file), shares=Shares(test=0.3))


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.csv", "test.csv"], {"train", "test"}),
        (["train/metadata.csv", "valid/metadata.csv"], {"train", "val"}),  # of a folder of images, as the hub has them
        (["skies_train.csv", "split=dev/part-0.csv"], {"train", "val"}),
        (["train-a.csv", "train-b.csv"], None),
        (["train.csv", "more.csv"], None),
        (["train.csv", "train-test.csv"], None),
        (["train.csv"], None),
    ],
)
def test_files_are_named_by_their_splits(tmp_path: Path, names: list[str], splits: set[str] | None) -> None:
    """None: all rows are dealt anew, as nothing says the split of each; so they are where that is asked for."""
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("file,sky\n" + "".join(f"{number}-{i}.jpg,x\n" for i in range(9)))
    map_file = tmp_path / "map.yaml"
    map_file.write_text("{image: file, attributes: [sky]}")
    plan = read([str(tmp_path / name) for name in names], str(map_file))
    assert set(plan.splits) == (splits or {"train", "val", "test"})
    assert plan.said[0] == f"9 rows in {tmp_path / names[0]}, {'all train' if splits else 'dealt anew'}"
    plan = read([str(tmp_path / name) for name in names], str(map_file), shares=Shares(test=0.3))
    assert set(plan.splits) == {"train", "val", "test"}


def test_the_column_of_splits_comes_before_the_name_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "train-00000-of-00001.csv"
    file.write_text("file,sky,part\n1.jpg,x,test\n")
    (tmp_path / "map.yaml").write_text("{image: file, attributes: [sky], split: part}")
    plan = read([str(file)], str(tmp_path / "map.yaml"))
    assert set(plan.splits) == {"test"} and plan.said == (f"1 rows in {file}, splits by their column part",)


def test_what_stands_for_no_class_and_what_may(tmp_path: Path) -> None:
    mapping = "{image: file, attributes: [sky], split: part}"
    cells = ["#N/A", "n/a", "\\N", "NULL", "NA", "other", "x"]
    rows = "".join(f"{i}.jpg,{cell},train\n" for i, cell in enumerate(cells))
    plan = from_table(tmp_path, f"file,sky,part\n{rows}", mapping)
    assert [entry.labels[0] for entry in plan.splits["train"]] == [None] * 4 + ["NA", "other", "x"]
    assert [line.partition(";")[0] for line in plan.said[1:]] == [
        "sky: 'NA' is a class like any other",
        "sky: rows of 'other' are negatives of a cycle, and no task",
    ]
    with pytest.raises(UsageError, match=r"map\.yaml: attributes: sky is undefined in every row; leave it out"):
        from_table(tmp_path, "file,sky,part\n1.jpg,,train\n2.jpg,none,test\n", mapping)


def test_numbers_as_pandas_writes_them_beside_missing_ones(tmp_path: Path) -> None:
    """A column of whole numbers with a hole in it is 7.0, and 7 in the file without: one group, and one class."""
    (tmp_path / "a.csv").write_text("file,sky,drive\n1.jpg,x,7\n")
    (tmp_path / "b.csv").write_text("file,sky,drive\n2.jpg,x,7.0\n3.jpg,x,\n")
    (tmp_path / "map.yaml").write_text("{image: file, attributes: [sky], group: drive}")
    with pytest.raises(UsageError, match="its group '7' is in test, and with row-0-0000000 in train"):
        read([f"train={tmp_path}/a.csv", f"test={tmp_path}/b.csv"], str(tmp_path / "map.yaml"))


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
