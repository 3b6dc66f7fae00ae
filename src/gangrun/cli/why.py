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
    from gangrun.views.why import answer

    found = inputs.store_here().find(args.run)
    state = inputs.states([found], inputs.project_here())[0]
    lines = answer(found, state, found.facts())
    if args.json:
        from gangrun.views.terminal import print_json

        print_json({"run": state.run, "state": state.state, "why": lines})
    else:
        print("\n".join(lines))
    return 0
