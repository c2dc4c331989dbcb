"""The model card says what certificate and config say, and its program runs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from raymds.config import Config
from raymds.release import card, delivered
from raymds.release.export import export
from raymds.release.recogniser import recogniser
from tests.conftest import silent
from tests.unit.release import made
from tests.unit.release.test_export import outside


@pytest.fixture(scope="module")
def folder(fog_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    export(delivered.find(str(fog_run)), str(folder), onnx=False, show=silent)
    return folder


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "README.md").read_text()


def table(text: str, first: str) -> list[list[str]]:
    """Cells of the Markdown table whose first column has that name, read as GitHub does."""
    lines = text[text.index(f"| {first} |") :].split("\n\n", maxsplit=1)[0].splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert {len(row) for row in rows} == {len(rows[0])}
    return rows[2:]


def test_front_matter_is_what_the_hub_reads(text: str) -> None:
    _, front, _ = text.split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["library_name"] == "open_clip"
    assert found["pipeline_tag"] == "zero-shot-image-classification"
    assert "license" not in found  # nobody said it


@pytest.mark.parametrize(("split", "nothing"), [("test", False), ("val", True)])
def test_what_was_chosen_with_a_split_is_not_called_certified_by_it(split: str, nothing: bool) -> None:
    said = "\n".join(card._certificate(made.certificate(measured={"split": split})))
    assert f"n: {split} images" in said
    assert ("this certifies nothing" in said) is nothing


def test_the_table_is_the_certificate(text: str, fog_run: Path) -> None:
    certificate = json.loads((fog_run / "certificate.json").read_text())
    rows = table(text, "task")
    entries = [certificate["target"], *certificate["tasks"]]
    assert len(rows) == len(entries) == 14
    for row, entry in zip(rows, entries, strict=True):
        assert row[0] == entry["task"]
        assert int(row[1]) == entry["n"]
        shown = [float(cell) / 100 for cell in row[2:7]]
        assert shown == pytest.approx([entry[k] for k in ("old", "new", "delta", "lower", "upper")], abs=0.00051)
        assert row[7] == f"{entry['negative_flips']}/{entry['positive_flips']}"
        assert row[8] == entry.get("verdict", "target")
    assert f"**{certificate['verdict']}**" in text


def test_digests_and_settings(text: str, folder: Path, fog_run: Path, fog_config: Config) -> None:
    index = json.loads((folder / "export.json").read_text())
    named = {row[0].strip("`"): row[1].strip("`") for row in table(text, "what")}
    for name, entry in index["files"].items():
        assert name == "README.md" or named[name] == entry["sha256"]
    certificate = json.loads((fog_run / "certificate.json").read_text())
    assert named["data (certificate)"] == certificate["digests"]["data"]
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```", maxsplit=1)[0])
    assert settings["constraints"]["beta"] == fog_config.constraints.beta
    assert settings["optim"]["lr"] == fog_config.optim.lr
    assert fog_config.data.uri not in text  # places of whoever made it are nobody's business


def test_its_program_runs_as_it_stands(text: str, folder: Path) -> None:
    program = text.split("```python\n")[1].split("```", maxsplit=1)[0]
    assert len(program.strip().splitlines()) == 8
    Image.new("RGB", (90, 70), (200, 30, 40)).save(folder / "image.jpg")
    said = outside(program + "\nimport sys; assert 'raymds' not in sys.modules", cwd=folder)
    assert set(eval(said)) == {"weather", "scene", "timeofday"}


@pytest.mark.parametrize("name", ["a|b", "*x*", "<b>&amp;", "`y`", "[z](w)", "a\\b", "two\nlines"])
def test_names_that_look_like_markdown_stay_names(name: str, fog_run: Path) -> None:
    found = delivered.find(str(fog_run))
    assert found.certificate is not None
    entry: dict[str, Any] = {**found.certificate["tasks"][0], "task": f"weather:{name}"}
    certificate = {**found.certificate, "tasks": [entry]}
    asked, digest = recogniser(found)
    weights = {"uri": found.weights, "sha256": digest, "parent": None}
    text = card.card(card.About(asked, replace(found, certificate=certificate), weights, {}))
    assert len(table(text, "task")) == 2
    cell = table(text, "task")[1][0]
    plain = re.sub(r"\\([\\`*_\[\]<>|~#])", r"\1", cell).replace("&amp;", "&")
    assert plain == f"weather:{name}".replace("\n", " ")
    assert not re.search(r"(?<!\\)[`*_\[\]<>|]", cell.replace("\\\\", ""))


def test_what_has_no_examples_has_a_row_without_numbers(fog_run: Path) -> None:
    found = delivered.find(str(fog_run))
    assert found.certificate is not None
    asked, digest = recogniser(found)
    certificate = {**found.certificate, "not_certifiable": ["weather:hail"]}
    weights = {"uri": found.weights, "sha256": digest, "parent": None}
    rows = table(card.card(card.About(asked, replace(found, certificate=certificate), weights, {})), "task")
    assert rows[-1] == ["weather:hail", *["–"] * 7, "not certifiable"]
