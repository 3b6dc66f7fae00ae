"""The plan: who sits where, drawn for a person and as data for a program.

The drawing is plain ASCII, so that it reads the same in a terminal, a log and a mail; colour only repeats the letters.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gangrun.plan.model import Allocation, Plan, Replica, Word
from gangrun.script.quote import shown

Explained = Iterable[tuple[str, Any, str]]
"""Rows of key, value and where the value comes from."""

_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FEW = 4
"""So many nodes are always drawn one by one."""


def as_data(plan: Plan, explained: Explained | None = None) -> dict[str, Any]:
    """What `gangrun plan --json` prints. Times are seconds, GPUs, CPUs and tasks are per node, ports are offsets."""
    allocation = plan.allocation
    data: dict[str, Any] = {
        "run": f"{plan.experiment}/{plan.step}",
        "seed": plan.seed,
        "cluster": plan.cluster,
        "scheduler": plan.scheduler,
        "allocation": {
            "nodes": allocation.nodes,
            "gpus": allocation.gpus,
            "cpus": allocation.cpus,
            "mem": allocation.mem,
            "time": allocation.time,
            "gpu_hours": _gpu_hours(allocation),
            "flags": {name: True if value is None else value for name, value in allocation.flags},
        },
        "replicas": [_replica_data(replica) for replica in plan.replicas],
        "ports": plan.ports,
        "env": {name: shown(word) for name, word in plan.env},
        "setup": list(plan.setup),
        "workdir": plan.workdir,
        "unused": {"nodes": list(plan.unused_nodes), "gpus": _unused_gpus(plan)},
        "requeue": asdict(plan.requeue) if plan.requeue else None,
        "notes": list(plan.notes),
    }
    if explained is not None:
        data["explained"] = [{"key": key, "value": value, "source": source} for key, value, source in explained]
    return data


def _replica_data(replica: Replica) -> dict[str, Any]:
    ready = replica.ready
    return {
        "role": replica.role,
        "index": replica.index,
        "count": replica.count,
        "kind": replica.kind,
        "nodes": list(replica.nodes),
        "gpus": list(replica.gpus),
        "gpus_shared": replica.shares_gpus,
        "alone": replica.alone,
        "cpus": replica.cpus,
        "tasks": replica.tasks,
        "threads": replica.threads,
        "ranks": replica.ranks,
        "ports": {name: port.offset for name, port in replica.ports},
        "argv": [shown(word) for word in replica.argv],
        "again": [shown(word) for word in replica.again],
        "env": {name: shown(word) for name, word in replica.env},
        "after": list(replica.after),
        "ready": {"kind": ready.kind, "target": shown(ready.target), "within": ready.within} if ready else None,
        "restarts": replica.restarts,
        "spare": replica.spare,
        "step_flags": [shown(word) for word in replica.step_flags],
    }


def _gpu_hours(allocation: Allocation) -> float | None:
    if allocation.time is None:
        return None
    return round(allocation.nodes * allocation.gpus * allocation.time / 3600, 3)


def _unused_gpus(plan: Plan) -> int:
    used = {(node, gpu) for replica in plan.replicas for node in replica.nodes for gpu in replica.gpus}
    return plan.allocation.nodes * plan.allocation.gpus - len(used)


# ---- the drawing


@dataclass(frozen=True, slots=True)
class _Mark:
    """A role in the drawing: its letter and colour."""

    letter: str
    colour: str


@dataclass(frozen=True, slots=True)
class _Row:
    """What one node holds."""

    gpus: tuple[tuple[tuple[str, int], ...], ...]
    """Role and index of the replicas on each GPU; two or more where it is shared."""
    rest: tuple[tuple[str, int], ...]
    """Replicas on the node without a GPU."""

    @property
    def replicas(self) -> list[tuple[str, int]]:
        return [replica for cell in (*self.gpus, self.rest) for replica in cell]


def draw(plan: Plan, width: int) -> Group:
    """The plan for a person, at most `width` columns wide (40 at least)."""
    width = max(width, 40)
    marks = _marks(plan)
    lines = [*_header(plan, width), Text(), *_map(plan, marks, width), Text(), *_legend(plan, marks, width)]
    return Group(*lines)


def draw_explained(explained: Explained) -> Table:
    """Every value and where it comes from, one a line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("key", overflow="fold")
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold", style="dim")
    for key, value, source in explained:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(Text(key), Text(text), Text(source))
    return table


def _marks(plan: Plan) -> dict[str, _Mark]:
    """The first letter of a role's name, else another of it, else any that is free."""
    marks: dict[str, _Mark] = {}
    taken: set[str] = set()
    for replica in plan.replicas:
        if replica.role in marks:
            continue
        wishes = (*replica.role.upper(), *_LETTERS)
        letter = next((wish for wish in wishes if wish in _LETTERS and wish not in taken), "?")
        taken.add(letter)
        marks[replica.role] = _Mark(letter, _COLOURS[len(marks) % len(_COLOURS)])
    return marks


def _header(plan: Plan, width: int) -> list[Text]:
    allocation = plan.allocation
    title = f"{plan.experiment}/{plan.step} -> {plan.cluster}"
    title += f" ({plan.scheduler})" if plan.scheduler != plan.cluster else ""
    facts = [_count(allocation.nodes, "node") + (f" x {_count(allocation.gpus, 'GPU')}" if allocation.gpus else "")]
    each = [_count(allocation.cpus, "CPU")] if allocation.cpus is not None else []
    each += [f"{allocation.mem} memory"] if allocation.mem is not None else []
    facts += [f"{' and '.join(each)} {'each' if allocation.nodes > 1 else ''}".rstrip()] if each else []
    facts.append(_duration(allocation.time) if allocation.time is not None else "no time limit said")
    hours = _gpu_hours(allocation)
    facts += [f"{hours:g} GPU-hours"] if hours else []
    lines = [Text(_cut(title, width), style="bold"), *_wrapped(", ".join(facts), width, 0)]
    named = ("partition", "qos", "account")
    asked = [f"{name} {value}" for name, value in allocation.flags if name in named]
    if asked:
        lines += _wrapped(", ".join(asked), width, 0)
    if plan.requeue:
        budgets = {name: getattr(plan.requeue, name) for name in ("limit", "preemption", "node")}
        words = ", ".join(f"{name} ({most} times)" for name, most in budgets.items() if most)
        lines += _wrapped(f"goes on after {words or 'nothing'}", width, 0)
    lines += [
        line for words in (*_unused(plan), *plan.notes) for line in _wrapped(f"note: {words}", width, 2, "yellow")
    ]
    return lines


def _unused(plan: Plan) -> list[str]:
    allocation, words = plan.allocation, []
    if nodes := plan.unused_nodes:
        one = "node" if len(nodes) == 1 else "nodes"
        spare = ", to take the place of one that is lost" if plan.spare_nodes else ""
        words.append(f"{len(nodes)} of {_count(allocation.nodes, 'node')} unused: {one} {_ranges(nodes)}{spare}")
    if gpus := _unused_gpus(plan):
        words.append(f"{gpus} of {_count(allocation.nodes * allocation.gpus, 'GPU')} unused")
    return words


# ---- the map of nodes and GPUs


def _map(plan: Plan, marks: dict[str, _Mark], width: int) -> list[Text]:
    rows = _rows(plan)
    blocks = _blocks(rows)
    labels = [_label(block) for block in blocks]
    margin = max(len(label) for label in (*labels, "GPU"))
    gpus = plan.allocation.gpus
    texts = [[_cell(cell, block, marks) for cell in block.row.gpus] for block in blocks]
    wide = max((len(text) for line in texts for text in line), default=0)
    wide = max(wide, len(str(gpus - 1)) if gpus else 0)
    room = max((width - margin - 2) // (wide + 1), 1)
    # Nodes of more GPUs than fit are drawn in several lines of equally many.
    parts = -(-gpus // room) if gpus else 1
    per_line = -(-gpus // parts)
    lines: list[Text] = []
    if gpus:
        for start in range(0, gpus, per_line):
            numbers = " ".join(str(gpu).rjust(wide) for gpu in range(start, min(start + per_line, gpus)))
            lines.append(Text(f"{('GPU' if not start else ''):{margin}}  {numbers}", style="dim"))
    for label, block, cells in zip(labels, blocks, texts, strict=True):
        beside = _beside(block, marks)
        for start in range(0, max(gpus, 1), per_line or 1):
            line = Text(f"{(label if not start else ''):{margin}} ")
            if gpus:
                _draw_cells(line, block.row.gpus, cells, start, min(start + per_line, gpus), wide, marks)
            last = start + per_line >= gpus
            lines += _with_beside(line, beside, margin + 2, width) if last else [line]
    return lines


def _rows(plan: Plan) -> list[_Row]:
    allocation = plan.allocation
    gpus: list[list[list[tuple[str, int]]]] = [[[] for _ in range(allocation.gpus)] for _ in range(allocation.nodes)]
    rest: list[list[tuple[str, int]]] = [[] for _ in range(allocation.nodes)]
    for replica in plan.replicas:
        who = (replica.role, replica.index)
        for node in replica.nodes:
            for gpu in replica.gpus:
                gpus[node][gpu].append(who)
            if not replica.gpus:
                rest[node].append(who)
    return [_Row(tuple(map(tuple, gpus[node])), tuple(rest[node])) for node in range(allocation.nodes)]


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring nodes drawn as one line: all alike, or alike but for the numbers of their replicas."""

    first: int
    last: int
    row: _Row
    """What the first of them holds."""
    each: int = 1
    """How many neighbours hold exactly the same before the numbers of replicas move on."""
    ranges: tuple[tuple[str, int, int], ...] = ()
    """Role, lowest and highest index over all of them, where the numbers move on."""


def _blocks(rows: Sequence[_Row]) -> list[_Block]:
    if len(rows) <= _FEW:
        return [_Block(node, node, row) for node, row in enumerate(rows)]
    same: list[_Block] = []
    for row, numbered in groupby(enumerate(rows), key=lambda pair: pair[1]):
        nodes = [node for node, _ in numbered]
        same.append(_Block(nodes[0], nodes[-1], row, len(nodes)))
    folded: list[_Block] = []
    at = 0
    while at < len(same):
        end = at + 1
        step = _step(same[at], same[end]) if end < len(same) else None
        while step is not None and end + 1 < len(same) and _step(same[end], same[end + 1]) == step:
            end += 1
        if step is None or end - at < _FEW:
            folded.append(same[at])
            at += 1
        else:
            # The first of the series stands for itself, so that the pattern can be seen.
            folded += [same[at], _series(same[at + 1 : end + 1])]
            at = end + 1
    return folded


def _step(one: _Block, other: _Block) -> tuple[int, ...] | None:
    """By how much each replica's number grows from one to the other, if that is all that differs."""
    if one.each != other.each or len(one.row.rest) != len(other.row.rest):
        return None
    if any(len(a) != len(b) for a, b in zip(one.row.gpus, other.row.gpus, strict=True)):
        return None
    pairs = list(zip(one.row.replicas, other.row.replicas, strict=True))
    if any(a[0] != b[0] for a, b in pairs):
        return None
    return tuple(b[1] - a[1] for a, b in pairs)


def _series(blocks: Sequence[_Block]) -> _Block:
    reach: dict[str, tuple[int, int]] = {}
    for role, index in (replica for block in blocks for replica in block.row.replicas):
        low, high = reach.get(role, (index, index))
        reach[role] = (min(low, index), max(high, index))
    ranges = tuple((role, low, high) for role, (low, high) in reach.items())
    return _Block(blocks[0].first, blocks[-1].last, blocks[0].row, blocks[0].each, ranges)


def _label(block: _Block) -> str:
    if block.first == block.last:
        return f"node {block.first}"
    return f"nodes {block.first}-{block.last}"


def _cell(cell: Sequence[tuple[str, int]], block: _Block, marks: dict[str, _Mark]) -> str:
    if not cell:
        return "-"
    moving = {role for role, low, high in block.ranges if low != high}
    return "+".join(marks[role].letter + ("" if role in moving else str(index)) for role, index in cell)


def _draw_cells(
    line: Text,
    cells: Sequence[Sequence[tuple[str, int]]],
    texts: Sequence[str],
    start: int,
    end: int,
    wide: int,
    marks: dict[str, _Mark],
) -> None:
    """Appends the cells from start to end; a bar stands where another replica begins."""
    for gpu in range(start, end):
        line.append("|" if gpu == start or cells[gpu] != cells[gpu - 1] else " ")
        colour = marks[cells[gpu][0][0]].colour if cells[gpu] else "dim"
        line.append(texts[gpu].rjust(wide), style=colour)
    line.append("|")


def _beside(block: _Block, marks: dict[str, _Mark]) -> list[tuple[str, str]]:
    """Words and colours for the replicas without a GPU, and for the numbers of a series."""
    words: list[tuple[str, str]] = []
    moving = {role: (low, high) for role, low, high in block.ranges if low != high}
    for role, members in groupby(block.row.rest, key=lambda replica: replica[0]):
        if role not in moving:
            mark = marks[role]
            indices = _ranges([index for _, index in members])
            words += [(f"{mark.letter}{part}", mark.colour) for part in indices.split(", ")]
    for role, (low, high) in moving.items():
        words.append((f"{marks[role].letter}{low}-{marks[role].letter}{high}", marks[role].colour))
    if block.ranges and block.each > 1:
        words.append((f"({block.each} nodes each)", "dim"))
    return words


def _with_beside(line: Text, words: Sequence[tuple[str, str]], margin: int, width: int) -> list[Text]:
    """The words behind the line, and in further lines below where they are too many."""
    lines = [line]
    for word, colour in words:
        if len(lines[-1]) + 1 + len(word) > width and len(lines[-1]) > margin:
            lines.append(Text(" " * (margin - 1)))
        lines[-1].append(" ").append(word, style=colour)
    return lines


# ---- the legend


def _legend(plan: Plan, marks: dict[str, _Mark], width: int) -> list[Text]:
    roles: dict[str, list[Replica]] = {}
    for replica in plan.replicas:
        roles.setdefault(replica.role, []).append(replica)
    lines: list[Text] = []
    for role, replicas in roles.items():
        mark, replica = marks[role], replicas[0]
        lines += _wrapped(f"{mark.letter} = {role}: {_what(replicas, plan.allocation)}", width, 4, mark.colour)
        lines.append(Text(_cut("    $ " + " ".join(map(_word, replica.argv)), width)))
        if more := _more(replica):
            lines += _wrapped(f"    {more}", width, 4)
    return lines


def _what(replicas: Sequence[Replica], allocation: Allocation) -> str:
    replica = replicas[0]
    nodes = len(replica.nodes)
    each = [_count(nodes, "node") if nodes < allocation.nodes or nodes == 1 else f"all {nodes} nodes"]
    if replica.gpus:
        each[0] += f" x {_count(len(replica.gpus), 'GPU')}" + (" (shared)" if replica.shares_gpus else "")
    cpus = sorted({other.cpus for other in replicas if other.cpus is not None})
    if cpus:
        each.append(_count(cpus[0], "CPU") if len(cpus) == 1 else f"{cpus[0]} to {cpus[-1]} CPUs")
    each.append(_count(replica.tasks, "task"))
    per_node = " per node" if nodes > 1 else ""
    many = f"{replica.count} replicas, each " if replica.count > 1 else ""
    return f"{replica.kind}, {many}{', '.join(each)}{per_node}"


def _more(replica: Replica) -> str:
    facts: list[str] = []
    if replica.ports:
        facts.append(f"{'ports' if len(replica.ports) > 1 else 'port'} {', '.join(name for name, _ in replica.ports)}")
    if replica.after:
        facts.append(f"waits for {', '.join(replica.after)}")
    if ready := replica.ready:
        facts.append(f"ready: {ready.kind} {_word(ready.target)} within {_duration(ready.within)}")
    if replica.restarts:
        facts.append(f"restarts up to {_count(replica.restarts, 'time')}")
    if replica.spare:
        facts.append(f"the job goes on without {replica.spare} of {replica.count}")
    return "; ".join(facts)


def _word(word: Word) -> str:
    """A word for a person: what only the job knows stays a variable."""
    text = shown(word)
    return text if text and not any(letter.isspace() for letter in text) else repr(text)


# ---- text


def _ranges(numbers: Iterable[int]) -> str:
    """`0-3, 7`."""
    parts: list[str] = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ", ".join(parts)


def _duration(seconds: int) -> str:
    """`1 d 12 h`, `10 min`."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = []
    for unit, size in units:
        number, seconds = divmod(seconds, size)
        parts += [f"{number} {unit}"] if number else []
    return " ".join(parts) or "0 s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _wrapped(text: str, width: int, indent: int, style: str = "") -> list[Text]:
    """Lines of whole words; those after the first are indented."""
    start = text[: len(text) - len(text.lstrip())]
    wrapped = textwrap.wrap(text.strip(), width, initial_indent=start, subsequent_indent=" " * indent)
    return [Text(line, style=style) for line in wrapped]
