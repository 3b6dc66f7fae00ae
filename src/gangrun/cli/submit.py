"""Queue experiments on a cluster, one job for each file and seed, and record every one. Batch scripts go as they are.

Words after `--` go to sbatch as they are and win over everything else: gangrun submit a.toml -- --nice=100
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gangrun.cli import inputs
from gangrun.errors import GangrunError, UsageError
from gangrun.project import OUTPUTS

if TYPE_CHECKING:
    from gangrun.chains import Link
    from gangrun.jobscript.read import JobScript
    from gangrun.plan.model import Need, Plan
    from gangrun.record.rundir import RunDir
    from gangrun.record.state import RunState
    from gangrun.spec.profile import Cluster
    from gangrun.sweeps import SweepPlan

PASSES_ON = True
"""Words after `--` are not ours; the command line hands them over as `args.flags`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE…, --seeds, --set, --cluster, --partition, --dry-run, --wait, --json, -- FLAGS."""
    inputs.add_file(parser, several=True)
    inputs.add_cluster(parser)
    inputs.add_partition(parser)
    inputs.add_json(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="show the script and the command; write and send nothing"
    )
    parser.add_argument("--wait", action="store_true", help="follow the runs; the exit code is then the job's own")


def run(args: argparse.Namespace) -> int:
    """Sends neighbours of one kind together, each kind in its own way, after a look at all of them."""
    entries = inputs.expanded(args.files)
    groups = [(kind, list(grouped)) for kind, grouped in groupby(entries, _kind)]
    if len(groups) == 1 and groups[0][0] == "experiment":
        return _submit(args, entries)
    kinds = {kind for kind, _ in groups}
    if "front" in kinds and (args.overrides or args.partition or args.seeds or args.flags or args.json):
        way_out = "write them into the script, after the function"
        what = "--set, --partition, --seeds, --json and flags after -- mean nothing to a script"
        raise UsageError(what, way_out=way_out)
    if len(kinds) > 1:
        if args.json:
            raise UsageError("--json is for files of one kind, and some of these are scripts", way_out="two calls")
        list(_planned(args, [entry for entry in entries if _kind(entry) == "experiment"]))
        _written(args, [name for name, _ in entries if _kind((name, True)) == "batch"])
    send = {"front": _run_scripts, "batch": _submit_scripts, "experiment": _submit}
    for kind, group in groups:
        if code := send[kind](args, group):
            return code  # what follows may need it
    return 0


def _kind(entry: tuple[str, bool]) -> Literal["experiment", "front", "batch"]:
    """Whether it is an experiment, a script of the bash front, which sends its jobs itself, or a script for sbatch."""
    from gangrun.jobscript import read
    from gangrun.recipes import bash

    if not read.is_one(entry[0]):
        return "experiment"
    return "front" if entry[0].endswith(".sh") and bash.sources_init(Path(entry[0])) else "batch"


def _run_scripts(args: argparse.Namespace, entries: list[tuple[str, bool]]) -> int:
    """Runs scripts that source slurm/init.sh from the root of their project, those of a folder if they are due."""
    import subprocess

    from gangrun.recipes import bash

    env = {**os.environ, **({"GANGRUN_CLUSTER": args.cluster} if args.cluster else {})}
    ran: list[tuple[Path, Path]] = []
    for name, of_folder in entries:
        file = Path(name).absolute()
        project = bash.project_of(file)
        if of_folder and not _is_due(_state_of(project, file)):
            continue
        if args.dry_run:
            print(f"# would be run in {project}: bash {file}")
        elif code := subprocess.run(["bash", str(file)], cwd=project, env=env).returncode:
            inputs.say(f"{name} ended with {code}")
            return code
        else:
            ran.append((project, file))
    return _wait_for(ran) if args.wait else 0


def _wait_for(scripts: list[tuple[Path, Path]]) -> int:
    """Follows the newest run of each of these scripts to its end; the exit code for all of them."""
    from gangrun.views.live import follow_runs

    runs = [run for project, file in scripts if (run := _newest(project, file))]
    if not runs:
        return 0
    project = scripts[0][0]
    follow_runs(runs, lambda: inputs.states(runs, project))
    return inputs.overall([inputs.code_of(state) for state in inputs.states(runs, project)])


def _newest(project: Path, script: Path) -> RunDir | None:
    from gangrun import submission

    return submission.store_of(project).newest(script.parent.name, script.stem)


def _state_of(project: Path, script: Path) -> RunState | None:
    """The state of a step's newest run."""
    run = _newest(project, script)
    return inputs.states([run], project)[0] if run else None


def _is_due(state: RunState | None) -> bool:
    """Whether a step of a folder is to be sent, by its newest run. One that has succeeded or is under way is named."""
    from gangrun.record.state import State

    if state is None or (state.final and state.state != State.COMPLETED):
        return True
    inputs.say(f"{state.run} is {state.state}: not sent again")
    return False


def _submit(args: argparse.Namespace, entries: list[tuple[str, bool]]) -> int:
    """Plans everything first, so that one bad file leaves nothing half-sent; then creates and sends."""
    from gangrun import chains, clusters, submission
    from gangrun.sweeps import plans_of

    planned = _due(list(_planned(args, entries)))
    if not planned:
        print("all steps have succeeded, or are under way")
        return 0
    planned = [planned[position] for position in chains.in_order([(one[0], one[2]) for one in planned])]
    project = planned[0][0].project
    links = chains.outside(
        [(experiment, plan) for experiment, _, plan in planned],
        submission.store_of,
        lambda runs: inputs.states(runs, project),
    )
    if args.dry_run:
        return _show(planned, links, args.flags)
    inputs.say_what_is_copied(experiment for experiment, _, _ in planned)
    for cluster in {cluster.name: cluster for _, cluster, _ in planned}.values():
        clusters.require_sbatch(cluster)
    for doubt in {clusters.doubts_about_containers(plans_of(plan), cluster) for _, cluster, plan in planned} - {""}:
        inputs.say(doubt)
    try:
        sent, failed = _send(planned, links, args)
    except KeyboardInterrupt:
        inputs.say("interrupted; gangrun ls tells what was queued all the same")
        os._exit(130)  # the senders would be waited for, and they wait a minute for a controller that is away
    return _outcome(args, sent, failed, project)


def _written(args: argparse.Namespace, names: list[str]) -> tuple[Cluster, list[JobScript]]:
    """These batch scripts, and the cluster that they are sent to. Raises UsageError where one cannot be."""
    from gangrun import clusters
    from gangrun.jobscript import read

    cluster = clusters.choose(args.cluster, None, inputs.project_here())
    if not names:
        return cluster, []
    if args.overrides or args.seeds or args.partition:
        what = "--set, --seeds and --partition change experiments, and a batch script is sent as it is"
        raise UsageError(what, way_out="flags for sbatch stand after --")
    if cluster.profile.scheduler == "local":
        way_out = f"bash {names[0]}, or --cluster NAME"
        raise UsageError(f"{names[0]} is a batch script, and {cluster.name} has no sbatch", way_out=way_out)
    return cluster, [read.read(name, args.flags) for name in names]


def _submit_scripts(args: argparse.Namespace, entries: list[tuple[str, bool]]) -> int:
    """Sends batch scripts as they are, each with a record; those of a folder if they are due."""
    from gangrun import clusters, submission
    from gangrun.script.written import written

    project = inputs.project_here()
    due = (name for name, of_folder in entries if not of_folder or _is_due(_state_of(project, Path(name).absolute())))
    cluster, jobs = _written(args, list(due))
    if not jobs:
        print("all steps have succeeded, or are under way")
        return 0
    if args.dry_run:
        for job in jobs:
            print(written(job.head, job.name, job.interpreter, f"{job.file.stem}_YYMMDD_HHMMSS", "RUN_DIR"), end="")
        return 0
    clusters.require_sbatch(cluster)
    store, scheduler = submission.store_of(project), clusters.scheduler_of(cluster, inputs.say)
    sent: list[RunDir] = []
    failed: list[GangrunError] = []
    for job in jobs:
        run = submission.create_written(store, project, job, cluster.name, sys.argv)
        sent.append(run)
        try:
            number = submission.send(run, cluster.name, scheduler, args.flags)
        except GangrunError as error:
            failed.append(error)
            inputs.say(str(error))
        else:
            if not args.json:
                print(f"{run.run_id}  job {number} on {cluster.name}  {run.dir}", flush=True)
    return _outcome(args, sent, failed, project)


def _outcome(args: argparse.Namespace, sent: list[RunDir], failed: list[GangrunError], project: Path) -> int:
    """Follows the runs where that is wanted, and returns the exit code of the call."""
    if args.wait:
        from gangrun.views.live import follow_runs

        follow_runs(sent, lambda: inputs.states(sent, project), quiet=args.json)
    states = inputs.states(sent, project) if args.wait or args.json else []
    if args.json:
        from gangrun.views.runs import as_data
        from gangrun.views.terminal import print_json

        print_json([as_data(state) for state in states])
    codes = [inputs.code_of(state) for state in states if args.wait] or [0] * len(sent)
    if len(sent) == 1:
        return failed[0].exit_code if failed else codes[0]
    bad = max(len(failed), sum(1 for code in codes if code))
    return inputs.overall([1] * bad + [0] * (len(sent) - bad))


def _send(
    planned: list[inputs.Planned], links: dict[Need, Link], args: argparse.Namespace
) -> tuple[list[RunDir], list[GangrunError]]:
    """Creates the runs one after another while those before them are being sent."""
    from gangrun import chains, clusters, submission
    from gangrun.dispatch import Dispatch
    from gangrun.sweeps import SweepPlan, shown_of

    stores = {experiment.project: submission.store_of(experiment.project) for experiment, _, _ in planned}
    schedulers = {cluster.name: clusters.scheduler_of(cluster, inputs.say) for _, cluster, _ in planned}
    failed: list[GangrunError] = []
    runs: list[RunDir] = []

    def told(run: RunDir, plan: Plan | SweepPlan, jobs: Sequence[str]) -> None:
        if not args.json:
            # With its end in the same write, or lines of several senders run into each other.
            several = f"{len(plan.items)} items: " if isinstance(plan, SweepPlan) else ""
            where = f"on {shown_of(plan).cluster}  {run.dir}"
            print(f"{run.run_id}  {several}{inputs.named(jobs)} {where}\n", end="", flush=True)

    def complain(error: GangrunError) -> None:
        failed.append(error)
        inputs.say(str(error))

    with Dispatch(links, args.flags, told, complain) as dispatch:
        for experiment, cluster, plan in planned:
            bound = chains.bound(experiment, plan, dispatch.links)
            runs.append(inputs.created(stores[experiment.project], experiment, cluster, bound, args.flags))
            dispatch.add(runs[-1], bound, inputs.sender(bound, cluster, schedulers[cluster.name]))
    return runs, failed


def _due(planned: list[tuple[inputs.Planned, bool]]) -> list[inputs.Planned]:
    """Without the steps of a folder that have succeeded or are under way, each of which is named."""
    from gangrun import submission

    asked = [
        submission.store_of(experiment.project).newest(experiment.experiment, experiment.step) if of_folder else None
        for (experiment, _, _), of_folder in planned
    ]
    runs = list(dict.fromkeys(run for run in asked if run))
    states = {}
    if runs:
        states = dict(zip(runs, inputs.states(runs, planned[0][0][0].project), strict=True))
    return [one for (one, _), run in zip(planned, asked, strict=True) if _is_due(states[run] if run else None)]


def _planned(args: argparse.Namespace, entries: list[tuple[str, bool]]) -> Iterator[tuple[inputs.Planned, bool]]:
    """Every file under every seed, planned and, under a template of one's own, rendered to see whether it can be; and
    whether a folder stood for it."""
    from gangrun import clusters
    from gangrun.partitions import Chooser
    from gangrun.script.render import render
    from gangrun.sweeps import plan_of, shown_of

    chooser, overrides = Chooser(args.flags, inputs.say), inputs.with_partition(args)
    for file, of_folder in entries:
        experiment, cluster = inputs.loaded(file, overrides, args.cluster)
        inputs.require_sbatch_for(args.flags, cluster, "choose a --cluster")
        seeds = None if args.seeds is None else inputs.seeds(args.seeds)
        for asked in [experiment] if seeds is None else map(experiment.with_seed, seeds):
            inputs.check_name(asked)
            one, plan = chooser.settle(asked, cluster, plan_of(asked, cluster))
            shown = shown_of(plan)
            clusters.require_parts(one, plan, cluster)
            if shown.template:
                render(shown, "check", "/run")
            yield (one, cluster, plan), of_folder


def _show(planned: list[inputs.Planned], links: dict[Need, Link], flags: list[str]) -> int:
    """What a submission would send, by the same path without its last step."""
    from gangrun import chains
    from gangrun.record.naming import run_id, sanitise
    from gangrun.script.render import render
    from gangrun.sweeps import shown_of

    for experiment, cluster, sent in planned:
        whole = chains.bound(experiment, sent, links)
        plan = shown_of(whole)
        folders = sanitise(plan.experiment), sanitise(plan.step), "YYMMDD_HHMMSS"
        name, directory = run_id(*folders), experiment.project.joinpath(OUTPUTS, *folders)
        print(render(plan, name, str(directory)), end="")
        local = cluster.profile.scheduler == "local"
        jobs = [links[need].job if need in links else f"JOB-OF-{need.step}" for need in chains.needs_of(sent)]
        waits = () if local else chains.flags([job for job in jobs if job])
        command = "bash" if local else " ".join(["sbatch --parsable", *waits, *flags])
        print(f"# would be sent by: {command} {directory}/script.sh")
    return 0
