"""Work on many rows, part by part, by all devices of the Ray cluster that was joined."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import pyarrow as pa

from raymds.errors import RaymdsError

_PART = 1024  # rows that a worker with a GPU gets at a time; a slow one without has a quarter: the last is waited for
_PATIENCE = 60.0  # seconds until somebody is told for what it waits

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
    size = _PART if gpus else _PART // 4
    parts = [range(start, min(start + size, rows)) for start in range(0, rows, size)]
    actor: Any = ray.remote(num_cpus=cores, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(_Guarded)
    made = [actor.remote(partial(worker, *arguments, cores)) for _ in parts[: int(min(devices, len(parts)))]]
    # One gets a part when it is there: where somebody else has the device, no part waits for it.
    running, left, done = {one.__ray_ready__.remote(): one for one in made}, iter(parts), 0
    begun = False
    try:
        while done < len(parts):
            finished, _ = ray.wait([*running], num_returns=1, timeout=_PATIENCE)
            if not finished and not begun:
                words = f"waiting for a machine with {cores} CPUs and {gpus} GPUs to spare"
                show({"event": "phase", "phase": words})
            if not finished:
                continue
            begun = True
            free, found = running.pop(finished[0]), ray.get(finished[0])
            numbers = next(left, None)
            if numbers:
                running[free.work.remote(part(numbers))] = free
            if isinstance(found, RaymdsError):
                raise found
            if isinstance(found, pa.Table):
                done += 1
                yield found
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise RaymdsError(f"a worker of the cluster failed: {last}") from error


class _Guarded:
    """A worker whose user's errors are returned, as Ray would wrap them."""

    def __init__(self, make: Callable[[], Worker]) -> None:
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
    with_gpus = [(machine, count) for machine, count in machines if count and machine.get("GPU", 0) >= 1]
    if not with_gpus:
        return max(1, sum(int(machine["CPU"]) * count for machine, count in machines if machine.get("CPU"))), 1, 0
    # As many cores as each machine has for each of its GPUs; a head without any has others.
    cores = min(int(machine.get("CPU", 0) // machine["GPU"]) for machine, _ in with_gpus)
    return sum(int(machine["GPU"]) * count for machine, count in with_gpus), max(1, cores), 1
