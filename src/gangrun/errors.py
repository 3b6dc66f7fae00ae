"""The errors that a user can meet, each with what happened, where, why, and the way out.

::

    GangrunError                    exit code 1
     ├─ InputError                  exit code 2: something you wrote cannot be used
     │   ├─ SpecError               an experiment file or profile, with every problem in it
     │   │   └─ PlacementError      the roles do not fit the allocation
     │   ├─ UsageError              a command line that cannot be meant
     │   └─ RunNotFound             no such run
     ├─ SchedulerError              the scheduler said no, or nothing
     │   ├─ Rejected                it answered: not this job
     │   ├─ Unreachable             it does not answer; trying again later may help
     │   └─ ProgramMissing          its commands are not installed here
     ├─ RecordError                 the run directory cannot be written or read
     └─ LabError                    the throw-away Slurm cannot be built or is not up
"""

from __future__ import annotations

from dataclasses import dataclass


class GangrunError(Exception):
    """Base of all. `what` is one sentence; `where`, `why` and `way_out` are further sentences or empty."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", way_out: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.way_out = way_out

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.way_out:
            lines.append(f"  way out: {self.way_out}")
        return "\n".join(lines)


class InputError(GangrunError):
    """Something that the user wrote cannot be used; nothing was written or sent."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file: where it stands, what it is, and the mend."""

    key: str
    """Key path such as `roles.trainer.gpus`, or empty for the whole file."""
    what: str
    file: str = ""
    line: int = 0
    """1-based; 0 where the value stands in no file (the command line, a default)."""
    way_out: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        head = ": ".join(part for part in (place, self.key, self.what) if part)
        return f"{head} ({self.way_out})" if self.way_out else head


class SpecError(InputError):
    """An experiment file or a profile that cannot be used, with all of its problems at once."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))

    def __str__(self) -> str:
        return self.what


class PlacementError(SpecError):
    """The roles do not fit the allocation; the words carry the numbers."""


class UsageError(InputError):
    """A command line that cannot be meant."""


class RunNotFound(InputError):
    """No run answers to that name."""


class SchedulerError(GangrunError):
    """The scheduler said no, or nothing."""


class Rejected(SchedulerError):
    """The scheduler answered and refused; sending the same again will not help."""


class Unreachable(SchedulerError):
    """The scheduler does not answer; the same may work later."""


class ProgramMissing(SchedulerError):
    """A command of the scheduler is not installed on this machine."""


class RecordError(GangrunError):
    """A run directory cannot be written or read."""


class LabError(GangrunError):
    """The throw-away Slurm of `gangrun lab` cannot be built, or is not up."""
