"""Work on many rows, part by part, by all devices of the Ray cluster that was joined."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import pyarrow as pa

from raymds.errors import RaymdsError

_PART, _LEAST = 1024, 64  # rows that a worker gets at a time: at most, and at least
_CORES = 4  # of a worker without a GPU, at most: each has a model and some of the data in memory
_PATIENCE = 60.0  # seconds until somebody is told for what it waits
_AGAIN = 3  # times that a worker is made again, and a part given out again

Worker = Callable[[Any], Iterator[Any]]  # a table of rows → tables
Machines = Sequence[tuple[Mapping[str, float], float]]  # what one has, by Ray's names, and how many such there may be


def on_cluster(
    worker: Callable[..., Worker],
    arguments: tuple[Any, ...],
    rows: int,
    part: Callable[[range], Any],
    show: Callable[[dict[str, Any]], None],
    machines: Machines | None = None,
) -> Iterator[Any]:
    """What workers make of `part(numbers)`, a table of consecutive rows each: a table for each, as they come.

    `worker(*arguments, threads)` is made once on each device. One whose machine is lost is made again, on another.
    What it raises that a user can mend comes out as itself, anything else as RaymdsError. `machines`: those that are
    there, unless a cluster that starts them on demand has others. `show` is told for what it waits.
    """
    import ray  # noqa: PLC0415 - takes seconds, and one machine needs none of it

    there = [(node["Resources"], 1) for node in cast(Any, ray).nodes() if node["Alive"]]
    devices, cores, gpus = _devices(machines or there)
    size = min(_PART, max(_LEAST, math.ceil(rows / (4 * devices))))  # the last ones are not waited for long
    parts = iter([range(start, min(start + size, rows)) for start in range(0, rows, size)])
    left = workers = math.ceil(rows / size)
    actor: Any = ray.remote(num_cpus=cores, num_gpus=gpus, max_restarts=_AGAIN, max_task_retries=_AGAIN)(_Guarded)
    # One gets a part when it is there, so no part waits where somebody else has the device. Nobody holds one without
    # work: its device is free for one whose machine was lost.
    running: dict[Any, Any] = {}
    for _ in range(int(min(devices, workers))):
        made = actor.remote(partial(worker, *arguments, cores), gpus)
        running[made.__ray_ready__.remote()] = made
    del made
    begun = False
    try:
        while left:
            finished, _ = ray.wait([*running], num_returns=1, timeout=_PATIENCE)
            if not finished and not begun:
                words = f"waiting for a machine with {cores} CPUs and {gpus} GPUs to spare"
                show({"event": "phase", "phase": words})
            for reference in finished:
                begun, found = True, ray.get(reference)
                if isinstance(found, RaymdsError):
                    raise found
                free, numbers = running.pop(reference), next(parts, None)
                if numbers:
                    running[free.work.remote(part(numbers))] = free
                del free
                if isinstance(found, pa.Table):
                    left -= 1
                    yield found
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RaymdsError(f"a worker of the cluster failed: {lines[-1]}") from error


class _Guarded:
    """A worker whose user's errors are returned, as Ray would wrap them."""

    def __init__(self, make: Callable[[], Worker], gpus: int) -> None:
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPUs from those who asked for none
        self._make = make
        self._made: Worker | None = None

    def work(self, part: Any) -> Any:
        """All tables of a part in one, or the error."""
        try:
            self._made = self._made or self._make()
            return pa.concat_tables(self._made(part))
        except RaymdsError as error:
            return error


def _devices(machines: Machines) -> tuple[float, int, int]:
    """How many workers there may be, and how many cores and GPUs each has: a GPU each where there are any.

    A cluster that starts machines on demand may have none yet.
    """
    used = [(int(m["CPU"]), int(m.get("GPU", 0)), count) for m, count in machines if count and m.get("CPU", 0) >= 1]
    with_gpus = [machine for machine in used if machine[1]]
    if with_gpus:
        # As many cores as each machine has for each of its GPUs; a head without any has others.
        cores = max(1, min(cpus // gpus for cpus, gpus, _ in with_gpus))
        return sum(min(gpus, cpus // cores) * count for cpus, gpus, count in with_gpus), cores, 1
    cores = min([_CORES, *(cpus for cpus, _, _ in used)])
    return max(1, sum(cpus // cores * count for cpus, _, count in used)), cores if used else 1, 0
