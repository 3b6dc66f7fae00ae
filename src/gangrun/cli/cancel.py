"""End runs: what is queued leaves the queue, what runs is stopped with everything it started."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN…."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run id, its beginning, experiment/step, job id")


def run(args: argparse.Namespace) -> int:
    """Notes the wish, then asks each cluster once."""
    from gangrun import submission

    store, project = inputs.store_here(), inputs.project_here()
    found = list(dict.fromkeys(store.find(name) for name in args.runs))
    by_cluster: dict[str, list[str]] = {}
    for run, state in zip(found, inputs.states(found, project), strict=True):
        if state.final or not state.job:
            print(f"{state.run}: nothing to cancel, it is {state.state}")
            continue
        submission.note_cancel(run, state.job)
        by_cluster.setdefault(state.cluster, []).append(state.job)
        print(f"{state.run}: cancelling job {state.job}")
    scheduler_of = inputs.schedulers(project)
    for cluster, jobs in by_cluster.items():
        scheduler_of(cluster).cancel(jobs)
    return 0
