"""From the rows that squeue and sacct print to one status per job that was asked for. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gangrun.scheduler.model import Status
from gangrun.scheduler.text import job_base


@dataclass(frozen=True, slots=True)
class Row:
    """One job or one task of a job array."""

    raw: str
    """The id that Slurm gives inside the job as SLURM_JOB_ID; differs from `status.job` for array tasks only."""
    status: Status


def end_of(state: str, end: tuple[int, int] | None) -> tuple[int | None, int | None]:
    """(exit code, signal) of a job in this final state, from what Slurm prints as `code:signal`.

    A code of 0 is the script's own only in COMPLETED: Slurm prints 0 for a job killed by a signal too. Numbers above
    64 are no signals (OUT_OF_MEMORY has 125).
    """
    if end is None:
        return None, None
    code, signal = end
    return (code if code or (state == "COMPLETED" and not signal) else None), (signal if 0 < signal <= 64 else None)


def pick(rows: Iterable[Row], jobs: Sequence[str]) -> dict[str, Status]:
    """The status of each job asked for. `85` may be a job, a whole array (folded into one) or an array task's own
    number (its SLURM_JOB_ID), in that order: the last task of an array carries the array's number."""
    exact: dict[str, Status] = {}
    whole: defaultdict[str, list[Status]] = defaultdict(list)
    raw: dict[str, Status] = {}
    for row in rows:
        exact[row.status.job] = row.status
        raw[row.raw] = row.status
        if base := job_base(row.status.job):
            whole[base].append(row.status)
    found: dict[str, Status] = {}
    for job in jobs:
        if job in exact:
            found[job] = exact[job]
        elif job in whole:
            found[job] = _fold(job, whole[job])
        elif job in raw:
            found[job] = replace(raw[job], job=job)
    return found


def newest(rows: Iterable[Row], names: Sequence[str]) -> dict[str, Status]:
    """The job with the highest number under each of these names."""
    wanted = frozenset(names)
    jobs: defaultdict[str, list[Status]] = defaultdict(list)
    for row in rows:
        base = job_base(row.status.job)
        if base and row.status.name in wanted:
            jobs[base].append(row.status)
    return {
        parts[0].name: parts[0] if len(parts) == 1 and parts[0].job == job else _fold(job, parts)
        for job, parts in sorted(jobs.items(), key=lambda item: int(item[0]))
    }


def _fold(job: str, parts: Sequence[Status]) -> Status:
    """Many tasks as one job: alive while one is alive, and then as good as its worst."""
    alive = [part for part in parts if not part.final]
    waiting = [part for part in alive if part.state == "PENDING"]
    if alive:
        lead = next((part for part in alive if part.state != "PENDING"), waiting[0] if waiting else alive[0])
    else:
        lead = next((part for part in parts if part.state != "COMPLETED"), parts[0])
    return replace(
        lead,
        job=job,
        submitted=min((part.submitted for part in parts if part.submitted is not None), default=None),
        started=min((part.started for part in parts if part.started is not None), default=None),
        ended=None if alive else max((part.ended for part in parts if part.ended is not None), default=None),
    )
