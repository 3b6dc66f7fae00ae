"""Which processes are ours, as /proc says: by pid and start time, or by namespace. Never by name."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path


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
        return stat is not None and stat[0] not in "ZX" and stat[1] == self.started


def parse_stat(text: str) -> tuple[int, str, int]:
    """Return (pid, state letter, start time in ticks) of one /proc/PID/stat; ValueError where the text is not whole."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    if not head or len(fields) < 20:
        raise ValueError("not a whole line of /proc/PID/stat")
    return int(head.split()[0]), fields[0], int(fields[19])


def recorded(path: Path) -> Process | None:
    """Return the process that `path` (a copy of its /proc/PID/stat) recorded, if it still lives."""
    try:
        pid, _, started = parse_stat(path.read_text())
    except (OSError, ValueError):
        return None
    process = Process(pid, started)
    return process if process.alive else None


def of_pid(pid: int) -> Process | None:
    """Return the living process with that pid."""
    stat = _stat(pid)
    return Process(pid, stat[1]) if stat is not None and stat[0] not in "ZX" else None


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
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found = (of_pid(pid) for pid in pids if namespace(pid, kind) == identity)
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


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        _, state, started = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, ValueError):
        return None
    return state, started
