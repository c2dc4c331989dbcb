"""What a person or a program sees of a running verb: live on a terminal, plain lines on a pipe, JSON on request."""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from raymds.method.verdict import NOT_CERTIFIABLE, images, in_groups, not_certifiable

Mode = Literal["live", "plain", "json"]
Record = dict[str, Any]

_PLAIN_SECONDS = 5.0  # between two lines of one phase on a pipe
_JOB_SECONDS = 1.0  # between two steps in the output of a job, which Ray keeps whole and sends to whoever follows
_JOB_TASKS = 50  # of an evaluation in it
_WIDTH = 100
_SHOWN = ("phase", "note", "ray", "start", "step", "eval", "progress", "trial", "cell", "result")  # to people
_MARKS = {"certified": "green", "retained": "yellow", "undecided": "magenta", "violated": "bold red"}


class Terminal:
    """Shows records as they come and tables at the end."""

    def __init__(self, as_json: bool = False) -> None:
        self.mode: Mode = "json" if as_json else "live" if sys.stdout.isatty() else "plain"
        # Without emoji, or weather:fog: would lose its letters.
        self.console = Console(width=None if self.mode == "live" else _WIDTH, highlight=False, emoji=False)
        self._records = sys.stdout  # in the mode json, which leaves standard output to records
        self._thin = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # as a job of Ray's
        self._live: Progress | None = None
        self._bar: TaskID | None = None
        self._title = ""
        self._steps = 0
        self._last = 0.0
        self._val = ""  # target and worst task of the last evaluation

    def heading(self, text: str) -> None:
        """Begin a part of the work."""
        self.stop()
        self._title, self._val = text, ""
        if self.mode != "json":
            self.console.print(f"[bold]{text}[/bold]")

    def show(self, record: Record) -> None:
        """One record of a run: phase, note, ray, start, step, eval, or progress (what, done, total)."""
        if self.mode == "json":
            self._record(record)
            return
        if record["event"] in _SHOWN:
            getattr(self, f"_{record['event']}")(record)

    def _record(self, record: Record) -> None:
        """A line for machines; of a job's steps some, and of many tasks those that lost most: the log keeps all."""
        if self._thin and record["event"] == "step":
            if time.monotonic() - self._last < _JOB_SECONDS and record["step"] < self._steps:
                return
            self._last = time.monotonic()
            record = {name: value for name, value in record.items() if not isinstance(value, dict)}
        elif self._thin and record["event"] == "eval" and len(record["tasks"]) > _JOB_TASKS:
            record = record | {"tasks": sorted(record["tasks"], key=lambda task: task["delta"])[:_JOB_TASKS]}
        elif record["event"] == "start":
            self._steps = record["steps"]
        print(json.dumps(record), file=self._records, flush=True)

    def result(self, content: Record, event: str = "result") -> None:
        """The last line for machines."""
        self.stop()
        if self.mode == "json":
            print(json.dumps({"event": event, **content}), file=self._records, flush=True)

    def outcome(self, outcome: Record, certificate: Record | None, event: str = "result") -> None:
        """How a cycle ended: table, reason, and a line for machines, the last one unless it is another event."""
        if certificate is not None:
            self.certificate(certificate, f"test split, {100 * certificate['confidence']:g} % joint confidence")
        self.say(f"outcome: {outcome['outcome']} model: {outcome['reason']}\nweights: {outcome['weights']}")
        for sentence in outcome.get("advice", []):
            self.say(f"  {sentence}")
        self.result({"outcome": outcome, "certificate": certificate}, event)

    def say(self, text: str) -> None:
        """A line for people."""
        if self.mode != "json":
            self.stop()
            # As it is: a line broken at a width can't be searched, and [brackets] of a path are no markup.
            self.console.print(text, markup=False, soft_wrap=True)

    def aside(self, text: str) -> None:
        """A line of another program's that is no record; for machines on standard error."""
        if self.mode == "json":
            print(text, file=sys.stderr, flush=True)
        else:
            self.say(text)

    def stop(self) -> None:
        """End the live display."""
        if self._live is not None:
            self._live.stop()
            self._live, self._bar = None, None

    def certificate(self, certificate: Record, title: str) -> None:
        """The final table, at most 100 columns; `lower` is the one-sided joint bound."""
        if self.mode == "json":
            return
        self.stop()
        table = Table(title=Text(title), title_justify="left", width=None)
        for name in ("task", "n", "old %", "new %", "Δ points", "lower", "flips −/+", "verdict"):
            table.add_column(name, justify="left" if name in {"task", "verdict"} else "right", no_wrap=True)
        for entry in [certificate["target"], *certificate["tasks"]]:
            verdict = entry.get("verdict")
            table.add_row(
                Text(entry["task"]),
                images(entry),
                f"{100 * entry['old']:.1f}",
                f"{100 * entry['new']:.1f}",
                f"{100 * entry['delta']:+.1f}",
                f"{100 * entry['lower']:+.1f}",
                f"{entry['negative_flips']}/{entry['positive_flips']}",
                f"[{_MARKS[verdict]}]{verdict}[/]" if verdict else "target",
                end_section=verdict is None,
            )
        for name in not_certifiable(certificate):
            table.add_row(Text(name), *["–"] * 6, NOT_CERTIFIABLE)
        self.console.print(table)
        grouped = in_groups(certificate)
        if grouped:
            self.say(grouped)

    def prepared(self, summary: Record) -> None:
        """What a dry run found: config, examples of every task, what the test split can show (`train.prepared`)."""
        if self.mode != "json":
            self.say(summary["config"])
            table = Table(title="examples", title_justify="left", width=None)
            table.add_column("task", overflow="fold")
            for name in ("train", "val", "test", "tolerance, points"):
                table.add_column(name, justify="right", no_wrap=True)
            for entry in summary["tasks"]:
                allowed = f"{100 * entry['tolerance']:g}" if "tolerance" in entry else "target"
                table.add_row(Text(entry["task"]), *(str(entry[split]) for split in ("train", "val", "test")), allowed)
            for name in not_certifiable(summary):
                table.add_row(Text(name), *["–"] * 3, NOT_CERTIFIABLE)
            self.console.print(table)
            if "trials" in summary:
                self.say(f"{summary['trials']} trials, {summary['trials_at_once']} at a time")
            self.say(summary["outlook"])
            self.say(f"run: {summary['run']['uri']} ({summary['run']['state']}); a dry run writes nothing")
        self.result({"prepared": summary})

    def accuracies(self, measured: Record) -> None:
        """One model's table, as of `measuring.evaluate_model`."""
        if self.mode == "json":
            return
        self.stop()
        table = Table(title=Text(f"{measured['split']} split"), title_justify="left", width=None)
        table.add_column("task", overflow="fold")
        for name in ("n", "accuracy %", "loss"):
            table.add_column(name, justify="right", no_wrap=True)
        for entry in measured["tasks"]:
            numbers = str(entry["n"]), f"{100 * entry['accuracy']:.1f}", f"{entry['loss']:.3f}"
            table.add_row(Text(entry["task"]), *numbers)
        for name in not_certifiable(measured):
            table.add_row(Text(name), "–", NOT_CERTIFIABLE, "–")
        self.console.print(table)

    def table(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of many columns, of which those with words are broken into lines; the first one stays whole."""
        if self.mode == "json":
            return
        self.stop()
        table = Table(title=Text(title), title_justify="left", width=None, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, heading in enumerate(headings):
            table.add_column(Text(heading), justify="right" if i else "left", no_wrap=i == 0, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        self.console.print(table)

    def classes(self, counts: Record) -> None:
        """Rows per class and split, as of `data.look.counts`, in at most 100 columns."""
        if self.mode == "json":
            return
        self.stop()
        table = Table(width=None)
        table.add_column("attribute")
        table.add_column("class", overflow="fold")
        for split in counts["rows"]:
            table.add_column(split, justify="right", no_wrap=True)
        table.add_row("", "all", *map(str, counts["rows"].values()), end_section=True)
        for attribute, classes in counts["classes"].items():
            undefined = counts["undefined"][attribute]
            for name, rows in classes.items():
                table.add_row(Text(attribute), Text(name), *map(str, rows.values()))
            if any(undefined.values()):
                table.add_row(Text(attribute), "undefined", *map(str, undefined.values()), style="dim")
            table.add_section()
        self.console.print(table)

    def _result(self, record: Record) -> None:
        """The result of a verb that ran elsewhere."""
        if "outcome" in record:
            self.outcome(record["outcome"], record["certificate"])
        else:
            self.say(json.dumps({name: value for name, value in record.items() if name != "event"}))

    def _phase(self, record: Record) -> None:
        if self.mode == "live":
            self._advance(None, None, record["phase"])
        else:
            self.console.print(f"  {record['phase']}", markup=False)

    def _note(self, record: Record) -> None:
        self.console.print(f"  {record['note']}", markup=False, soft_wrap=True)

    def _ray(self, record: Record) -> None:
        self.console.print(f"  Ray's own output is in {record['logs']}", style="dim", markup=False)

    def _start(self, record: Record) -> None:
        self._steps = record["steps"]
        if record["step"]:
            self.console.print(f"  going on after step {record['step']}")

    def _step(self, record: Record) -> None:
        parts = [f"loss {record['loss']:.3f}", self._val, f"{record['images_per_second']:.0f} images/s"]
        self._advance(record["step"], self._steps, "  ".join(part for part in parts if part))

    def _eval(self, record: Record) -> None:
        worst = min(record["tasks"], key=lambda task: task["delta"])
        target = record["target"]
        self._val = (
            f"{target['task']} {100 * target['new']:.1f} % ({100 * target['delta']:+.1f})  "
            f"worst {worst['task']} {100 * worst['delta']:+.1f}"
        )
        if self.mode == "plain" and record["step"]:
            self.console.print(f"  val at step {record['step']}: {self._val}", markup=False)

    def _trial(self, record: Record) -> None:
        """A line when a trial of a search begins, measures, ends."""
        name, status, last = f"trial {record['number']}", record["status"], record["history"][-1:]
        if status == "running" and not last:
            params = ", ".join(f"{key}={_short(value)}" for key, value in record["params"].items())
            text = f"{name} of {record['total']}: {params}"
        elif status == "running":
            text = f"{name} at step {last[0]['step']}: {_candidate(last[0])}"
        else:
            best = f"; best at step {record['best']['step']}: {_candidate(record['best'])}" if record["best"] else ""
            text = f"{name} {status}{': ' if record['reason'] else ''}{record['reason']}{best}"
        self.console.print(f"  {text}", markup=False, soft_wrap=True)

    def _cell(self, record: Record) -> None:
        """A line when a cycle of a study has ended."""
        found = record["result"]
        text = f"failed: {record['failure']}"
        if found is not None:
            text = f"target {100 * found['target_delta']:+.1f}, worst {100 * found['devsafety']:+.1f}"
            text += f", {found['verdict']}, {found['outcome']} model" if "verdict" in found else " on val"
        line = f"  {record['done']} of {record['total']}: {record['run']}: {text}"
        self.console.print(line, markup=False, soft_wrap=True)

    def _progress(self, record: Record) -> None:
        self._advance(record["done"], record["total"], record["what"])

    def _advance(self, done: int | None, total: int | None, text: str) -> None:
        if self.mode == "plain":
            if done is not None and (done == total or time.monotonic() - self._last > _PLAIN_SECONDS):
                self._last = time.monotonic()
                self.console.print(f"  {done}/{total}  {text}", markup=False)
            return
        if self._live is None:
            words = TextColumn("{task.description}", markup=False)
            columns = [BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), words]
            self._live = Progress(*columns, console=self.console, transient=True)
            self._live.start()
            self._bar = self._live.add_task("", total=None)
        assert self._bar is not None
        if done is None:
            self._live.update(self._bar, description=text)
        else:
            self._live.update(self._bar, completed=done, total=total, description=text)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _candidate(entry: Record) -> str:
    """The target and the worst task of a trial's measurement."""
    worst = min(entry["tasks"], key=lambda task: entry["tasks"][task])
    return f"target {100 * entry['target']:+.1f}, worst {worst} {100 * entry['tasks'][worst]:+.1f}"
