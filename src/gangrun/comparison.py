"""What a sweep costs as an array (or as jobs) and as a pool: what each asks for, holds, uses and needs until the end.

Two units of the same work: what runs at once is counted in GPUs, in CPUs where no item has a GPU; what is held, asked
for or computed in GPU-seconds. Of each way

    asked for = computing + wasted + blocked

*wasted* is held and computes nothing: the GPUs of a pool beside its last items. *Blocked* is asked for and given back
before its time: what a scheduler has to find room for and charges nobody. Pure; the pool is simulated with the code by
which its driver starts items, jobs with the lanes in which they are sent.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gangrun.lanes import Lanes
from gangrun.node.pool.items import Item
from gangrun.node.pool.places import Node, Place, Places
from gangrun.node.pool.waiting import Waiting
from gangrun.sweeps import PlannedItem, SweepPlan

Name: TypeAlias = Literal["jobs", "array", "pool"]
Unit: TypeAlias = Literal["GPU", "CPU"]
CLEAR = 0.1
"""A share by which two ways differ clearly."""


@dataclass(frozen=True, slots=True)
class Work:
    """An item, as far as it takes time and room."""

    index: int
    name: str
    seconds: float
    gpus: float
    cpus: float
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """One item on the devices that it holds, from `begin` to `end` seconds after the start."""

    work: Work
    begin: float
    end: float
    node: str
    gpus: tuple[str, ...]
    """Names of the node's devices; none where it holds no device."""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a sweep. Times in seconds, amounts in seconds times GPUs (or CPUs)."""

    name: Name
    jobs: int
    each: float
    """GPUs of one job, the most where they differ."""
    at_once: float
    """GPUs that are in use at the same time at the most."""
    time: float
    """What each job asks for."""
    needed: float
    """What it should ask for at least."""
    makespan: float
    """From the first start to the last end."""
    computing: float
    held: float
    asked: float

    @property
    def wasted(self) -> float:
        """Held, but computing nothing."""
        return max(self.held - self.computing, 0.0)

    @property
    def blocked(self) -> float:
        """Asked for, and given back."""
        return max(self.asked - self.held, 0.0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two ways to run the same items."""

    unit: Unit
    spread: Way
    """As an array or as jobs."""
    pool: Way
    chosen: Name
    """The way that the file says."""
    bound: float
    """Seconds below which no way can be on the pool's devices: max(sum / devices, longest)."""
    chart: tuple[Stretch, ...]
    """The items of the chosen way; of an array or jobs on no device, as nobody knows which."""
    better: Name
    why: str


def of_plan(sweep: SweepPlan) -> Comparison | None:
    """The two ways for a sweep whose items all have an estimate; None for any other, and where an item is larger than a
    node, so that no pool could run it."""
    works = [_work(one) for one in sweep.order]
    if any(one.estimate is None for one in sweep.items) or any(work.nodes > 1 for work in works):
        return None
    allocation = sweep.shown.allocation
    nodes = None
    if sweep.asked == "pool":
        if not any(work.gpus for work in works) and allocation.cpus is None:
            return None
        nodes = [Size(allocation.gpus, allocation.cpus or math.inf)] * allocation.nodes
    asked = sweep.items[0].plan.allocation.time if sweep.asked != "pool" else allocation.time
    # On this machine one item at a time runs by default; the comparison is about what the file says.
    said = sweep.experiment.spec.sweep
    return compare(
        works, nodes, sweep.asked, asked, said.max_parallel if said else None, said.max_nodes if said else None
    )


def _work(one: PlannedItem) -> Work:
    cpus = one.cpus if one.cpus is not None else 0 if one.gpus else 1
    return Work(one.item.index, one.item.name, one.estimate or 0.0, one.gpus, cpus, one.plan.allocation.nodes)


@dataclass(frozen=True, slots=True)
class Size:
    """What one node of a pool has."""

    gpus: int
    cpus: float


def compare(
    works: Sequence[Work],
    nodes: Sequence[Size] | None,
    chosen: Name,
    time: int | None = None,
    max_parallel: int | None = None,
    max_nodes: int | None = None,
    pool: Way | None = None,
    spread: Way | None = None,
) -> Comparison:
    """Both ways for items in the order in which they are queued.

    `nodes` are those of the pool; where there is none yet, it gets the GPUs that the array uses at once, or as many as
    finish about when the longest item does. `time` is what a job of the chosen way asks for; without it, and for the
    other way, the least that does. `pool` or `spread` is what a way has come to, where it has already run.
    """
    unit = unit_of(works)
    widest = max(weight(work, unit) for work in works)
    limits = [limit for limit in (max_parallel, max_nodes) if limit]
    if nodes is None:
        nodes = [_node_for(works, unit, limits)]
    devices = sum(node.gpus if unit == "GPU" else node.cpus for node in nodes)
    chart = simulate_pool(works, nodes, max_parallel, max_nodes if chosen == "pool" else None)
    if pool is None:
        pool = _pool_way(works, unit, chart, devices, time if chosen == "pool" else None)
    if spread is None:
        if chosen == "jobs":
            begins = simulate_jobs(works, max_parallel, max_nodes)
        else:
            unsaid = max(int(devices // widest), 1) if chosen == "pool" else len(works)
            begins = simulate_array(works, min(limits, default=unsaid))
        spread = _spread_way(works, unit, begins, chosen, time if chosen != "pool" else None)
        if chosen != "pool":
            chart = [
                Stretch(work, begin, begin + work.seconds, "", ()) for work, begin in zip(works, begins, strict=True)
            ]
    better, why = _judge(spread, pool, unit)
    longest = max(work.seconds for work in works)
    bound = max(_computing(works, unit) / devices, longest) if devices else longest
    return Comparison(unit, spread, pool, chosen, bound, tuple(chart), better, why)


def _node_for(works: Sequence[Work], unit: Unit, limits: Sequence[int]) -> Size:
    """A pool of what runs at once under these limits, or of what ends about when the longest item does."""
    widest, longest = max(weight(work, unit) for work in works), max(work.seconds for work in works)
    unsaid = max(math.ceil(_computing(works, unit) / (longest * widest)), 1) if longest else len(works)
    size = math.ceil(min(min(limits, default=unsaid), len(works)) * widest)
    return Size(size, math.inf) if unit == "GPU" else Size(0, size)


def _pool_way(works: Sequence[Work], unit: Unit, chart: Sequence[Stretch], devices: float, time: int | None) -> Way:
    end = max((one.end for one in chart), default=0.0)
    wanted = float(time or end)
    return Way("pool", 1, devices, devices, wanted, end, end, _computing(works, unit), devices * end, devices * wanted)


def _spread_way(works: Sequence[Work], unit: Unit, begins: Sequence[float], chosen: Name, time: int | None) -> Way:
    weights = [weight(work, unit) for work in works]
    longest = max(work.seconds for work in works)
    wanted = float(time or longest)
    # All tasks of an array ask for the same.
    asked = weights if chosen == "jobs" else [max(weights)] * len(works)
    ends = [begin + work.seconds for begin, work in zip(begins, works, strict=True)]
    return Way(
        "jobs" if chosen == "jobs" else "array",
        len(works),
        max(weights),
        most_at_once(begins, ends, asked),
        wanted,
        longest,
        max(ends),
        _computing(works, unit),
        sum(work.seconds * each for work, each in zip(works, asked, strict=True)),
        sum(wanted * each for each in asked),
    )


def _computing(works: Iterable[Work], unit: Unit) -> float:
    return sum(work.seconds * weight(work, unit) for work in works)


def unit_of(works: Iterable[Work]) -> Unit:
    """What is counted."""
    return "GPU" if any(work.gpus for work in works) else "CPU"


def weight(work: Work, unit: Unit) -> float:
    """How many of the unit an item holds."""
    return (work.gpus if unit == "GPU" else work.cpus or 1) * work.nodes


def simulate_pool(
    works: Iterable[Work], nodes: Sequence[Size], max_parallel: int | None = None, max_nodes: int | None = None
) -> list[Stretch]:
    """When and where the driver of a pool would start each item, if all took what was estimated. What fits on no node
    is left out."""
    by_index = {work.index: work for work in works}
    places = Places()
    for number, size in enumerate(nodes):
        name = f"node {number}"
        places.nodes[name] = Node(name, [str(gpu) for gpu in range(size.gpus)], size.cpus, number)
    waiting = Waiting(
        Item(work.index, work.name, work.gpus, work.cpus, work.seconds, None, 0, {}, 0, 0, predicted=work.seconds)
        for work in by_index.values()
    )
    running: list[tuple[float, int, Place]] = []
    found = []
    now = 0.0

    def never(item: Item) -> bool:
        return not any(node.could_ever(*item.needs) for node in places.nodes.values())

    while True:
        started = waiting.assign(
            places, lambda: not max_parallel or len(running) < max_parallel, max_nodes, lambda *_: False, never
        )
        for item, place in started:
            work = by_index[item.index]
            found.append(Stretch(work, now, now + work.seconds, place.node, tuple(map(str, place.gpus))))
            heapq.heappush(running, (now + work.seconds, item.index, place))
        if not running:
            return found
        now, _, place = heapq.heappop(running)
        places.release(place)
        while running and running[0][0] == now:
            places.release(heapq.heappop(running)[2])


def simulate_array(works: Sequence[Work], at_once: int) -> list[float]:
    """When each task of an array with this limit begins: Slurm starts them in their order as others end."""
    slots = [0.0] * min(at_once, len(works))
    begins = []
    for work in works:
        begins.append(slots[0])
        heapq.heapreplace(slots, slots[0] + work.seconds)
    return begins


def simulate_jobs(works: Sequence[Work], max_parallel: int | None, max_nodes: int | None) -> list[float]:
    """When each job begins: after the ends of those before it in its lanes."""
    lanes: Lanes[int] = Lanes(max_parallel, max_nodes)
    ends: list[float] = []
    begins = []
    for work in works:
        begins.append(max((ends[before] for before in lanes.next(work.nodes, work.seconds)), default=0.0))
        lanes.put(len(ends))
        ends.append(begins[-1] + work.seconds)
    return begins


def most_at_once(begins: Sequence[float], ends: Sequence[float], weights: Sequence[float]) -> float:
    """The highest sum of the weights of what goes on at the same time."""
    changes = sorted(
        [(when, weight) for when, weight in zip(begins, weights, strict=True)]
        + [(when, -weight) for when, weight in zip(ends, weights, strict=True)]
    )
    most = now = 0.0
    for _, weight in changes:
        now += weight
        most = max(most, now)
    return most


def _judge(spread: Way, pool: Way, unit: Unit) -> tuple[Name, str]:
    """What costs clearly less; else what ends clearly earlier; else what asks for less."""
    criteria: Sequence[tuple[str, Callable[[Way], float], float]] = (
        (f"holds {{}} fewer {unit}-hours, and what is held is what is charged", lambda way: way.held, CLEAR),
        ("ends {} earlier", lambda way: way.makespan, CLEAR),
        (f"asks for {{}} fewer {unit}-hours, for which the queue has to find room", lambda way: way.asked, 0.0),
    )
    for words, amount, clear in criteria:
        less, more = sorted((spread, pool), key=amount)
        saved = 1 - amount(less) / amount(more) if amount(more) else 0.0
        if saved > clear:
            return less.name, words.format(f"{100 * saved:.0f} %")
    return spread.name, "asks for the same, and needs no allocation as a whole"
