"""Go on with runs that have ended without success: the next attempt of the same run, in the same directory.

The run keeps its name, its id in W&B and the logs of its earlier attempts, and loads the newest checkpoint that its
[resume] finds. Words after `--` go to sbatch and win: gangrun resume RUN -- --time=2-00:00:00

Of a sweep of jobs or arrays it sends what was not sent, as its sender was killed or sbatch refused; items that have
failed are resumed one by one, as RUN/ITEM.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from gangrun.cli import inputs
from gangrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gangrun.record.item_states import ItemState
    from gangrun.record.rundir import RunDir
    from gangrun.record.state import RunState
    from gangrun.spec.profile import Cluster

PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN…, --wait, --json, -- FLAGS."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run id, its beginning, experiment/step, job id, latest")
    parser.add_argument("--wait", action="store_true", help="follow the runs; the exit code is then the job's own")
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Looks at all of them first, so that one that cannot go on leaves nothing half-sent; then sends."""
    from gangrun import chains, clusters, submission
    from gangrun.record import outdir
    from gangrun.record.ledger import SPREAD
    from gangrun.views import terminal
    from gangrun.views.live import follow_runs
    from gangrun.views.runs import as_data

    store, project = inputs.store_here(), inputs.project_here()
    states_of = partial(inputs.states, project=project)
    found = [store.find(name) for name in args.runs]
    for one in found:
        if pool := one.pool_around:
            way_out = f"gangrun resume {pool.run_id} tries again all that has failed"
            raise UsageError(f"{one.run_id} is an item of a pool, and cannot be resumed alone", way_out=way_out)
    found = chains.needed_first(found)
    ready = []
    rests: dict[RunDir, Sequence[ItemState]] = {}
    for one, state in zip(found, states_of(found), strict=True):
        if state.mode in SPREAD:
            rests[one] = _with_unsent(one, state, project)
        else:
            submission.require_ended(state)
            submission.require_checkpoint(one, state)
        submission.require_code(one)
        outdir.require_held(one)
        cluster = clusters.named(state.cluster or "local", project)
        clusters.require_sbatch(cluster)
        links = chains.again(one, states_of, found)
        inputs.require_sbatch_for(args.flags, cluster)
        alive = [link.run.run_id for link in links if not link.done]
        if alive and cluster.profile.scheduler == "local":
            raise UsageError(f"{state.run} needs {alive[0]}, which has not ended", way_out="resume it then")
        ready.append((one, cluster, links))
    scheduler_of = inputs.schedulers(project)
    sent: dict[RunDir, str] = {}
    for one, cluster, links in ready:
        if one in rests:
            needs = [job for link in links if (job := sent.get(link.run, link.job))]
            sent[one] = _send_rest(one, rests[one], cluster, needs, args)
            continue
        attempt = submission.next_attempt(one)
        lost = submission.lost_hosts(one) if cluster.profile.scheduler == "slurm" else []
        if lost and not args.json:
            inputs.say(f"it keeps off {', '.join(lost)}, which it has lost")
        waits = chains.flags([job for link in links if (job := sent.get(link.run, link.job))])
        flags = (*waits, *submission.keeping_off(one, lost), *args.flags)
        sent[one] = submission.send(one, cluster.name, scheduler_of(cluster.name), flags, attempt)
        if not args.json:
            print(f"{one.run_id}  attempt {attempt}, job {sent[one]} on {cluster.name}  {one.dir}", flush=True)
    if args.wait:
        follow_runs(found, lambda: states_of(found), quiet=args.json)
    states = states_of(found) if args.wait or args.json else []
    if args.json:
        terminal.print_json([as_data(state) for state in states])
    return inputs.overall([inputs.code_of(state) for state in states]) if args.wait else 0


def _with_unsent(run: RunDir, state: RunState, project: Path) -> Sequence[ItemState]:
    """The items of a sweep of which some were never sent. Raises UsageError where there are none."""
    from gangrun.record.ledger import NOT_SENT
    from gangrun.record.state import State

    states = inputs.items(run, state, project)
    if any(one.state in (State.CREATED, State.SUBMITTING) for one in states):
        what = f"{state.run} is being sent, or it is not known yet what of it was"
        raise UsageError(what, way_out=f"gangrun show {state.run} says so within a minute")
    if not any(one.state in NOT_SENT for one in states):
        way_out = f"gangrun resume {state.run}/ITEM for each that failed; gangrun show {state.run} lists them"
        raise UsageError(f"{state.run} is no job itself: its items are, and all were sent", way_out=way_out)
    return states


def _send_rest(
    run: RunDir, states: Sequence[ItemState], cluster: Cluster, needs: Sequence[str], args: argparse.Namespace
) -> str:
    """Sends what is left of a sweep; the jobs, joined by colons."""
    from gangrun import sweep_submission, throttling

    slurm = inputs.patient(cluster, inputs.say)
    sent: dict[RunDir, str] = {}
    limits = throttling.current(run)
    sweep_submission.send_rest(run, states, limits, cluster.name, slurm, args.flags, needs, sent.__setitem__)
    jobs = list(sent.values())
    if not args.json:
        print(f"{run.run_id}  the rest: {inputs.named(jobs)} on {cluster.name}  {run.dir}", flush=True)
    return ":".join(jobs)
