"""Run an experiment here and now: on this machine, or in the allocation that you hold (salloc, srun --pty).

Shows what the replicas print. Ctrl-C stops all of them, gently at first; a second Ctrl-C at once. The exit code is the
run's own.
"""

from __future__ import annotations

import argparse
import sys

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --set, --quiet."""
    inputs.add_file(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show what the replicas print")


def run(args: argparse.Namespace) -> int:
    """Creates the run, starts its script and follows it to its end."""
    from gangrun import clusters, submission
    from gangrun.resolve import resolve
    from gangrun.spec.load import load
    from gangrun.views.live import follow_process

    experiment = load(args.file, args.overrides)
    inputs.check_name(experiment)
    cluster = clusters.here(experiment.project)
    plan = resolve(experiment, cluster)
    if plan.scheduler != "local":
        clusters.require_room(plan.allocation.nodes)
    started = submission.create(submission.store_of(experiment.project), experiment, plan, sys.argv)
    process = submission.start_here(started)
    code = follow_process(
        started,
        process,
        quiet=args.quiet,
        stopping=lambda: submission.note_cancel(started),
        killing=lambda: submission.end_steps(started, clusters.scheduler_of(cluster)),
    )
    inputs.states([started], experiment.project)  # puts the end on record
    return code
