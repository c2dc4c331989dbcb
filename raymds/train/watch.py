"""What watches a run from outside its workers. Ray imports this in processes of its own: it has to stay light."""

from typing import Any

from ray.train.v2.api.callback import UserCallback

from raymds.errors import RaymdsError


class Monitor:
    """Receives rank 0's records; an actor, because the workers may be on other machines."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []

    def push(self, record: dict[str, Any]) -> None:
        """Take a record."""
        self._records.append(record)

    def drain(self) -> list[dict[str, Any]]:
        """The records since the last call."""
        records, self._records = self._records, []
        return records


class EndAtOnce(UserCallback):
    """Ends a run at an error that would come again; workers that die of anything else are started again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the worker's error in Ray's controller, which tries nothing again after that."""
        causes = [getattr(error, "cause", error) for _, error in sorted(worker_exceptions.items())]
        for cause in causes:
            if isinstance(cause, RaymdsError):
                raise cause
