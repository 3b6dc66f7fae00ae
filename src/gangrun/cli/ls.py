"""List runs, newest first, with the state they are in now."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[EXPERIMENT[/STEP]], --state, --limit, --json."""
    parser.add_argument("where", nargs="?", default="", metavar="EXPERIMENT[/STEP]", help="only these runs")
    parser.add_argument("--state", metavar="STATE", action="append", help="only runs in this state, such as failed")
    help_ = "at most N runs (default: 30; with --json all)"
    parser.add_argument("-n", "--limit", type=inputs.positive, metavar="N", help=help_)
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Folds the states of the runs asked for and prints them."""
    from gangrun.record.naming import sanitise

    project = inputs.project_here()
    experiment, _, step = args.where.partition("/")
    chosen = [
        run
        for run in inputs.store_here().runs()
        if (not experiment or run.experiment == sanitise(experiment)) and (not step or run.step == sanitise(step))
    ]
    wanted = {state.upper() for state in args.state or []}
    limit = args.limit if args.limit is not None else len(chosen) if args.json else 30
    # A state is known only after folding, so a filter looks at every run.
    states = inputs.states(chosen if wanted else chosen[:limit], project)
    matching = [state for state in states if not wanted or state.state in wanted]
    hidden = len(matching if wanted else chosen) - limit

    if args.json:
        from gangrun.views.runs import as_data
        from gangrun.views.terminal import print_json

        print_json([as_data(state) for state in matching[:limit]])
        return 0
    if not matching and (args.where or wanted):
        there = ", ".join(sorted({state.state for state in states}))
        print(f"no run is like that; {f'they are {there}' if there else 'gangrun ls lists all'}")
        return 0
    from gangrun.views.runs import table

    print("\n".join(table(matching[:limit], inputs.width())))
    if hidden > 0:
        print(f"and {hidden} older; -n {len(matching if wanted else chosen)} shows all")
    return 0
