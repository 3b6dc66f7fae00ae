"""Show what will run where: nodes, GPUs, ports, time; nothing is written or sent."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --set, --cluster, --json, --explain."""
    inputs.add_file(parser)
    inputs.add_cluster(parser)
    inputs.add_json(parser)
    parser.add_argument("--explain", action="store_true", help="where every value comes from")


def run(args: argparse.Namespace) -> int:
    """Draws the plan."""
    from gangrun.explain import explain
    from gangrun.sweeps import SweepPlan, plans_of, shown_of
    from gangrun.views import plan as view
    from gangrun.views import planned_items, terminal

    experiment, cluster, planned = inputs.planned(args.file, args.overrides, args.cluster)
    plan = shown_of(planned)
    replicas = plans_of(planned)[0].replicas
    explained = explain(experiment, cluster, plan, replicas) if args.explain else None
    if args.json:
        data = view.as_data(plan, explained)
        if isinstance(planned, SweepPlan):
            data["sweep"] = planned_items.as_data(planned)
        terminal.print_json(data)
    else:
        # Explained, a row stays a line in a pipe, for grep.
        console = terminal.console(piped=120 if explained is None else 10_000)
        console.print(view.draw(plan, console.width) if explained is None else view.draw_explained(explained))
        if isinstance(planned, SweepPlan) and explained is None:
            lines = [*planned_items.table(planned, console.width), *planned_items.compared(planned, console.width)]
            print("\n".join(["", *lines]))
    return 0
