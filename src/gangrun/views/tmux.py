"""A tmux session for one run: window Terminal with a shell, window Logs with a titled pane for each role."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from gangrun.errors import GangrunError, UsageError
from gangrun.record.rundir import RunDir
from gangrun.spec import toml

_TOP = ("trainer", "orchestrator", "inference")
"""The order of panes in an RL run; other roles follow as they are written."""

_LOOK = {
    "remain-on-exit": "on",
    "pane-border-status": "top",
    "pane-border-format": " #{pane_title} ",
    "allow-rename": "off",
}
"""Of the window with the logs."""


def open_session(run: RunDir, project: Path) -> str:
    """Makes the session, unless it is there, and returns its name. Raises UsageError without tmux."""
    # tmux reads dots and colons in a target as separators.
    session = f"slurm-{run.run_id}".replace(".", "_")
    if _tmux("has-session", "-t", f"={session}").returncode == 0:
        return session
    _made("new-session", "-d", "-s", session, "-n", "Terminal", "-c", run.dir)
    window, pane = f"={session}:Logs", ""
    for role in _roles(run):
        follow = shlex.join(_logs(run, role))
        place = ["-c", str(project), "-P", "-F", "#{pane_id}"]
        if not pane:
            new = ("new-window", "-d", "-t", f"={session}:", "-n", "Logs", *place, follow)
            # In one call: the logs of a run that has ended are shown at once, and would take the window along.
            pane = _made(
                *new, *(word for pair in _LOOK.items() for word in (";", "set-option", "-w", "-t", window, *pair))
            )
        else:
            pane = _made("split-window", "-d", "-t", pane, *place, follow)
            _made("select-layout", "-t", window, "even-vertical")  # at once, or there is no room for the next
        _made("select-pane", "-t", pane, "-T", role.capitalize())
    return session


def attach(session: str, *, inside: bool) -> list[str]:
    """What shows the session in this terminal, from inside another one or not."""
    return ["tmux", "switch-client" if inside else "attach-session", "-t", f"={session}"]


def _roles(run: RunDir) -> list[str]:
    names = list(toml.read(run.spec)[0].get("roles", {})) or ["main"]  # as the one of a file without roles is called
    return sorted(names, key=lambda name: _TOP.index(name) if name in _TOP else len(_TOP))


def _logs(run: RunDir, role: str) -> list[str]:
    """`gangrun logs`, by this very installation: tmux's server has an environment of its own."""
    call = "import sys; from gangrun.cli import main; sys.exit(main())"
    return [sys.executable, "-c", call, "logs", run.dir, "--follow", "--role", role]


def _made(*words: str) -> str:
    done = _tmux(*words)
    if done.returncode:
        raise GangrunError(f"tmux {words[0]} failed", why=done.stderr.strip())
    return done.stdout.strip()


def _tmux(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["tmux", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        way_out = "install tmux, or follow by gangrun logs --follow"
        raise UsageError("there is no tmux on this machine's PATH", way_out=way_out) from error
