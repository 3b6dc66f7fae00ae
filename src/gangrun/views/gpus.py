"""What a run uses on its nodes: one row for each GPU, one for each replica on each node."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from gangrun.record import usage
from gangrun.record.rundir import RunDir
from gangrun.record.usage import NodeUse, Span
from gangrun.views.figures import aligned, number, share, size, spark
from gangrun.views.runs import clock, last_lines

MONITOR = "_monitor.0"
_SLICES = 24


def latest(run: RunDir, attempt: int | None = None, slices: int = _SLICES) -> list[NodeUse]:
    """What an attempt (the newest by default) has used so far, node by node; empty where nothing is known."""
    number_ = attempt if attempt is not None else max(run.attempts(), default=0)
    span = usage.times(run, number_)
    return usage.read(run, number_, Span(*span, slices)) if span else []


def lines(run: RunDir, nodes: Sequence[NodeUse], attempt: int | None = None) -> list[str]:
    """The tables for a person."""
    if not nodes:
        return [nothing(run, attempt)]
    span = max(node.end or 0 for node in nodes) - min(node.begin or 0 for node in nodes)
    end = max(node.end or 0 for node in nodes)
    found = [f"{run.run_id}, attempt {nodes[0].attempt}: {clock(span)} watched, until {_moment(end)}"]
    if any(node.gpus for node in nodes):
        found += ["", *_gpu_table(nodes)]
    found += ["", *_replica_table(nodes)]
    return [*found, *(f"{node.host}: {note}" for node in nodes for note in node.notes)]


def nothing(run: RunDir, attempt: int | None = None) -> str:
    """Why there are no samples."""
    number_ = attempt if attempt is not None else max(run.attempts(), default=0)
    if not number_:
        return f"{run.run_id} has not begun"
    there = run.attempt(number_)
    if not there.lives(MONITOR).exists():
        return f"attempt {number_} of {run.run_id} was not watched (monitor = false)"
    said = last_lines(there.log(MONITOR), 1) or last_lines(there.step_log(MONITOR), 1)
    words = f"; its monitor says: {said[0]}" if said else " yet"
    return f"no samples of attempt {number_} of {run.run_id}{words}"


def _moment(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when))


def _gpu_table(nodes: Sequence[NodeUse]) -> Iterator[str]:
    rows = [("HOST", "GPU", "REPLICA", "BUSY", "MEAN", "NOW", "IDLE", "MEMORY", "OF", "POWER", "HEAT")]
    rows += [
        (
            gpu.host,
            gpu.index,
            " ".join(gpu.replicas) or "-",
            spark(gpu.busy.curve, 100),
            share(gpu.busy.mean / 100 if gpu.busy.mean is not None else None),
            share(gpu.busy.last / 100 if gpu.busy.seconds else None),
            share(gpu.idle_share),
            size(gpu.memory.peak if gpu.memory.seconds else None),
            size(gpu.capacity),
            number(gpu.power.mean, "W"),
            number(gpu.heat.peak if gpu.heat.seconds else None, "C"),
        )
        for node in nodes
        for gpu in node.gpus
    ]
    return aligned(rows, "MEAN NOW IDLE MEMORY OF POWER HEAT")


def _replica_table(nodes: Sequence[NodeUse]) -> Iterator[str]:
    rows = [("HOST", "REPLICA", "CPUS", "MEAN", "NOW", "MOST", "OF", "MEMORY", "READ", "WRITTEN")]
    rows += [
        (
            node.host,
            replica.name,
            spark(replica.cpu.curve, max(node.cpus or 0, replica.cpu.peak)),
            number(replica.cpu.mean),
            number(replica.cpu.last),
            number(replica.cpu.peak),
            str(node.cpus or ""),
            size(replica.memory.peak),
            size(replica.read),
            size(replica.written),
        )
        for node in nodes
        for replica in node.replicas.values()
    ]
    return aligned(rows, "MEAN NOW MOST OF MEMORY READ WRITTEN")


def as_data(run: RunDir, nodes: Sequence[NodeUse]) -> dict[str, Any]:
    """For `--json`: CPUs, MiB, MB, per cent, watts, degrees Celsius, seconds."""
    return {
        "run": run.run_id,
        "attempt": nodes[0].attempt if nodes else max(run.attempts(), default=0),
        "nodes": [
            {
                "host": node.host,
                "every": node.every,
                "begin": node.begin,
                "end": node.end,
                "cpus": node.cpus,
                "memory_limit": node.limit,
                "memory_limit_is_the_jobs": node.asked,
                "memory_peak": node.memory.peak,
                "cpu_mean": node.cpu.mean,
                "notes": node.notes,
                "gpus": [
                    {
                        "index": gpu.index,
                        "uuid": gpu.uuid,
                        "name": gpu.name,
                        "replicas": list(gpu.replicas),
                        "busy_mean": gpu.busy.mean,
                        "busy_now": gpu.busy.last,
                        "idle_share": gpu.idle_share,
                        "memory_peak": gpu.memory.peak,
                        "memory": gpu.capacity,
                        "power_mean": gpu.power.mean,
                        "heat_peak": gpu.heat.peak,
                        "curve": gpu.busy.curve,
                    }
                    for gpu in node.gpus
                ],
                "replicas": {
                    replica.name: {
                        "cpu_mean": replica.cpu.mean,
                        "cpu_now": replica.cpu.last,
                        "cpu_peak": replica.cpu.peak,
                        "memory_peak": replica.memory.peak,
                        "read": replica.read,
                        "written": replica.written,
                        "curve": replica.cpu.curve,
                    }
                    for replica in node.replicas.values()
                },
            }
            for node in nodes
        ],
    }
