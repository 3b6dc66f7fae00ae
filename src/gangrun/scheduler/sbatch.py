"""sbatch: what to run for a submission, and what its answer means. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gangrun.scheduler.commands import Answer
from gangrun.scheduler.model import Submission
from gangrun.scheduler.text import epoch, without_prefix

_ID = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S*)?")

# Only this says that nothing was sent. After every other failure the controller may have taken the job in.
_NOTHING_SENT = re.compile(r"\(connect failure\)|sleeping and retrying|Resource temporarily unavailable")

# sbatch itself tries again, with growing pauses, for 120 s.
QUEUE_FULL = re.compile(r"sleeping and retrying|job queue full")

# 26.05 writes a stray letter behind the time.
_START = re.compile(r"Job \d+ to start at (\S+)(?: \w)? using ")

# Of a job that could not start in its partition as things are, Slurm says 2282.
_NEVER = 10 * 365 * 86400.0

_PASSING = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Zero Bytes were transmitted"
    r"|Connection (?:refused|reset|timed out)"
    r"|Communication (?:connection|shutdown) failure|Message (?:send|receive) failure|Unexpected message received"
    r"|Transport endpoint is not connected|Header lengths are longer|Insane message length|Unspecified error"
    r"|Resource temporarily unavailable|sleeping and retrying|Rate limit exceeded|in standby mode"
    r"|[Aa]uthentication (?:error|credential)|Unable to connect to database"
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Queued under this id."""

    job: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Not this job, in Slurm's own words; nothing was queued."""

    words: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """No answer that settles it, in Slurm's own words."""

    words: str
    sent: bool
    """Whether the job may have reached the controller."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a job would start, or why it would not."""

    start: float | None
    """Seconds since the epoch; None where it would not."""
    words: str = ""
    """Why it would not, in Slurm's own words."""


Outcome: TypeAlias = Accepted | Refused | Unclear


def submit(submission: Submission) -> list[str]:
    """The user's words come after ours and before the script, so they win over the script's #SBATCH lines."""
    return ["sbatch", "--parsable", *submission.flags, str(submission.script)]


def test(flags: Sequence[str], partition: str) -> list[str]:
    """Asks when a job with these flags would start in a partition. Nothing is queued, though an id is used up."""
    return ["sbatch", "--test-only", *flags, f"--partition={partition}", "--wrap=:"]


def forecast(answer: Answer, now: float) -> Forecast:
    """What an answer of `test` means, which Slurm gives on stderr."""
    if (found := _START.search(answer.err)) and (start := epoch(found[1])) is not None:
        return Forecast(start) if start < now + _NEVER else Forecast(None, "no start is in sight")
    words = "; ".join(dict.fromkeys(without_prefix(answer.err.splitlines())))
    return Forecast(None, words or f"sbatch ended with {answer.code} without a word")


def passing(words: str) -> bool:
    """Whether these words of any command of Slurm tell of a trouble between it and the controller, not of the job."""
    return bool(_PASSING.search(words))


def outcome(answer: Answer) -> Outcome:
    """What an answer of `submit` means for the job."""
    words = "\n".join(without_prefix(answer.err.splitlines()))
    if answer.code == 0:
        # From the end: a site's submit plugin may print above it. `;` separates the cluster's name.
        for line in reversed(answer.out.splitlines()):
            if match := _ID.fullmatch(line.strip()):
                return Accepted(match.group(1))
        return Unclear(words or "sbatch gave no job id", sent=True)
    if answer.code is None or answer.code < 0:
        how = "sbatch did not answer in time" if answer.code is None else f"sbatch was ended by signal {-answer.code}"
        return Unclear(f"{words}\n{how}".strip(), sent=True)
    if not words or passing(words):
        return Unclear(words or f"sbatch ended with {answer.code} without a word", not _NOTHING_SENT.search(words))
    return Refused(words)
