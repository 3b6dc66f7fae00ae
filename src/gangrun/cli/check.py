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
    from gangrun.script.render import render

    _, cluster, plan = inputs.planned(args.file, args.overrides, args.cluster)
    render(plan, "check", "/run")
    nodes, gpus = plan.allocation.nodes, plan.allocation.gpus
    print(f"{args.file}: fine for {cluster.name} ({len(plan.replicas)} replicas on {nodes} nodes × {gpus} GPUs)")
    return 0
