"""Which processes are ours, as /proc says: by pid and start time, or by namespace. Never by name."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Process:
    """One process for as long as it lives; a later process with the same pid is another one."""

    pid: int
    started: int
    """Start time in clock ticks since boot (field 22 of /proc/PID/stat)."""

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and stat.state not in "ZX" and stat.started == self.started


class Stat(NamedTuple):
    """What is used of /proc/PID/stat."""

    pid: int
    state: str
    session: int
    started: int


def parse_stat(text: str) -> Stat:
    """Read one /proc/PID/stat, whose command may hold blanks and brackets. ValueError where the text is not whole."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    if not head or len(fields) < 20:
        raise ValueError("not a whole line of /proc/PID/stat")
    return Stat(pid=int(head.split()[0]), state=fields[0], session=int(fields[3]), started=int(fields[19]))


def record(path: Path) -> None:
    """Record this very process in `path`."""
    path.write_text(Path("/proc/self/stat").read_text())


def recorded(path: Path) -> Process | None:
    """Return the process that `path` (a copy of its /proc/PID/stat) recorded, if it still lives."""
    try:
        stat = parse_stat(path.read_text())
    except (OSError, ValueError):
        return None
    process = Process(stat.pid, stat.started)
    return process if process.alive else None


def of_pid(pid: int) -> Process | None:
    """Return the living process with that pid."""
    stat = _stat(pid)
    return Process(pid, stat.started) if stat is not None and stat.state not in "ZX" else None


def session(leader: Process) -> list[Process]:
    """Return the living processes of the session that `leader` leads; none where it is gone, for then nobody knows."""
    stats = [stat for pid in _pids() if (stat := _stat(pid)) is not None and stat.session == leader.pid]
    found = [Process(stat.pid, stat.started) for stat in stats if stat.state not in "ZX"]
    return found if leader.alive else []


def namespace(pid: int, kind: str) -> str:
    """Return the identity of a namespace of `pid` such as `net:[4026532281]`; empty where it cannot be seen."""
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return ""


def inside(kind: str, identity: str) -> list[Process]:
    """Return the living processes (zombies have left) whose namespace of that kind is `identity`."""
    if not identity:
        return []
    found = (of_pid(pid) for pid in _pids() if namespace(pid, kind) == identity)
    return [process for process in found if process is not None]


def inner_pid(process: Process) -> int:
    """Return its pid as its own PID namespace counts, 0 where it is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("NSpid:")), "")
    return int(line.split()[-1]) if line else 0


def command_line(process: Process) -> str:
    """Return its command line with blanks between the words, empty where it is gone."""
    try:
        return (
            Path(f"/proc/{process.pid}/cmdline")
            .read_bytes()
            .rstrip(b"\0")
            .replace(b"\0", b" ")
            .decode(errors="replace")
        )
    except OSError:
        return ""


def send(process: Process, number: signal.Signals) -> None:
    """Signal `process`, and never one that took over its pid (a pidfd cannot be handed on)."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.alive:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> Stat | None:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, ValueError):
        return None
