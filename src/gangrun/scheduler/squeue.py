"""squeue: one row per job that the controller still remembers (MinJobAge, 300 s, after its end). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gangrun.scheduler.model import FINAL_STATES, Status
from gangrun.scheduler.rows import Row, end_of
from gangrun.scheduler.text import blank, epoch, job_base, seconds, state, wait_status

# -O, not -o: only it has the exit code and the restarts. `:|` ends a column with a bar and takes its full width
# (20.11 to 26.05; a number there would cut). The name stands last, as it alone may hold a bar.
_FIELDS = (
    "JobArrayID", "JobID", "State", "exit_code", "RestartCnt", "SubmitTime", "StartTime", "EndTime", "TimeLimit",
    "Partition", "NodeList", "Reason", "Name",
)  # fmt: skip
_REMARK = re.compile(r"\([^)]*\)")
"""`(unfulfilled)` and the like."""
FORMAT = ",".join(f"{field}:|" for field in _FIELDS)


def by_job(jobs: Sequence[str]) -> list[str]:
    """These jobs, finished ones too, each array task in a row of its own."""
    return [*_listing(), f"--jobs={','.join(jobs)}"]


def by_name(names: Sequence[str], user: int) -> list[str]:
    """The jobs of this user (a uid) under these names. A comma in a name would separate two names."""
    return [*_listing(), f"--user={user}", f"--name={','.join(names)}"]


def _listing() -> list[str]:
    return ["squeue", "--noheader", "--array", "--states=all", f"--Format={FORMAT}"]


def needs_of(jobs: Sequence[str]) -> list[str]:
    """What these jobs still wait for, to be read by `needs`."""
    return ["squeue", "--noheader", f"--jobs={','.join(jobs)}", "--Format=JobID:|,Dependency:|"]


def needs(text: str) -> dict[str, list[str]]:
    """By job the conditions under which it may start, such as `afterok:12`, without the mere end of other jobs."""
    found = {}
    for line in text.splitlines():
        job, _, rest = line.partition("|")
        waits = [_REMARK.sub("", word).strip() for word in blank(rest.strip().removesuffix("|")).split(",")]
        found[job.strip()] = [word for word in waits if word and not word.startswith("afterany:")]
    return found


def rows(text: str) -> Iterator[Row]:
    """One row per job or array task. What is no row (a notice, the rest of a name with a newline) is passed over."""
    for line in text.splitlines():
        cells = line.split("|", len(_FIELDS) - 1)
        if len(cells) < len(_FIELDS) or job_base(cells[0]) is None:
            continue
        job, raw, word, code, restarts, submitted, start, end, limit, partition, nodes, reason, name = cells
        now = state(word)
        final = now in FINAL_STATES
        exit_code, signal = end_of(now, wait_status(code.strip()) if final and nodes else None)
        yield Row(
            raw.strip(),
            Status(
                job=job.strip(),
                state=now,
                name=name.removesuffix("|"),
                reason=blank(reason.strip()),
                nodes=blank(nodes.strip()),
                exit_code=exit_code,
                signal=signal,
                submitted=epoch(submitted),
                started=epoch(start) if nodes or not final else None,
                ended=epoch(end) if final else None,
                restarts=int(restarts) if restarts.strip().isdigit() else None,
                partition=blank(partition.strip()),
                time_limit=seconds(limit),
            ),
        )
