"""What a study has found out so far: the results of its cells and trials, from their own run directories."""

from typing import Any

from raymds.config import Config
from raymds.errors import UsageError
from raymds.run import RunDirectory
from raymds.store import uri as storage
from raymds.study.plan import Cell, Job, Plan, Setting, Trial, named
from raymds.train import select

Json = dict[str, Any]


class Results:
    """Read once each, so that a study of hundreds of cells in a bucket asks for its new files alone."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.cells: dict[Cell, Json] = {}
        self.trials: dict[Trial, Json] = {}
        self.failed: dict[Job, str] = {}  # in this process: the same command runs them again
        for job in plan.jobs:
            self.look(job)

    def look(self, job: Job) -> bool:
        """Take the result of a job, if it has ended; whether it has. UsageError where it is of another config."""
        setting = self.setting(job)
        if setting is None:
            return False
        run = RunDirectory(storage.join(self.plan.uri, job.path))
        outcome = run.read_json("outcome.json")
        if outcome is None:
            return False
        config = self.plan.config(job, setting)
        try:
            run.check(config)
        except UsageError as error:
            raise named(job, error) from None
        if isinstance(job, Trial):
            self.trials[job] = trial_result(job, setting, outcome)
        else:
            self.cells[job] = cell_result(job, setting, config, outcome, _certificate(run))
        return True

    def setting(self, job: Job) -> Setting | None:
        """The setting of a job; None for a cell whose method has still to try some, or failed with all."""
        settings = self.plan.settings[job.method]
        if isinstance(job, Trial):
            return settings[job.number]
        return settings[0] if len(settings) == 1 else self.best(job.data, job.target, job.method)

    def best(self, data: str, target: str, method: str) -> Setting | None:
        """The setting whose trial did best on val (`train.select.score`), once all trials have ended."""
        here = [t for t in self.plan.trials if (t.data, t.target, t.method) == (data, target, method)]
        found = [self.trials[trial] for trial in here if trial in self.trials]
        if not found or len(found) + sum(trial in self.failed for trial in here) < len(here):
            return None
        setting: Setting = max(found, key=lambda trial: trial["score"])["setting"]
        return setting

    def left(self) -> dict[Job, Config]:
        """Jobs that can run now, with their configs: trials, and the cells whose setting is known."""
        jobs: dict[Job, Config] = {}
        for job in self.plan.jobs:
            known = job in self.trials if isinstance(job, Trial) else job in self.cells
            setting = self.setting(job)
            if setting is not None and not known and job not in self.failed:
                jobs[job] = self.plan.config(job, setting)
        return jobs


def trial_result(trial: Trial, setting: Setting, outcome: Json) -> Json:
    """What a trial says: its score and, of val, the target's and the worst task's change, fractions."""
    val = outcome["val"]
    return {
        "data": trial.data, "target": trial.target, "method": trial.method, "number": trial.number, "setting": setting,
        "run": trial.path, "outcome": outcome["outcome"], **_delivered(outcome), "score": select.score(val),
        "feasible": val["feasible"], "target_delta": val["target"]["delta"], "devsafety": val["devsafety"],
        "seconds": outcome["seconds"],
    }  # fmt: skip


def cell_result(cell: Cell, setting: Setting, config: Config, outcome: Json, certificate: Json) -> Json:
    """What a cell says, of test: METHOD (2), (3), (5), (6) as fractions, verdict and outcome."""
    tasks = certificate["tasks"]
    worst = min(tasks, key=lambda task: task["delta"])
    flips = [task["negative_flips"] / task["n"] for task in tasks]
    return {
        "data": cell.data, "target": cell.target, "method": cell.method, "seed": cell.seed,
        "retained": config.task.retained, "setting": setting, "run": cell.path,
        "outcome": outcome["outcome"], "reason": outcome["reason"], **_delivered(outcome),
        "verdict": certificate["verdict"], "target_delta": certificate["target"]["delta"],
        "devsafety": certificate["devsafety"], "worst_task": worst["task"], "worst_delta": worst["delta"],
        "mean_delta": sum(task["delta"] for task in tasks) / len(tasks),
        "within_tolerance": all(task["delta"] >= -task["tolerance"] for task in tasks),
        "nfr_mean": sum(flips) / len(flips), "nfr_max": max(flips), "seconds": outcome["seconds"],
        "deltas": {task["task"]: task["delta"] for task in tasks},
    }  # fmt: skip


def _delivered(outcome: Json) -> Json:
    """Step and α of the model that was measured, whether it became the outcome or not."""
    measured = outcome.get("candidate") or outcome
    return {"step": measured["step"], "alpha": measured["alpha"]}


def _certificate(run: RunDirectory) -> Json:
    certificate = run.read_json("certificate.json")
    if certificate is None:
        raise UsageError(
            f"{run.uri}: its cycle was not run by a study and has no certificate; remove the directory, to run it again"
        )
    return certificate
