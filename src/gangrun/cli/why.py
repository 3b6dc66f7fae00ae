"""Why a run waits, or why it failed, in plain words, with the way out where there is one."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --item, --json."""
    inputs.add_run(parser)
    inputs.add_item(parser)
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the answer."""
    from functools import partial

    from gangrun import chains
    from gangrun.record.state import State
    from gangrun.views import sweeps
    from gangrun.views.why import answer

    found = inputs.run_or_item(args)
    project = inputs.project_here()
    state = inputs.states([found], project)[0]
    states = partial(inputs.states, project=project)
    if state.mode and (answers := sweeps.why(found, state, inputs.items(found, state, project))):
        lines = answers
    else:
        needed = list(chains.failed(found, states)) if state.state != State.RUNNING else []
        lines = answer(found, state, found.facts(), needed)
    if args.json:
        from gangrun.views.terminal import print_json

        print_json({"run": state.run, "state": state.state, "why": lines})
    else:
        print("\n".join(lines))
    return 0
