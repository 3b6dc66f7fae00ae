"""scancel: the graceful end of jobs. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gangrun.scheduler.commands import Answer
from gangrun.scheduler.text import without_prefix

_ENDED = re.compile(r"already completing or completed|Invalid job id specified|Job has already finished")


def cancel(jobs: Sequence[str]) -> list[str]:
    """Plain: Slurm sends CONT and TERM to all, waits KillWait, then KILL."""
    return ["scancel", *jobs]


def complaints(answer: Answer) -> list[str]:
    """What scancel said that matters. A job unknown or ended is none: rc 0 and silence, in most versions."""
    return [line for line in without_prefix(answer.err.splitlines()) if not _ENDED.search(line)]
