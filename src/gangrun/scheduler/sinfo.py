"""sinfo: the nodes of each partition, grouped by what they are. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gangrun.scheduler.text import blank, seconds

# The features stand last: they alone may hold a bar. Free memory is left out, as it would split every group.
_FORMAT = "%P|%a|%l|%D|%T|%c|%m|%G|%N|%f"
NODES = ("sinfo", "--noheader", f"--format={_FORMAT}")

_GRES = re.compile(r"gpu(?::(?!no_consume)(?P<type>[^:()]+))?(?::no_consume)?:(?P<count>\d+)(?:\(.*\))?")


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs of one kind on one node."""

    count: int
    type: str = ""
    """Slurm's own word, such as `h100`; empty where the site names none."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes of one partition that are alike and in the same state."""

    partition: str
    default: bool
    up: bool
    time_limit: int | None
    """Seconds; None is without limit."""
    count: int
    state: str
    """Slurm's long state without its flag: `idle`, `mixed`, `allocated`, `down`, `drained`, `planned`…"""
    cpus: int
    memory: int
    """MB that Slurm gives to jobs, per node."""
    gpus: tuple[Gpus, ...]
    names: str
    """In Slurm's notation."""
    features: tuple[str, ...]


def gres(text: str) -> tuple[Gpus, ...]:
    """The GPUs in `gpu:h100:8(S:0-1),gpu:2,shard:16`. MIG slices are kinds of their own, as they are for Slurm."""
    found = (_GRES.fullmatch(part) for part in re.split(r",(?![^()]*\))", text))
    return tuple(Gpus(int(part["count"]), part["type"] or "") for part in found if part)


def nodes(text: str) -> Iterator[Nodes]:
    """One per line. Where a value is mixed within a group sinfo ends it with `+`; the smaller one is given."""
    for line in text.splitlines():
        cells = line.split("|", _FORMAT.count("|"))
        if len(cells) != 1 + _FORMAT.count("|") or not cells[3].strip().isdigit():
            continue
        partition, available, limit, count, state, cpus, memory, gpus, names, features = cells
        yield Nodes(
            partition=partition.rstrip("*"),
            default=partition.endswith("*"),
            up=available == "up",
            time_limit=seconds(limit),
            count=int(count),
            state=re.sub(r"[^a-z_]+$", "", state.lower()),
            cpus=_least(cpus),
            memory=_least(memory),
            gpus=gres(gpus),
            names=names,
            features=tuple(part for part in blank(features).split(",") if part),
        )


def _least(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match.group()) if match else 0
