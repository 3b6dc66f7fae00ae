"""From the plan of a sweep to one run with its items, recorded and sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from gangrun import submission
from gangrun.plan.model import Plan, Replica, Var
from gangrun.record.items import ItemLine, encode
from gangrun.record.naming import item_id
from gangrun.record.rundir import ITEMS, ITEMS_FILE, POOL_FILE, RunDir
from gangrun.record.store import Store
from gangrun.script.quote import known_text
from gangrun.script.render import render
from gangrun.sweeps import PlannedItem, SweepPlan

_Files: TypeAlias = "dict[str, bytes | Callable[[RunDir], bytes]]"


def create(store: Store, sweep: SweepPlan, argv: Sequence[str]) -> RunDir:
    """Makes the run directory of a sweep with all its items. Raises InputError, RecordError."""
    experiment, job = sweep.experiment, sweep.job
    assert job is not None  # noqa: S101
    return store.create(
        job.experiment,
        job.step,
        spec=submission.resolved(experiment, job.cluster),
        script=lambda run: render(job, run.run_id, run.dir),
        project=experiment.project,
        created=submission.created_by(experiment, job.cluster, argv),
        files={**submission.files_of(job), **_pool_files(sweep, job)},
    )


def _pool_files(sweep: SweepPlan, job: Plan) -> _Files:
    """What the pool's driver reads, and the directories of items that are more than one command."""
    files: _Files = {
        ITEMS_FILE: lambda run: encode(_line(sweep, planned, run) for planned in sweep.items),
        POOL_FILE: json.dumps(_settings(sweep, job), indent=1).encode("ascii") + b"\n",
    }
    for planned in sweep.items:
        if single_command(planned.plan) is None:
            files.update(_scripted(planned))
    return files


def _settings(sweep: SweepPlan, job: Plan) -> dict[str, object]:
    pool, allocation = sweep.pool, job.allocation
    return {
        "v": 1,
        "engine": pool.engine,
        "call": pool.call,
        "continue": pool.continue_,
        "max_parallel": sweep.max_parallel,
        "max_nodes": sweep.max_nodes,
        "scheduler": job.scheduler,
        "nodes": allocation.nodes,
        "gpus": allocation.gpus,
        "cpus": allocation.cpus,
        "time": allocation.time,
        "grace": job.grace,
    }


def _line(sweep: SweepPlan, planned: PlannedItem, run: RunDir) -> ItemLine:
    item, plan = planned.item, planned.plan
    name, folder = item_id(run.run_id, item.name), run.item(item.name)
    argv: tuple[str, ...] = ("bash", str(folder.script))
    env: dict[str, str] = {}
    if alone := single_command(plan):
        argv = tuple(known_text(word, name, folder.dir) for word in alone.argv)
        env = {key: known_text(value, name, folder.dir) for key, value in (*plan.env, *alone.env)}
    return ItemLine(
        index=item.index,
        name=item.name,
        parameters=item.values,
        run=name,
        argv=() if sweep.pool.call else argv,
        env=env,
        cwd=plan.workdir,
        gpus=planned.gpus,
        cpus=planned.cpus,
        estimate=planned.estimate,
        timeout=planned.timeout,
        retries=planned.retries,
    )


def single_command(plan: Plan) -> Replica | None:
    """The replica of an item that is one command, which a driver can start without a script around it."""
    replica = plan.replicas[0]
    if len(plan.replicas) > 1 or plan.ports or plan.files or plan.template:
        return None
    if replica.ready or replica.restarts or replica.step_flags or replica.parts or replica.tasks > 1:
        return None
    words = (*replica.argv, *(value for _, value in (*plan.env, *replica.env)))
    known = (isinstance(part, str) or part in _KNOWN for word in words for part in word.parts)
    return replica if all(known) else None


_KNOWN = (Var("run_dir"), Var("run_name"))


def _scripted(planned: PlannedItem) -> _Files:
    """The directory of an item that has a script of its own."""
    folder = f"{ITEMS}/{planned.item.name}"

    def script(run: RunDir) -> bytes:
        item = run.item(planned.item.name)
        return render(planned.plan, item.run_id, item.dir).encode("utf-8", "surrogateescape")

    def of_item(content: Callable[[RunDir], bytes], run: RunDir) -> bytes:
        return content(run.item(planned.item.name))

    files: _Files = {f"{folder}/script.sh": script}
    for name, content in submission.files_of(planned.plan).items():
        files[f"{folder}/{name}"] = content if isinstance(content, bytes) else partial(of_item, content)
    return files
