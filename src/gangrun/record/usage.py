"""What the monitors wrote down of a job, folded into averages, peaks and curves.

A day of one node is 5760 lines, so a file is folded while it is read and its samples are not kept. Samples count by
the time since the one before, as they are closer together at first and far apart where some were lost.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, TypeAlias

from gangrun.record.rundir import RunDir

IDLE = 5
"""Per cent of the time that a GPU computes, below which it counts as idle."""
MIB = 1 << 20
_LARGE = 16 * MIB
"""Bytes from which files are read by several processes: one takes a third of a second for a node's day."""
_WORKERS = 8
"""Processes at the most, on a login machine that others use, too."""

Curve: TypeAlias = "list[float | None]"
"""Means over equal slices of time, None for a slice without a sample."""


@dataclass(frozen=True, slots=True)
class Span:
    """The time that curves go over, in seconds since the epoch, and into how many slices they cut it."""

    begin: float
    end: float
    slices: int = 240

    def cover(self, begin: float, end: float) -> tuple[int, int]:
        """The first and the last slice that this stretch lies in; what is outside counts to the nearest."""
        scale = self.slices / max(self.end - self.begin, 1e-9)
        first = min(max(int((begin - self.begin) * scale + 1e-6), 0), self.slices - 1)
        last = min(max(math.ceil((end - self.begin) * scale - 1e-6) - 1, first), self.slices - 1)
        return first, last


class Mean:
    """The mean of a quantity over time, its peak, and its curve."""

    __slots__ = ("last", "peak", "seconds", "sums", "times", "total")

    def __init__(self, slices: int) -> None:
        self.seconds = self.total = 0.0
        self.peak = self.last = 0.0
        self.sums, self.times = [0.0] * slices, [0.0] * slices

    def add(self, value: float, seconds: float, first: int, last: int) -> None:
        """Takes in that it was `value` for so many seconds, which lie in the slices from `first` to `last`."""
        weighted = value * seconds
        self.total += weighted
        self.seconds += seconds
        if first == last:
            self.sums[last] += weighted
            self.times[last] += seconds
        else:
            count = last - first + 1
            for at in range(first, last + 1):
                self.sums[at] += weighted / count
                self.times[at] += seconds / count
        self.last = value
        if value > self.peak:
            self.peak = value

    @property
    def mean(self) -> float | None:
        """None without a sample."""
        return self.total / self.seconds if self.seconds else None

    @property
    def curve(self) -> Curve:
        """Its means, slice by slice."""
        return [total / time if time else None for total, time in zip(self.sums, self.times, strict=True)]


@dataclass(slots=True)
class GpuUse:
    """One GPU of one node in one attempt."""

    host: str
    index: str
    """As nvidia-smi counts."""
    uuid: str
    name: str
    capacity: int | None
    """MiB."""
    busy: Mean
    """Per cent of the time that a kernel ran."""
    memory: Mean
    """MiB."""
    power: Mean
    """Watts."""
    heat: Mean
    """Degrees Celsius."""
    replicas: tuple[str, ...] = ()
    """Those that were given it."""
    idle: float = 0.0
    """Seconds in which it did next to nothing."""

    @property
    def idle_share(self) -> float | None:
        """Of the time that it was watched; None where it never was."""
        return self.idle / self.busy.seconds if self.busy.seconds else None


@dataclass(slots=True)
class ReplicaUse:
    """One replica on one node in one attempt."""

    name: str
    host: str
    cpu: Mean
    """CPUs busy."""
    memory: Mean
    """MiB."""
    read: float = 0.0
    """MB in all."""
    written: float = 0.0

    @property
    def role(self) -> str:
        """Its role."""
        return self.name.rpartition(".")[0]


@dataclass(slots=True)
class NodeUse:
    """One node in one attempt."""

    attempt: int
    node: int
    host: str
    cpu: Mean
    memory: Mean
    every: float = 0.0
    """Seconds between samples."""
    asked_gpus: int = 0
    cpus: int | None = None
    limit: int | None = None
    """MiB that the job may use here, or that there are."""
    asked: bool = False
    """Whether `limit` is the job's own."""
    begin: float | None = None
    end: float | None = None
    """When the last sample was taken."""
    gpus: list[GpuUse] = field(default_factory=list)
    replicas: dict[str, ReplicaUse] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def gpu_samples(path: Path) -> Iterator[tuple[float, str, list[float | None]]]:
    """When, the GPU's index, and per cent busy, per cent of memory traffic, MiB, degrees Celsius, watts."""
    indices: list[str] = []
    for line in _lines(path):
        try:
            if "devices" in line:
                indices = [str(device[0]) for device in line["devices"]]
            for index, row in zip(indices, line.get("g", ()), strict=False):
                yield float(line["t"]), index, [*row, None, None, None, None, None][:5]
        except (KeyError, TypeError, ValueError, IndexError):
            continue


def host(path: Path) -> str:
    """The host that a node's file is about."""
    return next((str(line["host"]) for line in _lines(path) if "host" in line), path.stem)


def times(run: RunDir, number: int) -> tuple[float, float] | None:
    """When the first and the last line of an attempt were written; None where there is none."""
    found = []
    for path in run.attempt(number).usage().values():
        found += [line["t"] for line in (*_ends(path),) if isinstance(line.get("t"), (int, float))]
    return (min(found), max(found)) if found else None


def read(run: RunDir, number: int, span: Span) -> list[NodeUse]:
    """What attempt `number` used, node by node. What is torn or not what a monitor writes is left out."""
    files = run.attempt(number).usage()
    if sum(path.stat().st_size for path in files.values()) < _LARGE:
        return [_fold(path, number, node, span) for node, path in files.items()]
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(min(len(files), os.cpu_count() or 1, _WORKERS)) as workers:
        return list(workers.map(_fold, files.values(), repeat(number), files, repeat(span)))


def _fold(path: Path, attempt: int, node: int, span: Span) -> NodeUse:
    use = NodeUse(attempt, node, str(node), Mean(span.slices), Mean(span.slices))
    given: Mapping[str, list[str]] = {}
    before = before_gpus = None
    for line in _lines(path):
        try:
            if "r" in line:
                now = line["t"]
                if before is not None:
                    seconds = max(min(now - before, 4 * use.every), 0.0)
                    _add_processes(use, line, seconds, span.cover(now - seconds, now), span.slices)
                before = now
                if "g" in line:
                    seconds = max(min(now - (before_gpus or now), 4 * use.every), 0.0)
                    _add_gpus(use.gpus, line["g"], seconds, span.cover(now - seconds, now))
                    before_gpus = now
            elif "v" in line:
                use.begin = use.begin or line["t"]
                use.host, use.every = str(line["host"]), float(line["every"])
                use.asked_gpus, use.cpus = int(line["gpus"]), line["cpus"]
                use.limit, use.asked = line["mem"], line["asked"]
                before = before_gpus = line["t"]  # what is sampled next is over the time since then
            elif "devices" in line:
                use.gpus = [_known(use, device, span.slices) for device in line["devices"]]
            elif "given" in line:
                given = {**given, **line["given"]}
            elif "note" in line and line["note"] not in use.notes:
                use.notes.append(str(line["note"]))
            use.end = line["t"]
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            continue
    for gpu in use.gpus:
        gpu.replicas = tuple(sorted(name for name, devices in given.items() if _has(gpu, devices)))
    return use


def _add_processes(use: NodeUse, line: Mapping[str, Any], seconds: float, at: tuple[int, int], slices: int) -> None:
    cpus = size = 0.0
    for name, (cpu, memory, read, written) in line["r"].items():
        replica = use.replicas.get(name)
        if replica is None:
            replica = use.replicas[name] = ReplicaUse(name, use.host, Mean(slices), Mean(slices))
        replica.cpu.add(cpu, seconds, *at)
        replica.memory.add(memory, seconds, *at)
        replica.read += read * seconds
        replica.written += written * seconds
        cpus += cpu
        size += memory
    whole = line.get("job")
    # Slurm's own count has each page once; the sum over processes may have shared ones several times.
    cpus, size = whole or (cpus, size)
    use.cpu.add(cpus, seconds, *at)
    use.memory.add(size, seconds, *at)


def _add_gpus(gpus: list[GpuUse], rows: list[list[float | None]], seconds: float, at: tuple[int, int]) -> None:
    for gpu, (busy, _, memory, heat, watts) in zip(gpus, rows, strict=False):
        if busy is not None:
            gpu.busy.add(busy, seconds, *at)
            if busy < IDLE:
                gpu.idle += seconds
        if memory is not None:
            gpu.memory.add(memory, seconds, *at)
        if heat is not None:
            gpu.heat.add(heat, seconds, *at)
        if watts is not None:
            gpu.power.add(watts, seconds, *at)


def _known(use: NodeUse, device: list[Any], slices: int) -> GpuUse:
    index, uuid, name, capacity = device
    for gpu in use.gpus:
        if (gpu.index, gpu.uuid) == (index, uuid or ""):
            return gpu
    busy, memory, power, heat = (Mean(slices) for _ in range(4))
    return GpuUse(use.host, str(index), uuid or "", name or "", capacity, busy, memory, power, heat)


def _has(gpu: GpuUse, devices: list[str]) -> bool:
    return any(one == gpu.index or (len(one) > 4 and gpu.uuid.startswith(one)) for one in devices)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            yield from _decoded(file)
    except OSError:
        return


def _ends(path: Path) -> Iterator[dict[str, Any]]:
    """The first line and the last ones."""
    try:
        with path.open("rb") as file:
            yield from _decoded([file.readline()])
            file.seek(max(file.seek(0, 2) - 8192, 0))
            yield from list(_decoded(file.readlines()))[-1:]
    except OSError:
        return


def _decoded(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue  # torn by a full disk or a killed monitor, or just being written
        if isinstance(value, dict):
            yield value
