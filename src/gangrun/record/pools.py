"""What the driver of a pool left in the run's directory: `pool/status.json` and `pool/journal.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gangrun.node.pool.journal import Fold, History, decode, fold
from gangrun.record.facts import Failure
from gangrun.record.items import ItemLine
from gangrun.record.rundir import RunDir
from gangrun.record.state import Progress, RunState, State

_WORDS = {"waiting": State.PENDING, "running": State.RUNNING, "done": State.COMPLETED, "failed": State.FAILED}


def status(run: RunDir) -> Mapping[str, Any]:
    """How the pool is doing, written by its driver once a second: one small file however many items there are. Empty
    before the driver has begun."""
    try:
        found = json.loads(run.pool_status.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def progress(run: RunDir, items: int) -> Progress:
    """How far its items are; none where it has not begun."""
    said = status(run)

    def count(name: str) -> int:
        value = said.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    def number(name: str) -> float | None:
        value = said.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    return Progress(
        items,
        done=count("done"),
        wrong=count("failed"),
        running=count("running"),
        ends=number("expected_end"),
        occupancy=number("occupancy"),
    )


def continued(run: RunDir) -> str:
    """The newest job that was queued for what a time limit leaves; empty where there is none. One that has begun since
    is in the journal alone."""
    job = status(run).get("continued")
    if isinstance(job, str) and job:
        return job
    opened = journal(run).opened
    return str(opened[-1].get("job", "")) if len(opened) > 1 else ""


def journal(run: RunDir) -> Fold:
    """What became of every item."""
    try:
        return fold(decode(run.pool_journal.read_bytes()))
    except OSError:
        return Fold()


def item_state(item: RunDir, line: ItemLine, told: History | None, sweep: RunState) -> RunState:
    """One item of a pool whose own state is `sweep`, as a run."""
    state = str(_WORDS.get(told.state, State.PENDING)) if told else State.PENDING
    last = told.spans[-1] if told and told.spans else None
    if sweep.final and state in (State.PENDING, State.RUNNING):
        # The pool has ended without it.
        state = (
            State.CANCELLED if sweep.state == State.CANCELLED else State.LEFT if state == State.PENDING else State.LOST
        )
    code = last.code if last else None
    return RunState(
        run=line.run,
        dir=item.dir,
        state=state,
        job=sweep.job,
        exit_code=code,
        reason=(last.why if last else sweep.reason if sweep.state == State.PENDING else "") or "",
        cluster=sweep.cluster,
        attempt=max(item.attempts(), default=0) if state == State.FAILED else len(told.spans) if told else 0,
        created=sweep.created,
        submitted=sweep.submitted,
        started=last.started if last else None,
        ended=last.ended if last else None,
        nodes=last.node if last else "",
        failed=Failure("main.0", code, host=last.node) if last and state == State.FAILED else None,
        stale=sweep.stale,
        note=sweep.note,
    )
