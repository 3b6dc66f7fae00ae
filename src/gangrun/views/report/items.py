"""The section of a sweep: its items on their devices over time, and what the other way would have cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gangrun.comparison import (
    Comparison,
    Name,
    Size,
    Stretch,
    Way,
    Work,
    compare,
    most_at_once,
    unit_of,
    weight,
)
from gangrun.node.pool.journal import Fold
from gangrun.record import items as lines
from gangrun.record import pools
from gangrun.record.state import State
from gangrun.views import comparison
from gangrun.views.figures import duration
from gangrun.views.report import html
from gangrun.views.report.gather import Report
from gangrun.views.report.html import Bar
from gangrun.views.report.section import Section

_WIDTH = 110
"""Letters of a picture of letters."""


def items(report: Report) -> Section | None:
    """A picture of the items, and as they were compared before: the way they ran, and the other."""
    if not report.items:
        return None
    pool = report.state.mode == "pool"
    journal = pools.journal(report.run) if pool else Fold()
    chart = list(_of_pool(report, journal) if pool else _of_jobs(report))
    if not chart:
        return None
    begin = min(one.begin for one in chart)
    found = _compared(report, journal, chart)
    shown = [Stretch(one.work, one.begin - begin, one.end - begin, one.node, one.gpus, one.failed) for one in chart]
    names = {one.work.index: one.work.name for one in chart}
    told = "numbers are items: " + ", ".join(f"{index} {name}" for index, name in sorted(names.items())[:12])
    other = (found.spread if pool else found.pool).name if found else ""
    simulated = f"{other} is simulated, without what a scheduler takes to start each job"
    table = ["", *comparison.table(found), simulated] if found else []
    text = (*comparison.gantt(shown, _WIDTH), told + (", …" if len(names) > 12 else ""), *table)
    devices = comparison.by_device(chart)[: comparison.MOST_ROWS]
    rows = [(name, [_bar(one) for one in stretches]) for name, stretches in devices]
    page = [html.timeline(rows, report.span)]
    if found:
        words = html.paragraphs([*comparison.words(found), simulated])
        page += [html.heading("The other way"), html.table(comparison.rows(found), "array jobs pool"), words]
    return Section("Items", text, "\n".join(page))


def _bar(one: Stretch) -> Bar:
    seconds = duration(one.end - one.begin)
    return Bar(one.begin, one.end, f"{one.work.name}: {seconds}", "bad" if one.failed else "good")


def _of_pool(report: Report, journal: Fold) -> Iterator[Stretch]:
    """Every try, from the journal."""
    for line in lines.read(report.run):
        history = journal.items.get(line.index)
        for span in history.spans if history else ():
            end = span.ended if span.ended is not None else report.made if not report.state.final else span.started
            work = Work(line.index, line.name, span.seconds or end - span.started, line.gpus, line.cpus or 0)
            bad = span.ended is not None and bool(span.code or span.why)
            yield Stretch(work, span.started, end, span.node, tuple(span.gpus), bad)


def _of_jobs(report: Report) -> Iterator[Stretch]:
    """Every life of every item; of an array nobody here knows on which GPUs."""
    states = {one.name: one for one in report.items}
    allocation = report.spec.get("allocation", {})
    for life in report.lives:
        if one := states.get(life.item):
            cpus = allocation.get("cpus", 1) * max(life.hosts, 1)
            work = Work(one.index, one.name, life.ended - life.began, life.gpus, cpus)
            bad = life.state not in (State.COMPLETED, State.RUNNING)
            yield Stretch(work, life.began, life.ended, "", (), bad)


def _compared(report: Report, journal: Fold, chart: Sequence[Stretch]) -> Comparison | None:
    """What it has come to beside the other way with the same items, longest first; None while it goes on, and where
    nothing has succeeded."""
    done = {one.index for one in report.items if one.state == State.COMPLETED}
    last = {one.work.index: one.work for one in chart if not one.failed and one.work.index in done}
    works = sorted(last.values(), key=lambda work: (-work.seconds, work.index))
    if not report.state.final or not any(work.seconds for work in works):
        return None
    if report.state.mode != "pool":
        name: Name = "jobs" if report.state.mode == "jobs" else "array"
        way = _spread(name, report.asked_time, works, chart)
        return compare(works, None, name, max_parallel=_side_by_side(chart), spread=way)
    sizes = [Size(len(node.get("gpus", ())), node.get("cpus", 1)) for node in journal.nodes.values()]
    gpus = any(work.gpus for work in works)
    devices = sum(size.gpus if gpus else size.cpus for size in sizes)
    return compare(works, sizes, "pool", pool=_pool(report, works, chart, devices)) if devices else None


def _pool(report: Report, works: Sequence[Work], chart: Sequence[Stretch], devices: float) -> Way:
    """What all jobs of the pool have come to."""
    unit = unit_of(works)
    held = sum(life.ended - life.began for life in report.lives)
    asked = max((report.asked_time or 0) * len(report.lives), held)
    return Way(
        name="pool",
        jobs=len(report.lives),
        each=devices,
        at_once=devices,
        time=report.asked_time or held,
        needed=held / len(report.lives),
        makespan=_makespan(chart),
        computing=sum(work.seconds * weight(work, unit) for work in works),
        held=devices * held,
        asked=devices * asked,
    )


def _spread(name: Name, asked: float | None, works: Sequence[Work], chart: Sequence[Stretch]) -> Way:
    """What all jobs or tasks have come to."""
    unit = unit_of(works)
    weights = [weight(one.work, unit) for one in chart]
    longest = max(one.work.seconds for one in chart)
    return Way(
        name=name,
        jobs=len(chart),
        each=max(weights),
        at_once=most_at_once([one.begin for one in chart], [one.end for one in chart], weights),
        time=asked or longest,
        needed=longest,
        makespan=_makespan(chart),
        computing=sum(work.seconds * weight(work, unit) for work in works),
        held=sum(one.work.seconds * each for one, each in zip(chart, weights, strict=True)),
        asked=sum(max(asked or longest, one.work.seconds) * each for one, each in zip(chart, weights, strict=True)),
    )


def _side_by_side(chart: Sequence[Stretch]) -> int:
    return int(most_at_once([one.begin for one in chart], [one.end for one in chart], [1.0] * len(chart)))


def _makespan(chart: Sequence[Stretch]) -> float:
    return max(one.end for one in chart) - min(one.begin for one in chart)
