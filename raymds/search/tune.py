"""A search for the best setting that keeps everything: Ray Tune runs trials, each an ordinary cycle on Ray Train."""

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import RaymdsError, StoppedError, UsageError
from raymds.log import records
from raymds.run import RunDirectory
from raymds.search.book import Book
from raymds.search.space import Space, parse, trial_config
from raymds.search.trials import FAILED, FINISHED, Measurement
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import Tasks, check_per_task, resolve
from raymds.train import cluster, driver, ending, recorded
from raymds.train.cluster import Show, room, start_ray
from raymds.train.conclude import effort, old_outcome
from raymds.train.placement import concurrent
from raymds.train.prepared import Prepared, check_examples

_LOOK = 5.0  # seconds between two looks at how far the trials are
_ANSWER = 0.5  # seconds for their monitors to answer; one that starts does not yet
_CACHE = "raymds-cache"  # in a machine's temporary folder: shards that its trials share


def search(config: Config, show: Show, take_over: bool = False) -> dict[str, Any]:
    """Run the search of `config.search`; writes tune.json, certificate.json and, last, outcome.json; the outcome.

    Goes on where the run directory holds a search of the same config: trials that ended stay ended, those cut off go
    on from their checkpoints. RaymdsError where every trial failed, StoppedError where it was asked to stop.
    `take_over` as in `driver.pretrain`.
    """
    ready, space, at_once = prepare(config, show)
    config, run = ready.config, ready.run
    run.claim(config, search=True)
    outcome = driver.alone(run, lambda: _search(ready, space, at_once, show), show, take_over)
    recorded.keep(config, run, show)
    return outcome


def _search(ready: Prepared, space: Space, at_once: int, show: Show) -> dict[str, Any]:
    config = ready.config
    show({"event": "note", "note": ready.outlook})
    if at_once < config.search.concurrency:
        asked = f"search.concurrency={config.search.concurrency}"
        show({"event": "phase", "phase": f"{asked}: there is room for {at_once}"})
    begin = time.perf_counter()
    objects.configure(config.storage, show)  # from here on a store that is gone is waited for
    book = Book(cluster.located(_reading(config)), space, show)
    _run(book, config, at_once, show)
    if book.running:
        raise StoppedError(
            f"stopped with {len(book.trials) - book.running} of {config.search.trials} trials ended; the same command "
            "goes on with the others, each from its last checkpoint"
        )
    return _conclude(book, config, show) | {"seconds": time.perf_counter() - begin}


def prepare(config: Config, show: Show) -> tuple[Prepared, Space, int]:
    """Everything that can be known before the first trial, as `driver.prepare` does for one cycle; writes nothing.

    Also the space, and how many trials there is room for at a time.
    """
    objects.configure(config.storage)
    run, data = RunDirectory(config.run.uri), DataSet.open(config.data.uri)
    space, tasks = check(config, data)
    here = room(show, growing=config.run.autoscaling)
    config, at_once = concurrent(recorded.located(config), here)
    driver.preflight(config, data, tasks, here, show)
    run.check(config, search=True)
    confidence = recorded.check(config, run, data, tasks, show)
    return Prepared(config, run, data, tasks, confidence), space, at_once


def check(config: Config, data: DataSet) -> tuple[Space, Tasks]:
    """The space of a search and its tasks; UsageError where it can't be searched with these data."""
    space = parse(config)
    return space, _check_ends(config, space, data)


def _check_ends(config: Config, space: Space, data: DataSet) -> Tasks:
    """The tasks, if the data set has what a step draws at both ends of every range; else UsageError naming the key."""
    tasks = resolve(config.task, data.attributes)
    check_per_task(config, tasks)
    check_examples(trial_config(config, {}), data, tasks)
    for key, dimension in space.items():
        for value in dimension.grid(2):
            try:
                check_examples(trial_config(config, {key: value}), data, tasks)
            except UsageError as error:
                raise UsageError(f"search.space.{key}: {value} can't be tried: {error}") from None
    return tasks


def _reading(config: Config) -> Config:
    """Trials read the same data: from a bucket once per machine, unless the config says otherwise."""
    if not config.data.cache and not storage.is_local(config.data.uri):
        config.data.cache = str(Path(tempfile.gettempdir()) / _CACHE)
    return config


def _run(book: Book, config: Config, at_once: int, show: Show) -> None:
    """Run what the book asks for, until it asks for nothing more or somebody wishes the search to stop."""
    start_ray(show)
    proposals = _Proposals(book)
    # The processes of trials need no CPU of their own: with one each, workers would wait for them for ever.
    trial = tune.with_resources(_trial, {"node:__internal_head__": 1e-4})
    with driver.quiet_tune(proposals.stop_all) as folder:
        # Not a Tuner: that pickles what it is given, to be restored from files. What those would tell is in the book.
        tune.run(
            trial,
            name="search",
            storage_path=folder,
            search_alg=proposals,
            scheduler=_Halving(book, proposals),
            callbacks=[_Progress(book, proposals)],
            num_samples=-1,  # until the book has no more
            max_concurrent_trials=at_once,
            max_failures=config.run.max_failures,
            raise_on_failed_trial=False,
            verbose=0,
        )


def _trial(given: dict[str, Any]) -> None:
    """A trial: a cycle in a process of its own, whose measurements on val go to Tune."""
    config: Config = given["config"]
    measured: list[dict[str, Any]] = []

    def show(record: dict[str, Any]) -> None:
        if record["event"] == "eval" and record["step"] > 0:
            measured.append(record)
        elif record["event"] == "checkpoint" and measured:
            # Not before: a trial that ends at this measurement has it in its log.
            tune.report({"records": [measured.pop()], "failure": None})

    try:
        driver.cell(config, show, given["old"], given["monitor"], trial=True)
    except StoppedError:
        return  # in a checkpoint: the search knows why
    except Exception as error:
        kind = "" if isinstance(error, RaymdsError) else f"{type(error).__name__}: "
        tune.report({"records": [], "failure": kind + (str(error).strip().splitlines() or ["no message"])[0]})


class _Proposals(Searcher):
    """The book as Tune's search algorithm; the monitors of the trials that run."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book
        self._running: dict[str, tuple[int, Any]] = {}  # Tune's name of a trial -> number, monitor
        self._stopping = False

    def suggest(self, trial_id: str) -> Any:
        trial = None if self._stopping else self._book.next()
        if trial is None:
            return Searcher.FINISHED
        monitor = driver.new_monitor()
        self._running[trial_id] = (trial.number, monitor)
        given = {"config": self._book.config_of(trial), "old": self._book.run.path("old"), "monitor": monitor}
        return {"number": trial.number, **given}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        number, monitor = self._running.pop(trial_id)
        ray.kill(monitor)  # Tune would keep it with the trial's config
        failure = "its process died more often than run.max_failures allows" if error else (result or {}).get("failure")
        self._book.ended(number, failure)

    def steps(self) -> dict[int, int]:
        """Of the trials that run, the step that each is in; without those whose monitor does not answer."""
        asked = {monitor.step.remote(): number for number, monitor in self._running.values()}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER) if asked else ([], [])
        steps = {}
        for answer in answered:
            with suppress(ray.exceptions.RayActorError):
                steps[asked[answer]] = ray.get(answer)
        return steps

    def stop(self, trial_id: str) -> None:
        """Have a trial end in a checkpoint. Killed, as Tune would, it can leave CPUs to a cycle that is no more."""
        self._running[trial_id][1].stop.remote()

    def stop_all(self) -> None:
        """Have the search end: no other trial, and those that run end in a checkpoint."""
        self._stopping = True
        for trial_id in self._running:
            self.stop(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The book is saved already."""

    def restore(self, checkpoint_path: str) -> None:
        """The book is restored by itself."""


class _Halving(FIFOScheduler):
    """The book as Tune's scheduler."""

    def __init__(self, book: Book, proposals: _Proposals) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._book, self._proposals = book, proposals

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        for record in result["records"]:
            if self._book.measured(trial.config["number"], Measurement.of(record, record["step"])):
                self._proposals.stop(trial.trial_id)
        return TrialScheduler.CONTINUE


class _Progress(tune.Callback):
    """Has the book show how far the trials are."""

    def __init__(self, book: Book, proposals: _Proposals) -> None:
        self._book, self._proposals = book, proposals
        self._last, self._shown = time.monotonic(), dict[int, int]()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._last < _LOOK:
            return
        steps = self._proposals.steps()
        self._last = time.monotonic()
        if steps and steps != self._shown:
            self._shown = steps
            self._book.at(steps)


def _conclude(book: Book, config: Config, show: Show) -> dict[str, Any]:
    """The verdict: the best trial that keeps everything, certified once on test; else the old model."""
    content = book.content()
    if content["winner"] is None and content["nearest"] is None:
        first = next((trial.reason for trial in book.trials if trial.status == FAILED), "it was given no trial")
        raise RaymdsError(f"no trial of the search measured anything; the first failed: {first}")
    won = content["winner"] or content["nearest"]
    trial = book.trials[won["number"]]
    own = book.config_of(trial)
    directory = RunDirectory(own.run.uri)
    common = {"trial": won["number"], "params": won["params"], **effort(directory, own, 0.0)}
    common |= {"solver": own.constraints.solver, "seed": own.run.seed, "skipped_images": {}}
    concluded = directory.read_json("outcome.json") if trial.status == FINISHED else None
    if content["winner"] is not None and concluded is not None:
        step, alpha, val, weights = (concluded[name] for name in ("step", "alpha", "val", "weights"))
    else:
        step, alpha, weights = won["step"], 1.0, ending.checkpoint_uri(own, f"step-{won['step']:07d}")
        val = next(r for r in records(directory.uri) if r["event"] == "eval" and r["step"] == step)
    if content["winner"] is None:
        return common | old_outcome(config, content["reason"], val, step, alpha)
    choice = {"step": step, "alpha": alpha, "record": val}
    verdict = driver.certify_winner(own, book.run, weights, choice, show)
    reason = content["reason"] if verdict["outcome"] == "new" else f"trial {trial.number}: {verdict['reason']}"
    return common | verdict | {"reason": reason}
