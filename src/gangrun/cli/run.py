"""Run an experiment here and now: on this machine, or in the allocation that you hold (salloc, srun --pty).

Shows what the replicas print. Ctrl-C stops all of them, gently at first; a second Ctrl-C at once. The exit code is the
run's own.
"""

from __future__ import annotations

import argparse

from gangrun.cli import inputs
from gangrun.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --set, --quiet."""
    inputs.add_file(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show what the replicas print")


def run(args: argparse.Namespace) -> int:
    """Creates the run, starts its script and follows it to its end."""
    from gangrun import chains, clusters, submission
    from gangrun.spec.load import load
    from gangrun.sweeps import SweepPlan, plan_of, plans_of
    from gangrun.views.live import follow_process

    experiment = inputs.with_code(load(args.file, args.overrides))
    inputs.check_name(experiment)
    project = experiment.project
    cluster = clusters.here(project)
    plan = plan_of(experiment, cluster)
    clusters.require_container_parts(plans_of(plan), cluster)
    local = cluster.profile.scheduler == "local"
    if isinstance(plan, SweepPlan) and plan.mode != "pool":
        what = f"mode {plan.mode} queues its items as jobs, and an allocation that is held has no queue"
        raise UsageError(what, way_out="gangrun submit, or --set sweep.mode=pool")
    links = chains.outside([(experiment, plan)], submission.store_of, lambda runs: inputs.states(runs, project))
    if waits := [link.run.run_id for link in links.values() if not (link.done or local)]:
        raise UsageError(f"{', '.join(waits)} has not ended, and an allocation that is held does not wait for it")
    plan = chains.bound(experiment, plan, links)
    if not local:
        clusters.require_room((plan.shown if isinstance(plan, SweepPlan) else plan).allocation.nodes)
    inputs.say_what_is_copied([experiment])
    started = inputs.created(submission.store_of(project), experiment, cluster, plan)
    chains.note(started, list(links.values()))
    process = submission.start_here(started, cluster.name)
    code = follow_process(
        started,
        process,
        quiet=args.quiet,
        stopping=lambda: submission.note_cancel(started),
        killing=lambda: submission.end_steps(started, clusters.scheduler_of(cluster)),
    )
    inputs.states([started], project)  # puts the end on record
    return code
