"""From the plan of a sweep to one run with its items, recorded and sent.

A pool is one job, the run's own. In the other modes the run itself is none: each item, or each Slurm array, has a
directory that is laid out as a run's and recorded as one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from gangrun import chains, submission, throttling
from gangrun.lanes import Lanes
from gangrun.node.pool.channel import patience
from gangrun.plan.model import Need, Plan, Replica, Var
from gangrun.project import ITEMS
from gangrun.record import code
from gangrun.record.events import Submitting
from gangrun.record.events import encode as encode_event
from gangrun.record.item_states import ItemState
from gangrun.record.items import ItemLine, encode, read
from gangrun.record.ledger import NOT_SENT
from gangrun.record.naming import item_id, item_step
from gangrun.record.rundir import ARRAYS, EVENTS, ITEMS_FILE, NODE, POOL_FILE, RunDir
from gangrun.record.state import history
from gangrun.record.store import Store
from gangrun.script.quote import known_text
from gangrun.script.render import render, render_array
from gangrun.spec.model import Merge, Verdict
from gangrun.sweeps import PlannedItem, SweepPlan
from gangrun.throttling import Limits

if TYPE_CHECKING:
    from gangrun.scheduler.model import Scheduler

_Files: TypeAlias = "dict[str, bytes | Callable[[RunDir], bytes]]"


def create(
    store: Store,
    sweep: SweepPlan,
    argv: Sequence[str],
    largest_array: int = 1001,
    flags: Sequence[str] = (),
    when: float | None = None,
) -> RunDir:
    """Makes the run directory of a sweep with all its items.

    `largest_array` is how many tasks an array of the cluster can have; `flags` go to sbatch for a further job of a
    pool, too; `when` names the run in place of now. Raises InputError, RecordError.
    """
    experiment, job = sweep.experiment, sweep.job
    cluster = sweep.shown.cluster
    files: _Files = {ITEMS_FILE: lambda run: encode(_lines(sweep, run, arrays))}
    arrays = _arrays(sweep, largest_array) if sweep.mode == "array" else []
    if job is not None:
        files[POOL_FILE] = partial(_pool_file, sweep, job, flags)
        files.update(submission.files_of(job))
    created = submission.created_by(experiment, cluster, argv)
    born = encode_event(replace(created, argv=()))
    for planned in sweep.items:
        if sweep.scripted or single_command(planned.plan) is None:
            files.update(_directory(sweep, planned, born if job is None else b""))
    for number, members in enumerate(arrays):
        files[f"{ARRAYS}/{number}/script.sh"] = partial(_array_script, number, members)
        files[f"{ARRAYS}/{number}/{EVENTS}"] = born
    if experiment.copy:
        code.make(experiment.copy)
    run = store.create(
        experiment.experiment,
        experiment.step,
        spec=submission.resolved(experiment, cluster),
        script=(lambda run: render(job, run.run_id, run.dir)) if job is not None else None,
        project=experiment.project,
        created=replace(created, mode=sweep.mode, items=len(sweep.items)),
        files=files,
        when=when,
    )
    submission.keep_code(run, experiment)
    if experiment.spec.output:
        store.link(run, experiment.spec.output)
    submission.note(run, dict.fromkeys((*sweep.notes, *sweep.shown.notes)))
    return run


def send(
    run: RunDir,
    sweep: SweepPlan,
    scheduler: Scheduler,
    flags: Sequence[str] = (),
    needs: Mapping[Need, str] = {},
    sent: Callable[[RunDir, str], None] = lambda _run, _job: None,
) -> None:
    """Queues a created sweep; `needs` are the jobs that have to succeed before: for an item that is a job its own, for
    an array those of its items, or task by task those of another one, for a pool all; `sent` is told of each job.

    Raises Rejected or another SchedulerError at the first that is not taken: what was queued before goes on, and the
    rest is not sent.
    """
    cluster = sweep.shown.cluster
    if sweep.mode == "pool":
        everything = tuple(dict.fromkeys(needs.values()))
        sent(run, submission.send(run, cluster, scheduler, (*chains.flags(everything), *flags)))
        return
    send_one = partial(submission.send, cluster=cluster, scheduler=scheduler)
    own = {
        planned.item.name: tuple(dict.fromkeys(needs[need] for need in planned.plan.needs if need in needs))
        for planned in sweep.items
    }
    if sweep.mode == "array":
        most = _limit(sweep.max_parallel, sweep.max_nodes, sweep.items[0].plan.allocation.nodes)
        _send_arrays(run, send_one, most, own, flags, sent)
        return
    turns = [_Turn(one.item.name, one.plan.allocation.nodes, one.estimate, own[one.item.name]) for one in sweep.order]
    _send_jobs(run, send_one, turns, Lanes(sweep.max_parallel, sweep.max_nodes), flags, sent)


def send_rest(
    run: RunDir,
    states: Sequence[ItemState],
    limits: Limits,
    cluster: str,
    scheduler: Scheduler,
    flags: Sequence[str] = (),
    needs: Sequence[str] = (),
    sent: Callable[[RunDir, str], None] = lambda _run, _job: None,
) -> None:
    """Queues what of a sweep of jobs or arrays was not taken, as `states` say, or not sent at all; see `send`.

    All of it waits for `needs`, and for what was queued before as if one sender had sent it all.
    """
    send_one = partial(submission.send, cluster=cluster, scheduler=scheduler)
    nodes = throttling.nodes_of(run)
    parallel, most_nodes = limits.items or None, limits.nodes or None
    if run.arrays():
        most = _limit(parallel, most_nodes, max(nodes.values()))
        told = list(zip(read(run), states, strict=True))
        absent = {line.array for line, state in told if state.state in NOT_SENT}
        alive = {line.array for line, state in told if not state.final}
        jobs = [history(array.read_events()).job for array in run.arrays()]
        known = {number: job if number in alive else "" for number, job in enumerate(jobs) if number not in absent}
        _send_arrays(run, send_one, most, {state.name: needs for state in states}, flags, sent, known)
        return
    turns = []
    for state in sorted(states, key=lambda state: -(state.estimate or 0.0)):
        job = "" if state.state in NOT_SENT else state.job
        turns.append(_Turn(state.name, nodes[state.name], state.estimate, tuple(needs), job, state.final))
    _send_jobs(run, send_one, turns, Lanes(parallel, most_nodes), flags, sent)


_Send: TypeAlias = "Callable[..., str]"
_Sent: TypeAlias = "Callable[[RunDir, str], None]"


@dataclass(frozen=True, slots=True)
class _Turn:
    """An item in the order in which jobs are queued."""

    name: str
    nodes: int
    estimate: float | None
    needs: tuple[str, ...]
    job: str = ""
    """Where it is queued already."""
    over: bool = False


def _send_jobs(
    run: RunDir, send_one: _Send, turns: Sequence[_Turn], lanes: Lanes[str], flags: Sequence[str], sent: _Sent
) -> None:
    # Who sends: should this process be killed, the rest counts as never sent.
    run.append(Submitting.here(1, run.run_id))
    over = {turn.job for turn in turns if turn.over}
    for turn in turns:
        follows = [job for job in lanes.next(turn.nodes, turn.estimate) if job not in over]
        job = turn.job
        if not job:
            item = run.item(turn.name)
            job = send_one(item, flags=(*chains.flags(turn.needs, follows), *flags))
            sent(item, job)
        lanes.put(job)


def _send_arrays(
    run: RunDir,
    send_one: _Send,
    most: int | None,
    needs: Mapping[str, Sequence[str]],
    flags: Sequence[str],
    sent: _Sent,
    known: Mapping[int, str] = {},
) -> None:
    """`needs` are each item's, `known` the jobs of arrays that are queued already, empty for those that are over."""
    run.append(Submitting.here(1, run.run_id))
    arrays = _tasks(run)
    shares = _shares(most, len(arrays))
    before = ""
    for number, tasks in enumerate(arrays):
        if number not in known:
            limit = f"%{shares[number]}" if shares[number] else ""
            follows = [before] if before and most is not None and most < len(arrays) else []
            own = (
                f"--array=0-{len(tasks) - 1}{limit}",
                *chains.flags_of_array([needs[name] for name in tasks], follows),
            )
            before = send_one(run.array(number), flags=(*own, *flags))
            sent(run.array(number), before)
        else:
            before = known[number]


# ---- files


def _lines(sweep: SweepPlan, run: RunDir, arrays: Sequence[Sequence[PlannedItem]]) -> Iterator[ItemLine]:
    places = {
        planned.item.index: (number, task)
        for number, members in enumerate(arrays)
        for task, planned in enumerate(members)
    }
    for planned in sweep.items:
        item = planned.item
        name = item_id(run.run_id, item.name)
        line = ItemLine(index=item.index, name=item.name, parameters=item.values, run=name, estimate=planned.estimate)
        if sweep.mode == "pool":
            line = _pool_line(sweep, planned, run, line)
        array, task = places.get(item.index, (None, None))
        yield replace(line, array=array, task=task)


def _pool_line(sweep: SweepPlan, planned: PlannedItem, run: RunDir, line: ItemLine) -> ItemLine:
    plan, folder = planned.plan, run.item(planned.item.name)
    argv: tuple[str, ...] = ("bash", str(folder.script))
    env: dict[str, str] = {}
    log = folder.job_log.name
    if not sweep.scripted and (alone := single_command(plan)):
        argv = tuple(known_text(word, line.run, folder.dir) for word in alone.argv)
        env = {key: known_text(value, line.run, folder.dir) for key, value in (*plan.env, *alone.env)}
        log = ""
    return replace(
        line,
        argv=() if sweep.pool.call and not sweep.scripted else (*_judged(sweep, planned, run, line), *argv),
        env=env,
        log=log,
        cwd=plan.workdir,
        # On this machine the scripts of scripted items see to their devices themselves.
        gpus=0 if sweep.scripted else planned.gpus,
        cpus=0 if sweep.scripted else planned.cpus,
        timeout=planned.timeout,
        retries=planned.retries,
    )


def _pool_file(sweep: SweepPlan, job: Plan, flags: Sequence[str], run: RunDir) -> bytes:
    return json.dumps(_settings(sweep, job, flags, run), indent=1).encode("ascii") + b"\n"


def _judged(sweep: SweepPlan, planned: PlannedItem, run: RunDir, line: ItemLine) -> tuple[str, ...]:
    """What stands before the command of an item of a campaign: the program that watches and judges it."""
    campaign = sweep.experiment.spec.campaign
    if campaign is None or (campaign.verdict is None and campaign.hang is None):
        return ()
    rules: dict[str, object] = {"grace": patience(planned.plan.grace)}
    if planned.verdict:
        rules["verdict"] = [known_text(word, line.run, run.item(line.name).dir) for word in planned.verdict]
    elif isinstance(campaign.verdict, Verdict):
        rules["verdict"] = campaign.verdict.model_dump()
    if campaign.hang is not None:
        plan = planned.plan
        mains = ["main.0"] if single_command(plan) else [one.name for one in plan.replicas if one.kind == "main"]
        rules["hang"] = {**campaign.hang.model_dump(exclude_none=True), "watch": mains}
    return ("python3", f"{run.dir}/{NODE}/pool", "try", json.dumps(rules), "--")


def _merge(sweep: SweepPlan, run: RunDir) -> object:
    """The command or the rule by which a campaign's results are put together."""
    campaign = sweep.experiment.spec.campaign
    if sweep.merge:
        return [known_text(word, run.run_id, run.dir) for word in sweep.merge]
    return campaign.merge.model_dump() if campaign and isinstance(campaign.merge, Merge) else None


def _settings(sweep: SweepPlan, job: Plan, flags: Sequence[str], run: RunDir) -> dict[str, object]:
    """`pool.json`."""
    pool, allocation = sweep.pool, job.allocation
    said = not sweep.scripted
    return {
        "v": 1,
        "engine": pool.engine if said else "steps",
        "call": pool.call if said else None,
        "own_step": pool.own_step and said and job.scheduler == "slurm",
        "continue": pool.continue_ and said,
        "flags": list(flags),
        "merge": _merge(sweep, run),
        "max_parallel": sweep.max_parallel,
        "max_nodes": sweep.max_nodes,
        "scheduler": job.scheduler,
        "nodes": allocation.nodes,
        "gpus": allocation.gpus,
        "cpus": allocation.cpus,
        "time": allocation.time,
        "grace": job.grace,
    }


def single_command(plan: Plan) -> Replica | None:
    """The replica of an item that is one command, which a driver can start without a script around it."""
    replica = plan.replicas[0]
    if len(plan.replicas) > 1 or plan.ports or plan.files or plan.template:
        return None
    if replica.ready or replica.restarts or replica.step_flags or replica.parts or replica.again or replica.tasks > 1:
        return None
    words = (*replica.argv, *(value for _, value in (*plan.env, *replica.env)))
    known = (isinstance(part, str) or part in _KNOWN for word in words for part in word.parts)
    return replica if all(known) else None


_KNOWN = (Var("run_dir"), Var("run_name"))


def _directory(sweep: SweepPlan, planned: PlannedItem, born: bytes) -> _Files:
    """The directory of an item that has a script of its own, and a spec where it can be submitted by itself."""
    name = planned.item.name
    folder = f"{ITEMS}/{name}"

    def script(run: RunDir) -> bytes:
        return render(planned.plan, run.run_id, run.dir).encode("utf-8", "surrogateescape")

    def of_item(content: Callable[[RunDir], bytes], run: RunDir) -> bytes:
        return content(run.item(name))

    files: _Files = {f"{folder}/script.sh": partial(of_item, script)}
    for own, content in submission.files_of(planned.plan).items():
        files[f"{folder}/{own}"] = content if isinstance(content, bytes) else partial(of_item, content)
    if sweep.scripted:
        experiment = planned.experiment
        alone = replace(
            experiment,
            step=item_step(experiment.experiment, experiment.step, name),
            values={key: value for key, value in experiment.values.items() if key != "pool"},
        )
        files[f"{folder}/spec.toml"] = submission.resolved(alone, planned.plan.cluster).encode(
            "utf-8", "surrogateescape"
        )
    if born:
        files[f"{folder}/{EVENTS}"] = born
    return files


# ---- arrays


def _arrays(sweep: SweepPlan, largest: int) -> list[list[PlannedItem]]:
    """The items of each array. They are dealt out in turn, so that the arrays, each with its share of the limit on how
    many run at once, take about equally long."""
    count = -(-len(sweep.items) // largest)
    return [list(sweep.order[number::count]) for number in range(count)]


def _array_script(number: int, members: Sequence[PlannedItem], run: RunDir) -> bytes:
    array = run.array(number)
    folders = [run.item(planned.item.name).dir for planned in members]
    return render_array(members[0].plan, array.run_id, array.dir, folders).encode("utf-8", "surrogateescape")


def _tasks(run: RunDir) -> list[list[str]]:
    """The items of each array of a created sweep, by their tasks."""
    arrays: dict[int, dict[int, str]] = {}
    for line in read(run):
        arrays.setdefault(line.array or 0, {})[line.task or 0] = line.name
    return [[tasks[task] for task in sorted(tasks)] for _, tasks in sorted(arrays.items())]


def _limit(max_parallel: int | None, max_nodes: int | None, nodes: int) -> int | None:
    """How many items may run at once, each of which has so many nodes."""
    limits = [max_parallel, max_nodes // nodes if max_nodes else None]
    return min((limit for limit in limits if limit), default=None)


def _shares(limit: int | None, arrays: int) -> list[int]:
    """How many tasks of each array may run at once, 0 for any number."""
    if limit is None:
        return [0] * arrays
    if limit < arrays:
        return [limit] * arrays  # they follow one another
    return [limit // arrays + (number < limit % arrays) for number in range(arrays)]
