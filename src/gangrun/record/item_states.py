"""The items of a sweep as a reader sees them, whichever way they run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gangrun.record import items, pools
from gangrun.record.items import ItemLine
from gangrun.record.ledger import SPREAD, refresh_items
from gangrun.record.rundir import RunDir
from gangrun.record.state import RunState, State
from gangrun.scheduler.model import Scheduler


@dataclass(frozen=True, slots=True)
class ItemState:
    """One item. Times in seconds since the epoch, None where unknown."""

    index: int
    name: str
    parameters: Mapping[str, Any]
    state: str
    exit_code: int | None = None
    started: float | None = None
    """Start of its last try."""
    ended: float | None = None
    node: str = ""
    gpus: tuple[str, ...] = ()
    """Ids of its devices on that node, where that is known."""
    tries: int = 0
    job: str = ""
    reason: str = ""
    """Why it waits or ended, where there is a word for it."""
    estimate: float | None = None
    width: float = 0
    """How many GPUs it holds."""

    @property
    def seconds(self) -> float | None:
        """How long its last try took, or has taken until now."""
        if self.started is None:
            return None
        return max((time.time() if self.ended is None else self.ended) - self.started, 0.0)

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.ended is not None or self.state not in (State.PENDING, State.RUNNING, State.CREATED)


def item_states(
    run: RunDir, sweep: RunState, scheduler_of: Callable[[str], Scheduler], now: float | None = None
) -> list[ItemState]:
    """The items of a sweep whose own state is `sweep`, in their order. Raises RecordError."""
    lines = items.read(run)
    if sweep.mode in SPREAD:
        states = refresh_items(run, scheduler_of, now)
        return [_of_job(line, state, sweep) for line, state in zip(lines, states, strict=True)]
    told = pools.journal(run).items
    found = []
    for line in lines:
        history = told.get(line.index)
        one = _of_job(line, pools.item_state(run.item(line.name), line, history, sweep), sweep)
        spans = history.spans if history else []
        gpus = tuple(map(str, spans[-1].gpus)) if spans else ()
        found.append(replace(one, gpus=gpus, tries=len(spans)))
    return found


def of_run(state: RunState) -> ItemState:
    """A run that is no sweep as an item, its only one."""
    return _of_job(ItemLine(0, state.run, {}), state, state)


def _of_job(line: ItemLine, state: RunState, sweep: RunState) -> ItemState:
    return ItemState(
        index=line.index,
        name=line.name,
        parameters=line.parameters,
        state=state.state,
        exit_code=state.exit_code,
        started=state.started,
        ended=state.ended if state.final else None,
        node=state.nodes,
        tries=state.attempt,
        job=state.job,
        reason=state.reason or (sweep.reason if state.state == State.CREATED else ""),
        estimate=line.estimate,
        width=line.gpus,
    )


def metrics(item: RunDir) -> dict[str, Any]:
    """What the program wrote to `metrics.json` in the item's directory: of a list, or of lines, the last values.

    Nested tables become `a.b`. Nothing where there is no such file, or none that can be read.
    """
    try:
        text = item.metrics.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(_flat(_last(text)))


def _last(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        found = []
        for line in text.splitlines():  # one object a line, the last one possibly torn
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    if not isinstance(found, list):
        return found
    merged: dict[str, Any] = {}
    for one in found:
        merged.update(one if isinstance(one, dict) else {})
    return merged


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            numbers = [one for one in value if isinstance(one, (int, float, str))]
            if numbers:
                yield f"{prefix}{name}", numbers[-1]
        else:
            yield f"{prefix}{name}", value
