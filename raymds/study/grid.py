"""The jobs of a study on Ray Tune's grid: each an ordinary cycle on Ray Train, in a process of its own."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import BasicVariantGenerator

from raymds.config import Config
from raymds.errors import RaymdsError, StoppedError
from raymds.train import driver
from raymds.train.cluster import Show, start_ray

_LOOK = 5.0  # seconds between two looks at how far the jobs are
_TELL = 1.0  # seconds between two words of a job about it
_DIED = "its process died more often than run.max_failures allows"


@dataclass(frozen=True)
class Work:
    """A cycle of a study."""

    config: Config
    old: str  # folder of the old models' results
    trial: bool  # without a test split


Ended = Callable[[str, str | None], None]  # told a job's name and how it failed, or None


def run(jobs: Mapping[str, Work], at_once: int, ended: Ended, show: Show) -> bool:
    """Run the jobs, so many at a time; whether they were asked to stop, and those that ran have a checkpoint."""
    start_ray(show)
    switch = cast(Any, ray.remote(num_cpus=0)(_Switch)).remote()
    grid = BasicVariantGenerator(max_concurrent=at_once)
    failures = max(work.config.run.max_failures for work in jobs.values())
    # The processes of trials need no CPU of their own: with one each, workers would wait for them for ever.
    cycle = tune.with_parameters(_cycle, jobs=jobs, switch=switch)
    trial = tune.with_resources(cycle, {"node:__internal_head__": 1e-4})
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        grid.set_finished()  # type: ignore[no-untyped-call]
        switch.stop.remote()

    with driver.quiet_tune(stop) as folder:
        # What Tune's own files would tell is in the run directories.
        tune.run(
            trial,
            name="study",
            config={"job": tune.grid_search(list(jobs))},
            storage_path=folder,
            search_alg=grid,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            callbacks=[_Progress(switch, ended, show, len(jobs))],
            max_failures=failures,
            raise_on_failed_trial=False,
            verbose=0,
        )
    ray.kill(switch)
    return stopped.is_set()


def _cycle(given: dict[str, Any], jobs: Mapping[str, Work], switch: Any) -> None:
    """A job, in a process of its own; how it failed goes to Tune."""
    name, last = given["job"], 0.0
    work, failure = jobs[name], None

    def show(record: dict[str, Any]) -> None:
        nonlocal last
        if record["event"] == "step" and time.monotonic() - last > _TELL:
            last = time.monotonic()
            switch.at.remote(name, record["step"])

    monitor = driver.new_monitor()
    try:
        if not ray.get(switch.enter.remote(name, monitor)):
            driver.cell(work.config, show, work.old, monitor, trial=work.trial, nearest=not work.trial)
    except StoppedError:
        pass  # in a checkpoint: the study knows why
    except Exception as error:
        kind = "" if isinstance(error, RaymdsError) else f"{type(error).__name__}: "
        failure = kind + (str(error).strip().splitlines() or ["no message"])[0]
    finally:
        ray.get(switch.leave.remote(name))
    tune.report({"failure": failure})


class _Switch:
    """An actor through which the study stops its jobs, and sees how far they are."""

    def __init__(self) -> None:
        self._monitors: dict[str, Any] = {}
        self._steps: dict[str, int] = {}
        self._stopped = False

    def enter(self, name: str, monitor: Any) -> bool:
        """A job begins; whether it should not."""
        self._monitors[name], self._steps[name] = monitor, 0
        return self._stopped

    def at(self, name: str, step: int) -> None:
        """The step that a job is in."""
        if name in self._steps:
            self._steps[name] = step

    def leave(self, name: str) -> None:
        """A job has ended."""
        del self._monitors[name], self._steps[name]

    def steps(self) -> dict[str, int]:
        """The step of every job that runs."""
        return self._steps

    def stop(self) -> None:
        """Have all jobs end in a checkpoint, and no other begin."""
        self._stopped = True
        for monitor in self._monitors.values():
            monitor.stop.remote()


class _Progress(TrialProgressCallback):
    """Tells the study which jobs have ended, and how far the others are, in place of what Tune prints of it."""

    def __init__(self, switch: Any, ended: Ended, show: Show, total: int) -> None:
        super().__init__()
        self._switch, self._ended, self._show, self._total = switch, ended, show, total
        self._last, self._shown, self._done = time.monotonic(), dict[str, int](), 0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._last < _LOOK:
            return
        steps: dict[str, int] = ray.get(self._switch.steps.remote())
        self._last = time.monotonic()
        if steps and steps != self._shown:
            self._shown = steps
            what = ", ".join(f"{name} {f'in step {step}' if step else 'starts'}" for name, step in steps.items())
            self._show({"event": "progress", "what": what, "done": self._done, "total": self._total})

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Nothing: a job has one result, when it ends."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._done += 1
        self._ended(trial.config["job"], (trial.last_result or {}).get("failure"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._done += 1
        self._ended(trial.config["job"], _DIED)
