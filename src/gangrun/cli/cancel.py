"""End runs: what is queued leaves the queue, what runs is stopped with everything it started."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs
from gangrun.errors import UsageError


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
        jobs = inputs.jobs_of(run, state, project)
        if state.final or not jobs:
            print(f"{state.run}: nothing to cancel, it is {state.state}")
            continue
        if run.is_item and (sweep := run.sweep) and sweep.pool_file.exists():
            way_out = f"gangrun cancel {sweep.run_id} ends the pool"
            raise UsageError(f"{state.run} is an item of a pool, and cannot be ended alone", way_out=way_out)
        submission.note_cancel(run, state.job)
        by_cluster.setdefault(state.scheduler, []).extend(jobs)
        print(f"{state.run}: cancelling " + (f"job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs"))
    scheduler_of = inputs.schedulers(project)
    for cluster, jobs in by_cluster.items():
        scheduler_of(cluster).cancel(jobs)
    return 0
