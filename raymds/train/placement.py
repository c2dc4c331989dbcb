"""How many workers a run gets and what each holds, from the config and what the cluster has."""

import copy
from collections.abc import Mapping

from raymds.config import Config, check
from raymds.errors import UsageError


def placed(config: Config, resources: Mapping[str, float]) -> Config:
    """The config with numbers where it leaves the choice to the cluster.

    `resources` are the CPUs and GPUs of the cluster or this machine. UsageError naming the key that asks for more,
    unless `run.autoscaling` says that machines come when they are asked for.
    """
    config = copy.deepcopy(config)
    run = config.run
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if run.gpus_per_worker is None:
        run.gpus_per_worker = 1.0 if gpus else 0.0
    room = gpus / run.gpus_per_worker if run.gpus_per_worker else cpus / run.cpus_per_worker
    if run.workers == 0:
        positives = round(config.objective.batch * config.objective.positive_share)
        run.workers = max(1, min(int(room), positives, config.objective.batch - positives))
    check(config)
    needed = run.min_workers or run.workers
    for what, each, found in (("GPUs", run.gpus_per_worker, gpus), ("CPUs", run.cpus_per_worker, cpus)):
        if needed * each > found and not run.autoscaling:
            raise UsageError(
                f"run.workers={run.workers}: asks for {needed * each:g} {what}, there are {found:g}; lower run.workers "
                f"to {int(found / each)}, or set run.autoscaling where the cluster starts machines on demand"
            )
    return config
