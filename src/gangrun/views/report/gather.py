"""What a report is made of: the lives of a run, what each of them used, and sums over all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from gangrun.errors import InputError
from gangrun.jobscript.read import asked_for
from gangrun.record import usage
from gangrun.record.facts import AttemptFacts, is_own
from gangrun.record.item_states import ItemState
from gangrun.record.rundir import RunDir
from gangrun.record.state import RunState, State
from gangrun.record.usage import Curve, GpuUse, NodeUse, ReplicaUse, Span
from gangrun.scheduler.text import seconds
from gangrun.spec import toml

SLICES = 240
"""Into how many slices the time of the run is cut."""
NOBODY = "nobody"
"""In the place of a role for a GPU that no replica was given."""


@dataclass(frozen=True)
class Life:
    """One attempt of the run or, where the items of a sweep are jobs of their own, of one of them."""

    item: str
    """Empty for the run itself."""
    number: int
    state: str
    """How it ended, in the words of a run's state; RUNNING while it goes on."""
    began: float
    ended: float
    """Now, while it goes on."""
    hosts: int
    gpus: int
    """In all."""
    kept: bool
    """Whether what it computed is of use: it succeeded, goes on, or a later attempt began at its checkpoint."""
    facts: AttemptFacts
    nodes: Sequence[NodeUse]

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.item} attempt {self.number}".strip()

    @property
    def held(self) -> float:
        """GPU-hours."""
        return self.gpus * (self.ended - self.began) / 3600

    @cached_property
    def computed(self) -> float:
        """GPU-hours in which its GPUs were not idle."""
        return sum(gpu.busy.seconds - gpu.idle for gpu in _gpus(self.nodes)) / 3600

    @cached_property
    def idle(self) -> float:
        """GPU-hours."""
        return sum(gpu.idle for gpu in _gpus(self.nodes)) / 3600


@dataclass(frozen=True)
class Report:
    """All of it."""

    run: RunDir
    state: RunState
    span: Span
    lives: Sequence[Life]
    items: Sequence[ItemState]
    """Of a sweep."""
    spec: Mapping[str, Any]
    """The experiment as it was sent; empty where it cannot be read any more."""
    asked_time: float | None
    """Seconds that the job asked for, where the experiment says so."""
    made: float
    """When the report was."""

    @property
    def nodes(self) -> list[NodeUse]:
        """Each node of each life."""
        return [node for life in self.lives for node in life.nodes]

    @property
    def gpus(self) -> list[GpuUse]:
        """Each GPU of each life."""
        return list(_gpus(self.nodes))

    @property
    def held(self) -> float:
        """GPU-hours from the start of each life to its end."""
        return sum(life.held for life in self.lives)

    @property
    def computed(self) -> float:
        """GPU-hours in which GPUs were not idle."""
        return sum(life.computed for life in self.lives)

    @property
    def idle(self) -> float:
        """GPU-hours in which GPUs were held and next to nothing ran on them."""
        return sum(life.idle for life in self.lives)

    @property
    def in_vain(self) -> float:
        """GPU-hours that were computed in lives of which nothing is left."""
        return sum(life.computed for life in self.lives if not life.kept)

    @property
    def wasted(self) -> float:
        """GPU-hours idle or in vain."""
        return self.idle + self.in_vain

    @property
    def unwatched(self) -> float:
        """GPU-hours of which nothing is known."""
        return max(self.held - self.computed - self.idle, 0.0)

    def gpus_by_role(self) -> dict[str, list[GpuUse]]:
        """A GPU that roles share stands with each of them."""
        found: dict[str, list[GpuUse]] = {}
        for gpu in self.gpus:
            for role in dict.fromkeys(_role(name) for name in gpu.replicas) or [NOBODY]:
                found.setdefault(role, []).append(gpu)
        return dict(sorted(found.items(), key=lambda pair: (pair[0] == NOBODY, pair[0])))

    def replicas_by_role(self) -> dict[str, list[ReplicaUse]]:
        """Each replica on each node of each life."""
        found: dict[str, list[ReplicaUse]] = {}
        for node in self.nodes:
            for replica in node.replicas.values():
                if not is_own(replica.name):
                    found.setdefault(replica.role, []).append(replica)
        return dict(sorted(found.items()))


def gather(
    run: RunDir, state: RunState, items: Sequence[ItemState], as_runs: Callable[[], Sequence[RunState]]
) -> Report | None:
    """What is known of a run whose state is `state`; None of one that has not begun.

    `as_runs` tells the states of the items as of runs, asked for once, where they are jobs of their own.
    """
    now = time.time()
    sources = [("", run, state)] if run.attempts() else []
    if not sources:
        sources = [(one.name, run.item(one.name), its) for one, its in zip(items, as_runs(), strict=True)]
    lives = [life for name, place, its in sources for life in _begun(name, place, its, now)]
    if not lives:
        return None
    span = Span(min(life.began for life in lives), max(life.ended for life in lives), SLICES)
    places = {name: place for name, place, _ in sources}
    spec = _spec(run)
    whole = [_used(life, places[life.item], span, spec) for life in lives]
    asked = next((limit for one in (run, run.array(0), sources[0][1]) if (limit := _asked_time(one))), None)
    return Report(run, state, span, whole, items, spec, asked, now)


def mean(curves: Iterable[Curve]) -> Curve:
    """Slice by slice, of those that know it."""
    return [sum(known) / len(known) if known else None for known in _known(curves)]


def total(curves: Iterable[Curve]) -> Curve:
    """Slice by slice, of those that know it."""
    return [sum(known) if known else None for known in _known(curves)]


def highest(curves: Iterable[Curve]) -> Curve:
    """Slice by slice."""
    return [max(known, default=None) for known in _known(curves)]


def _known(curves: Iterable[Curve]) -> Iterator[list[float]]:
    for slice_ in zip(*curves, strict=True):
        yield [value for value in slice_ if value is not None]


def _gpus(nodes: Iterable[NodeUse]) -> Iterator[GpuUse]:
    return (gpu for node in nodes for gpu in node.gpus)


def _role(replica: str) -> str:
    return replica.rpartition(".")[0] or replica


def _begun(item: str, run: RunDir, state: RunState, now: float) -> Iterator[Life]:
    numbers = run.attempts()
    for number in numbers:
        facts = run.facts(number)
        watched = usage.times(run, number)
        if facts is None:
            continue
        last = number == numbers[-1]
        over = facts.ended if not last else (state.ended or facts.ended) if state.final else now
        began = facts.started or (state.started if last else None) or (watched[0] if watched else None)
        if began is None:
            continue
        ended = max(over or (watched[1] if watched else began), began)
        word = state.state if last else _word(facts)
        kept = word == State.COMPLETED or (last and not state.final)
        yield Life(item, number, word, began, ended, len(facts.hosts), 0, kept, facts, ())


def _word(facts: AttemptFacts) -> str:
    if facts.exit == 0:
        return State.COMPLETED
    return facts.ended_as or State.FAILED


def _used(life: Life, run: RunDir, span: Span, spec: Mapping[str, Any]) -> Life:
    nodes = usage.read(run, life.number, span)
    asked = max((node.asked_gpus for node in nodes), default=_asked_gpus(spec))
    gpus = sum(node.asked_gpus for node in nodes) + asked * max(life.hosts - len(nodes), 0)
    went_on = ("resume" in spec or spec.get("requeue")) and life.number < max(run.attempts())
    return replace(life, gpus=gpus, kept=life.kept or bool(went_on), nodes=nodes)


def _spec(run: RunDir) -> Mapping[str, Any]:
    try:
        return toml.read((run.sweep or run).spec)[0]
    except InputError:
        return {}


def _asked_gpus(spec: Mapping[str, Any]) -> int:
    allocation = spec.get("allocation")
    found = allocation.get("gpus") if isinstance(allocation, dict) else None
    return found if isinstance(found, int) else 0


def _asked_time(run: RunDir) -> float | None:
    """Seconds, from the head of the script that was sent: profiles have a default, too."""
    try:
        return seconds(asked_for(run.script, "--time", "-t"))
    except OSError:
        return None
