"""Why a run waits, or why it failed, in plain words, with the way out where there is one."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --json."""
    inputs.add_run(parser)
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the answer."""
    from functools import partial

    from gangrun import chains
    from gangrun.views.why import answer

    found = inputs.store_here().find(args.run)
    project = inputs.project_here()
    state = inputs.states([found], project)[0]
    states = partial(inputs.states, project=project)
    lines = answer(found, state, found.facts(), list(chains.failed(found, states)) if state.state != "RUNNING" else [])
    if args.json:
        from gangrun.views.terminal import print_json

        print_json({"run": state.run, "state": state.state, "why": lines})
    else:
        print("\n".join(lines))
    return 0
