"""What the driver of a pool left in the run's directory: `pool/status.json` and `pool/journal.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gangrun.node.pool.journal import Fold, decode, fold
from gangrun.record.rundir import RunDir
from gangrun.record.state import Progress


def status(run: RunDir) -> Mapping[str, Any]:
    """How the pool is doing, written by its driver once a second: one small file however many items there are. Empty
    before the driver has begun."""
    try:
        found = json.loads((run.pool / "status.json").read_bytes())
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
    """The job that was queued for what its time limit leaves; empty where there is none."""
    job = status(run).get("continued")
    return job if isinstance(job, str) else ""


def journal(run: RunDir) -> Fold:
    """What became of every item."""
    try:
        return fold(decode((run.pool / "journal.jsonl").read_bytes()))
    except OSError:
        return Fold()
