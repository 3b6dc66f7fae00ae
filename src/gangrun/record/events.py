"""What happened to a run, as typed events: one JSON object a line, appended by the client and never changed.

Every line holds `v` (the version of the format), `t` (seconds since the epoch) and `type`; fields at their defaults
are left out. A reader skips a line that is no event (the last one after a crash or on a full disk) and keeps one that
a later version wrote as `Unknown`.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from gangrun.record.facts import Failure
from gangrun.record.words import refusal

VERSION = 1


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at a time."""

    durable: ClassVar[bool] = False
    """Whether it must reach the disk before anything else is done: what decides if a job may exist must. What came of
    that is found out again, should a machine go down before it is written."""

    t: float = field(default_factory=lambda: round(time.time(), 3), kw_only=True)
    """Seconds since the epoch, by the clock of the machine that wrote it."""


@dataclass(frozen=True, slots=True)
class Created(Event):
    """The run directory was made."""

    gangrun: str = ""
    """Version of gangrun."""
    file: str = ""
    """The experiment file."""
    argv: tuple[str, ...] = ()
    """The command line."""
    cwd: str = ""
    cluster: str = ""
    host: str = ""
    user: str = ""
    commit: str = ""
    """The project's git commit, empty where there is none."""
    dirty: bool = False
    """Whether tracked files differed from that commit."""
    mode: str = ""
    """How the items of a sweep run: `jobs`, `array` or `pool`; empty for any other run."""
    items: int = 0
    """How many a sweep has."""


@dataclass(frozen=True, slots=True)
class Submitting(Event):
    """A job is about to be sent. Without an outcome after it, a job of this name may or may not exist."""

    durable: ClassVar[bool] = True

    attempt: int
    """The attempt that the job's first life will be."""
    name: str
    """The job's name."""
    host: str
    """The machine that sends."""
    pid: int
    pid_started: int | None = None
    """When that process started, in clock ticks since boot, so that a later process of the same id is told apart."""

    @classmethod
    def here(cls, attempt: int, name: str) -> Submitting:
        """The event for a submission by this very process."""
        pid = os.getpid()
        return cls(attempt, name, os.uname().nodename, pid, process_start(pid))


@dataclass(frozen=True, slots=True)
class Submitted(Event):
    """The scheduler took the job."""

    job: str
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Rejected(Event):
    """The scheduler refused the job."""

    reason: str


@dataclass(frozen=True, slots=True)
class GaveUp(Event):
    """The scheduler did not answer, and the client stopped trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class NeverSent(Event):
    """The client is gone and the scheduler has no job of that name."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Found(Event):
    """A job whose submission was not recorded to its end turned out to exist."""

    job: str
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class CancelRequested(Event):
    """Someone asked for the job's end."""

    job: str = ""
    host: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Observed(Event):
    """How the job ended, kept because schedulers forget."""

    job: str
    state: str
    """The scheduler's word; where it knew nothing any more, what the job's own exit file says, or LOST."""
    exit_code: int | None = None
    reason: str = ""
    nodes: str = ""
    started: float | None = None
    ended: float | None = None
    attempt: int = 0
    """The last attempt that began, 0 for none."""
    cause: str = ""
    """The first word of the script's own cause, empty where it left none."""
    failed: Failure | None = None
    cluster: str = ""
    created: float | None = None
    submitted: float | None = None
    """With the cluster and when the run was made, so that a list of thousands of runs reads one line of each."""
    mode: str = ""
    items: int = 0
    done: int = 0
    wrong: int = 0
    """Of a sweep: how its items ran: how many items it has, how many ended well, and how many did not."""


@dataclass(frozen=True, slots=True)
class Needs(Event):
    """The run builds on another one."""

    run: str
    """That run's id."""
    dir: str
    job: str = ""
    """The job that it waits for; empty where the other run had already succeeded."""


@dataclass(frozen=True, slots=True)
class Note(Event):
    """Something that a reader of the run should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Unknown(Event):
    """An event of a later version, kept as it is."""

    type: str
    version: int
    data: Mapping[str, Any]


_from_text = json.JSONDecoder().decode


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_FITS: dict[str, Callable[[object], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": _integer,
    "bool": lambda value: isinstance(value, bool),
    "float": _number,
    "int | None": lambda value: value is None or _integer(value),
    "float | None": lambda value: value is None or _number(value),
    "tuple[str, ...]": lambda value: isinstance(value, tuple) and all(isinstance(word, str) for word in value),
    "Failure | None": lambda value: value is None or isinstance(value, Failure),
}


_TYPES: dict[str, tuple[type[Event], tuple[tuple[str, Callable[[object], bool], bool], ...]]] = {
    kind.__name__: (
        kind,
        tuple((each.name, _FITS[str(each.type)], each.default is MISSING) for each in fields(kind) if each.name != "t"),
    )
    for kind in (
        Created,
        Submitting,
        Submitted,
        Rejected,
        GaveUp,
        NeverSent,
        Found,
        CancelRequested,
        Observed,
        Needs,
        Note,
    )
}
"""By name: the class, and of each field its name, its check and whether it must be there."""


def encode(event: Event) -> bytes:
    """One line. Pure ASCII, so that names that are no valid UTF-8 survive."""
    if isinstance(event, Unknown):
        record = dict(event.data)
    else:
        record = {"v": VERSION, "t": event.t, "type": type(event).__name__}
        for each in fields(event):
            value = getattr(event, each.name)
            if each.name == "t" or (each.default is not MISSING and value == each.default):
                continue
            if isinstance(value, Failure):
                value = {one.name: getattr(value, one.name) for one in fields(value)}
            record[each.name] = value
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> Event | None:
    """The event on a line; None where the line is torn or no event at all."""
    try:
        record = _from_text(str(line, "ascii"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    version, name = record.get("v"), record.get("type")
    try:
        when = float(record["t"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not isinstance(version, int) or not isinstance(name, str):
        return None
    known = _TYPES.get(name)
    if known is None or version != VERSION:
        return Unknown(name, version, record, t=when)
    kind, expected = known
    values: dict[str, Any] = {"t": when}
    for field_name, fits, required in expected:
        if field_name in record:
            value = record[field_name]
            if isinstance(value, (list, dict)):
                value = _from_json(value)
            if not fits(value):
                return Unknown(name, version, record, t=when)
            values[field_name] = value
        elif required:
            return Unknown(name, version, record, t=when)
    return kind(**values)


def _from_json(value: object) -> object:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict):
        try:
            return Failure(**value)
        except TypeError:
            return value
    return value


def decode_all(data: bytes) -> list[Event]:
    """The events in the bytes of a file, in order."""
    return [event for line in data.split(b"\n") if line and (event := decode(line)) is not None]


def append(path: str, event: Event) -> None:
    """Adds one event to the file at `path`, by one write; the file is made if need be.

    A half line that a crash left at the end is closed first, so that it cannot swallow this one. Raises RecordError.
    """
    line = encode(event)
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line
            written = os.write(handle, line)
            if written < len(line):  # a full disk takes what fits; the second write says why
                os.write(handle, line[written:])
            if event.durable:
                _flush(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise refusal(f"cannot record {type(event).__name__}", path, error) from error


def _flush(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        # Some FUSE file systems have no fsync; there the bytes are as safe as they get.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}:
            raise


def process_start(pid: int) -> int | None:
    """When the process `pid` of this machine started, in clock ticks since boot; None if there is none, or no /proc."""
    try:
        handle = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(handle, 4096)
    except OSError:
        return None
    finally:
        os.close(handle)
    # The name in parentheses may hold blanks and parentheses itself: what follows the last one is plain.
    values = text.rpartition(b")")[2].split()
    state, started = (values[0], values[19]) if len(values) > 19 else (b"", b"")
    return int(started) if started.isdigit() and state not in {b"Z", b"X"} else None
