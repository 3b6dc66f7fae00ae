"""Open a shell beside a replica of a running job: on its node, with its environment, GPUs and container.

What is started in it ends with the replica. The exit code is the shell's own.
"""

from __future__ import annotations

import argparse
import sys

from gangrun.cli import inputs
from gangrun.errors import UsageError

_SHELL = "type bash >/dev/null 2>&1 && exec bash -i; exec sh -i"
"""An image may have no bash."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --role, --item."""
    inputs.add_run(parser)
    inputs.add_item(parser)
    inputs.add_replica(parser)


def run(args: argparse.Namespace) -> int:
    """Becomes the shell."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("a shell needs a terminal", way_out="gangrun exec RUN -- COMMAND")
    return inputs.become(args, ["sh", "-c", _SHELL], terminal=True)
