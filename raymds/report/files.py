"""The files of a run directory that the page is made from."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raymds.errors import UsageError
from raymds.log import records
from raymds.report.words import Json
from raymds.run import RunDirectory
from raymds.store import uri as storage

_MOST = 500  # records of steps that are kept: a chart has no more points


@dataclass(frozen=True)
class RunFiles:
    """What a run directory says, as far as the page needs it."""

    config: str
    """Text of config.yaml."""
    metrics: list[Json]
    """Records of the log: start, eval, and steps as of `thinned`."""
    outcome: Json | None
    certificate: Json | None
    flips: Json | None
    tune: Json | None = None
    """Content of tune.json where the directory is a search's, which has no log of its own."""

    @classmethod
    def parse(cls, run: RunDirectory) -> "RunFiles":
        """Read a run. Of its log no more is in memory at a time than the page shows.

        Raises UsageError where outcome.json, or in a run that is no search the log, is missing, and where a file is
        broken.
        """
        metrics, outcome, tune = thinned(records(run.uri)), run.read("outcome.json"), run.read("tune.json")
        missing = None
        if not metrics and tune is None:
            missing = "metrics.jsonl is missing: this is no run directory, or the run has not started yet"
        elif outcome is None:
            missing = "outcome.json is missing: the run has not finished (or this is no run directory)"
        if outcome is None or missing:
            raise UsageError(f"{run.uri}: {missing}")
        return cls(
            config=(run.read("config.yaml") or b"").decode("utf-8", "replace"),
            metrics=metrics,
            outcome=_object("outcome.json", outcome),
            certificate=_object("certificate.json", run.read("certificate.json")),
            flips=_object("flips.json", run.read("flips.json")),
            tune=_object("tune.json", tune),
        )


def thinned(log: Iterable[Json]) -> list[Json]:
    """Starts, evaluations, and at most 500 records of steps, each the mean of as many consecutive ones, `of`.

    Such a record has the last one's `step`, the means of `u` and `lambda` by task, and the first one's `seconds`:
    the time of a step is told by a median.
    """
    kept: list[Json] = []
    steps: list[Json] = []
    waiting: list[Json] = []
    width = 1
    for record in log:
        if record["event"] in {"start", "eval"}:
            kept.append(record)
        if record["event"] != "step":
            continue
        if len(steps) == _MOST:
            steps = [_mean(pair) for pair in zip(steps[::2], steps[1::2], strict=True)]
            width *= 2
        waiting.append(record)
        if len(waiting) == width:
            steps.append(_mean(waiting))
            waiting = []
    return kept + steps + ([_mean(waiting)] if waiting else [])


def _mean(steps: Sequence[Json]) -> Json:
    first, last = steps[0], steps[-1]
    means = {kind: _means([step.get(kind) or {} for step in steps]) for kind in ("u", "lambda")}
    number = sum(step.get("of", 1) for step in steps)
    return {"event": "step", "step": last["step"], "of": number, "seconds": first.get("seconds"), **means}


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every task over the steps that have a value of it."""
    found: dict[str, list[float]] = {}
    for part in values:
        for task, value in part.items():
            if value is not None:
                found.setdefault(task, []).append(value)
    return {task: math.fsum(numbers) / len(numbers) for task, numbers in found.items()}


def _object(name: str, text: bytes | None) -> Json | None:
    try:
        return None if text is None else _parsed(text)
    except RecursionError:
        raise UsageError(f"{name} is broken: JSON nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{name} is broken: {error}") from error


def _parsed(text: bytes) -> Json:
    value = json.loads(text, object_pairs_hook=storage.named_once)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value
