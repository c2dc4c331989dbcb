"""How many workers a run gets and what each holds, from the config and what the cluster has."""

import copy
from collections.abc import Mapping

from raymds.config import Config, check
from raymds.errors import UsageError
from raymds.run import RunDirectory


def placed(config: Config, resources: Mapping[str, float], runs: int = 1) -> Config:
    """The config with numbers where it leaves the choice to the cluster, of which each of `runs` has a share.

    `resources` are the CPUs and GPUs of the cluster or this machine. UsageError naming the key that asks for more,
    unless `run.autoscaling` says that machines come when they are asked for. A run that was begun keeps its precision,
    whatever machines there are now.
    """
    config = copy.deepcopy(config)
    run = config.run
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if run.gpus_per_worker is None:
        run.gpus_per_worker = 1.0 if gpus else 0.0
    if run.precision is None:
        begun = RunDirectory(run.uri).precision() if run.uri else None
        run.precision = begun or ("bf16" if run.gpus_per_worker else "fp32")
    room = gpus / run.gpus_per_worker if run.gpus_per_worker else cpus / run.cpus_per_worker
    if run.workers == 0:
        positives = round(config.objective.batch * config.objective.positive_share)
        run.workers = max(1, min(int(room / runs), positives, config.objective.batch - positives))
    check(config)
    needed = run.min_workers or run.workers
    for what, each, found in (("GPUs", run.gpus_per_worker, gpus), ("CPUs", run.cpus_per_worker, cpus)):
        if needed * each > found and not run.autoscaling:
            raise UsageError(
                f"run.workers={run.workers}: asks for {needed * each:g} {what}, there are {found:g}; lower run.workers "
                f"to {int(found / each)}, or set run.autoscaling where the cluster starts machines on demand"
            )
    return config


def concurrent(config: Config, resources: Mapping[str, float]) -> tuple[Config, int]:
    """The placed config of each trial of a search, and how many trials there are room for at a time.

    At most `search.concurrency`, never more than fit: trials that wait for each other's workers would wait for ever.
    """
    asked = config.search.concurrency
    config = placed(config, resources, runs=max(1, asked))
    run = config.run
    each = {"CPU": run.workers * run.cpus_per_worker, "GPU": run.workers * (run.gpus_per_worker or 0.0)}
    fit = max(1, min(int(resources.get(name, 0.0) / need) for name, need in each.items() if need))
    if run.autoscaling:
        fit = max(fit, asked)
    return config, min(asked or fit, fit)
