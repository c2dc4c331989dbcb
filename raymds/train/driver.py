"""Starts Ray Train, follows the run, and turns what the workers return into outcome and certificate."""

import contextlib
import copy
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import ray
import torch
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import RaymdsError, UsageError
from raymds.method.certificate import PairedCounts, certify
from raymds.run import MetricsLog, RunDirectory, digests
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import Tasks, resolve
from raymds.train import worker
from raymds.train.net import open_net
from raymds.train.placement import placed
from raymds.train.watch import EndAtOnce, Monitor

SCHEMA = 1
_KEPT = 5  # candidates kept beside the last checkpoint
_POLL = 0.25  # seconds between looks at the monitor

Show = Callable[[dict[str, Any]], None]


def pretrain(config: Config, show: Show) -> dict[str, Any]:
    """Make an old model; returns {"uri", "sha256"} of its weights. `show` gets every record as it comes."""
    objects.configure(config.storage)
    run, data = RunDirectory(config.run.uri), DataSet.open(config.data.uri)
    rows = sum(shard.rows for shard in data.splits.get("train", []))
    if rows < config.objective.batch:
        raise UsageError(f"objective.batch={config.objective.batch}: the train split of {data.uri} has {rows} rows")
    config = placed(config, resources(show))
    preflight(config, data, [])
    run.claim(config)
    finished = run.read_json("outcome.json")
    if finished is None:
        result, seconds = _fit(config, run, worker.run_pretraining, CheckpointConfig(num_to_keep=1), show)
        finished = {"schema": SCHEMA, **effort(run, config, seconds)}
        finished |= {"weights": result["weights"], "skipped_images": result["skipped_images"]}
        run.write_json("outcome.json", finished)
    weights: dict[str, Any] = finished["weights"]
    return weights


def finetune(config: Config, show: Show, shared: str | None = None, monitor: Any = None) -> dict[str, Any]:
    """One constrained cycle; writes certificate.json and, last, outcome.json, and returns the outcome.

    Goes on from the last checkpoint where the run directory holds one of the same config. A trial of a search has
    `shared`, the directory of the old model's results, and a `monitor` through which the search may stop it; its
    outcome is chosen on val and has no certificate.
    """
    objects.configure(config.storage)
    run, data = RunDirectory(config.run.uri), DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    check_examples(config, data, tasks)
    config = placed(config, resources(show))
    preflight(config, data, tasks.heads)
    run.claim(config)
    finished = run.read_json("outcome.json")
    if finished is not None:
        return finished
    keep = CheckpointConfig(num_to_keep=_KEPT, checkpoint_score_attribute="score")
    result, seconds = _fit(config, run, worker.run_cycle, keep, show, monitor, shared=shared)
    outcome = _conclude(config, run, data, result) | effort(run, config, seconds)
    outcome |= {"solver": config.constraints.solver, "seed": config.run.seed}
    outcome["skipped_images"] = result["skipped_images"]
    run.write_json("outcome.json", outcome)
    return outcome


def certify_winner(
    config: Config, run: RunDirectory, winner: str, choice: dict[str, Any], show: Show
) -> dict[str, Any]:
    """The verdict on a search's winner, from the one measurement of test, in the form of an outcome.

    `config` is the winning trial's, `run` the search's directory, `winner` its weights or a checkpoint, `choice` its
    step, alpha and record on val.
    """
    objects.configure(config.storage)
    data = DataSet.open(config.data.uri)
    here = copy.deepcopy(config)
    here.run.uri = run.uri
    here = placed(here, resources(show))
    result, _ = _fit(here, run, worker.run_certification, CheckpointConfig(num_to_keep=1), show, winner=winner)
    return _conclude(config, run, data, result | {"choice": choice}) | {"skipped_images": result["skipped_images"]}


def check_examples(config: Config, data: DataSet, tasks: Tasks) -> None:
    """That every pool holds what a step draws from it, and val and test every class; UsageError naming the task."""
    absent = [split for split in ("train", "val", "test") if not data.splits.get(split)]
    if absent:
        raise UsageError(f"data.uri={data.uri}: has no split {absent[0]!r}; a cycle needs train, val and test")
    for task in tasks.all:
        label = task.name.partition(":")[2]
        for split in ("train", "val", "test"):
            if data.count(split, task.attribute, label) == 0:
                key = "task.target" if task == tasks.target else "task.protect"
                raise UsageError(
                    f"{key}: {task.name} has no examples in the {split} split of {data.uri}; leave it out, for "
                    f"example by listing the classes of {task.attribute} one by one"
                )
    drawn = config.constraints.images_per_task
    for task in tasks.protected:
        found = min(config.task.retained, data.count("train", task.attribute, task.name.partition(":")[2]))
        if found < drawn:
            raise UsageError(
                f"constraints.images_per_task={drawn}: {task.name} has {found} retained examples; lower it to {found}"
            )
    if config.constraints.tasks_per_step != "all" and config.constraints.tasks_per_step > len(tasks.protected):
        raise UsageError(
            f"constraints.tasks_per_step={config.constraints.tasks_per_step}: has to be {len(tasks.protected)}, the "
            "number of protected tasks, or less"
        )
    positives = round(config.objective.batch * config.objective.positive_share)
    attribute, _, label = tasks.target.name.partition(":")
    showing = data.count("train", attribute, label)
    others = sum(data.count("train", attribute, other) for other in data.attributes[attribute]) - showing
    for name, needed, found in (
        (f"pairs that show {tasks.target.name}", positives, showing),
        (f"pairs of another {attribute}", config.objective.batch - positives, others),
    ):
        if found < needed:
            raise UsageError(
                f"objective.batch={config.objective.batch}: a step draws {needed} {name}, the train split has {found}; "
                "lower objective.batch or change objective.positive_share"
            )


def resources(show: Show) -> dict[str, float]:
    """CPUs and GPUs of the cluster that is joined, or of this machine where none is."""
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        start_ray(show)
        return cast(dict[str, float], cast(Any, ray).cluster_resources())
    return {"CPU": len(os.sched_getaffinity(0)), "GPU": torch.cuda.device_count()}


def preflight(config: Config, data: DataSet, heads: list[str]) -> None:
    """What would fail later is found before anything expensive starts."""
    net = open_net(config, heads)
    net.freeze(config.model.freeze.image, config.model.freeze.text)
    if config.data.image_size not in {0, net.image_size}:
        raise UsageError(
            f"data.image_size={config.data.image_size}: {net.identity.called} takes {net.image_size} pixels; "
            "leave it out or give that"
        )
    data.check()


def _fit(
    config: Config,
    run: RunDirectory,
    entry: Callable[..., Any],
    keep: CheckpointConfig,
    show: Show,
    monitor: Any = None,
    **given: str | None,
) -> tuple[dict[str, Any], float]:
    """Run `entry` on the workers, with `given`; (rank 0's result, seconds). Errors of the user's stay themselves."""
    objects.configure(config.storage, show)  # from here on a store that is gone is waited for
    start_ray(show)
    monitor = monitor or new_monitor()
    filesystem, path = storage.resolve(run.path("checkpoints"))
    trainer = TorchTrainer(
        entry,
        train_loop_config={"config": located(config), "monitor": monitor, **given},
        torch_config=TorchConfig(timeout_s=max(1, round(config.run.timeout))),
        scaling_config=_scaling(config),
        run_config=RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=keep,
            failure_config=FailureConfig(max_failures=config.run.max_failures, controller_failure_limit=3),
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[EndAtOnce()],
        ),
    )
    begin = time.perf_counter()
    with _stopped_by_sigterm(monitor), _Follower(monitor, show):
        try:
            result: dict[str, Any] = cast(Any, trainer.fit()).return_value
        except ControllerError as error:
            raise error.controller_failure from error
        except WorkerGroupError as error:
            rank, failure = min(error.worker_failures.items(), key=lambda item: item[0])
            last = str(failure).strip().splitlines()[-1]
            late = ray.get(monitor.late.remote(list(error.worker_failures)))
            raise RaymdsError(f"worker {rank} failed and run.max_failures is used up: {last}; {late}") from error
    return result, time.perf_counter() - begin


def new_monitor() -> Any:
    """A run's monitor, on this node, which the run can't lose without losing its driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return cast(Any, ray.remote(num_cpus=0)(Monitor)).options(scheduling_strategy=here).remote()


def _scaling(config: Config) -> ScalingConfig:
    run = config.run
    gpus = run.gpus_per_worker or 0.0
    return ScalingConfig(
        num_workers=(run.min_workers, run.workers) if run.min_workers else run.workers,
        use_gpu=gpus > 0,
        resources_per_worker={"CPU": run.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
        placement_strategy=run.placement.upper(),
    )


@contextlib.contextmanager
def _stopped_by_sigterm(monitor: Any) -> Iterator[None]:
    """SIGTERM, which `ray job stop` sends, makes the workers write a checkpoint and end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: monitor.stop.remote())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def located(config: Config) -> Config:
    """The config with absolute URIs: a worker, or a trial of a search, has another current directory."""
    located = copy.deepcopy(config)
    located.data.uri, located.run.uri = storage.absolute(config.data.uri), storage.absolute(config.run.uri)
    if config.data.cache:
        located.data.cache = storage.absolute(config.data.cache)
    if config.model.weights:
        located.model.weights = storage.absolute(config.model.weights)
    return located


def start_ray(show: Show) -> None:
    """Join the cluster of RAY_ADDRESS or start a local one, with Ray's own output in its log files."""
    if ray.is_initialized():
        return
    show({"event": "phase", "phase": "starting Ray"})
    # A report returns when the controller has looked; its default of 2 s would be felt at every checkpoint.
    variables = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    # A few small actors per run: no reason for the raylet to warn people on a laptop of too many processes.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(16, os.cpu_count() or 1)))
    # Processes of a cluster that is there don't inherit them. Where they do, those that Ray holds ready can be used.
    environment = {"env_vars": variables} if os.environ.get("RAY_ADDRESS") else None
    context: Any = ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
    show({"event": "ray", "logs": f"{context.address_info['session_dir']}/logs"})


class _Follower:
    """Moves records from the monitor to the terminal while `fit` blocks."""

    def __init__(self, monitor: Any, show: Show) -> None:
        self._monitor, self._show = monitor, show
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)

    def __enter__(self) -> "_Follower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._drain()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL):
            self._drain()

    def _drain(self) -> None:
        for record in ray.get(self._monitor.drain.remote()):
            self._show(record)


def _conclude(config: Config, run: RunDirectory, data: DataSet, result: dict[str, Any]) -> dict[str, Any]:
    """The outcome's verdict: the chosen model, or the old one where nothing was feasible or the test says otherwise."""
    parent = storage.sha256(storage.read(str(config.model.weights)))
    old = {"schema": SCHEMA, "outcome": "old", "step": 0, "alpha": 0.0, "weights": config.model.weights}
    choice = result.get("choice")
    if choice is None:
        nearest = max(result["candidates"], key=lambda metrics: metrics["record"]["devsafety"])
        worst = min(nearest["record"]["tasks"], key=lambda task: task["delta"])
        reason = (
            f"no candidate improved the target and kept every protected task on val; nearest: step {nearest['step']} "
            f"with {worst['task']} {100 * worst['delta']:+.1f} points and the target "
            f"{100 * nearest['record']['target']['delta']:+.1f}"
        )
        return {**old, "reason": reason, "val": nearest["record"], "candidate": {"step": nearest["step"], "alpha": 1.0}}
    if "target" not in result:
        return _new(choice, result, "; the winner of the search alone is certified")
    certificate = certify(
        PairedCounts(**result["target"]),
        [PairedCounts(**counts) for counts in result["protected"]],
        tolerance=config.select.tolerance,
        confidence=config.select.confidence,
        digests=digests(config, data.digest, parent, result["weights"]["sha256"]),
    )
    run.write_json("flips.json", {"schema": SCHEMA, "flips": result["flips"]})
    run.write_json("certificate.json", certificate)
    if certificate["verdict"] == "violated":
        lost = [task["task"] for task in certificate["tasks"] if task["verdict"] == "violated"]
        reason = f"the test split shows a loss of {', '.join(lost)}"
        candidate = {"step": choice["step"], "alpha": choice["alpha"]}
        return {**old, "reason": reason, "val": choice["record"], "candidate": candidate}
    return _new(choice, result)


def _new(choice: dict[str, Any], result: dict[str, Any], more: str = "") -> dict[str, Any]:
    """The outcome of a chosen candidate."""
    interpolated = "" if choice["alpha"] == 1 else f", interpolated towards the old model with α = {choice['alpha']}"
    return {
        "schema": SCHEMA,
        "outcome": "new",
        "reason": f"step {choice['step']} has the best target accuracy among feasible candidates{interpolated}{more}",
        "step": choice["step"],
        "alpha": choice["alpha"],
        "weights": result["weights"]["uri"],
        "val": choice["record"],
    }


def effort(run: RunDirectory, config: Config, seconds: float) -> dict[str, Any]:
    """What an outcome says of the work: steps, seconds, workers, images per second (the median step's)."""
    speeds = sorted(r["images_per_second"] for r in MetricsLog(run).records if r["event"] == "step")
    return {
        "steps": config.optim.steps,
        "seconds": seconds,
        "workers": config.run.workers,
        "images_per_second": speeds[len(speeds) // 2] if speeds else None,
    }
