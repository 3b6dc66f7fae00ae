"""End runs: what is queued leaves the queue, what runs is stopped with everything it started."""

from __future__ import annotations

import argparse

from gangrun.cli import inputs
from gangrun.errors import GangrunError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN…."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run id, its beginning, experiment/step, job id")


def run(args: argparse.Namespace) -> int:
    """Looks at all of them first, so that one that cannot be ended leaves nothing half done; then notes the wish, and
    asks each cluster once."""
    from gangrun import submission

    store, project = inputs.store_here(), inputs.project_here()
    found = list(dict.fromkeys(store.find(name) for name in args.runs))
    states = dict(zip(found, inputs.states(found, project), strict=True))
    for run, state in states.items():
        if not state.final and (pool := run.pool_around):
            way_out = f"gangrun cancel {pool.run_id} ends the pool"
            raise UsageError(f"{state.run} is an item of a pool, and cannot be ended alone", way_out=way_out)
    by_cluster: dict[str, list[str]] = {}
    for run, state in states.items():
        owned = [] if state.final else inputs.jobs_of(run, state, project)
        if not owned:
            print(f"{state.run}: nothing to cancel, it is {state.state}")
            continue
        for owner, job in {run: state.job, **dict(owned)}.items():
            submission.note_cancel(owner, job)
        # Of an array the array itself, as its tasks by name would fill a command line.
        jobs = list(dict.fromkeys(job if owner == run else job.partition("_")[0] for owner, job in owned))
        by_cluster.setdefault(state.scheduler, []).extend(jobs)
        print(f"{state.run}: cancelling " + (f"job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs"))
    scheduler_of = inputs.schedulers(project)
    refused: list[GangrunError] = []
    for cluster, jobs in by_cluster.items():
        try:
            scheduler_of(cluster).cancel(jobs)
        except GangrunError as error:  # the other clusters are asked all the same
            refused.append(error)
            inputs.say(str(error))
    return refused[0].exit_code if refused else 0
