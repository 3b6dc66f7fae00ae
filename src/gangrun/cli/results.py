"""One row for each item of a sweep: its parameters, how it ended, and the last values that it wrote to metrics.json."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs
from gangrun.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --csv, --json."""
    inputs.add_run(parser)
    parser.add_argument("--csv", action="store_true", help="print CSV, for a spreadsheet")
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the rows; a run that is no sweep has one."""
    from gangrun.record.item_states import metrics, of_run
    from gangrun.views import sweeps, terminal

    if args.csv and args.json:
        raise UsageError("--csv and --json are two formats", way_out="choose one")
    found = inputs.store_here().find(args.run)
    project = inputs.project_here()
    state = inputs.states([found], project)[0]
    if state.mode:
        states = inputs.items(found, state, project)
        rows = sweeps.results(states, lambda name: metrics(found.item(name)))
    else:
        rows = sweeps.results([of_run(state)], lambda _: metrics(found))
    if args.json:
        terminal.print_json(rows)
    elif args.csv:
        print(sweeps.as_csv(rows), end="")
    else:
        print("\n".join(sweeps.as_lines(rows)))
    return 0
