"""What the verbs of `raymds data` refuse before they read anything."""

import pytest

from raymds.cli.main import main


@pytest.mark.parametrize(
    "source", [["table", "--rows", "r.csv", "--map", "m.yaml"], ["bdd100k", "--images", "i", "--labels", "l"]]
)
def test_classes_are_of_places365_alone(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """They would be ignored, and all of them ingested."""
    assert main(["data", "ingest", *source, "--out", "o", "classes=[foggy]"]) == 2
    assert "classes: is of places365 alone" in capsys.readouterr().err
