"""Open a tmux session on a run: a shell in one window, in the other a pane for each role that follows its logs.

Called again, it attaches to the session that is there.
"""

from __future__ import annotations

import argparse
import os
import sys

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN."""
    inputs.add_run(parser)


def run(args: argparse.Namespace) -> int:
    """Opens the session where there is none, then attaches, if this is a terminal."""
    from gangrun.views import tmux

    found = inputs.store_here().find(args.run)
    session = tmux.open_session(found, inputs.project_here())
    sys.stdout.flush()
    if sys.stdin.isatty() and sys.stdout.isatty():
        words = tmux.attach(session, inside="TMUX" in os.environ)
        os.execvp(words[0], words)  # noqa: S606 - the terminal is tmux's from here on
    print(f"session {session}; attach with: tmux attach -t {session}")
    return 0
