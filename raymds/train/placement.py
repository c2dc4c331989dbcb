"""How many workers a run gets and what each holds, from the config and the machines of the cluster."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

from raymds.config import Config, check
from raymds.errors import UsageError
from raymds.ranges import SMALLEST
from raymds.run import RunDirectory


@dataclass(frozen=True)
class Room:
    """The machines of a cluster; where it starts them on demand, those that it may have."""

    machines: tuple[tuple[Mapping[str, float], float], ...]
    """CPUs, GPUs and bytes of memory of one machine, and how many of that kind there may be.

    Infinitely many where nothing says.
    """
    known: bool = True
    """False: it starts machines on demand and does not say which; `machines` are those that are there."""

    def holds(self, cpus: float, gpus: float) -> float:
        """How many workers fit, each on one machine."""
        asked = {"CPU": cpus, "GPU": gpus}
        # A hair more than the quotient: ten tenths of a GPU are one.
        each_holds = [
            (min(math.floor(machine.get(name, 0.0) / each + 1e-9) for name, each in asked.items() if each), count)
            for machine, count in self.machines
        ]
        return sum(workers * count for workers, count in each_holds if workers and count)

    def total(self, name: str) -> float:
        """CPUs or GPUs of all machines."""
        return sum(count * machine[name] for machine, count in self.machines if count and machine.get(name))

    def cpus_beside(self, gpus: float) -> float:
        """How many CPUs a worker with so many GPUs may have so that all GPUs are used: 1 or more, on any machine."""
        found = [
            math.floor(machine.get("CPU", 0.0) * gpus / machine["GPU"] + 1e-9)
            for machine, count in self.machines
            if count and machine.get("GPU", 0.0) >= gpus > 0
        ]
        return max(1.0, min(found, default=1.0))

    def __str__(self) -> str:
        """Its kinds of machine in words."""
        kinds: dict[tuple[float, float], float] = {}
        for machine, count in self.machines:
            size = machine.get("CPU", 0.0), machine.get("GPU", 0.0)
            kinds[size] = kinds.get(size, 0.0) + count
        words = [
            f"{'any number of machines' if math.isinf(count) else f'{count:g}'} with {cpus:g} CPUs and {gpus:g} GPUs"
            for (cpus, gpus), count in kinds.items()
            if count
        ]
        return "; ".join(words) or "none"


def placed(config: Config, room: Room, runs: int = 1) -> Config:
    """The config with numbers where it leaves the choice to the cluster, of which each of `runs` has a share.

    UsageError naming the key that asks for more than there is, or that can't be left open. A run that was begun keeps
    its precision, whatever machines there are now.
    """
    config = copy.deepcopy(config)
    check(config)
    run = config.run
    if run.gpus_per_worker is None:
        if not room.known and not room.total("GPU"):
            raise _open("run.gpus_per_worker", "0 or 1", room)
        run.gpus_per_worker = 1.0 if room.total("GPU") else 0.0
    if config.select.precision == "tf32" and not run.gpus_per_worker:
        raise UsageError("select.precision=tf32: is a precision of GPUs, and run.gpus_per_worker is 0; give fp32")
    if run.cpus_per_worker is None:
        run.cpus_per_worker = room.cpus_beside(run.gpus_per_worker)
    if run.precision is None:
        begun = RunDirectory(run.uri).precision() if run.uri else None
        run.precision = begun or ("bf16" if run.gpus_per_worker else "fp32")
    fit = room.holds(run.cpus_per_worker, run.gpus_per_worker)
    if run.workers == 0:
        if not room.known:
            raise _open("run.workers", "a number", room)
        positives = round(config.objective.batch * config.objective.positive_share)
        share = int(min(fit / runs, positives, config.objective.batch - positives))
        run.workers = max(1, run.min_workers, share)
    check(config)
    needed = run.min_workers or run.workers
    if needed > fit and room.known:
        raise UsageError(_too_many(config, needed, int(fit), room))
    return config


def require_memory(config: Config, room: Room, size: int) -> None:
    """UsageError where a worker's pairs of a step, of images `size` pixels wide, are more than any machine's memory."""
    batch, workers = config.objective.batch, config.run.workers
    needs = math.ceil(batch / workers) * 3 * size**2  # a byte per colour and pixel
    most = max((machine.get("memory", math.inf) for machine, count in room.machines if count), default=math.inf)
    if needs > most:
        raise UsageError(
            f"objective.batch={batch}: a step's images are {needs / 2**30:,.0f} GiB for each of {workers} workers, and "
            f"no machine has more memory than {most / 2**30:,.0f} GiB; lower it, or raise run.workers"
        )


def spare(config: Config, room: Room) -> bool:
    """Whether the machines hold, beside the workers of a placed config, what measures its candidates: one worker more.

    Not where a run takes as many workers as there are, or a cluster starts machines for what is asked.
    """
    run = config.run
    fixed = not (run.min_workers or run.autoscaling)
    several = config.select.every < config.optim.steps  # the last candidate is measured by the workers
    return fixed and several and room.holds(run.cpus_per_worker or 1.0, run.gpus_per_worker or 0.0) > run.workers


def per_worker(config: Config) -> dict[str, float]:
    """What Ray is asked for each worker, of a placed config.

    How many workers an elastic run may have, Ray finds by adding shares and dividing the sum, and ten tenths added are
    less than one: such a run would wait for its last worker for ever. Sums of binary fractions are exact.
    """
    run = config.run
    asked = {"CPU": run.cpus_per_worker or 1.0} | ({"GPU": run.gpus_per_worker} if run.gpus_per_worker else {})
    if not run.min_workers:
        return asked
    return {name: max(SMALLEST, math.floor(share * 2**32) / 2**32) for name, share in asked.items()}


def _open(key: str, give: str, room: Room) -> UsageError:
    return UsageError(
        f"{key}: can't be left open with run.autoscaling on a cluster that doesn't say which machines it may start "
        f"(there are now: {room}); give {give}"
    )


def _too_many(config: Config, needed: int, fit: int, room: Room) -> str:
    run = config.run
    key = f"run.min_workers={run.min_workers}" if run.min_workers else f"run.workers={run.workers}"
    each = f"{run.cpus_per_worker:g} CPUs" + (f" and {run.gpus_per_worker:g} GPUs" if run.gpus_per_worker else "")
    there = f"the cluster grows to machines: {room}" if run.autoscaling else f"machines: {room}"
    if fit:
        mend = f"lower {key.partition('=')[0]} to {fit}"
    else:
        mend = "lower run.cpus_per_worker or run.gpus_per_worker, or add machines"
    demand = "" if run.autoscaling else ", or set run.autoscaling where the cluster starts machines on demand"
    return f"{key}: asks for {needed} workers with {each} each, {fit or 'none'} of them fit ({there}); {mend}{demand}"


def concurrent(config: Config, room: Room) -> tuple[Config, int]:
    """The placed config of each trial of a search, and how many trials there are room for at a time.

    At most `search.concurrency`, never more than fit: trials that wait for each other's workers would wait for ever.
    """
    asked = config.search.concurrency
    config = placed(config, room, runs=max(1, asked))
    run = config.run
    fit = max(1.0, room.holds(run.cpus_per_worker or 1.0, run.gpus_per_worker or 0.0) / run.workers)
    if not room.known:
        fit = max(fit, asked)
    return config, int(min(asked or config.search.trials, fit))
