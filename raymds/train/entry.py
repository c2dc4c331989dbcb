"""What Ray Train is given of a run. Its controller imports this in a process of its own: it has to stay light."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2.api.callback import UserCallback

from raymds.errors import RaymdsError

_STARTS = 3  # starts in a row that may fail


def loop(settings: dict[str, Any]) -> Any:
    """The function of `worker` that the settings name; imported where it runs, as models take a process seconds."""
    from raymds.train import worker  # noqa: PLC0415

    return getattr(worker, settings["loop"])(settings)


def validate(found: Any, *, settings: dict[str, Any], step: int, threads: int) -> dict[str, Any]:
    """Ray Train's validation of a checkpoint `found`, in a process of its own: `aside.validate`."""
    from raymds.train import aside  # noqa: PLC0415

    return aside.validate(found, settings, step, threads)


class Starts(WorkerGroupCallback):
    """Tells the monitor whether the run has its workers. Machines are waited for without end, broken starts are not.

    Ray Train has one limit for both (`controller_failure_limit`), which is therefore not used.
    """

    def __init__(self, monitor: Any) -> None:
        self._monitor, self._failures = monitor, 0

    @contextmanager
    def on_worker_group_start(self) -> Iterator[None]:
        """Count starts that failed on machines that were there."""
        try:
            yield
        except WorkerGroupStartupFailedError as error:
            self._failures += 1
            if self._failures > _STARTS:
                last = str(error).strip().splitlines()[-1]
                raise RaymdsError(f"the workers did not start, {self._failures} times: {last}") from error
            raise

    def after_worker_group_start(self, worker_group: Any) -> None:
        """The workers are there."""
        self._failures = 0
        self._monitor.staff.remote(len(worker_group.get_workers()))

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        """They are gone; what ended them decides whether there will be others."""
        self._monitor.staff.remote(0)


class EndAtOnce(UserCallback):
    """Ends a run at an error that would come again; workers that die of anything else are started again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the worker's error in Ray's controller, which tries nothing again after that."""
        causes = [getattr(error, "cause", error) for _, error in sorted(worker_exceptions.items())]
        for cause in causes:
            if isinstance(cause, RaymdsError):
                raise cause
