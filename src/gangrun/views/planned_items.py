"""The items of a sweep before anything is sent: what each will be, and how they will run."""

from __future__ import annotations

from typing import Any

from gangrun.comparison import of_plan
from gangrun.spec.model import Verdict
from gangrun.sweeps import SweepPlan
from gangrun.views import comparison
from gangrun.views.figures import aligned, cut
from gangrun.views.sweeps import cell, filled

MOST_ROWS = 50
"""Items that are listed; `--json` has all."""


def table(sweep: SweepPlan, width: int) -> list[str]:
    """One line for each item: its name, its values, and its estimate where there is one."""
    columns = list(dict.fromkeys(name for one in sweep.items for name in one.item.values))
    head = ["ITEM", *(name.upper() for name in columns)]
    rows = [[one.item.name, *(cell(one.item.values.get(name)) for name in columns)] for one in sweep.items[:MOST_ROWS]]
    if any(one.estimate is not None for one in sweep.items):
        head.append("ESTIMATE")
        for row, one in zip(rows, sweep.items, strict=False):
            row.append(cell(one.estimate))
    lines = [_head(sweep), *(f"note: {note}" for note in sweep.notes), "", *aligned(filled([head, *rows]))]
    if len(sweep.items) > MOST_ROWS:
        lines.append(f"and {len(sweep.items) - MOST_ROWS} more; --json lists all")
    return cut(lines, width)


def compared(sweep: SweepPlan, width: int) -> list[str]:
    """What it would cost as an array and as a pool, and the items over time; nothing where not all have estimates."""
    found = of_plan(sweep)
    if found is None:
        return []
    chart = comparison.gantt(found.chart, width)
    ordered = (
        f"items over time as {found.chosen}, if the estimates are seconds; a number is an item of the table, from 0"
    )
    return ["", *comparison.table(found), *(["", ordered, *chart] if chart else [])]


def _head(sweep: SweepPlan) -> str:
    ways = {
        "jobs": "each a job as drawn above",
        "array": "each a task of a Slurm array, as drawn above",
        "pool": "side by side in the job drawn above",
    }
    limits = [
        f"at most {number} {noun} at once"
        for number, noun in ((sweep.max_parallel, "items"), (sweep.max_nodes, "nodes"))
        if number
    ]
    return ", ".join([f"{len(sweep.items)} items", ways[sweep.mode], *limits, *_campaign(sweep)])


def _campaign(sweep: SweepPlan) -> list[str]:
    campaign = sweep.experiment.spec.campaign
    if campaign is None:
        return []
    roles = dict.fromkeys(replica.role for replica in sweep.items[0].plan.replicas)
    told = [f"each with {' and '.join(roles)}"] if len(roles) > 1 else []
    judge = campaign.verdict
    decides = judge.file if isinstance(judge, Verdict) else judge[0] if judge else "its exit code"
    return [*told, f"{campaign.attempts} attempts at each, on which {decides} decides"]


def as_data(sweep: SweepPlan) -> dict[str, Any]:
    """What `gangrun plan --json` says of a sweep."""
    return {
        "mode": sweep.mode,
        "max_parallel": sweep.max_parallel,
        "max_nodes": sweep.max_nodes,
        "items": [
            {
                "index": one.item.index,
                "name": one.item.name,
                "parameters": one.item.values,
                "gpus": one.gpus,
                "cpus": one.cpus,
                "estimate": one.estimate,
            }
            for one in sweep.items
        ],
        "notes": list(sweep.notes),
        "comparison": comparison.as_data(found) if (found := of_plan(sweep)) else None,
    }
