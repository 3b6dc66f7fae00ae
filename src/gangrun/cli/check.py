"""Say what is wrong with an experiment file or a batch script; if nothing is, what it comes to, in one line."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs
from gangrun.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --set, --cluster."""
    inputs.add_file(parser)
    inputs.add_cluster(parser)


def run(args: argparse.Namespace) -> int:
    """Loads, resolves and renders; problems are raised on the way. Of a batch script it tells the faults, and returns
    1 where there are any."""
    from gangrun.jobscript import read

    if read.is_one(args.file):
        return _script(args)
    from gangrun import chains, clusters
    from gangrun.script.render import render
    from gangrun.sweeps import SweepPlan, shown_of

    experiment, cluster, planned = inputs.planned(args.file, args.overrides, args.cluster)
    plan = shown_of(planned)
    clusters.require_parts(experiment, planned, cluster)
    chains.bound(experiment, planned, {})  # a checkpoint that no run is to make is there, or never will be
    render(plan, "check", "/run")
    what = _counted(len(plan.replicas), "replica")
    if isinstance(planned, SweepPlan):
        items = _counted(len(planned.items), "item")
        what = f"{items}, mode {planned.mode}," if planned.mode == "pool" else f"{items}, each"
    where = f"{_counted(plan.allocation.nodes, 'node')} × {_counted(plan.allocation.gpus, 'GPU')}"
    print(f"{args.file}: fine for {cluster.name} ({what} on {where})")
    return 0


def _counted(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def _script(args: argparse.Namespace) -> int:
    import shutil

    from gangrun.jobscript.faults import faults
    from gangrun.jobscript.read import read

    if args.overrides or args.cluster:
        raise UsageError(f"{args.file} is a batch script, for which --set and --cluster mean nothing")
    found = faults(read(args.file))
    for fault in found:
        print(f"{args.file}:{fault.line}: {fault.what}\n  mend: {fault.mend}")
    if not shutil.which("shellcheck"):
        inputs.say("shellcheck is not installed, so unquoted expansions were not looked for")
    if not found:
        print(f"{args.file}: no fault that gangrun knows")
    return 1 if found else 0
