"""Why a run waits, or why it failed, in plain words, with the way out where there is one."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN."""
    inputs.add_run(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the answer."""
    from gangrun.views.why import answer

    found = inputs.store_here().find(args.run)
    state = inputs.states([found], inputs.project_here())[0]
    print("\n".join(answer(found, state, found.facts())))
    return 0
