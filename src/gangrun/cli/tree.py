"""Show the experiment tree: experiments, their steps and seeds, and the newest run of each with its state."""

from __future__ import annotations

import argparse
from pathlib import Path

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[DIR…], --json."""
    help_ = "folders of experiments (default: all in experiments/ and slurm/experiments/)"
    parser.add_argument("folders", metavar="DIR", nargs="*", help=help_)
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Reads the tree, folds the states of its newest runs and prints them."""
    from gangrun.errors import InputError, Problem, SpecError
    from gangrun.project import OUTPUTS, project_root
    from gangrun.record.naming import run_id
    from gangrun.record.store import Store
    from gangrun.spec import tree
    from gangrun.views.tree import as_data, lines

    project = project_root(Path(args.folders[0]).absolute()) if args.folders else inputs.project_here()
    steps = tree.read(tree.spread([Path(name) for name in args.folders] or tree.places(project)))
    problems = []
    for step in steps:
        try:
            run_id(step.experiment, step.step, "YYMMDD_HHMMSS")
        except InputError as error:
            problems.append(Problem("", error.what, str(step.file), 0, error.way_out))
    if problems:
        raise SpecError(problems)
    store = Store(project / OUTPUTS)
    steps = tree.with_other_seeds(steps, store.steps)
    runs = [store.newest(step.experiment, step.step) for step in steps]
    known = [run for run in runs if run]
    states = dict(zip(known, inputs.states(known, project) if known else (), strict=True))
    rows = [(step, states[run] if run else None) for step, run in zip(steps, runs, strict=True)]
    if args.json:
        from gangrun.views.terminal import print_json

        print_json([as_data(step, state) for step, state in rows])
    else:
        print("\n".join(lines(rows, project)))
    return 0
