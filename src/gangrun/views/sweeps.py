"""A sweep and its items: how far they are, one row for each, and one item in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from gangrun.record import items
from gangrun.record.item_states import ItemState
from gangrun.record.rundir import RunDir
from gangrun.record.state import RunState, State
from gangrun.scheduler import reasons
from gangrun.views.figures import aligned, cut
from gangrun.views.runs import clock, last_lines

MOST_ROWS = 40
"""Items that are shown one by one; of more, those that are of interest now."""


def table(states: Sequence[ItemState], width: int, most: int | None = MOST_ROWS) -> list[str]:
    """One line for each item under a head; of many those that failed or run first, and how many there are else."""
    shown = list(states)
    if most is not None and len(shown) > most:
        shown = sorted(shown, key=_interest)[:most]
        shown.sort(key=lambda one: one.index)
    rows = [("ITEM", "STATE", "TIME", "NODE", "GPU", "TRY", "")]
    rows += [
        (
            one.name,
            one.state,
            clock(one.seconds),
            one.node,
            ",".join(one.gpus),
            str(one.tries) if one.tries > 1 else "",
            _remark(one),
        )
        for one in shown
    ]
    lines = list(aligned(filled(rows)))
    if len(shown) < len(states):
        lines.append(f"and {len(states) - len(shown)} more; gangrun results lists all")
    return cut(lines, width)


def _interest(one: ItemState) -> int:
    order = (State.FAILED, State.RUNNING)
    return order.index(one.state) if one.state in order else 3 if one.state == State.COMPLETED else 2


def _remark(one: ItemState) -> str:
    if one.reason:
        return one.reason
    return f"exit {one.exit_code}" if one.exit_code else ""


def filled(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows without the columns, from the third on, that are empty below their head."""
    kept = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:]) or column < 2]
    return [[row[column] for column in kept] for row in rows]


def as_data(states: Sequence[ItemState]) -> list[dict[str, Any]]:
    """The items for `--json`: the fields of ItemState, and how long each took."""
    return [
        {**{field.name: getattr(one, field.name) for field in fields(one)}, "seconds": one.seconds} for one in states
    ]


def parameters(item: RunDir) -> list[str]:
    """What an item differs in."""
    sweep = item.sweep
    line = next((line for line in items.read(sweep) if line.name == item.item_name), None) if sweep else None
    return [f"  {name} = {cell(value)}" for name, value in line.parameters.items()] if line else []


def why(run: RunDir, state: RunState, states: Sequence[ItemState]) -> list[str]:
    """Why items of a sweep wait or failed, those with the same reason together; nothing where no item has one."""
    causes: dict[tuple[str, str], list[ItemState]] = {}
    for one in states:
        if one.state == State.COMPLETED or (one.state == State.RUNNING and not one.final):
            continue
        words = one.reason if not one.final else one.reason or (f"exit code {one.exit_code}" if one.exit_code else "")
        causes.setdefault((one.state, words), []).append(one)
    if not causes:
        return []
    lines = [f"{state.run} is {state.state}" + (" (as last known)" if state.stale else "")]
    for (word, reason), members in causes.items():
        names = ", ".join(one.name for one in members[:3]) + (", …" if len(members) > 3 else "")
        told = _plainly(word, reason)
        lines.append(f"{len(members)} {word}{f': {told}' if told else ''} ({names})")
        lost = next((one for one in members if word == State.FAILED), None)
        if lost is not None:
            log = run.item(lost.name).attempt(max(run.item(lost.name).attempts(), default=1)).log("main.0")
            if tail := last_lines(log):
                lines += [f"last lines of {log}:", *(f"  | {line}" for line in tail)]
    lines.append(f"gangrun why {state.run}/ITEM says more of one item")
    return lines


def _plainly(state: str, reason: str) -> str:
    if state == State.PENDING and reason:
        meaning = reasons.pending(reason)
        return meaning.words if meaning.words == reason else f"{reason}: {meaning.words}"
    return {
        "timeout": "its timeout was over",
        "lost": "it was lost with its node",
        "stopped": "ended with its pool",
    }.get(reason, reason)


# ---- results


def results(states: Sequence[ItemState], metrics_of: Callable[[str], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each item: its name and parameters, how it ended, and what it wrote to metrics.json."""
    rows = []
    for one in states:
        took = one.seconds
        row: dict[str, Any] = {
            "item": one.name,
            "parameters": dict(one.parameters),
            "state": one.state,
            "exit_code": one.exit_code,
            "seconds": round(took, 3) if took is not None else None,
            "node": one.node,
            "gpus": list(one.gpus),
            "tries": one.tries,
            "metrics": dict(metrics_of(one.name)),
        }
        rows.append(row)
    return rows


def as_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Head and rows: a column for each parameter and each metric. A metric that is called as a parameter is
    `metrics.NAME`."""
    parameters = list(dict.fromkeys(name for row in rows for name in row["parameters"]))
    measured = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    fixed = ["state", "exit_code", "seconds"]
    taken = {"item", *parameters, *fixed}
    head = ["item", *parameters, *fixed, *(f"metrics.{name}" if name in taken else name for name in measured)]
    body = [
        [
            row["item"],
            *(row["parameters"].get(name) for name in parameters),
            *(row[name] for name in fixed),
            *(row["metrics"].get(name) for name in measured),
        ]
        for row in rows
    ]
    return head, body


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a spreadsheet."""
    head, body = as_table(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([["" if value is None else value for value in row] for row in body])
    return out.getvalue()


def as_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For a person."""
    head, body = as_table(rows)
    cells = [[cell(value) for value in row] for row in body]
    return list(aligned(filled([[name.upper() for name in head], *cells])))


def cell(value: Any) -> str:
    """A value as it stands in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
