"""Queues a run's own job again, so that the run goes on as its next attempt: what `[requeue]` means.

    requeue.py begin|left|end RUN_DIR ATTEMPT RUN_NAME KEY=VALUE...

`begin` writes down why this attempt exists and what it begins with, and ends with 1 where it should not go on. `left`
prints the seconds until the job's time limit. `end` is asked when an attempt has ended for a reason in `run.cause`, and
queues the job again, if there is a budget for that reason and the attempt came further than the one before.

Keys: `limit` `preemption` `node`, how often the run may go on after each; and what tells how far an attempt came:
`glob`, the names of its checkpoints, or `items=yes`, the items of a pool that are done.

Below `attempts/NNN/status/` it writes

    run.reason    why the attempt exists: `first`, `resume`, `limit`, `preemption`, `node`, or `requeue` by a person
    run.had       how far the run had come when it began
    run.requeue   how it goes on: `again REASON`, or `stop REASON WHY`
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

FRUITLESS = {"limit": 1}
"""After how many attempts in a row that came no further a run stops. One that used up its time limit will not do better
the next time; others may just have been short."""
FRUITLESS_ELSE = 3
WORDS = {
    "limit": "the time limit",
    "preemption": "a preemption",
    "node": "the loss of a node",
}
_TOLD = re.compile(r"\*\*\* JOB \d+ ON \S+ CANCELLED AT (\S+) DUE TO ([A-Z ]+?) \*\*\*")
_TOLD_REASON = {"TIME LIMIT": "limit", "PREEMPTION": "preemption", "NODE FAILURE": "node", "JOB REQUEUE": "requeue"}


class Run:
    """A run as one of its attempts sees it."""

    def __init__(self, folder: str, attempt: str, name: str, keys: Dict[str, str]) -> None:
        self.dir, self.attempt, self.name, self.keys = Path(folder), int(attempt), name, keys

    def read(self, name: str, attempt: Optional[int] = None) -> str:
        """A status file of an attempt; empty where there is none."""
        number = self.attempt if attempt is None else attempt
        try:
            return self.dir.joinpath("attempts", f"{number:03d}", "status", name).read_text(errors="replace").strip()
        except OSError:
            return ""

    def write(self, name: str, text: str) -> None:
        """By rename, so that nobody ever reads half a file."""
        path = self.dir / "attempts" / f"{self.attempt:03d}" / "status" / name
        new = path.with_name(f"{name}.new")
        new.write_text(f"{text}\n")
        new.replace(path)

    def before(self) -> List[int]:
        """The attempts before this one, oldest first."""
        numbers = sorted(int(path.name) for path in self.dir.joinpath("attempts").iterdir() if path.name.isdigit())
        return [number for number in numbers if number < self.attempt]

    def reach(self) -> Optional[str]:
        """How far the run has come; None where nobody can tell."""
        if self.keys.get("items"):
            try:
                return str(json.loads((self.dir / "pool" / "status.json").read_bytes()).get("done", 0))
            except (OSError, ValueError):
                return "0"
        if not self.keys.get("glob"):
            return None
        from checkpoint import newest  # type: ignore[import-not-found]  # beside this file on the node

        path = newest(self.dir, self.keys["glob"])[0]
        return f"{path} {path.stat().st_mtime_ns}" if path else "nothing"

    def refusal(self, reason: str, *, begun: bool) -> str:
        """Why the run should not go on after `reason`; empty if it should. `begun` says that it already has."""
        told = [number for number in (*self.before(), self.attempt) if self.read("run.reason", number)]
        since = max((number for number in told if self.read("run.reason", number) in ("first", "resume")), default=0)
        told = [number for number in told if number >= since]
        used = sum(1 for number in told if self.read("run.reason", number) == reason) - begun
        most = int(self.keys.get(reason, "0"))
        if used >= most:
            return f"it has gone on after {WORDS[reason]} {used} times, and [requeue] {reason} = {most}"
        now = self.reach()
        if now is None:
            return ""
        had = [self.read("run.had", number) for number in told if not begun or number != self.attempt]
        fruitless = 0
        while fruitless < len(had) and had[-1 - fruitless] == now:
            fruitless += 1
        if fruitless < FRUITLESS.get(reason, FRUITLESS_ELSE):
            return ""
        what = "no further item was done" if self.keys.get("items") else "no new checkpoint was left"
        if fruitless > 1:
            return f"{what} in {fruitless} attempts in a row"
        return f"{what} in attempt {self.attempt - begun}"

    def reason(self) -> str:
        """Why this attempt exists."""
        before = self.before()
        if not before:
            return "first"
        if not int(os.environ.get("SLURM_RESTART_COUNT") or 0):
            return "resume"
        word, _, rest = self.read("run.requeue", before[-1]).partition(" ")
        if word:
            return rest.partition(" ")[0]
        # It was Slurm that queued the job again, and the attempt before had no time to say so.
        started = self.read("run.start", before[-1]).partition("\n")[0]
        told = last_words(self.dir / "job.log", int(started) if started.isdigit() else 0)
        return told or ("requeue" if self.read("run.exit", before[-1]) else "node")

    def is_own(self) -> bool:
        """Whether the job around is this run's, and not an allocation in which it was started by hand."""
        array = "SLURM_ARRAY_TASK_ID" in os.environ and self.dir.parent.name == "items"
        return array or os.environ.get("SLURM_JOB_NAME") == self.name


def begin(run: Run) -> int:
    """Writes down what this attempt begins with; 1 where it was queued by Slurm and should not go on."""
    reason = run.reason()
    run.write("run.reason", reason)
    refusal = run.refusal(reason, begun=True) if reason in WORDS else ""
    if refusal:
        run.write("run.requeue", f"stop {reason} {refusal}")
        say(f"not begun again after {WORDS[reason]}: {refusal}")
        return 1
    if (had := run.reach()) is not None:
        run.write("run.had", had)
    return 0


def left() -> int:
    """Prints the seconds until the time limit; nothing where there is none."""
    code, answer = slurm("squeue", "--noheader", "--jobs", job_id(), "--format", "%L")
    seconds = parse_left(answer)
    if code or seconds is None:
        return 1
    sys.stdout.write(f"{seconds}\n")
    return 0


def end(run: Run) -> int:
    """Queues the job again, if it should be."""
    job = job_id()
    described = describe(job)
    reason = after(run.read("run.cause"), described)
    if not reason or not run.is_own():
        return 0
    refusal = run.refusal(reason, begun=False)
    if refusal:
        run.write("run.requeue", f"stop {reason} {refusal}")
        say(f"not queued again after {WORDS[reason]}: {refusal}")
        return 0
    # Before the call, which has Slurm end this script.
    run.write("run.requeue", f"again {reason}")
    say(f"queued again after {WORDS[reason]}")
    code, answer = slurm("scontrol", "requeue", job)
    if code and "pending" not in answer:  # as Slurm may have done it already
        run.write("run.requeue", f"stop {reason} Slurm refused to queue the job again: {' '.join(answer.split())}")
        say(answer)
    elif lost := lost_hosts(run):
        exclude(job, described.get("ExcNodeList", ""), lost)
    return 0


def after(cause: str, described: Dict[str, str]) -> str:
    """The reason for which a job that ended by this cause may go on; empty where it may not."""
    word = cause.partition(" ")[0]
    if word in ("limit", "lost"):
        return {"limit": "limit", "lost": "node"}[word]
    if word != "signal":
        return ""
    # Of a cancelled job Slurm says none of these.
    if described.get("Reason") == "TimeLimit":
        return "limit"
    if described.get("PreemptTime", "None") != "None":
        return "preemption"
    return "node" if "NODE_FAIL" in described.get("JobState", "") or described.get("Reason") == "NodeDown" else ""


def exclude(job: str, before: str, hosts: List[str]) -> None:
    """Keeps the job off these hosts. Slurm takes that only of a job that waits, which it may not yet do."""
    words = ",".join([*([before] if before not in ("", "(null)") else []), *hosts])
    for _ in range(20):
        if not slurm("scontrol", "update", f"JobId={job}", f"ExcNodeList={words}")[0]:
            say(f"keeps off {','.join(hosts)}")
            return
        time.sleep(0.2)


def lost_hosts(run: Run) -> List[str]:
    """The hosts that the run's attempts have lost."""
    found: Dict[str, None] = {}
    for path in sorted(run.dir.glob("attempts/*/status/*.lives")):
        for line in path.read_text(errors="replace").splitlines():
            words = line.split()
            if words[1:2] == ["lost"] and len(words) > 2:
                found[words[2]] = None
    return list(found)


def last_words(log: Path, since: int) -> str:
    """The reason in the last word of Slurm's in the job's log that is not older than `since`; empty without one."""
    try:
        found = _TOLD.findall(log.read_bytes()[-65536:].decode(errors="replace"))
    except OSError:
        return ""
    if not found or time.mktime(time.strptime(found[-1][0], "%Y-%m-%dT%H:%M:%S")) < since:
        return ""
    return _TOLD_REASON.get(found[-1][1], "")


def job_id() -> str:
    """What `scontrol` calls this job. The plain number of an array's last task would mean all of the array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def describe(job: str) -> Dict[str, str]:
    """What Slurm says of the job, by its words."""
    _, text = slurm("scontrol", "show", "job", "--oneliner", job)
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def parse_left(text: str) -> Optional[int]:
    """Seconds in `1-02:03:04`, `02:03:04` or `03:04`; None for `UNLIMITED` and what else squeue can say."""
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return None
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return seconds + (int(days) * 86400 if dash else 0)


def slurm(*argv: str) -> Tuple[int, str]:
    """Exit code of a command of Slurm, and what it said."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode(errors="replace").strip()


def say(words: str) -> None:
    """A line in the job's log."""
    sys.stderr.write(f"gangrun: {words}\n")


def main(argv: List[str]) -> int:
    """See above."""
    # Slurm signals all that the batch script has started; what is inherited as ignored stays so in scontrol, too.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    what, folder, attempt, name, *keys = argv
    run = Run(folder, attempt, name, dict(key.split("=", 1) for key in keys))
    if what == "left":
        return left()
    return begin(run) if what == "begin" else end(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
