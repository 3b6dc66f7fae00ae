"""What a run builds on, as the record has it: which runs its needs mean, and whether it may start, waits or cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from gangrun.errors import InputError, Problem, SpecError
from gangrun.node import checkpoint
from gangrun.plan.model import Need, Plan
from gangrun.record import items
from gangrun.record.events import Needs
from gangrun.record.ledger import SPREAD
from gangrun.record.rundir import RunDir
from gangrun.record.state import RunState, State, history
from gangrun.record.store import Store
from gangrun.spec.load import Experiment
from gangrun.spec.toml import Key
from gangrun.sweeps import SweepPlan, shown_of

States: TypeAlias = Callable[[Sequence[RunDir]], Sequence[RunState]]
AnyPlan: TypeAlias = "Plan | SweepPlan"
_Plan = TypeVar("_Plan", Plan, SweepPlan, AnyPlan)
Planned: TypeAlias = "tuple[Experiment, AnyPlan]"


@dataclass(frozen=True, slots=True)
class Link:
    """A need and the run that it means."""

    need: Need
    run: RunDir
    job: str = ""
    """The job that has to end first, those of a sweep joined by colons; empty where the run has succeeded."""
    attempt: int = 1
    """The attempt that this job begins with."""
    pending: bool = False
    """Whether the run is made by the same call and has no job yet."""

    @property
    def attempt_dir(self) -> str:
        """The attempt that has to end first. Items of a pool have none that says so: that of the pool."""
        return str((self.run.pool_around or self.run).attempt(self.attempt).path)

    @property
    def done(self) -> bool:
        """Whether the run has succeeded."""
        return not self.job and not self.pending


def needs_of(plan: AnyPlan) -> tuple[Need, ...]:
    """The steps that it needs; of a sweep those of all its items."""
    if isinstance(plan, SweepPlan):
        return tuple(dict.fromkeys(need for item in plan.items for need in item.plan.needs))
    return plan.needs


def name_of(plan: AnyPlan) -> Need:
    """What others call it when they need it."""
    shown = plan.experiment if isinstance(plan, SweepPlan) else plan
    return Need(shown.experiment, shown.step)


def link_to(need: Need, links: Mapping[Need, Link]) -> Link:
    """The link that a need has: its own, or to its item in that of the whole sweep. Raises KeyError for neither."""
    if need in links or not need.item:
        return links[need]
    whole = links[need.whole]
    return replace(whole, need=need, run=whole.run.item(need.item))


def _linked(needs: Sequence[Need], links: Mapping[Need, Link]) -> list[Link]:
    return [link_to(need, links) for need in needs if need in links or need.whole in links]


def in_order(planned: Sequence[Planned]) -> list[int]:
    """Positions such that each comes after those of the same call that it needs; else as they came.

    Raises SpecError on a circle.
    """
    at = {name_of(plan): position for position, (_, plan) in enumerate(planned)}
    order: list[int] = []
    left = dict.fromkeys(range(len(planned)))
    while left:
        free = [
            position
            for position in left
            if not any(at.get(need.whole) in left for need in needs_of(planned[position][1]))
        ]
        if not free:
            circle = [name_of(planned[position][1]) for position in left]
            names = ", ".join(map(str, circle))
            experiment, _ = planned[next(iter(left))]
            raise SpecError([experiment.problem(("needs",), f"steps need each other in a circle: {names}")])
        order += free
        left = {position: None for position in left if position not in free}
    return order


def outside(planned: Sequence[Planned], store_of: Callable[[Path], Store], states: States) -> dict[Need, Link]:
    """The needs that no other of these plans meets, with their runs. Asks for all states at once.

    Raises SpecError for every need that cannot be met: no run yet, one that failed, one on another cluster.
    """
    made = {name_of(plan): plan for _, plan in planned}
    runs: dict[Need, RunDir | None] = {}
    for experiment, plan in planned:
        for need in needs_of(plan):
            if need.whole not in made and need not in runs:
                found = store_of(experiment.project).newest(need.experiment, need.step)
                if found and need.item and need.item in {line.name for line in items.read(found)}:
                    found = found.item(need.item)
                runs[need] = found
    known = [run for run in runs.values() if run]
    now = dict(zip(known, states(known) if known else (), strict=True))
    links: dict[Need, Link] = {}
    problems: list[Problem] = []
    for experiment, plan in planned:
        for need in needs_of(plan):
            if need.whole in made:
                if need.item and need.item not in _items(made[need.whole]):
                    problems.append(experiment.problem(_key(experiment), f"needs {need}, which is no item of it"))
                continue
            run = runs[need]
            if run and need.item and not run.is_item:
                mend = f"gangrun show {run.run_id} lists its items"
                problems.append(experiment.problem(_key(experiment), f"needs {need}, which is no item of it", mend))
                continue
            words, job = _unmet(shown_of(plan), run, now[run], states) if run else ("has no run yet", "")
            if words:
                mend = f"gangrun resume {run.run_id}, or submit it again" if run else "submit it first, or together"
                problems.append(experiment.problem(_key(experiment), f"needs {need}, which {words}", mend))
            elif run:
                events = (run.pool_around or run).read_events() if job else []
                links[need] = Link(need, run, job, history(events).first_attempt if job else 1)
    if problems:
        raise SpecError(problems)
    return links


def bound(experiment: Experiment, plan: _Plan, links: Mapping[Need, Link]) -> _Plan:
    """The plan with its checkpoint found, or to be found in the runs that these links name, and what it waits for.

    Raises SpecError where all that it needs is done and there is no checkpoint.
    """
    mine = _linked(needs_of(plan), links)
    waits = tuple(dict.fromkeys(link.attempt_dir for link in mine if not link.done))
    if isinstance(plan, SweepPlan):
        items = tuple(replace(one, plan=_loading(experiment, one.plan, links)) for one in plan.items)
        if plan.job:
            job = replace(plan.job, waits=waits) if plan.job.scheduler == "local" else plan.job
            return replace(plan, items=items, job=job)
        return replace(plan, items=items)
    plan = _loading(experiment, plan, links)
    return replace(plan, waits=waits) if plan.scheduler == "local" else plan


def _loading(experiment: Experiment, plan: Plan, links: Mapping[Need, Link]) -> Plan:
    mine = _linked(plan.needs, links)
    wanted = plan.checkpoint
    if wanted is None or not wanted.path:
        return plan
    path = wanted.path
    if wanted.need and wanted.need.whole in {need.whole for need in links}:
        path = link_to(wanted.need, links).run.dir
    if all(link.done for link in mine) and len(mine) == len(plan.needs):
        found, why = checkpoint.found(Path(path), wanted.glob)
        if found is None:
            key: Key = ("load", "from" if wanted.need else "path")
            raise SpecError([experiment.problem(key, f"no checkpoint to load: {why}")])
        path = str(found)
    return replace(plan, checkpoint=replace(wanted, path=path))


def again(run: RunDir, states: States, together: Sequence[RunDir] = ()) -> list[Link]:
    """The links of a run that is to be sent again, as they are now; those in `together` are sent again before it.

    Raises InputError where a need cannot be met.
    """
    runs = needed_by(run)
    links = []
    for needed, state in zip(runs, states(runs) if runs else (), strict=True):
        if needed in together:
            links.append(Link(Need(needed.experiment, needed.step), needed, pending=True))
            continue
        if state.final and state.state != State.COMPLETED:
            raise InputError(
                f"{run.run_id} needs {needed.run_id}, which is {state.state}",
                way_out=f"gangrun resume {needed.run_id} first",
            )
        job = ":".join(one.job for one in _alive(needed, state, states))
        links.append(Link(Need(needed.experiment, needed.step), needed, job))
    return links


def note(run: RunDir, links: Sequence[Link]) -> None:
    """Puts on record what a run builds on."""
    for link in links:
        run.append(Needs(run=link.run.run_id, dir=link.run.dir, job=link.job))


def flags(jobs: Sequence[str], ends: Sequence[str] = ()) -> tuple[str, ...]:
    """What sbatch is told, so that a job waits for these and is cancelled when one of them fails; and waits for the
    `ends` of others, however they come."""
    return _flags("afterok", jobs, ends)


def flags_of_array(each: Sequence[Sequence[str]], ends: Sequence[str] = ()) -> tuple[str, ...]:
    """The same for an array whose tasks need `each` these jobs: task by task where those are the tasks of one other
    array in the same order, else all of them before the first begins."""
    other = each[0][0].rpartition("_")[0] if each and each[0] else ""
    if other and all(set(jobs) == {f"{other}_{task}"} for task, jobs in enumerate(each)):
        return _flags("aftercorr", [other], ends)
    return _flags("afterok", list(dict.fromkeys(job for jobs in each for job in jobs)), ends)


def _flags(how: Literal["afterok", "aftercorr"], jobs: Sequence[str], ends: Sequence[str]) -> tuple[str, ...]:
    on = [f"{how}:{':'.join(jobs)}"] if jobs else []
    on += [f"afterany:{':'.join(ends)}"] if ends else []
    words = (f"--dependency={','.join(on)}",) if on else ()
    return (*words, "--kill-on-invalid-dep=yes") if jobs else words


def _unmet(plan: Plan, run: RunDir, state: RunState, states: States) -> tuple[str, str]:
    """Why the run cannot be what the plan needs, nothing where it can; and the jobs that have to end first."""
    if state.state == State.COMPLETED:
        return "", ""
    if state.final:
        return f"is {state.state}: {run.run_id}", ""
    if state.stale:
        return f"was {state.state} when it was last seen: {run.run_id}; {state.note}", ""
    alive = _alive(run, state, states)
    if failed := [one.run for one in alive if one.final]:
        return f"has items that failed, such as {failed[0]}: {run.run_id}", ""
    if not all(one.job for one in alive):
        return f"is {state.state} and has no job yet: {run.run_id}", ""
    if plan.scheduler != "local" and any(one.scheduler != state.cluster for one in alive):
        return f"is {state.state} in an allocation that is held, and a job cannot wait for it: {run.run_id}", ""
    if state.cluster != plan.cluster:
        return f"is {state.state} on {state.cluster}, for which a job on {plan.cluster} cannot wait: {run.run_id}", ""
    return "", ":".join(one.job for one in alive)


def _alive(run: RunDir, state: RunState, states: States) -> Sequence[RunState]:
    """What of a run has not succeeded: of a sweep whose items are jobs those, else itself."""
    if state.state == State.COMPLETED:
        return ()
    parts = states([run.item(line.name) for line in items.read(run)]) if state.mode in SPREAD else (state,)
    return [one for one in parts if one.state != State.COMPLETED]


def _items(plan: AnyPlan) -> set[str]:
    return {one.item.name for one in plan.items} if isinstance(plan, SweepPlan) else set()


def _key(experiment: Experiment) -> Key:
    return ("needs",) if experiment.spec.needs else ("load", "from")


def needed_first(runs: Sequence[RunDir]) -> list[RunDir]:
    """These runs, each once and after those among them that it builds on."""
    order: list[RunDir] = []

    def take(run: RunDir) -> None:
        for needed in needed_by(run):  # a run builds on older ones only, so this ends
            if needed in runs:
                take(needed)
        if run not in order:
            order.append(run)

    for run in runs:
        take(run)
    return order


def needed_by(run: RunDir) -> list[RunDir]:
    """The runs that this one builds on."""
    return [RunDir(path) for path in dict.fromkeys(one.dir for one in run.read_events() if isinstance(one, Needs))]


def failed(run: RunDir, states: States) -> Iterator[RunState]:
    """The runs that this one needs and that have not succeeded, for whoever asks why it did not start."""
    runs = needed_by(run)
    for state in states(runs) if runs else ():
        if state.final and state.state != State.COMPLETED:
            yield state
