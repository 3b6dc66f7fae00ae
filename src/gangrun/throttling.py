"""How many items of a sweep run at once, changed while it goes on.

The file `throttle` holds the wish: three numbers, items and nodes, 0 for no limit, and how often an item of a campaign
is tried, 0 for as often as the experiment says. A pool's driver reads it; for jobs and arrays it is what later changes
start from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gangrun.errors import UsageError
from gangrun.lanes import Lanes
from gangrun.record import items
from gangrun.record.item_states import ItemState
from gangrun.record.ledger import SPREAD
from gangrun.record.rundir import RunDir
from gangrun.record.state import State, history
from gangrun.scheduler import scontrol
from gangrun.scheduler.slurm import Slurm
from gangrun.spec import toml


@dataclass(frozen=True, slots=True)
class Limits:
    """0 is no limit."""

    items: int
    nodes: int
    attempts: int = 0
    """At each item of a campaign; 0 is as many as the experiment says."""


def words(limits: Limits) -> str:
    """`at most 48 items at once`."""
    told = [f"{number} {noun}" for number, noun in ((limits.items, "items"), (limits.nodes, "nodes")) if number]
    most = f"at most {' and '.join(told)} at once" if told else "as many items at once as there is room for"
    return f"{most}, {limits.attempts} attempts at each" if limits.attempts else most


def change(run: RunDir, mode: str, most: int, what: Literal["items", "nodes", "attempts"]) -> Limits:
    """Writes the wish down, beside what was wished for the other numbers before. Raises RecordError, and UsageError
    where no item could start."""
    limits = replace(current(run), **{what: most})
    needed = max(nodes_of(run).values(), default=1) if mode in SPREAD else 1
    if limits.nodes and limits.nodes < needed:
        raise UsageError(f"an item takes {needed} nodes, so with {limits.nodes} it could never start")
    run.write_throttle(f"{limits.items} {limits.nodes} {limits.attempts}\n")
    return limits


def current(run: RunDir) -> Limits:
    """What holds now: the last wish, else what the experiment says."""
    try:
        return Limits(*(int(word) for word in run.throttle.read_text(encoding="ascii").split()))
    except (OSError, ValueError, TypeError):
        sweep = toml.read(run.spec)[0].get("sweep", {})
        return Limits(sweep.get("max_parallel", 0), sweep.get("max_nodes", 0))


def apply(run: RunDir, mode: str, states: Sequence[ItemState], limits: Limits, slurm: Slurm) -> list[str]:
    """Tells Slurm, and gives what it said against single changes. Raises Unreachable."""
    nodes = nodes_of(run)
    if mode == "array":
        return slurm.update(_arrays(run, limits, max(nodes.values(), default=1)))
    needs = slurm.needs([one.job for one in states if one.state == State.PENDING])
    return slurm.update(_jobs(states, limits, nodes, needs))


def nodes_of(run: RunDir) -> dict[str, int]:
    """How many nodes each item takes, as the specs that are on record say."""
    allocation = toml.read(run.spec)[0].get("allocation", {})
    return {
        line.name: int(line.parameters.get("allocation.nodes", allocation.get("nodes", 1))) for line in items.read(run)
    }


def _arrays(run: RunDir, limits: Limits, nodes: int) -> list[list[str]]:
    jobs = [job for array in run.arrays() if (job := history(array.read_events()).job)]
    most = [limit for limit in (limits.items, limits.nodes // nodes if limits.nodes else 0) if limit]
    if not most:
        return [scontrol.throttle(job, 0) for job in jobs]
    share, rest = divmod(min(most), len(jobs)) if jobs else (0, 0)
    return [scontrol.throttle(job, max(share + (number < rest), 1)) for number, job in enumerate(jobs)]


def _jobs(
    states: Sequence[ItemState], limits: Limits, nodes: dict[str, int], needs: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    """Deals what waits out to lanes anew, behind what runs."""
    lanes: Lanes[str] = Lanes(limits.items or None, limits.nodes or None)
    changes = []
    alive = [one for one in states if not one.final and one.job]
    for one in sorted(alive, key=lambda one: (one.state == State.PENDING, -(one.estimate or 0.0), one.index)):
        after = lanes.next(nodes.get(one.name, 1), one.estimate)
        if one.state == State.PENDING:
            changes.append(scontrol.depend(one.job, after, needs.get(one.job, ())))
        lanes.put(one.job)
    return changes
