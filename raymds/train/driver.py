"""Prepares a run, starts Ray Train, follows the run."""

import contextlib
import copy
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, cast

import ray
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.train.v2.api.validation_config import ValidationConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymds import lease
from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import RaymdsError, UsageError
from raymds.log import join
from raymds.run import RunDirectory
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import Tasks, check_per_task, resolve
from raymds.train import entry, recorded
from raymds.train.cluster import Show, located, room, start_ray
from raymds.train.conclude import SCHEMA, conclude, effort
from raymds.train.ending import KEPT
from raymds.train.follow import Follower
from raymds.train.net import open_net
from raymds.train.placement import Room, per_worker, placed, require_memory, spare
from raymds.train.prepared import Prepared, check_examples
from raymds.train.stop import kept, on_sigterm
from raymds.train.watch import Monitor

Loop = Literal["run_pretraining", "run_cycle", "run_certification"]


def pretrain(config: Config, show: Show, take_over: bool = False) -> dict[str, Any]:
    """Make an old model; returns {"uri", "sha256"} of its weights. `show` gets every record as it comes.

    `take_over`: without waiting for a sign of life of a command that works on the run directory.
    """
    objects.configure(config.storage)
    run, data = RunDirectory(config.run.uri), DataSet.open(config.data.uri)
    rows = sum(shard.rows for shard in data.splits.get("train", []))
    if rows < config.objective.batch:
        raise UsageError(f"objective.batch={config.objective.batch}: the train split of {data.uri} has {rows} rows")
    here = room(show, growing=config.run.autoscaling)
    config = placed(config, here)
    preflight(config, data, None, here, show)
    run.claim(config)

    def work() -> dict[str, Any]:
        result, seconds = _fit(config, run, "run_pretraining", CheckpointConfig(num_to_keep=1), show)
        join(run.uri)
        outcome = {"schema": SCHEMA, **effort(run, config, seconds)}
        return outcome | {"weights": result["weights"], "skipped_images": result["skipped_images"]}

    weights: dict[str, Any] = alone(run, work, show, take_over)["weights"]
    return weights


def alone(run: RunDirectory, work: Callable[[], dict[str, Any]], show: Show, take_over: bool) -> dict[str, Any]:
    """The outcome of a run: the one that is there, or what `work` makes while no other command works on it."""
    finished = run.read_json("outcome.json")
    if finished is None:
        with lease.held(run.uri, show, take_over=take_over):
            finished = run.read_json("outcome.json")  # of a command that has just ended
            if finished is None:
                finished = work()
                run.write_json("outcome.json", finished)
    return finished


def prepare(config: Config, show: Show, *, trial: bool = False) -> Prepared:
    """Everything that can be known before the first step; UsageError naming what is wrong. Writes nothing.

    Ray is started only where RAY_ADDRESS names a cluster, to see what it has. A `trial` is nothing to a ledger.
    """
    objects.configure(config.storage)
    run, data = RunDirectory(config.run.uri), DataSet.open(config.data.uri)
    tasks = resolve(config.task, data.attributes)
    check_per_task(config, tasks)
    check_examples(config, data, tasks)
    here = room(show, growing=config.run.autoscaling)
    config = recorded.located(placed(config, here))
    preflight(config, data, tasks, here, show)
    run.check(config)
    confidence = config.select.confidence if trial else recorded.check(config, run, data, tasks, show)
    return Prepared(config, run, data, tasks, confidence)


def finetune(config: Config, show: Show, take_over: bool = False) -> dict[str, Any]:
    """One constrained cycle; writes certificate.json and, last, outcome.json, and returns the outcome.

    Goes on from the last checkpoint where the run directory holds one of the same config. `take_over` as in `pretrain`.
    """
    ready = prepare(config, show)
    ready.run.claim(ready.config)

    def work() -> dict[str, Any]:
        beside = spare(ready.config, room(show, growing=False))
        if beside:
            note = "the machines have room for one more worker: candidates are measured on val there, beside the steps"
            show({"event": "note", "note": note})
        return _cycle(ready, show, ready.run.path("old"), beside=beside)

    outcome = alone(ready.run, work, show, take_over)
    recorded.keep(ready.config, ready.run, show)
    return outcome


def cell(
    config: Config, show: Show, old: str, monitor: Any, *, trial: bool = False, nearest: bool = False
) -> dict[str, Any]:
    """As `finetune`, for a search or a study, which holds the lease of what it works on.

    `old` is the folder of the old model's results, which cells share. Through `monitor` it may be stopped. The outcome
    of a `trial` is chosen on val and has no certificate. With `nearest` a cycle that chooses nothing has one, of the
    candidate nearest to a choice; its outcome is the old model all the same.
    """
    ready = prepare(config, show, trial=trial)
    ready.run.claim(ready.config)
    outcome = ready.run.read_json("outcome.json")
    if outcome is None:
        outcome = _cycle(ready, show, old, monitor, trial=trial, nearest=nearest)
        ready.run.write_json("outcome.json", outcome)
    return outcome


def _cycle(
    ready: Prepared,
    show: Show,
    old: str,
    monitor: Any = None,
    *,
    trial: bool = False,
    nearest: bool = False,
    beside: bool = False,
) -> dict[str, Any]:
    """The outcome of a cycle that has none yet; writes certificate.json."""
    config, run, use = ready.config, ready.run, None
    if not trial:
        show({"event": "note", "note": ready.outlook})
        use = recorded.reserve_test(config, run, ready.data)
    spending = recorded.spending(config, use)
    keep = CheckpointConfig(num_to_keep=KEPT, checkpoint_score_attribute="score")
    given: dict[str, str | bool] = {"old": old, "trial": trial, "nearest": nearest, "beside": beside}
    result, seconds = _fit(spending, run, "run_cycle", keep, show, monitor, **given)
    join(run.uri)
    outcome = conclude(config, run, ready.data, result, use) | effort(run, config, seconds)
    outcome |= {"solver": config.constraints.solver, "seed": config.run.seed}
    return outcome | {"skipped_images": result["skipped_images"]}


def certify_winner(
    config: Config, run: RunDirectory, winner: str, choice: dict[str, Any], show: Show
) -> dict[str, Any]:
    """The verdict on a search's winner, from the one measurement of test, in the form of an outcome.

    `config` is the winning trial's, `run` the search's directory, `winner` its weights or a checkpoint, `choice` its
    step, alpha and record on val.
    """
    objects.configure(config.storage)
    data = DataSet.open(config.data.uri)
    use = recorded.reserve_test(config, run, data)
    here = copy.deepcopy(recorded.spending(config, use))
    here.run.uri = run.uri
    here = placed(here, room(show, growing=here.run.autoscaling))
    result, _ = _fit(here, run, "run_certification", CheckpointConfig(num_to_keep=1), show, winner=winner)
    join(run.uri)  # a store that was away left a record
    return conclude(config, run, data, result | {"choice": choice}, use) | {"skipped_images": result["skipped_images"]}


def preflight(config: Config, data: DataSet, tasks: Tasks | None, room: Room, show: Show) -> None:
    """What would fail later is found before anything expensive starts; a pretraining has no tasks."""
    net = open_net(config, tasks.heads if tasks else [])
    net.check_prompts(tasks.label_sets if tasks else {})
    if net.note:
        show({"event": "note", "note": net.note})
    net.freeze(config.model.freeze.image, config.model.freeze.text)
    if config.data.image_size not in {0, net.image_size}:
        raise UsageError(
            f"data.image_size={config.data.image_size}: {net.identity.called} takes {net.image_size} pixels; "
            "leave it out or give that"
        )
    require_memory(config, room, net.image_size)
    data.check()


def _fit(
    config: Config,
    run: RunDirectory,
    loop: Loop,
    keep: CheckpointConfig,
    show: Show,
    monitor: Any = None,
    **given: str | bool,
) -> tuple[dict[str, Any], float]:
    """Run a loop on the workers, with `given`; (rank 0's result, seconds). Errors of the user's stay themselves."""
    objects.configure(config.storage, show)  # from here on a store that is gone is waited for
    start_ray(show)
    monitor = monitor or new_monitor()
    filesystem, path = storage.resolve(run.path("checkpoints"))
    if storage.is_local(run.uri):
        given["claimed"] = storage.sha256(run.read("config.yaml") or b"")
    settings = {"loop": loop, "config": located(config), "monitor": monitor, **given}
    trainer = TorchTrainer(
        entry.loop,
        train_loop_config=settings,
        validation_config=_validation(settings) if given.get("beside") else None,
        # Workers on GPUs tell each other of the run itself past what these are computing.
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if config.run.gpus_per_worker else "gloo",
            timeout_s=max(1, round(config.run.timeout)),
        ),
        scaling_config=_scaling(config),
        run_config=RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=keep,
            failure_config=FailureConfig(max_failures=config.run.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[entry.EndAtOnce(), entry.Starts(monitor)],  # type: ignore[list-item]
        ),
    )
    begin = time.perf_counter()
    with kept(signal.SIGINT), on_sigterm(monitor.stop.remote), Follower(monitor, show, config.run):
        try:
            result: dict[str, Any] = cast(Any, trainer.fit()).return_value
        except ControllerError as error:
            raise error.controller_failure from error
        except SystemExit:  # what Ray makes of Ctrl-C
            raise KeyboardInterrupt from None
        except WorkerGroupError as error:
            rank, failure = min(error.worker_failures.items(), key=lambda item: item[0])
            last = str(failure).strip().splitlines()[-1]
            late = ray.get(monitor.late.remote(list(error.worker_failures)))
            raise RaymdsError(f"worker {rank} failed and run.max_failures is used up: {last}; {late}") from error
    return result, time.perf_counter() - begin


def _validation(settings: dict[str, Any]) -> ValidationConfig:
    """With what a worker has, so that the same numbers come out; a process or a machine that is lost is no answer."""
    asked = per_worker(settings["config"])
    options = {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0), "max_retries": -1}
    return ValidationConfig(partial(entry.validate, settings=settings), ray_remote_kwargs=options)


def new_monitor() -> Any:
    """A run's monitor, on this node, which the run can't lose without losing its driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return cast(Any, ray.remote(num_cpus=0)(Monitor)).options(scheduling_strategy=here).remote()


def _scaling(config: Config) -> ScalingConfig:
    run = config.run
    return ScalingConfig(
        num_workers=(run.min_workers, run.workers) if run.min_workers else run.workers,
        use_gpu=bool(run.gpus_per_worker),
        resources_per_worker=per_worker(config),
        placement_strategy=run.placement.upper(),
    )


@contextlib.contextmanager
def quiet_tune(stop: Callable[[], None]) -> Iterator[str]:
    """Tune without its tables, with a folder for files that nobody needs, and with `stop` at SIGTERM."""
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
    }
    with tempfile.TemporaryDirectory(prefix="raymds-tune-", ignore_cleanup_errors=True) as folder, on_sigterm(stop):
        yield folder
