"""Follows a run from the process that began it, while that waits for Ray Train."""

import threading
import time
from typing import Any, cast

import ray

from raymds.config import RunConfig
from raymds.train.cluster import Show

_POLL = 0.25  # seconds between looks at the monitor
_REMIND = 60.0  # seconds between lines that say what a run waits for


class Follower:
    """Moves records from the monitor to the terminal while `fit` blocks, and says what it waits for."""

    def __init__(self, monitor: Any, show: Show, run: RunConfig) -> None:
        self._monitor, self._show = monitor, show
        gpus = f" and {run.gpus_per_worker:g} GPUs" if run.gpus_per_worker else ""
        self._wanted = f"{run.min_workers or run.workers} workers with {run.cpus_per_worker:g} CPUs{gpus} each"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._drain()

    def _follow(self) -> None:
        reminded = time.monotonic()
        while not self._stop.wait(_POLL):
            self._drain()
            if time.monotonic() - reminded > _REMIND:
                reminded = time.monotonic()
                self._remind()

    def _remind(self) -> None:
        if not ray.get(self._monitor.workers.remote()):
            free: dict[str, float] = cast(Any, ray).available_resources()
            now = f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs are free now"
            self._show({"event": "phase", "phase": f"waiting for {self._wanted}; {now}"})

    def _drain(self) -> None:
        for record in ray.get(self._monitor.drain.remote()):
            self._show(record)
