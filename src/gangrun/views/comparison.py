"""A sweep as an array and as a pool, side by side, and its items on their devices over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeAlias

from gangrun.comparison import Comparison, Stretch, Way
from gangrun.views.figures import aligned, duration, significant

MOST_ROWS = 32
"""Devices that are drawn; of more the first."""
Row: TypeAlias = "tuple[str, list[Stretch]]"


def table(found: Comparison) -> list[str]:
    """Both ways, figure by figure, and which is better."""
    return [*aligned(rows(found), right=f"{found.spread.name} pool"), *words(found)]


def words(found: Comparison) -> list[str]:
    """What follows from the figures."""
    short = [
        f"note: as {way.name} it asks for {duration(way.time)}, and needs {duration(way.needed)}"
        for way in (found.spread, found.pool)
        if way.time < way.needed
    ]
    return [
        f"no way ends before {duration(found.bound)} on {found.pool.at_once:g} {found.unit}s",
        f"better: {found.better}, which {found.why}",
        *short,
    ]


def rows(found: Comparison) -> list[tuple[str, ...]]:
    """The figures of both ways under a head."""
    ways, unit = (found.spread, found.pool), found.unit
    length, named = (3600, f"{unit}-hours") if max(way.asked for way in ways) >= 7200 else (1, f"{unit}-seconds")
    lines = {
        "jobs or tasks": [str(way.jobs) for way in ways],
        f"{unit}s of each": [f"{way.each:g}" for way in ways],
        "time that each asks for": [duration(way.time) for way in ways],
        f"{unit}s at once": [f"{way.at_once:g}" for way in ways],
        "first start to last end": [duration(way.makespan) for way in ways],
        f"{named} asked for": [significant(way.asked / length) for way in ways],
        "  computing": [significant(way.computing / length) for way in ways],
        "  wasted: held, but idle": [significant(way.wasted / length) for way in ways],
        "  blocked: asked for, given back": [significant(way.blocked / length) for way in ways],
    }
    return [("", *(way.name for way in ways)), *((what, *figures) for what, figures in lines.items())]


def as_data(found: Comparison) -> dict[str, Any]:
    """For `--json`."""

    def way(one: Way) -> dict[str, Any]:
        named = {field.name: getattr(one, field.name) for field in fields(one)}
        return {**named, "wasted": one.wasted, "blocked": one.blocked}

    return {
        "unit": found.unit,
        "bound": found.bound,
        found.spread.name: way(found.spread),
        "pool": way(found.pool),
        "better": found.better,
        "why": found.why,
    }


def by_device(chart: Sequence[Stretch]) -> list[Row]:
    """What each device does; items without a device stand in as few rows as do."""
    devices: dict[tuple[str, str], list[Stretch]] = {}
    ends: dict[str, list[float]] = {}
    for one in sorted(chart, key=lambda one: (one.begin, one.work.index)):
        for gpu in one.gpus:
            devices.setdefault((one.node, gpu), []).append(one)
        if not one.gpus:
            rows = ends.setdefault(one.node, [])
            free = next((row for row, end in enumerate(rows) if end <= one.begin), len(rows))
            rows[free:] = [one.end, *rows[free + 1 :]]
            devices.setdefault((one.node, f"#{free}"), []).append(one)
    named = sorted(devices.items(), key=lambda pair: _counting(pair[0]))
    return [
        (f"{node} {gpu}".strip() if gpu.startswith("#") else f"{node} GPU {gpu}", found) for (node, gpu), found in named
    ]


def _counting(key: tuple[str, str]) -> tuple[Any, ...]:
    """`node 2` before `node 10`."""
    digits = [part.strip("#") for part in key]
    numbers = [part.rpartition(" ")[2] for part in digits]
    return tuple((int(part) if part.isdecimal() else 0, part) for part in numbers) + key


def gantt(chart: Sequence[Stretch], width: int) -> list[str]:
    """One line for each device, on which each item begins with `|` and its number; `x` is one that failed."""
    found = by_device(chart)
    end = max((one.end for one in chart), default=0.0)
    if not end:
        return []
    shown = found[:MOST_ROWS]
    margin = max(len(name) for name, _ in shown)
    columns = max(width - margin - 2, 10)
    lines = [f"{name:<{margin}}  {_line(stretches, end, columns)}".rstrip() for name, stretches in shown]
    if len(found) > len(shown):
        lines.append(f"and {len(found) - len(shown)} devices more")
    scale = f"0 {'-' * (columns - len(duration(end)) - 3)} {duration(end)}"
    return [*lines, f"{'':<{margin}}  {scale}"]


def _line(stretches: Sequence[Stretch], end: float, columns: int) -> str:
    letters = ["·"] * columns
    for one in stretches:
        first = min(int(one.begin / end * columns), columns - 1)
        last = max(int(one.end / end * columns), first + 1)
        label = f"|{one.work.index}"
        letters[first:last] = list(f"{label:{'x' if one.failed else '─'}<{last - first}}"[: last - first])
    return "".join(letters[:columns])
