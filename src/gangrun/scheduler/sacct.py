"""sacct: what accounting knows, which outlives the controller's memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gangrun.scheduler.model import FINAL_STATES, Status
from gangrun.scheduler.rows import Row, end_of
from gangrun.scheduler.text import blank, epoch, job_base, seconds, state, wait_status

# An unknown field is fatal, and Restarts came after 22.05. The name stands last, as it alone may hold a bar.
_FIELDS = (
    "JobID", "JobIDRaw", "State", "ExitCode", "Submit", "Start", "End", "Timelimit", "Partition", "NodeList",
    "JobName",
)  # fmt: skip

# How far back a name is looked for. Without --starttime sacct looks at today only; a date long ago makes large sites
# answer "Too wide of a date range in query".
NAME_DAYS = 30

DISABLED = "accounting storage is disabled"


def by_job(jobs: Sequence[str]) -> list[str]:
    """These jobs since ever (the default with --jobs), the last life of a requeued one, without its steps."""
    return [*_listing(), f"--jobs={','.join(jobs)}"]


def by_name(names: Sequence[str], user: int) -> list[str]:
    """The jobs of this user (a uid) under these names in the last NAME_DAYS days."""
    return [*_listing(), f"--user={user}", f"--starttime=now-{NAME_DAYS}days", f"--name={','.join(names)}"]


def _listing() -> list[str]:
    return ["sacct", "--allocations", "--noheader", "--parsable2", f"--format={','.join(_FIELDS)}"]


def rows(text: str) -> Iterator[Row]:
    """One row per job or array task. Notices are passed over."""
    for line in text.splitlines():
        cells = line.split("|", len(_FIELDS) - 1)
        if len(cells) < len(_FIELDS) or job_base(cells[0]) is None:
            continue
        job, raw, word, code, submitted, start, end, limit, partition, nodes, name = cells
        now = state(word)
        final = now in FINAL_STATES
        exit_code, signal = _end(now, code) if final and blank(nodes) else (None, None)
        yield Row(
            raw,
            Status(
                job=job,
                state=now,
                name=name,
                nodes=blank(nodes),
                exit_code=exit_code,
                signal=signal,
                submitted=epoch(submitted),
                started=epoch(start) if blank(nodes) else None,
                ended=epoch(end) if final else None,
                partition=blank(partition),
                time_limit=seconds(limit),
            ),
        )


def _end(now: str, code: str) -> tuple[int | None, int | None]:
    """sacct takes 128 off every exit code from 128 upwards (`15:0` for 143 in 20.11, 22.05 and 24.11; 26.05 does so
    no more), so a code from 1 to 127 may be either."""
    exit_code, signal = end_of(now, wait_status(code))
    return (None if exit_code and exit_code < 128 else exit_code), signal
