"""Following many jobs with one question per look, however many they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import sleep

from gangrun.errors import Unreachable
from gangrun.scheduler.commands import silent
from gangrun.scheduler.model import Scheduler, Status


class Watch(Iterator[dict[str, Status]]):
    """Yields what has changed since the last look, by job id, until every job has ended or was dropped.

    The first look is at once, the next `first` seconds later, and each pause is `growth` times the one before, up to
    `longest` (submitit waits 2, 4, 8 … 60 s; some sites allow one squeue in 120 s). Jobs that have ended are not asked
    for again. A scheduler that does not answer is told to `say` and asked again; what is known stays known.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        jobs: Iterable[str],
        *,
        first: float = 2.0,
        longest: float = 60.0,
        growth: float = 2.0,
        say: Callable[[str], None] = silent,
    ) -> None:
        self._scheduler = scheduler
        self._waiting = dict.fromkeys(jobs)
        self._pause = 0.0
        self._first = first
        self._longest = longest
        self._growth = growth
        self._say = say
        self.known: dict[str, Status] = {}
        """The last that was heard of each job."""
        self.missing: frozenset[str] = frozenset()
        """Jobs that the scheduler did not name at the last look. They may live all the same."""

    def drop(self, job: str) -> None:
        """Asks for this job no more, because its record has told its end."""
        self._waiting.pop(job, None)

    def __next__(self) -> dict[str, Status]:
        """Waits, looks, and gives what changed, which may be nothing."""
        if not self._waiting:
            raise StopIteration
        sleep(self._pause)
        self._pause = min(self._pause * self._growth or self._first, self._longest)
        asked = list(self._waiting)
        try:
            heard = self._scheduler.status(asked)
        except Unreachable as error:
            self._say(str(error))
            return {}
        self.missing = frozenset(asked) - frozenset(heard)
        changed = {job: status for job, status in heard.items() if self.known.get(job) != status}
        self.known |= changed
        for job, status in heard.items():
            if status.final:
                self.drop(job)
        return changed
