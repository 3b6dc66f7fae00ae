"""slurmstepd: what it writes into the log of a job that Slurm ends. Pure."""

from __future__ import annotations

import re
import time

_ENDED = re.compile(r"\*\*\* JOB \d+ ON \S+ CANCELLED AT (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)( DUE TO [A-Z ]+)?")
_DUE_TO = {
    "": "CANCELLED",
    "TIME LIMIT": "TIMEOUT",
    "PREEMPTION": "PREEMPTED",
    "NODE FAILURE": "NODE_FAIL",
}


def ended_as(text: str, since: float | None) -> str:
    """The state in the last `*** JOB … CANCELLED AT … DUE TO TIME LIMIT ***` written after `since`, empty without one.

    That line outlives Slurm's memory of the job, where nobody keeps accounts. Its time is local, as `since` is read
    here. A word of another reason, such as a requeue, is no end.
    """
    found = list(_ENDED.finditer(text))
    if not found or since is None:
        return ""
    when = time.mktime(time.strptime(found[-1][1], "%Y-%m-%dT%H:%M:%S"))
    return _DUE_TO.get((found[-1][2] or "").removeprefix(" DUE TO ").strip(), "") if when >= int(since) else ""
