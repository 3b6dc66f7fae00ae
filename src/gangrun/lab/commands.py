"""Programs run and waited for, daemons set free with a record, and polling with a limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gangrun.errors import LabError
from gangrun.lab import processes
from gangrun.lab.processes import Process

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the daemons look for programs; an ordinary user's PATH lacks the sbin directories."""

_SPAWN = 'umask 022 && read -r stat </proc/$$/stat && printf "%s\\n" "$stat" >"$0" && exec "$@"'
"""The record is written before the exec, which changes neither pid nor start time: no daemon lives unrecorded. The
umask is set because job users must reach sockets and read logs and records, whatever root's umask is."""


def program(name: str) -> str:
    """Return the full path of a program. LabError where it is not installed."""
    found = find(name)
    if found is None:
        raise LabError(f"{name} is not installed", way_out="gangrun lab up --install")
    return found


def find(name: str) -> str | None:
    """Return the full path of a program, looking in the sbin directories too; None where it is not installed."""
    return shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + PATH)


def environment(**more: str) -> dict[str, str]:
    """Return the small environment that the daemons get, so that nothing of the caller's shell reaches them."""
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **more}


def run(*argv: str, env: Mapping[str, str] | None = None, text: str = "", limit: float = 30.0) -> str:
    """Run a command and return its standard output.

    LabError with what it said where it fails, or does not end within `limit` seconds.
    """
    words = [program(argv[0]), *argv[1:]]
    try:
        done = subprocess.run(
            words, env=env, input=text, capture_output=True, text=True, errors="replace", timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise LabError(f"`{' '.join(argv)}` did not end within {limit:g} s") from late
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"`{' '.join(argv)}` ended with {done.returncode}", why=said)
    return done.stdout


def succeeds(*argv: str, env: Mapping[str, str] | None = None, limit: float = 30.0) -> bool:
    """Whether a command ends with 0 within `limit` seconds."""
    try:
        run(*argv, env=env, limit=limit)
    except LabError:
        return False
    return True


def spawn(argv: Sequence[str], *, record: Path, log: Path, env: Mapping[str, str]) -> Process:
    """Start a daemon in a session of its own that outlives us; `record` gets its identity, `log` what it prints."""
    record.unlink(missing_ok=True)
    with log.open("ab") as out:
        subprocess.run(
            [program("setsid"), "--fork", program("sh"), "-c", _SPAWN, str(record), *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=dict(env),
            cwd="/",
            check=True,
        )

    def identity() -> Process | None:
        try:
            stat = processes.parse_stat(record.read_text())
        except (OSError, ValueError):
            return None
        return Process(stat.pid, stat.started)

    return wait_for(identity, 10, f"{argv[0]} to start", log=log)


def wait_for(check: Callable[[], Process | None], limit: float, what: str, *, log: Path | None = None) -> Process:
    """Poll until `check` returns a process, at most `limit` seconds. LabError, with the end of `log`, otherwise."""
    found: list[Process] = []

    def there() -> bool:
        process = check()
        if process is not None:
            found.append(process)
        return process is not None

    wait_until(there, limit, what, log=log)
    return found[-1]


def wait_until(check: Callable[[], bool], limit: float, what: str, *, log: Path | None = None) -> None:
    """Poll until `check` holds, at most `limit` seconds. LabError, with the end of `log`, otherwise."""
    end = time.monotonic() + limit
    pause = 0.005
    while not check():
        if time.monotonic() >= end:
            raise LabError(f"waited {limit:g} s in vain for {what}", why=tail(log) if log else "")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log, indented; empty where there is none."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    return "\n    ".join(["end of " + str(log), *text.splitlines()[-lines:]])
