"""Run a job of jobs/ under the names of the script around it: on the cluster, or here where there is no sbatch.

Scripts that source slurm/init.sh call it by functions: `train --time=3-00:00:00 --gres=gpu:4` is `gangrun job train …`.
Inside a job it runs in that job's allocation.
"""

from __future__ import annotations

import argparse
import os
import shutil
from typing import TYPE_CHECKING

from gangrun.cli import inputs
from gangrun.errors import UsageError

if TYPE_CHECKING:
    from gangrun.plan.model import Plan
    from gangrun.record.rundir import RunDir
    from gangrun.spec.load import Experiment
    from gangrun.spec.profile import Cluster
    from gangrun.sweeps import SweepPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """JOB, flags of sbatch."""
    parser.add_argument("job", metavar="JOB", help="name of a file in jobs/, without .toml")
    parser.add_argument("flags", metavar="FLAG", nargs=argparse.REMAINDER, help="flags of sbatch, which win over it")


def run(args: argparse.Namespace) -> int:
    """Creates the run, or the next attempt of the one that `resume` has named, and sends it or runs it here."""
    from gangrun import chains, clusters, dispatch, submission
    from gangrun.partitions import Chooser
    from gangrun.recipes import bash
    from gangrun.sweeps import plan_of

    experiment, script = bash.experiment(args.job, args.flags, os.environ)
    experiment = inputs.with_code(experiment)
    inputs.check_name(experiment)
    cluster = _cluster(experiment)
    local = cluster.profile.scheduler == "local"
    held = not local and "SLURM_JOB_ID" in os.environ
    if local:
        experiment = bash.fitted(experiment)
    plan = plan_of(experiment, cluster)
    if not held:
        experiment, plan = Chooser((), inputs.say).settle(experiment, cluster, plan)
    clusters.require_parts(experiment, plan, cluster)
    store = submission.store_of(experiment.project)
    links = chains.outside([(experiment, plan)], lambda _: store, lambda runs: inputs.states(runs, experiment.project))
    if held:
        inputs.require_held(plan, links.values())
    plan = chains.bound(experiment, plan, links)
    inputs.say_what_is_copied([experiment])
    if old := bash.resumed(os.environ):
        run, attempt = old, _renewed(old, experiment, plan)
    else:
        run, attempt = inputs.created(store, experiment, cluster, plan, when=script.when), 1
    chains.note(run, list(links.values()))
    if local or held:
        print(f"{run.run_id}  {run.dir}", flush=True)
        return inputs.follow_here(run, experiment.project, cluster, attempt=attempt)
    jobs: list[str] = []
    scheduler = inputs.sender(plan, cluster, clusters.scheduler_of(cluster, inputs.say))
    dispatch.send(run, plan, scheduler, list(links.values()), sent=lambda _, job: jobs.append(job), attempt=attempt)
    print(f"{run.run_id}  {inputs.named(jobs)} on {cluster.name}  {run.dir}", flush=True)
    return 0


def _renewed(run: RunDir, experiment: Experiment, plan: Plan | SweepPlan) -> int:
    """Makes a run that has failed ready for its next attempt; the number of that."""
    from gangrun import submission
    from gangrun.sweeps import SweepPlan

    (state,) = inputs.states([run], experiment.project)
    submission.require_ended(state)
    if isinstance(plan, SweepPlan):
        way_out = f"gangrun resume {run.run_id}/ITEM for each that failed"
        raise UsageError(f"{run.run_id} is a sweep, and its items are resumed one by one", way_out=way_out)
    submission.require_checkpoint(run, state)
    submission.renew(run, experiment, plan)
    return submission.next_attempt(run)


def _cluster(experiment: Experiment) -> Cluster:
    from gangrun import clusters
    from gangrun.spec.profile import LOCAL

    project = experiment.project
    if "SLURM_JOB_ID" in os.environ:
        return clusters.here(project)
    chosen = clusters.choose(None, experiment.spec.cluster, project, str(experiment.origin("cluster")))
    if chosen.profile.scheduler != "local" and not shutil.which("sbatch"):
        return clusters.named(LOCAL, project)
    return chosen
