"""Print the batch script that would be sent, or the template that it is made from."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs
from gangrun.errors import UsageError
from gangrun.project import OUTPUTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --set, --cluster, --template."""
    parser.add_argument("file", metavar="FILE", nargs="?", help="experiment file")
    parser.add_argument("--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help="set a key")
    parser.add_argument("--template", action="store_true", help="print the Jinja2 template, to copy and change")
    inputs.add_cluster(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the script under the name and directory that a run would get without its time stamp."""
    from gangrun.record.naming import sanitise
    from gangrun.script import render
    from gangrun.sweeps import shown_of

    if args.template:
        print(render.template(), end="")
        return 0
    if not args.file:
        raise UsageError("which file?", way_out="gangrun script FILE, or gangrun script --template")
    experiment, _, planned = inputs.planned(args.file, args.overrides, args.cluster)
    plan = shown_of(planned)
    folders = sanitise(plan.experiment), sanitise(plan.step)
    directory = experiment.project.joinpath(OUTPUTS, *folders, "YYMMDD_HHMMSS")
    print(render.render(plan, "_".join((*folders, "YYMMDD_HHMMSS")), str(directory)), end="")
    return 0
