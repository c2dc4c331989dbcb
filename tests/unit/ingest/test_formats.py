"""Tables in formats as people have them: the right cells, or what is wrong by file and line."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymds.errors import UsageError
from raymds.ingest.formats import read


def cells(file: Path, *columns: str) -> list[tuple[str, ...]]:
    _, content, _ = read(str(file), columns, "")
    return list(zip(*(content[name].to_pylist() for name in columns), strict=True))


def test_text_in_json_lines_may_hold_what_ends_lines_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    texts = ["a\u2028b", "a\x85b", "a\x0cb"]
    file.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
    assert cells(file, "text") == [(text,) for text in texts]


def test_json_lines_of_windows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes('{"text": "ü"}\r\n{"text": "b"}\r\n'.encode("utf-16"))
    assert cells(file, "text") == [("ü",), ("b",)]


def test_the_mark_between_columns_is_none_of_those_within_quotes(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('file,"sky; or; weather"\n1.jpg,blue\n')
    assert cells(file, "file", "sky; or; weather") == [("1.jpg", "blue")]


@pytest.mark.parametrize(
    ("data", "want"),
    [
        ("sep=,\r\nfile,a\r\n1,x\r\n,\r\n,\r\n", [("1", "x")]),  # of Excel, with the lines that it leaves at the end
        ("sep=|\nfile|a;b|a\n1|;|x\n", [("1", "x")]),
        ("file| a\n1| x, y\n   \n", [("1", "x, y")]),
        ("file;a,of,these,all\n1;x\n", [("1", None)]),  # more commas than semicolons
        (f'file,a,polygon\n1,x,"{"0," * 100_000}"\n', [("1", "x")]),
        ('file,a\n1,"say \\"hi\\", he said"\n', [("1", 'say "hi", he said')]),  # of Spark
        ('file,a\n1,"say ""hi"", \\n"\n', [("1", 'say "hi", \\n')]),
        ('file\ta\n1\t"Fog" by night\n', [("1", '"Fog" by night')]),  # without quoting
    ],
    ids=range(8),
)
def test_cells_as_programs_write_them(tmp_path: Path, data: str, want: list[tuple[str, str | None]]) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(data, newline="")
    columns = ["file"] if want[0][1] is None else ["file", "a"]
    assert cells(file, *columns) == [row[: len(columns)] for row in want]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.json", b"[" * 100_000, r"rows\.json: can't be read: its JSON is nested too deeply"),
        ("rows.jsonl", b'{"a": ' + b"[" * 100_000, r"rows\.jsonl: can't be read: its JSON is nested too deeply"),
        ("rows.csv", "file\nfür".encode("latin1"), "can't be read: .* invalid .*; save it as UTF-8"),
        ("rows.csv", b'file,a\n1,"x" y\n', "can't be read: ',' expected after .*, in line 2"),
        ("rows.csv", b"sep=;\nfile;a\n1;2;3\n", "can't be read: line 3 has 3 columns, the first line 2"),
        (
            "rows.jsonl",
            b'{"file": 1}\n\n{"file": x}',
            r"line 3: Expecting value: column 10 .*; has to be an object a line",
        ),
        ("rows.json", b'{\n"rows": []}', "line 1: .*; has to be an object a line, or a list of objects"),
        (
            "rows.json",
            b'[{}, {"file": "1"}, {"file": {}}]',
            "'file' is a text .* in row 1, .* an object in row 2; write",
        ),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=message):
        read(str(tmp_path / name), ["file"], "file")


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.dictionary(pa.int32(), pa.binary())]
)
def test_images_in_parquet_of_every_binary_type(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([b"\xff12", b"\xff34"])
    column = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    pq.write_table(pa.table({"image": column}), tmp_path / "rows.parquet")
    _, _, images = read(str(tmp_path / "rows.parquet"), ["image"], "image")
    assert images is not None
    assert list(images) == [b"\xff12", b"\xff34"]
