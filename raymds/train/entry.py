"""What Ray Train is given of a run. Its controller imports this in a process of its own: it has to stay light."""

from typing import Any

from ray.train.v2.api.callback import UserCallback

from raymds.errors import RaymdsError


def loop(settings: dict[str, Any]) -> Any:
    """The function of `worker` that the settings name; imported where it runs, as models take a process seconds."""
    from raymds.train import worker  # noqa: PLC0415

    return getattr(worker, settings["loop"])(settings)


class EndAtOnce(UserCallback):
    """Ends a run at an error that would come again; workers that die of anything else are started again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the worker's error in Ray's controller, which tries nothing again after that."""
        causes = [getattr(error, "cause", error) for _, error in sorted(worker_exceptions.items())]
        for cause in causes:
            if isinstance(cause, RaymdsError):
                raise cause
