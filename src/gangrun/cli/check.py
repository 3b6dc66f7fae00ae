"""Say everything that is wrong with an experiment file, and nothing if it is right."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --set, --cluster."""
    inputs.add_file(parser)
    inputs.add_cluster(parser)


def run(args: argparse.Namespace) -> int:
    """Loads, resolves and renders; problems are raised on the way."""
    from gangrun import clusters
    from gangrun.script.render import render
    from gangrun.sweeps import SweepPlan, plans_of

    _, cluster, planned = inputs.planned(args.file, args.overrides, args.cluster)
    plan = planned.shown if isinstance(planned, SweepPlan) else planned
    clusters.require_container_parts(plans_of(planned), cluster)
    render(plan, "check", "/run")
    nodes, gpus = plan.allocation.nodes, plan.allocation.gpus
    what = f"{len(plan.replicas)} replicas"
    if isinstance(planned, SweepPlan):
        what = (
            f"{len(planned.items)} items, mode {planned.mode},"
            if planned.mode == "pool"
            else f"{len(planned.items)} items, each"
        )
    print(f"{args.file}: fine for {cluster.name} ({what} on {nodes} nodes × {gpus} GPUs)")
    return 0
