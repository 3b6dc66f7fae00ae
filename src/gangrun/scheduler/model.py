"""What a scheduler says of a job, in one vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FINAL_STATES = frozenset(
    {
        "COMPLETED",
        "FAILED",
        "TIMEOUT",
        "CANCELLED",
        "PREEMPTED",
        "NODE_FAIL",
        "BOOT_FAIL",
        "OUT_OF_MEMORY",
        "DEADLINE",
        "REVOKED",
    }
)
"""States from which a job does not come back by itself. PREEMPTED is one only where the job is not requeued; a
requeued job shows PENDING. Every other word, a state of a Slurm not yet written included, means: alive."""
QUEUED_AGAIN = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"})
"""Those of them that a job may show for a moment before Slurm queues it again."""

PROCESS = "local-"
"""What the id of a job begins with that is a process of one machine."""
_JOB = re.compile(rf"(?:[1-9][0-9]*(?:[_+.][0-9]+)?|{PROCESS}[0-9]+-[0-9]+)\Z")


def is_job(text: str) -> bool:
    """Whether this can be the id of a job, or of a task of an array."""
    return bool(_JOB.match(text))


@dataclass(frozen=True, slots=True)
class Status:
    """One job as its scheduler describes it now."""

    job: str
    state: str
    """Slurm's long state in capitals, without suffixes such as `CANCELLED by 0`."""
    name: str = ""
    reason: str = ""
    """Slurm's own word for why it waits or ended, empty where it says `None`."""
    nodes: str = ""
    """The node list in Slurm's notation."""
    exit_code: int | None = None
    """The batch script's exit code where the scheduler gives it without doubt. sacct does not from 128 upwards."""
    signal: int | None = None
    submitted: float | None = None
    started: float | None = None
    """Seconds since the epoch; for a pending job the estimate, if there is one."""
    ended: float | None = None
    restarts: int | None = None
    partition: str = ""
    time_limit: int | None = None
    """Seconds."""

    @property
    def final(self) -> bool:
        """Whether the job has ended for good."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class Submission:
    """One script to queue."""

    name: str
    """The run id, which becomes the job's name."""
    script: Path
    flags: tuple[str, ...] = ()
    """Further words of the user for sbatch; they win over the script's header."""


class Scheduler(Protocol):
    """The seam to whatever runs jobs. Every call is bulk: its cost does not grow with the number of runs."""

    def submit(self, submission: Submission) -> str:
        """Queues and returns the job id. Raises Rejected, Unreachable or ProgramMissing."""

    def status(self, jobs: Sequence[str]) -> Mapping[str, Status]:
        """What is known of these jobs; an unknown job is absent, which does not mean that it is dead."""

    def find(self, names: Sequence[str]) -> Mapping[str, Status]:
        """The newest job under each of these names, as far as the scheduler still knows them."""

    def cancel(self, jobs: Sequence[str]) -> None:
        """Asks for the end of these jobs, or of single steps `JOB.STEP`; what has ended already is no error."""
