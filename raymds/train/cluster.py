"""The Ray cluster that a command works on: joined, or started here. Commands without a model import no torch by it."""

import copy
import logging
import math
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, cast

import ray
from ray._common.utils import get_system_memory
from ray._private.state import state
from ray._private.utils import get_num_cpus

from raymds.config import Config
from raymds.errors import RaymdsError, UsageError
from raymds.store import uri as storage
from raymds.train.placement import Room
from raymds.train.stop import kept

_SAID = 400  # characters of Ray's message
_ANSWER = 10.0  # seconds that a cluster has to answer in

Show = Callable[[dict[str, Any]], None]


def named() -> bool:
    """Whether the environment names a cluster that can be joined: what trains nothing leaves Ray alone without one."""
    address = os.environ.get("RAY_ADDRESS", "")
    return bool(address) and ("://" not in address or address.startswith("local"))


def start_ray(show: Show) -> None:
    """Join the cluster of RAY_ADDRESS or start a local one, with Ray's own output in its log files.

    UsageError where RAY_ADDRESS is no cluster's that can be joined, RaymdsError where Ray does not start here.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if ray.is_initialized():
        return
    if "://" in address and not address.startswith("local"):
        raise UsageError(
            f"RAY_ADDRESS={address}: is for jobs or clients; a cluster is joined at HOST:6379, and not from a machine "
            "outside it: unset it, or use raymds submit"
        )
    _require_answer(address)
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
    environment = {"env_vars": variables} if address else None
    try:
        with kept(signal.SIGTERM):
            context: Any = ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
    except Exception as error:  # Ray's own are of every kind
        said = " ".join(str(error).split())[:_SAID] or type(error).__name__
        if address:
            raise UsageError(f"RAY_ADDRESS={address}: no cluster of it can be joined: {said}") from None
        raise RaymdsError(f"Ray does not start: {said}; its logs are in session_latest/logs of /tmp/ray") from None
    show({"event": "ray", "logs": f"{context.address_info['session_dir']}/logs"})


def _require_answer(address: str) -> None:
    """UsageError where nothing answers at HOST:PORT: Ray would try again for ten minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):  # auto, local
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"RAY_ADDRESS={address}: no cluster of it can be joined, as nothing answers there ({error}); start it, "
            "give the address of another one, or unset the variable to work on this machine"
        ) from None


def room(show: Show, *, growing: bool) -> Room:
    """The machines of the cluster that is joined, or this one where none is; `growing`: those that it may start."""
    if not (ray.is_initialized() or os.environ.get("RAY_ADDRESS")):
        import torch  # noqa: PLC0415

        here = {"CPU": cpus(), "GPU": torch.cuda.device_count(), "memory": get_system_memory()}
        return Room(((here, 1),))
    start_ray(show)
    there = tuple((node["Resources"], 1.0) for node in cast(Any, ray).nodes() if node["Alive"])
    if not growing:
        return Room(there)
    # What Ray Train looks at, too. Not every autoscaler says it: those of KubeRay and `ray up` do not.
    config: Any = state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    kinds = tuple((dict(g.resources), math.inf if g.max_count == -1 else float(g.max_count)) for g in groups)
    return Room(kinds or there, known=bool(kinds))


def cpus() -> int:
    """Cores that this process may use: as many as Ray counts, which knows a container's quota, and is bound to."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else math.inf  # macOS has none
    return int(max(1, min(bound, get_num_cpus(override_docker_cpu_warning=True))))


def located(config: Config) -> Config:
    """The config with absolute URIs: a worker, or a trial of a search, has another current directory."""
    located = copy.deepcopy(config)
    located.data.uri, located.run.uri = storage.absolute(config.data.uri), storage.absolute(config.run.uri)
    if config.data.cache:
        located.data.cache = storage.absolute(config.data.cache)
    if config.model.weights:
        located.model.weights = storage.absolute(config.model.weights)
    return located
