"""Everything about one run: state, where, how long, each replica's exit code, the first failure and its last lines."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --item, --json."""
    inputs.add_run(parser)
    inputs.add_item(parser)
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the run; exit code 0 whatever its state."""
    from gangrun.views import runs, sweeps, terminal

    found = inputs.run_or_item(args)
    project = inputs.project_here()
    state = inputs.states([found], project)[0]
    facts = found.facts()
    items = inputs.items(found, state, project) if state.mode else []
    if args.json:
        data = runs.as_data(state, facts)
        if state.mode:
            data["items"] = sweeps.as_data(items)
        terminal.print_json(data)
        return 0
    # In a pool the replicas are its own machinery, which is of interest when it fails.
    lines = runs.details(found, state, None if state.mode and not state.failed else facts)
    if found.is_item:
        lines += ["", *sweeps.parameters(found)]
    if state.mode:
        lines += ["", *sweeps.table(items, inputs.width())]
    print("\n".join(lines))
    return 0
