"""Everything about one run: state, where, how long, each replica's exit code, the first failure and its last lines."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --json."""
    inputs.add_run(parser)
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the run; exit code 0 whatever its state."""
    from gangrun.views import runs, terminal

    found = inputs.store_here().find(args.run)
    state = inputs.states([found], inputs.project_here())[0]
    facts = found.facts()
    if args.json:
        terminal.print_json(runs.as_data(state, facts))
    else:
        print("\n".join(runs.details(found, state, facts)))
    return 0
