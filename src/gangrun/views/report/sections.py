"""The sections of every report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from gangrun.record.facts import is_own
from gangrun.record.state import State
from gangrun.record.usage import Curve, Span
from gangrun.views.figures import aligned, coarse, number, share, size, spark
from gangrun.views.report import html
from gangrun.views.report.gather import Life, Report, highest, mean, total
from gangrun.views.report.html import Bar
from gangrun.views.report.items import items
from gangrun.views.report.section import Section
from gangrun.views.report.verdict import verdict
from gangrun.views.runs import clock, replica_state

MOST_ROWS = 64
"""Replicas drawn one by one."""
_COARSE = 40
"""Slices of a picture of letters."""
_KINDS = {State.COMPLETED: "good", State.RUNNING: "", State.CANCELLED: "soft", "PREEMPTED": "warn", "TIMEOUT": "warn"}


def overview(report: Report) -> Section:
    """GPU-hours and the verdict."""
    told = verdict(report)
    figures = []
    if report.held:
        figures = [
            (number(report.held), "GPU-hours held"),
            (number(report.computed), f"GPU-hours computing ({share(report.computed / report.held)})"),
            (number(report.wasted), f"GPU-hours wasted ({share(report.wasted / report.held)})"),
        ]
        if report.unwatched > 0.02 * report.held:
            figures.append((number(report.unwatched), "GPU-hours not watched"))
    figures.append((clock(sum(life.ended - life.began for life in report.lives)), "of running time"))
    hours = [", ".join(f"{figure} {what}" for figure, what in figures)]
    if report.wasted:
        hours.append(f"wasted: {number(report.idle)} idle, {number(report.in_vain)} computed by what did not succeed")
    page = html.tiles(figures) + html.paragraphs(hours[1:]) + html.points(told)
    return Section("What it used", (*hours, "", *(f"- {sentence}" for _, sentence in told)), page)


def lives(report: Report) -> Section:
    """Attempts and replicas over time."""
    rows: list[html.Row] = []
    lines = []
    for life in report.lives:
        bar = Bar(life.began, life.ended, f"{life.name}: {life.state}, {clock(life.ended - life.began)}", kind(life))
        rows.append((life.name, [bar]))
        lines.append((life.name, line_of([bar], report.span), clock(life.ended - life.began), life.state))
        replicas = [pair for pair in (life.facts.replicas or {}).items() if not is_own(pair[0])]
        if len(report.lives) > MOST_ROWS:
            continue
        for name, replica in replicas[:MOST_ROWS]:
            bars = list(_bars(life, name))
            rows.append((name, bars))
            spent = clock(sum(bar.end - bar.begin for bar in bars))
            times = f" in {len(replica.lives)} lives" if len(replica.lives) > 1 else ""
            lines.append((f"  {name}", line_of(bars, report.span), spent, replica_state(replica) + times))
        if len(replicas) > MOST_ROWS:
            lines.append((f"  and {len(replicas) - MOST_ROWS} more", "", "", ""))
            rows.append((f"and {len(replicas) - MOST_ROWS} more", []))
    return Section("Attempts and replicas", tuple(aligned(lines)), html.timeline(rows, report.span))


def kind(life: Life) -> str:
    """The class of its bar."""
    return _KINDS.get(life.state, "bad")


def _bars(life: Life, name: str) -> Iterator[Bar]:
    for one in (life.facts.replicas or {})[name].lives:
        if one.started is None:
            continue
        end = one.ended or life.ended
        how = f"lost with {one.lost}" if one.lost else "" if one.code is None else f"exit {one.code}"
        # What the end of the job ended is nobody's failure.
        bad = one.lost or (one.code and (end < life.ended - 5 or one.code not in (137, 143)))
        if one.ready and one.ready > one.started:
            yield Bar(one.started, one.ready, f"{name}: getting ready, {clock(one.ready - one.started)}", "soft")
        begin = one.ready or one.started
        words = f"{name}: {clock(end - begin)}{', ' + how if how else ''}"
        yield Bar(begin, max(end, begin), words, "bad" if bad else "")


def line_of(bars: Sequence[Bar], span: Span, wide: int = _COARSE) -> str:
    """Bars as letters, for a terminal."""
    letters = [" "] * wide
    for bar in bars:
        first, last = Span(span.begin, span.end, wide).cover(bar.begin, bar.end)
        letter = {"bad": "▓", "soft": "░"}.get(bar.kind, "█")
        letters[first : last + 1] = letter * (last - first + 1)
    return "".join(letters)


def gpus(report: Report) -> Section | None:
    """How busy the GPUs were, by role."""
    roles = report.gpus_by_role()
    if not roles:
        return None
    hues = hues_of(report)
    rows = [("ROLE", "GPUS", "BUSY", "MEAN", "IDLE", "MEMORY", "OF", "POWER")]
    busy: dict[str, Curve] = {}
    full: dict[str, Curve] = {}
    for role, found in roles.items():
        busy[role] = mean(gpu.busy.curve for gpu in found)
        full[role] = [value / 1024 if value is not None else None for value in highest(g.memory.curve for g in found)]
        seconds = sum(gpu.busy.seconds for gpu in found)
        watts = [gpu.power.mean for gpu in found if gpu.power.mean is not None]
        rows.append(
            (
                role,
                str(len({(gpu.host, gpu.index) for gpu in found})),
                spark(coarse(busy[role], _COARSE), 100),
                share(sum(gpu.busy.total for gpu in found) / seconds / 100 if seconds else None),
                share(sum(gpu.idle for gpu in found) / seconds if seconds else None),
                size(max((gpu.memory.peak for gpu in found if gpu.memory.seconds), default=None)),
                size(max((gpu.capacity for gpu in found if gpu.capacity), default=None)),
                number(sum(watts) / len(watts) if watts else None, "W"),
            )
        )
    capacity = max((gpu.capacity for gpu in report.gpus if gpu.capacity), default=None)
    limit = capacity / 1024 if capacity else None
    each: dict[str, list[Curve]] = {}
    for gpu in sorted(report.gpus, key=lambda gpu: not gpu.replicas):
        each.setdefault(f"{gpu.host}:{gpu.index}", []).append(gpu.busy.curve)
    parts = [
        html.chart(busy, report.span, "%", 100, hues),
        html.table([[*row[:2], *row[3:]] for row in rows], "GPUS MEAN IDLE MEMORY OF POWER"),
        html.heading("Each GPU"),
        html.heat(list(each), [mean(curves) for curves in each.values()], report.span, 100),
        html.heading("Memory of the fullest GPU"),
        html.chart(full, report.span, "GiB", _top(full), hues, limit),
    ]
    return Section("GPUs", tuple(aligned(rows, "GPUS MEAN IDLE MEMORY OF POWER")), "\n".join(parts))


def cpus(report: Report) -> Section | None:
    """CPUs busy, by role, in all."""
    roles = report.replicas_by_role()
    if not roles:
        return None
    rows = [("ROLE", "CPUS", "MEAN", "MOST", "READ", "WRITTEN")]
    curves = {role: total(replica.cpu.curve for replica in found) for role, found in roles.items()}
    top = max((node.cpus or 0 for node in report.nodes), default=0)
    for role, found in roles.items():
        known = [value for value in curves[role] if value is not None]
        rows.append(
            (
                role,
                spark(coarse(curves[role], _COARSE), max(known, default=0.0)),
                number(sum(known) / len(known) if known else None),
                number(max(known, default=None)),
                size(sum(replica.read for replica in found)),
                size(sum(replica.written for replica in found)),
            )
        )
    hours = f"of {top} on each node" if top else ""
    page = [
        html.paragraphs([f"CPUs busy on all nodes together, {hours}".rstrip(", ")]),
        html.chart(curves, report.span, "CPUs", _top(curves), hues_of(report)),
        html.table([[row[0], *row[2:]] for row in rows], "MEAN MOST READ WRITTEN"),
    ]
    return Section("CPUs", tuple(aligned(rows, "MEAN MOST READ WRITTEN")), "\n".join(page))


def memory(report: Report) -> Section | None:
    """The memory of each node against its limit."""
    nodes = [node for node in report.nodes if node.memory.seconds]
    if not nodes:
        return None
    hosts: dict[str, list[Curve]] = {}
    for node in nodes:
        hosts.setdefault(node.host, []).append(node.memory.curve)
    joined = {host: [v / 1024 if v is not None else None for v in highest(found)] for host, found in hosts.items()}
    limits = [node.limit for node in nodes if node.limit]
    limit = min(limits) / 1024 if limits else None
    curves = {"fullest node": highest(joined.values()), "mean of the nodes": mean(joined.values())}
    if len(hosts) == 1:
        curves = dict(joined)
    rows = [("NODE", "MEMORY", "PEAK", "OF", "")]
    for node in sorted(nodes, key=lambda node: -node.memory.peak / (node.limit or 1))[:MOST_ROWS]:
        peak, asked = node.memory.peak, "asked" if node.asked else "that it has"
        top = node.limit or node.memory.peak
        rows.append((node.host, spark(coarse(node.memory.curve, _COARSE), top), size(peak), size(node.limit), asked))
    page = [
        html.chart(curves, report.span, "GiB", _top(curves), {name: at for at, name in enumerate(curves)}, limit),
        html.table([[row[0], *row[2:]] for row in rows], "PEAK OF", folded="node by node"),
    ]
    return Section("Memory", tuple(aligned(rows, "PEAK OF")), "\n".join(page))


def notes(report: Report) -> Section | None:
    """What the monitors had to say."""
    lines = tuple(dict.fromkeys(f"{node.host}: {note}" for node in report.nodes for note in node.notes))
    return Section("Notes", lines, html.paragraphs(lines)) if lines else None


SECTIONS: Sequence[Callable[[Report], Section | None]] = (overview, items, lives, gpus, cpus, memory, notes)
"""In the order of the page; one that has nothing to say of a run returns None."""


def hues_of(report: Report) -> dict[str, int]:
    """A colour for each role, the same everywhere on the page."""
    return {role: at for at, role in enumerate(dict.fromkeys([*report.replicas_by_role(), *report.gpus_by_role()]))}


def _top(curves: dict[str, Curve]) -> float:
    return max((value for curve in curves.values() for value in curve if value is not None), default=0.0)


def title(report: Report) -> str:
    """The run and how it stands."""
    return f"{report.run.run_id}: {report.state.state}"


def subtitle(report: Report) -> str:
    """When, and on what."""
    hosts = max(life.hosts for life in report.lives)
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(report.span.begin))
    nodes = f"{hosts} node" + ("s" if hosts != 1 else "")
    cards = max(life.gpus for life in report.lives)
    models = sorted({gpu.name for gpu in report.gpus if gpu.name})
    with_gpus = f" with {cards} GPUs" + (f" ({', '.join(models)})" if models else "") if cards else ""
    tries = f", {len(report.lives)} attempts" if len(report.lives) > 1 else ""
    return f"from {day}, {nodes}{with_gpus}{tries}"
