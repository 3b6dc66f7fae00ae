"""This machine as a scheduler: a run is its script, started detached, known by its process id and start time."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from gangrun.errors import ProgramMissing, Rejected
from gangrun.scheduler.model import PROCESS, Status, Submission

_ID = re.compile(rf"{PROCESS}(\d+)-(\d+)")

# Of a run around us, in which this one may be started: with its GANGRUN_RUN_DIR two runs would write into one place.
_OF_A_RUN = ("GANGRUN_RUN_DIR", "GANGRUN_RUN_NAME", "GANGRUN_ATTEMPT")


class Local:
    """Runs scripts on this machine, at once and side by side: there is no queue.

    An id is `local-<pid>-<start time in clock ticks since boot>`, so a process id that was given away again is not
    taken for the run.
    """

    def __init__(self) -> None:
        self._children: set[int] = set()

    def submit(self, submission: Submission) -> str:
        """Starts the script in a session of its own, with stdout and stderr appended to job.log beside it. Flags for
        sbatch have no meaning here. Raises ProgramMissing or Rejected."""
        log = submission.script.parent / "job.log"
        out = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            # No Popen object: nobody waits for this child, and it outlives the program that started it.
            pid = os.posix_spawn(
                _bash(),
                ["bash", str(submission.script)],
                _environment(),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(log), out, 0o666),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM],
            )
        except OSError as error:
            raise Rejected(f"{submission.name} could not be started", where=str(log), why=str(error)) from error
        self._children.add(pid)
        return job_id(pid)

    def status(self, jobs: Sequence[str]) -> Mapping[str, Status]:
        """RUNNING for those whose process lives. One that has ended is absent; its run's own files tell how."""
        self._reap()
        host = socket.gethostname()
        found: dict[str, Status] = {}
        for job, pid in _pids(jobs):
            if started := _alive(job, pid):
                found[job] = Status(job, "RUNNING", nodes=host, submitted=started, started=started)
        return found

    def find(self, names: Sequence[str]) -> Mapping[str, Status]:  # noqa: ARG002
        """Nothing: a process has no name. The run's own run.start holds its id."""
        return {}

    def cancel(self, jobs: Sequence[str]) -> None:
        """Sends TERM to the scripts, which stop their own processes. Raises Rejected for one that is not yours."""
        self._reap()
        for job, pid in _pids(jobs):
            if not _alive(job, pid):
                continue
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                raise Rejected(f"{job} was not cancelled", why="it belongs to another user") from error

    def _reap(self) -> None:
        """Waits for own children that have ended, so that a long-lived caller collects no zombies."""
        for pid in list(self._children):
            try:
                ended = os.waitpid(pid, os.WNOHANG)[0]
            except ChildProcessError:
                ended = pid
            if ended:
                self._children.discard(pid)


def foreground(script: Path, output: int | IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Starts a script in a session, and so a process group, of its own: Ctrl-C does not reach it, and the caller
    passes on what it wants to. stdout and stderr both go to `output` (as for Popen; None is the terminal). The
    environment is kept, SLURM_* included, so that inside an allocation its steps go there."""
    return subprocess.Popen(
        [_bash(), str(script)],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def job_id(pid: int) -> str:
    """The id of a process that lives or has not been waited for."""
    _, ticks = _stat(pid)
    return f"{PROCESS}{pid}-{ticks}"


def _bash() -> str:
    for folder in os.get_exec_path():
        if os.access(path := Path(folder, "bash"), os.X_OK):
            return str(path)
    raise ProgramMissing("there is no bash on this machine's PATH", way_out="install bash 4.3 or newer")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OF_A_RUN}


def _pids(jobs: Sequence[str]) -> Iterator[tuple[str, int]]:
    for job in dict.fromkeys(jobs):
        if match := _ID.fullmatch(job):
            yield job, int(match.group(1))


def _alive(job: str, pid: int) -> float | None:
    """When the process started, in seconds since the epoch, or None where it is gone, a zombie, or another one."""
    try:
        state, ticks = _stat(pid)
    except OSError:
        return None
    if state in "ZX" or job != f"{PROCESS}{pid}-{ticks}":
        return None
    boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> tuple[str, int]:
    """State letter and start time (clock ticks since boot). The name before them is in brackets and may hold any."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    return fields[0].decode(), int(fields[19])
