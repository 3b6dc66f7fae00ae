"""Run an experiment here and now: on this machine, or in the allocation that you hold (salloc, srun --pty).

Shows what the replicas print. Ctrl-C stops all of them, gently at first; a second Ctrl-C at once. The exit code is the
run's own.
"""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --set, --quiet."""
    inputs.add_file(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show what the replicas print")


def run(args: argparse.Namespace) -> int:
    """Creates the run, starts its script and follows it to its end."""
    from gangrun import chains, clusters, submission
    from gangrun.spec.load import load
    from gangrun.sweeps import plan_of

    inputs.require_experiment(args.file)
    experiment = inputs.with_code(load(args.file, args.overrides))
    inputs.check_name(experiment)
    project = experiment.project
    cluster = clusters.here(project)
    plan = plan_of(experiment, cluster)
    clusters.require_parts(experiment, plan, cluster)
    links = chains.outside([(experiment, plan)], submission.store_of, lambda runs: inputs.states(runs, project))
    if cluster.profile.scheduler != "local":
        inputs.require_held(plan, links.values())
    plan = chains.bound(experiment, plan, links)
    inputs.say_what_is_copied([experiment])
    started = inputs.created(submission.store_of(project), experiment, cluster, plan)
    chains.note(started, list(links.values()))
    return inputs.follow_here(started, project, cluster, quiet=args.quiet)
