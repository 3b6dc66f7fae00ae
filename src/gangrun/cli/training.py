"""What `rl` and `sft` do with the job that a configuration means: record it, and send it or say how."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gangrun.cli import inputs
from gangrun.errors import InputError, UsageError

if TYPE_CHECKING:
    from gangrun.recipes.training import Job
    from gangrun.record.outdir import OutputDir
    from gangrun.record.rundir import RunDir
    from gangrun.spec.model import Profile

_AGAIN = "to go on from its checkpoints: --resume; to begin anew: --clean; or name another output_dir"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is no key of a configuration."""
    parser.add_argument("--dry-run", action="store_true", help="write everything, send nothing, and show how to")
    parser.add_argument("--resume", action="store_true", help="go on in an output_dir, from its last checkpoints")
    parser.add_argument("--clean", action="store_true", help="delete what an earlier run left in output_dir")
    parser.add_argument("--wait", action="store_true", help="follow the run; the exit code is then the job's own")
    inputs.add_json(parser)
    parser.usage = "%(prog)s @ FILE [@ FILE] [--key.path VALUE] [options] [-- flags of sbatch]"


def run(job: Job, args: argparse.Namespace) -> int:
    """Plans, records and sends the job; with --dry-run all but the last."""
    from gangrun import chains, clusters, dispatch, submission
    from gangrun.partitions import Chooser
    from gangrun.plan.model import Plan
    from gangrun.record.outdir import point_to_script
    from gangrun.resolve import resolve
    from gangrun.script.render import render
    from gangrun.views.live import follow_runs
    from gangrun.views.runs import as_data
    from gangrun.views.terminal import print_json

    experiment = inputs.with_code(job.experiment)
    inputs.check_name(experiment)
    place = str(experiment.origin("cluster"))
    cluster = clusters.choose(None, experiment.spec.cluster, experiment.project, place)
    inputs.require_sbatch_for(args.flags, cluster)
    experiment, plan = Chooser(args.flags, inputs.say).settle(experiment, cluster, resolve(experiment, cluster))
    assert isinstance(plan, Plan)  # noqa: S101 - for the type checker; a recipe is no sweep
    render(plan, "check", "/run")
    clusters.require_parts(experiment, plan, cluster)
    store = submission.store_of(experiment.project)
    links = chains.outside([(experiment, plan)], lambda _: store, lambda runs: inputs.states(runs, experiment.project))
    plan = chains.bound(experiment, plan, links)
    dry = args.dry_run or job.dry_run
    if not dry:
        clusters.require_sbatch(cluster)
    if dry and args.clean:
        raise UsageError("--clean deletes, and a dry run must not", way_out="leave one of the two out")
    outputs = _ready(job, args)
    inputs.say_what_is_copied([experiment])
    created = submission.create(store, experiment, plan, sys.argv)
    chains.note(created, list(links.values()))
    point_to_script(created, job.script)
    if outputs and not (dry and args.resume):  # the run that is there goes on holding it
        outputs.take(created, job.script)
    folder = outputs.path if outputs else created.path
    if dry:
        print(f"{created.run_id}  written, not sent  {created.dir}")
        waits = chains.flags(list(dict.fromkeys(link.job for link in links.values() if link.job)))
        print(_command(cluster.profile, [*waits, *args.flags], created))
        return 0
    jobs: list[str] = []
    scheduler = clusters.scheduler_of(cluster, inputs.say)
    waited_for = list(links.values())
    dispatch.send(created, plan, scheduler, waited_for, args.flags, sent=lambda _, job: jobs.append(job))
    if not args.json:
        print(f"{created.run_id}  {inputs.named(jobs)} on {cluster.name}  {created.dir}", flush=True)
        for name in job.logs:
            print(f"  tail -F {shlex.quote(f'{folder}/slurm/latest_{name}.log')}", flush=True)
    if args.wait:
        follow_runs([created], lambda: inputs.states([created], experiment.project), quiet=args.json)
    state = inputs.states([created], experiment.project)[0] if args.wait or args.json else None
    if args.json and state:
        print_json([as_data(state)])
    return inputs.code_of(state) if args.wait and state else 0


def _command(profile: Profile, flags: list[str], run: RunDir) -> str:
    """What sends this run, as it would be typed."""
    script = shlex.quote(str(run.script))
    if profile.scheduler == "local":
        return f"bash {script}"
    conf = f"SLURM_CONF={shlex.quote(profile.slurm_conf)} " if profile.slurm_conf else ""
    return " ".join([f"{conf}sbatch --parsable", *map(shlex.quote, flags), script])


def _ready(job: Job, args: argparse.Namespace) -> OutputDir | None:
    """The output directory that the run is to hold, if it has one outside of the record. Raises InputError where
    another run holds it and nothing was said, or where that run is alive."""
    from gangrun import submission
    from gangrun.record.outdir import OutputDir

    if args.resume and args.clean:
        raise UsageError("--resume goes on with what --clean deletes", way_out="leave one of them out")
    if job.output_dir is None:
        if args.resume or args.clean:
            flag = "--resume" if args.resume else "--clean"
            raise UsageError(f"{flag} is about an output_dir, and none is named", way_out="name it: --output-dir DIR")
        return None
    outputs = OutputDir(job.output_dir)
    outputs.refuse_what_is_not_ours()
    holder = outputs.holder
    if holder and not _begun(holder, job):
        holder = None
    if args.resume and holder is None:
        raise InputError("there is no run to resume", where=str(outputs.path), way_out="leave --resume out")
    if holder and not (args.resume or args.clean):
        raise InputError(f"the output directory holds {holder.run_id}", where=str(outputs.path), way_out=_AGAIN)
    outputs.open()
    if args.clean:
        experiment = job.experiment
        runs = (run.path for run in submission.store_of(experiment.project).runs())
        outputs.clean([experiment.project, experiment.file, Path.cwd(), Path.home(), *runs])
    return outputs


def _begun(holder: RunDir, job: Job) -> bool:
    """Whether that run was ever sent. Raises InputError if it goes on."""
    from gangrun.record.state import State

    if not os.path.lexists(holder.events):
        return True  # its record is gone; what it left in the directory is not
    state = inputs.states([holder], job.experiment.project)[0]
    if state.state in (State.CREATED, State.REJECTED, State.NEVER_SENT, State.UNREACHED):
        return False
    if not state.final:
        way_out = f"wait for it, end it with gangrun cancel {holder.run_id}, or name another output_dir"
        what = f"the output directory is in use by {holder.run_id}, which is {state.state}"
        raise InputError(what, where=str(job.output_dir), way_out=way_out)
    return True
