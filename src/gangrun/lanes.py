"""How many jobs of a sweep run at once, as dependencies that Slurm itself keeps.

The jobs are dealt out to lanes, one for each that may run at once, and each depends on the end, however it comes, of
the one before it in its lane. Nothing has to stay alive for that, neither a daemon nor the job that ends: Slurm starts
the next one after a crash, a lost node and a time limit as well. Its price is that lanes are settled beforehand: a job
waits for the one before it although another lane may be empty. `gangrun throttle` deals out again what still waits.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Job = TypeVar("Job")


class _Lane(Generic[Job]):
    def __init__(self) -> None:
        self.busy = 0.0
        """Until when, in the units of the estimates."""
        self.last: Job | None = None


class Lanes(Generic[Job]):
    """Deals out jobs in the order in which they are queued. A job on three nodes takes three of the lanes for nodes."""

    def __init__(self, max_parallel: int | None, max_nodes: int | None) -> None:
        self._parallel: list[_Lane[Job]] = [_Lane() for _ in range(max_parallel or 0)]
        self._nodes: list[_Lane[Job]] = [_Lane() for _ in range(max_nodes or 0)]
        self._taken: list[_Lane[Job]] = []
        self._until = 0.0

    def next(self, nodes: int, estimate: float | None = None) -> list[Job]:
        """What the next job has to wait for; `put` then says which job it became."""
        self._taken = []
        for lanes, width in ((self._parallel, 1), (self._nodes, nodes)):
            self._taken += sorted(lanes, key=lambda lane: lane.busy)[:width]
        self._until = max((lane.busy for lane in self._taken), default=0.0) + (estimate or 1.0)
        return list(dict.fromkeys(lane.last for lane in self._taken if lane.last is not None))

    def put(self, job: Job) -> None:
        """The job that takes the lanes which `next` chose."""
        for lane in self._taken:
            lane.last, lane.busy = job, self._until
