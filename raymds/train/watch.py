"""What watches a run from outside its workers. Ray imports this in processes of its own: it has to stay light."""

import time
from typing import Any


class Monitor:
    """Receives the workers' records and passes on a wish to stop; an actor, as they may be on other machines."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._stop = False
        self._beside = True
        self._workers = 0
        self._seen: dict[int, tuple[int, float]] = {}  # rank -> step it is in, and since when

    def push(self, record: dict[str, Any]) -> None:
        """Take a record."""
        self._records.append(record)

    def drain(self) -> list[dict[str, Any]]:
        """The records since the last call."""
        records, self._records = self._records, []
        return records

    def beat(self, rank: int, step: int) -> bool:
        """A rank begins a step; whether the run is to stop."""
        self._seen[rank] = (step, time.monotonic())
        return self._stop

    def step(self) -> int:
        """The last step that a rank has begun, 0 before the first."""
        return max((step for step, _ in self._seen.values()), default=0)

    def staff(self, workers: int) -> None:
        """The run has so many workers now; 0 while it waits for machines."""
        self._workers = workers

    def workers(self) -> int:
        """How many workers the run has."""
        return self._workers

    def stop(self) -> None:
        """Ask the workers to stop at the next step, with a checkpoint."""
        self._stop = True

    def end_beside(self) -> None:
        """Whoever measures candidates beside the training is to leave them to the workers, as it has ended."""
        self._beside = False

    def beside(self) -> bool:
        """Whether candidates are to be measured beside the training."""
        return self._beside and not self._stop

    def late(self, failed: list[int]) -> str:
        """Which ranks held up the others, and for how long they have not been heard of.

        Those in an earlier step; where all are in one step, those not among the `failed`: a rank that waits for another
        fails of its timeout, one that hangs does not.
        """
        if not self._seen:
            return "no rank had begun a step"
        first = max(step for step, _ in self._seen.values())
        behind = {rank: entry for rank, entry in self._seen.items() if entry[0] < first}
        behind = behind or {rank: entry for rank, entry in self._seen.items() if rank not in failed} or self._seen
        now = time.monotonic()
        parts = [f"rank {rank}: step {step}, {now - at:.0f} s ago" for rank, (step, at) in sorted(behind.items())]
        return "last heard of " + "; ".join(parts)
