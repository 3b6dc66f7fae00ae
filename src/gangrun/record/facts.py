"""What the job itself left in its run directory, as data, and the parsers of its small files.

A job may die at any byte, the disk may fill under it, and a file of a shared file system may be seen late: nothing
here raises for what a file holds. What cannot be read as what it should be counts as not there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

_CODE = re.compile(r"-?[0-9]{1,9}\Z")
# bash writes the decimals of EPOCHREALTIME with the comma of the user's locale.
_SECONDS = re.compile(r"[0-9]{1,12}(?:[.,][0-9]{1,9})?\Z")
_REPLICA = re.compile(r".+\.[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class Failure:
    """The replica that failed first, and as far as known the task of it that did."""

    replica: str
    code: int | None = None
    """Exit code of the task where known, otherwise of the replica; None where it did not end by itself."""
    rank: int | None = None
    host: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an attempt ended otherwise than by success, in the script's own words."""

    kind: str
    """`main`, `service`, `unready`, `lost`, `limit`, `signal`, `requeue`, `workdir`, `setup`, `needs`, `ports`; any
    other first word is kept."""
    replica: str = ""
    code: int | None = None
    host: str = ""
    detail: str = ""
    """The signal's name, or after `unready` the seconds waited."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """What an attempt said about a next one when it ended."""

    again: bool
    """Whether its job was queued again."""
    reason: str
    """`limit`, `preemption` or `node`."""
    why: str = ""
    """Why it was not."""


@dataclass(frozen=True, slots=True)
class Life:
    """One start of a replica. Times in seconds since the epoch."""

    started: float | None = None
    ready: float | None = None
    ended: float | None = None
    code: int | None = None
    lost: str = ""
    """The host with which it ended."""
    given_up: bool = False
    """Whether the job went on without the replica after this life."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The heartbeat of one node of a replica."""

    changed: float
    """When the file last changed, by the file server's clock, in seconds since the epoch."""
    code: int | None = None
    """Exit code of the node's first task once it has ended."""


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """What is known of one replica in one attempt."""

    exit: int | None = None
    """Its final exit code; None while it runs or where nobody was left to write it."""
    lives: tuple[Life, ...] = ()
    """In order; more than one after restarts."""
    first: Failure | None = None
    """The first task of it that failed."""
    step: str = ""
    """Slurm's id of its current step, `JOB.STEP`."""
    beats: Mapping[int, Beat] | None = None
    """By position of the node within the replica; None where there are none."""


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """What one attempt left behind. Empty fields were not written, not yet, or not whole."""

    number: int
    started: float | None = None
    """Seconds since the epoch."""
    job: str = ""
    hosts: tuple[str, ...] = ()
    """In the order of the allocation."""
    port_base: int | None = None
    exit: int | None = None
    """The attempt's exit code, never the run's: a preempted job writes one and is queued again."""
    ended: float | None = None
    cause: Cause | None = None
    replicas: Mapping[str, ReplicaFacts] | None = None
    """By `ROLE.INDEX`; None where they were not asked for."""
    requeue: Requeue | None = None
    """How it goes on, where that was a question."""
    ended_as: str = ""
    """Slurm's state, where the job's log holds Slurm's own word on its end; empty for an end of the script's own."""

    @property
    def of_roles(self) -> Mapping[str, ReplicaFacts]:
        """The replicas of the experiment's roles, without the sidecars that gangrun adds."""
        return {name: replica for name, replica in (self.replicas or {}).items() if not is_own(name)}


def is_own(replica: str) -> bool:
    """Whether it is none of the experiment's, but one that gangrun adds."""
    return replica.startswith("_")


def parse_code(text: str) -> int | None:
    """An exit code, or None."""
    text = text.strip()
    return int(text) if _CODE.match(text) else None


def parse_seconds(text: str) -> float | None:
    """Seconds since the epoch, or None."""
    text = text.strip()
    return float(text.replace(",", ".")) if _SECONDS.match(text) else None


def parse_start(text: str) -> tuple[float | None, str, tuple[str, ...], int | None]:
    """When, job id, hosts and port base from `run.start`; a missing tail of the file leaves its fields empty."""
    lines = [*text.split("\n"), "", "", "", ""]
    return parse_seconds(lines[0]), lines[1].strip(), tuple(lines[2].split()), parse_code(lines[3])


def parse_cause(text: str) -> Cause | None:
    """The one line of `run.cause`, or None where it is empty."""
    words = text.split()
    if not words:
        return None
    kind, rest = words[0], [*words[1:], "", ""]
    if kind in {"main", "service"}:
        return Cause(kind, replica=rest[0], code=parse_code(rest[1]))
    if kind == "unready":
        return Cause(kind, replica=rest[0], detail=rest[1])
    if kind == "lost":
        return Cause(kind, host=rest[0], replica=rest[1])
    if kind == "setup":
        return Cause(kind, code=parse_code(rest[0]))
    return Cause(kind, detail=" ".join(words[1:]))


def parse_requeue(text: str) -> Requeue | None:
    """`again REASON` or `stop REASON WHY`, or None."""
    word, _, rest = text.strip().partition(" ")
    reason, _, why = rest.partition(" ")
    return Requeue(word == "again", reason, why) if word in {"again", "stop"} and reason else None


def parse_lives(text: str) -> tuple[Life, ...]:
    """The lives of a replica from lines `SECONDS start`, `… ready`, `… exit CODE`, `… lost HOST`, `… given up`.

    Lines of any other form are left out. An end without a start is a life of its own, since it did happen.
    """
    lives: list[Life] = []
    for line in text.split("\n"):
        words = line.split()
        when = parse_seconds(words[0]) if len(words) > 1 else None
        if when is None:
            continue
        if words[1] == "start":
            lives.append(Life(started=when))
            continue
        if words[1:] == ["given", "up"] and lives:
            lives[-1] = replace(lives[-1], given_up=True)
            continue
        open_life = lives.pop() if lives and lives[-1].code is None else Life()
        if words[1] == "ready":
            lives.append(replace(open_life, ready=when))
        elif words[1] == "exit" and len(words) > 2 and (code := parse_code(words[2])) is not None:
            lives.append(replace(open_life, ended=when, code=code))
        elif words[1] == "lost" and len(words) > 2:
            # No exit follows where the script itself ends what waited for that host.
            lives.append(replace(open_life, ended=when, lost=words[2]))
        elif open_life != Life():
            lives.append(open_life)
    return tuple(lives)


def parse_first(replica: str, text: str) -> Failure | None:
    """The first failing task of a replica from `CODE RANK HOST`, or None."""
    words = text.split()
    code = parse_code(words[0]) if words else None
    if code is None:
        return None
    return Failure(replica, code, parse_code(words[1]) if len(words) > 1 else None, words[2] if len(words) > 2 else "")


def parse_beat(text: str) -> int | None:
    """The code in a last line `exit CODE`, or None while the node's first task runs."""
    words = text.rstrip().rsplit("\n", 1)[-1].split()
    return parse_code(words[1]) if len(words) == 2 and words[0] == "exit" else None


def first_failure(facts: AttemptFacts) -> Failure | None:
    """The replica that failed first: the one that the script blamed, otherwise the one that ended first with a code.

    The script blames nobody when a signal ended it; then nobody failed. Where the script itself was killed before it
    could say why, the times in the replicas' lives decide.
    """
    replicas = facts.of_roles
    cause = facts.cause
    if cause is not None:
        if not _REPLICA.match(cause.replica):
            return None
        known = replicas.get(cause.replica, ReplicaFacts()).first
        if cause.kind in {"main", "service"} and known is not None:
            return known
        return Failure(cause.replica, cause.code, host=cause.host)
    ends = [
        (life.ended, name, life.code)
        for name, replica in replicas.items()
        for life in replica.lives[-1:]
        if life.ended is not None and life.code
    ]
    if ends:
        _, name, code = min(ends)
        return replicas[name].first or Failure(name, code)
    for name in sorted(replicas):
        if replicas[name].exit:
            return replicas[name].first or Failure(name, replicas[name].exit)
    return None
