"""A sweep as plans: one for each item, and in the modes `array` and `pool` one for the job that they share.

Pure, as `gangrun.resolve` is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from gangrun.errors import SpecError
from gangrun.plan import model as plan
from gangrun.plan import refs
from gangrun.plan.compose import facts_of, placed
from gangrun.plan.estimate import estimated
from gangrun.plan.fill import filled, has_values
from gangrun.plan.model import Word
from gangrun.plan.refs import Scope, UnknownReferenceError, word
from gangrun.pool import roles as pool_roles
from gangrun.resolve import effective_allocation, resolve
from gangrun.spec.load import Experiment
from gangrun.spec.model import Allocation, Monitor, Pool, Requeue, Role, Spec
from gangrun.spec.profile import Cluster
from gangrun.spec.sweep import Item, expand

Mode: TypeAlias = Literal["jobs", "array", "pool"]


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """One item, and what will happen in it."""

    item: Item
    sweep: Experiment
    """That it is an item of."""
    plan: plan.Plan
    gpus: float
    """On one node in a pool; of its whole allocation in the other modes."""
    cpus: int | None
    estimate: float | None
    timeout: int | None
    retries: int
    verdict: tuple[Word, ...] = ()
    """The command that judges it, where a campaign has one."""

    @property
    def experiment(self) -> Experiment:
        """The item alone, as a file of its own would have it."""
        return self.sweep.alone(self.item.parameters, self.item.keys)


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What will happen with a sweep."""

    mode: Mode
    """How its items run. On this machine, which has no queue, always `pool`."""
    asked: Mode
    """What the file says."""
    experiment: Experiment
    items: tuple[PlannedItem, ...]
    pool: Pool
    job: plan.Plan | None
    """The pool's job; None in the other modes, in which items are jobs or tasks of their own."""
    max_parallel: int | None
    max_nodes: int | None
    notes: tuple[str, ...] = ()
    merge: tuple[Word, ...] = ()
    """The command that puts the results together, where a campaign has one."""

    @property
    def shown(self) -> plan.Plan:
        """The plan whose script a person wants to see: the pool's job, else the first item's."""
        return self.job or self.items[0].plan

    @property
    def scripted(self) -> bool:
        """Whether every item has a directory with a script and a spec of its own."""
        return self.asked != "pool"

    @property
    def order(self) -> tuple[PlannedItem, ...]:
        """The items as they are queued: the longest first where there are estimates."""
        return tuple(sorted(self.items, key=lambda one: -(one.estimate or 0.0)))


def plans_of(made: plan.Plan | SweepPlan) -> Sequence[plan.Plan]:
    """The plans of what a user wants to run: the items', or the one."""
    return [item.plan for item in made.items] if isinstance(made, SweepPlan) else [made]


def shown_of(made: plan.Plan | SweepPlan) -> plan.Plan:
    """The plan whose script a person wants to see."""
    return made.shown if isinstance(made, SweepPlan) else made


def mode_of(experiment: Experiment) -> Mode:
    """How the items of this sweep run."""
    spec = experiment.spec
    if spec.sweep is not None and spec.sweep.mode is not None:
        return spec.sweep.mode
    return "jobs" if spec.pool is None and spec.campaign is None else "pool"


def plan_of(experiment: Experiment, cluster: Cluster) -> plan.Plan | SweepPlan:
    """What will happen with an experiment, be it a sweep or not. Raises SpecError, PlacementError."""
    if (template := experiment.spec.template) is not None and not Path(template).is_file():
        way_out = "gangrun script --template prints the one to start from"
        raise SpecError([experiment.problem(("template",), f"no such file: {template}", way_out)])
    if experiment.spec.sweep is not None:
        return plan_sweep(experiment, cluster)
    if experiment.spec.campaign is not None:
        what = "judges the items of a sweep, and there is no [sweep]"
        raise SpecError([experiment.problem(("campaign",), what, '[sweep] route = { glob = "routes/*.xml" }')])
    if experiment.spec.pool is not None:
        what = "is how the items of a sweep share one allocation, and there is no [sweep]"
        raise SpecError([experiment.problem(("pool",), what, "[sweep] lr = [0.1, 0.2]")])
    return resolve(experiment, cluster)


def plan_sweep(experiment: Experiment, cluster: Cluster) -> SweepPlan:
    """Plans every item. Raises SpecError or PlacementError with the problems of the first item that has any."""
    asked = mode_of(experiment)
    mode: Mode = "pool" if cluster.profile.scheduler == "local" else asked
    sweep, pool = experiment.spec.sweep, experiment.spec.pool or Pool()
    assert sweep is not None  # noqa: S101 - for the type checker; who calls has looked
    items = expand(experiment)
    _check_keys(experiment, asked, items)
    _check_campaign(experiment, asked)
    _check_own_step(experiment, cluster, asked)
    planned = tuple(_planned(experiment, cluster, items, asked))
    most = sweep.max_parallel
    if asked == "pool":
        job: plan.Plan | None = _pool_job(experiment, cluster, items, pool)
    elif mode == "pool":
        job = _pool_job(experiment, cluster, items, Pool(), Allocation())
        most = most or 1  # each may use all that this machine has
    else:
        job = None
        _check_nodes(experiment, planned)
    campaign = experiment.spec.campaign
    return SweepPlan(
        mode,
        asked,
        experiment,
        planned,
        pool,
        job,
        most,
        sweep.max_nodes,
        tuple(_notes(experiment, items)),
        _words(experiment, ("campaign", "merge"), campaign.merge if campaign else None, {}),
    )


def _check_nodes(experiment: Experiment, planned: tuple[PlannedItem, ...]) -> None:
    sweep = experiment.spec.sweep
    most = sweep.max_nodes if sweep else None
    needed = max(one.plan.allocation.nodes for one in planned)
    if most is not None and needed > most:
        what = f"{most}, but an item needs {needed} nodes, so it could never start"
        raise SpecError([experiment.problem(("sweep", "max_nodes"), what, f"max_nodes = {needed}")])


def _check_keys(experiment: Experiment, mode: Mode, items: tuple[Item, ...]) -> None:
    """In an array all items share one header, in a pool one allocation."""
    if mode == "jobs":
        return
    shared = ("allocation", "requeue", "setup", "template", *(("workdir",) if mode == "pool" else ()))
    keys = dict.fromkeys(key for item in items for key in item.keys)
    problems = [
        experiment.problem(("sweep", key), f"all items of mode = {mode!r} share it", 'mode = "jobs"')
        for key in keys
        if key.partition(".")[0] in shared
    ]
    if problems:
        raise SpecError(problems)


def _check_campaign(experiment: Experiment, mode: Mode) -> None:
    spec = experiment.spec
    if spec.campaign is None:
        return
    pool = spec.pool or Pool()
    if mode != "pool":
        what = f"mode = {mode!r}, but it is the driver of a pool that judges the items of a campaign"
        raise SpecError([experiment.problem(("sweep", "mode"), what, 'mode = "pool"')])
    if "retries" in pool.model_fields_set:
        way_out = f"campaign.attempts = {pool.retries + 1}"
        raise SpecError([experiment.problem(("pool", "retries"), "a campaign counts attempts", way_out)])
    if pool.call is not None:
        what = "a function has no exit, log and result of its own to judge: a campaign's items are commands"
        raise SpecError([experiment.problem(("pool", "call"), what)])


def _check_own_step(experiment: Experiment, cluster: Cluster, mode: Mode) -> None:
    """A step of an item's own has whole GPUs and a number of CPUs, and ends with the item."""
    pool = experiment.spec.pool or Pool()
    if mode != "pool" or not pool.own_step:
        return

    def wrong(key: str, what: str, way_out: str) -> SpecError:
        return SpecError([experiment.problem(("pool", key), what, way_out)])

    if pool.engine == "ray":
        raise wrong("own_step", "Ray starts the items, as its own processes", 'engine = "steps", or no own_step')
    if pool.call is not None:
        what = f"workers that stay call {pool.call} for item after item: none of these is a step"
        raise wrong("own_step", what, "a command in place of pool.call, or no own_step")
    if pool.gpus is not None and 0 < pool.gpus < 1:
        raise wrong("gpus", f"{pool.gpus:g}, but a step has whole GPUs", "gpus = 1, or no own_step")
    whole, _ = effective_allocation(experiment, cluster)
    gpus = whole.gpus if pool.gpus is None else pool.gpus
    if cluster.profile.scheduler == "slurm" and gpus and pool.cpus is None and whole.cpus is None:
        raise wrong("own_step", "nobody says how many CPUs the step of an item has", "allocation.cpus, or pool.cpus")


def _planned(experiment: Experiment, cluster: Cluster, items: tuple[Item, ...], asked: Mode) -> Iterator[PlannedItem]:
    """The items, with one plan for all that set the same keys: of 10,000 items each then costs a filling-in."""
    spec, pool = experiment.spec, experiment.spec.pool or Pool()
    inside, campaign = asked == "pool", spec.campaign
    make = _in_pool if inside else _alone
    alike = _alike(spec)
    made: dict[tuple[str, ...], tuple[plan.Plan, float, int | None]] = {}
    for item in items:
        seed = item.parameters.get("seed", experiment.seed)
        given = {**spec.parameters, **item.parameters}
        given.pop("seed", None)
        values = refs.values(given, int(seed) if seed is not None else None)
        key = (repr(item.keys) if alike else str(item.index), *values)
        if key not in made:
            left = {name: plan.Value(name) for name in values} if alike else {}
            made[key] = make(experiment.alone(item.parameters, item.keys), cluster, left)
        shared, gpus, cpus = made[key]
        estimate = estimated(experiment, pool, values)
        verdict = _words(experiment, ("campaign", "verdict"), campaign.verdict if campaign else None, values)
        yield PlannedItem(
            item,
            experiment,
            filled(shared, values, int(seed) if seed is not None else None),
            gpus,
            cpus,
            estimate,
            pool.timeout if inside else None,
            (campaign.attempts - 1 if campaign else pool.retries) if inside else 0,
            verdict,
        )


def _alike(spec: Spec) -> bool:
    """Whether a plan can be made before the values are known: no needed step follows from the seed, and no launcher is
    asked whether it can start a program that a parameter names."""
    needed = [*spec.needs, *([spec.load.from_] if spec.load and spec.load.from_ else [])]
    programs = [role.command[0] for role in spec.roles.values() if role.command]
    return not any("{" in text for text in (*needed, *programs))


def _alone(
    experiment: Experiment, cluster: Cluster, left: Mapping[str, plan.Value]
) -> tuple[plan.Plan, float, int | None]:
    made = resolve(experiment, cluster, left)
    return made, made.allocation.gpus * made.allocation.nodes, made.allocation.cpus


def _in_pool(
    experiment: Experiment, cluster: Cluster, left: Mapping[str, plan.Value]
) -> tuple[plan.Plan, float, int | None]:
    """The item on a node of its own size, which the driver will give it."""
    pool = experiment.spec.pool or Pool()
    whole, _ = effective_allocation(experiment, cluster)
    gpus, cpus = _share(experiment, pool, whole)
    spec = experiment.spec
    seat = Allocation(nodes=1, gpus=math.ceil(gpus), cpus=cpus)
    if pool.call is not None:
        spec = spec.model_copy(update={"roles": {"main": Role(command=("call", pool.call))}})
    # The pool's job is watched and queued again, its items with it.
    update = {"allocation": seat, "monitor": Monitor(on=False), "requeue": None}
    inside = replace(experiment, spec=spec.model_copy(update=update))
    return resolve(inside, _here(cluster), left), gpus, cpus


def _words(
    experiment: Experiment, key: tuple[str, str], written: object, values: Mapping[str, str]
) -> tuple[Word, ...]:
    """A command of a campaign; nothing for a rule. Raises SpecError."""
    if not isinstance(written, tuple):
        return ()
    scope = Scope({}, {**facts_of(experiment), **values})
    try:
        return tuple(word(placed(experiment, one), scope) for one in written)
    except UnknownReferenceError as error:
        raise SpecError([experiment.problem(key, str(error))]) from error


def _here(cluster: Cluster) -> Cluster:
    """The cluster as an item sees it from inside: plain processes, with the profile's environment and containers."""
    profile = cluster.profile.model_copy(
        update={"scheduler": "local", "defaults": Allocation(), "require": (), "forbid": ()}
    )
    return replace(cluster, profile=profile)


def _share(experiment: Experiment, pool: Pool, whole: Allocation) -> tuple[float, int | None]:
    """GPUs and CPUs of an item. Raises SpecError where no node has as many."""

    def wrong(key: str, what: str, way_out: str) -> SpecError:
        return SpecError([experiment.problem(("pool", key), what, way_out)])

    gpus: float = pool.gpus if pool.gpus is not None else min(whole.gpus, 1)
    if gpus > whole.gpus:
        what = f"an item asks for {gpus:g} GPUs, but a node of the pool has {whole.gpus}"
        raise wrong("gpus", what, f"ask for allocation.gpus = {math.ceil(gpus)}, or for less here")
    if gpus != int(gpus) and gpus > 1:
        raise wrong("gpus", f"{gpus:g} GPUs: above one they are whole", "a whole number, or a fraction below one")
    if pool.cpus is not None and whole.cpus is not None and pool.cpus > whole.cpus:
        what = f"an item asks for {pool.cpus} CPUs, but a node of the pool has {whole.cpus}"
        raise wrong("cpus", what, f"ask for allocation.cpus = {pool.cpus}, or for less here")
    if pool.cpus is not None or whole.cpus is None:
        return gpus, pool.cpus
    return gpus, max(int(whole.cpus * gpus / whole.gpus), 1) if gpus else 1


def _pool_job(
    experiment: Experiment, cluster: Cluster, items: tuple[Item, ...], pool: Pool, machine: Allocation | None = None
) -> plan.Plan:
    """The job that holds the allocation, or takes what this machine has, and in which the driver is the main."""
    whole = effective_allocation(experiment, cluster)[0] if machine is None else machine
    # Items enter their container one by one; the driver is outside, where srun is.
    update: dict[str, object] = {"roles": dict(pool_roles.roles(pool, whole)), "container": None, "sweep": None}
    update |= {"needs": (), "load": None, "resume": None, "files": {}}  # the items have them
    asked = experiment.spec.allocation
    if machine is None:
        update["requeue"] = _without_limit(experiment)
    else:
        # The file is about jobs or tasks: the one job around them here is no business of its template.
        asked, update["requeue"], update["template"] = machine, None, None
    if whole.nodes > 1:
        asked = asked.model_copy(update={"sbatch": {**pool_roles.SBATCH, **asked.sbatch}})
    update["allocation"] = asked
    outside = replace(experiment, spec=experiment.spec.model_copy(update=update))
    bare = replace(cluster, profile=cluster.profile.model_copy(update={"container": None}))
    job = resolve(outside, bare, {name: plan.Value(name) for name in _known_to_items(items)})
    return replace(
        job,
        programs=(*job.programs, *pool_roles.PROGRAMS),
        setup=(*job.setup, *pool_roles.SETUP),
        env=tuple((name, text) for name, text in job.env if not has_values(text)),
        variables=tuple((name, value) for name, value in job.variables if not has_values(value)),
        requeue=replace(job.requeue, before=0, items=True) if job.requeue else None,
    )


def _known_to_items(items: tuple[Item, ...]) -> Iterator[str]:
    """References that mean something in each item and nothing in the job around them."""
    yield from ("load", "resumed")
    for name in dict.fromkeys(name for item in items for name in item.parameters):
        yield from (name, f"{name}.name", f"{name}.stem")


def _without_limit(experiment: Experiment) -> Requeue | None:
    """`[requeue]` for the job of a pool, whose driver itself begins no item that does not fit into the time.

    Raises SpecError where the file counts on a limit all the same.
    """
    wanted = experiment.spec.requeue
    if wanted is None:
        return None
    if said := wanted.model_fields_set & {"limit", "signal_before", "signal"}:
        what = "means nothing in a pool, which begins no item that does not fit into the time that is left"
        raise SpecError([experiment.problem(("requeue", min(said)), what, "pool.continue = true queues a further job")])
    return wanted.model_copy(update={"limit": 0})


def _notes(experiment: Experiment, items: tuple[Item, ...]) -> Iterator[str]:
    """What changes nothing: a command beside pool.call, which often stands in a file that this one extends, and
    parameters, where it is a misspelt reference most often."""
    spec = experiment.spec
    if spec.pool is not None and spec.pool.call is not None:
        if mode_of(experiment) == "pool" and any(role.command for role in spec.roles.values()):
            yield f"pool.call takes the place of the command: items call {spec.pool.call}"
        return
    used = repr([value for key, value in experiment.values.items() if key not in ("sweep", "parameters")])
    by = {name for lookup in (spec.sweep.lookup.values() if spec.sweep else ()) for name in lookup.by}
    used += repr([item.keys for item in items if item.keys])
    for name in items[0].parameters:
        if name not in by and f"{{{name}}}" not in used and f"{{{name}." not in used:
            yield f"nothing refers to {{{name}}}, so it changes nothing"
