"""Run a command beside a replica of a running job: on its node, with its environment, GPUs and container.

gangrun exec RUN --role trainer.0 -- nvidia-smi. The exit code is the command's own.
"""

from __future__ import annotations

import argparse
import sys

from gangrun.cli import inputs
from gangrun.errors import UsageError

PASSES_ON = True
"""Words after `--` are the command; the command line hands them over as `args.flags`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --role, --item, -- COMMAND."""
    parser.usage = "gangrun exec [-h] [--item NAME] [--role ROLE] [RUN] -- COMMAND …"
    inputs.add_run(parser)
    inputs.add_item(parser)
    inputs.add_replica(parser)


def run(args: argparse.Namespace) -> int:
    """Becomes the command."""
    if not args.flags:
        raise UsageError("there is no command", way_out="gangrun exec RUN -- nvidia-smi")
    return inputs.become(args, args.flags, terminal=sys.stdin.isatty() and sys.stdout.isatty())
