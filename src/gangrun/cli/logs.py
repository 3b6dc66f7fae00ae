"""Read or follow what the replicas of a run printed, merged, each line with its replica's name."""

from __future__ import annotations

import argparse
import sys

from gangrun.cli import inputs
from gangrun.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --item, -f, --role, --attempt, --json."""
    inputs.add_run(parser)
    inputs.add_item(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--role", default="", metavar="ROLE[.INDEX]", help="only this role, or one replica of it")
    inputs.add_json(parser)
    parser.add_argument("--attempt", type=int, metavar="N", help="an earlier attempt (default: the newest)")


def run(args: argparse.Namespace) -> int:
    """Prints the logs."""
    from gangrun.views.live import follow_runs
    from gangrun.views.logs import Merged, painter

    found = inputs.run_or_item(args)
    if args.follow and (args.attempt is not None or args.json):
        raise UsageError("-f follows the newest attempt, as text", way_out="leave --attempt and --json out, or -f")
    if args.follow:
        project = inputs.project_here()
        follow_runs([found], lambda: inputs.states([found], project), role=args.role)
        return 0
    inputs.check_attempt(found, args.attempt)
    merged = Merged(found, args.role, args.attempt)
    if args.role and not list(merged.files()):
        there = sorted({name for number in found.attempts() for name in found.attempt(number).replica_logs()})
        raise UsageError(
            f"{found.run_id} has no log of {args.role!r}", way_out=f"there are {', '.join(there) or 'none'}"
        )
    if args.json:
        from gangrun.views.terminal import print_json

        print_json([{"replica": line.source, "text": line.text} for line in merged.lines(final=True)])
        return 0
    paint = painter(colour=sys.stdout.isatty())
    for line in merged.lines(final=True):
        print(paint(line))
    return 0
