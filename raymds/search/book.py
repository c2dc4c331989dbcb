"""The book of a search: its trials in its run directory, whoever runs them. Each entry is published before it counts.

RUN/tune.json            every trial with its params, status and history, written where one begins or ends
RUN/measured/007-50.json what trial 7 measured at step 50, beside the history that tune.json has of it
RUN/trials/007/          the run directory of a trial, that of an ordinary cycle
RUN/old/                 what the old model does, measured by the first trial that needs it
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from raymds.config import Config
from raymds.errors import UsageError
from raymds.log import records
from raymds.run import RunDirectory
from raymds.search.halving import verdict
from raymds.search.outcome import outcome, restored
from raymds.search.sampler import importance, propose
from raymds.search.space import Params, Space, live, own_setting, trial_config
from raymds.search.trials import FAILED, FINISHED, RUNNING, STOPPED, Measurement, Trial
from raymds.store import uri as storage

Show = Callable[[dict[str, Any]], None]
_MEASURED = "measured"


class Book:
    """Which trials there are, what the next one is, which one ends early. Restored from its directory."""

    def __init__(self, config: Config, space: Space, show: Show) -> None:
        self._config, self._space, self._show = config, space, show
        self._steps = config.search.steps or config.optim.steps
        self._own = own_setting(config, space)
        self.run = RunDirectory(config.run.uri)
        found = self.run.read_json("tune.json")
        self.trials = self._with_measured(restored(found, self.run.path("tune.json")) if found else [])
        self._given = {trial.number for trial in self.trials if trial.status != RUNNING}
        for trial in self.trials:
            if trial.status == RUNNING:
                self._recover(trial)

    def next(self) -> Trial | None:
        """The trial to run now, in the book as running; None: there is no other. A trial cut off comes first, again."""
        left = [t for t in self.trials if t.number not in self._given and t.status == RUNNING]
        if left:
            self._given.add(left[0].number)
            return left[0]
        search = self._config.search
        params = propose(self._space, self._own, search.algorithm, search.seed, search.trials, self.trials, self._live)
        if params is None:
            return None
        trial = Trial(len(self.trials), params)
        self._given.add(trial.number)
        self._enter(trial)
        return trial

    def _live(self, params: Params) -> Params:
        return live(self._config, params)

    def config_of(self, trial: Trial) -> Config:
        """The config of a trial's cycle, in a run directory of its own."""
        config = trial_config(self._config, trial.params)
        config.run.uri = self.run.path(_folder(trial.number))
        return config

    def measured(self, number: int, measurement: Measurement) -> bool:
        """Take what a trial has measured; whether it ends here."""
        trial = self.trials[number]
        if trial.status != RUNNING or any(m.step == measurement.step for m in trial.history):
            return trial.status == STOPPED
        # A file of its own: the whole book, of many trials and tasks, would be written again and again.
        self.run.write_json(_measured(number, measurement.step), asdict(measurement))
        self._count(replace(trial, history=(*trial.history, measurement)))
        return self._judged(number)

    def ended(self, number: int, failure: str | None) -> None:
        """A trial ran to its end, or failed. Without an outcome it was cut off and stays what it is."""
        trial = self.trials[number]
        if trial.status != RUNNING:
            return
        if failure is not None:
            self._enter(replace(trial, status=FAILED, reason=failure))
        else:
            self._recover(trial)

    @property
    def running(self) -> int:
        """Trials that have not ended."""
        return sum(trial.status == RUNNING for trial in self.trials)

    def at(self, steps: Mapping[int, int]) -> None:
        """Show the step that each running trial is in: hours can lie between two measurements."""
        where = {number: f"in step {step} of {self._steps}" if step else "starts" for number, step in steps.items()}
        what = ", ".join(f"trial {number} {where[number]}" for number in sorted(where))
        done = len(self.trials) - self.running
        self._show({"event": "progress", "what": what, "done": done, "total": self._config.search.trials})

    def content(self) -> dict[str, Any]:
        """What tune.json holds."""
        return self._content(self.trials)

    def _judged(self, number: int) -> bool:
        """End a running trial that the scheduler gives up; whether it has ended."""
        trial = self.trials[number]
        others = [other.history for other in self.trials if other.number != number and other.status != FAILED]
        if self._config.search.scheduler == "none" or not trial.history:
            return False
        reason = verdict(trial.history, others, self._steps)
        if reason is not None:
            self._enter(replace(trial, status=STOPPED, reason=reason))
        return reason is not None

    def _recover(self, trial: Trial) -> None:
        """Read from a trial's own directory how far it came."""
        history, concluded = _history_of(RunDirectory(self.run.path(_folder(trial.number))))
        if concluded:
            self._enter(replace(trial, history=tuple(history), status=FINISHED))
        else:
            # The log is behind the book until a checkpoint publishes it; what it lacks will be measured again.
            self._enter(replace(trial, history=max(tuple(history), tuple(trial.history), key=len)))
            self._judged(trial.number)

    def _enter(self, trial: Trial) -> None:
        """Publish the book with this trial in it, then let it count."""
        self.run.write_json("tune.json", self._content(self._with(trial)))
        self._count(trial)

    def _count(self, trial: Trial) -> None:
        """Go on from what is published of a trial."""
        self.trials = self._with(trial)
        (record,) = outcome(self._config, self._space, [trial])["trials"]
        self._show({"event": "trial", "total": self._config.search.trials, **_placed(record)})

    def _with(self, trial: Trial) -> list[Trial]:
        return [*self.trials[: trial.number], trial, *self.trials[trial.number + 1 :]]

    def _with_measured(self, trials: list[Trial]) -> list[Trial]:
        """Trials with what those that had not ended measured since the book was written."""
        there = storage.sizes(self.run.path(_MEASURED))
        return [self._with_own(trial, there) if trial.status == RUNNING else trial for trial in trials]

    def _with_own(self, trial: Trial, there: Iterable[str]) -> Trial:
        prefix = _measured(trial.number, "").removesuffix(".json")
        found = {measured.step: measured for measured in trial.history}
        for name in (f"{_MEASURED}/{name}" for name in there):
            record = self.run.read_json(name) if name.startswith(prefix) else None
            if record is None:
                continue
            try:
                measured = Measurement(**record)
            except TypeError:
                raise UsageError(
                    f"{self.run.path(name)}: is not what a trial measured; remove it, and it is measured again"
                ) from None
            found.setdefault(measured.step, measured)
        return replace(trial, history=tuple(found[step] for step in sorted(found)))

    def _content(self, trials: list[Trial]) -> dict[str, Any]:
        content = outcome(self._config, self._space, trials)
        content["trials"] = [_placed(record) for record in content["trials"]]
        shares = importance(self._space, trials) if not content["counts"]["running"] else {}
        return content | {"importance": shares}


def _history_of(run: RunDirectory) -> tuple[list[Measurement], bool]:
    """What the cycle of a run directory has measured on val, by step, and whether it has ended."""
    evals = {r["step"]: Measurement.of(r, r["step"]) for r in records(run.uri) if r["event"] == "eval"}
    history = [evals[step] for step in sorted(evals) if step > 0]
    concluded = run.read_json("outcome.json")
    if concluded is not None and concluded["outcome"] == "new" and concluded["alpha"] != 1:
        history.append(Measurement.of(concluded["val"], concluded["step"], concluded["alpha"]))
    return history, concluded is not None


def _placed(record: dict[str, Any]) -> dict[str, Any]:
    """A trial's record with where its run is; `raymds report` makes the page of a cycle that has an outcome."""
    return record | {"run": _folder(record["number"]), "page": record["status"] == FINISHED}


def _measured(number: int, step: int | str) -> str:
    return f"{_MEASURED}/{number:03d}-{step}.json"


def _folder(number: int) -> str:
    return f"trials/{number:03d}"
