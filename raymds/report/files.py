"""The files of a run directory that the page is made from."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from raymds.errors import UsageError
from raymds.report.words import Json


@dataclass(frozen=True)
class RunFiles:
    """What a run directory says, as far as the page needs it."""

    config: str
    """Text of config.yaml."""
    metrics: list[Json]
    """Records of metrics.jsonl: start, step, eval."""
    outcome: Json | None
    certificate: Json | None
    flips: Json | None
    tune: Json | None = None
    """Content of tune.json where the directory is a search's, which has no metrics.jsonl of its own."""

    @classmethod
    def parse(cls, read: Callable[[str], bytes | None]) -> "RunFiles":
        """Read a run through `read(name)`, which answers a file's bytes or None where there is no such file.

        Raises UsageError where outcome.json, or in a run that is no search metrics.jsonl, is missing, and where a file
        is broken.
        """
        metrics, outcome, tune = read("metrics.jsonl"), read("outcome.json"), read("tune.json")
        if metrics is None and tune is None:
            raise UsageError("metrics.jsonl is missing: this is no run directory, or the run has not started yet")
        if outcome is None:
            raise UsageError("outcome.json is missing: the run has not finished (or this is no run directory)")
        return cls(
            config=(read("config.yaml") or b"").decode("utf-8", "replace"),
            metrics=_lines(metrics or b""),
            outcome=_object("outcome.json", outcome),
            certificate=_object("certificate.json", read("certificate.json")),
            flips=_object("flips.json", read("flips.json")),
            tune=_object("tune.json", tune),
        )


def _lines(text: bytes) -> list[Json]:
    """The records of metrics.jsonl; a last line cut short by a run that was stopped is no error."""
    lines = [(number, line) for number, line in enumerate(text.split(b"\n"), 1) if line.strip()]
    records = []
    for number, line in lines:
        try:
            records.append(_parsed(line))
        except ValueError as error:
            if number == lines[-1][0]:
                break
            raise UsageError(f"metrics.jsonl, line {number} is broken: {error}") from error
    return records


def _object(name: str, text: bytes | None) -> Json | None:
    try:
        return None if text is None else _parsed(text)
    except ValueError as error:
        raise UsageError(f"{name} is broken: {error}") from error


def _parsed(text: bytes) -> Json:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value
