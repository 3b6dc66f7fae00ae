"""How well a run used what it had asked for, in words."""

from __future__ import annotations

from collections.abc import Iterator

from gangrun.record.usage import GpuUse
from gangrun.views.figures import number, share, size
from gangrun.views.report.gather import NOBODY, Report, total
from gangrun.views.runs import clock

MUCH_IDLE = 0.2
"""Share of the time from which GPUs that do nothing are worth a word."""
LITTLE_MEMORY = 0.5
"""Share of what was asked, below which it is."""
FULL = 0.95
BUSY_CPUS = 0.85
"""Share of a node's CPUs from which they are what the GPUs wait for."""
LONG = 600.0
"""Seconds that a job must have taken before its time limit is compared with it."""


def verdict(report: Report) -> list[tuple[str, str]]:
    """Sentences, each with `bad`, `warn` or `good` before it; what costs most comes first."""
    found = [*_gpus(report), *_in_vain(report), *_memory(report), *_gpu_memory(report), *_cpus(report), *_time(report)]
    if not report.nodes:
        return [*found, ("warn", "nothing is known of what it used, as it was not watched")]
    if not any(kind in ("bad", "warn") for kind, _ in found):
        found.insert(0, ("good", "nothing was wasted that is worth a word"))
    return found


def _gpus(report: Report) -> Iterator[tuple[str, str]]:
    gpus = [gpu for gpu in report.gpus if gpu.busy.seconds]
    watched = sum(gpu.busy.seconds for gpu in gpus)
    if not watched:
        return
    unused = [gpu for gpu in gpus if not gpu.busy.peak]
    idle = sum(gpu.idle for gpu in gpus) / watched
    if len(unused) == len(gpus):
        yield "bad", f"no GPU computed anything: {len(gpus)} were asked for"
        return
    if unused:
        places = ", ".join(f"{gpu.host}:{gpu.index}" for gpu in unused[:4]) + (", …" if len(unused) > 4 else "")
        nobody = " and nobody was given them" if all(not gpu.replicas for gpu in unused) else ""
        yield "bad", f"{len(unused)} of {len(gpus)} GPUs never computed anything{nobody}: {places}"
    if idle >= MUCH_IDLE:
        yield "bad" if idle >= 0.5 else "warn", f"GPUs idle {share(idle)}{_why_idle(report, gpus)}"
    else:
        busy = sum(gpu.busy.total for gpu in gpus) / watched / 100
        yield "good", f"GPUs busy {share(busy)}, idle {share(idle)}"
    yield from _uneven(report)


def _why_idle(report: Report, gpus: list[GpuUse]) -> str:
    """A guess at what they wait for."""
    first = [_lead(gpu) for gpu in gpus]
    seconds = (report.span.end - report.span.begin) / report.span.slices
    start = sum(first) * seconds
    idle = sum(gpu.idle for gpu in gpus)
    if start > idle / 2:
        return f", most of it before the first of them computed ({clock(start / len(gpus))}): loading, compiling?"
    cpus = [node.cpu.mean / node.cpus for node in report.nodes if node.cpus and node.cpu.mean is not None]
    if cpus and sum(cpus) / len(cpus) >= BUSY_CPUS:
        return f" while the CPUs are {share(sum(cpus) / len(cpus))} busy: data loading that wants more CPUs?"
    return ": data loading?"


def _lead(gpu: GpuUse) -> int:
    """Slices before the GPU's first work."""
    known = [value for value in gpu.busy.curve if value is not None]
    return next((at for at, value in enumerate(known) if value >= 5), len(known))


def _uneven(report: Report) -> Iterator[tuple[str, str]]:
    """A role of which one GPU works much less than the others."""
    for role, gpus in report.gpus_by_role().items():
        known = [(gpu.busy.mean, gpu) for gpu in gpus if gpu.busy.mean is not None and gpu.busy.peak]
        if role == NOBODY or len(known) < 3:
            continue
        middle = sorted(mean for mean, _ in known)[len(known) // 2]
        slow = [gpu for mean, gpu in known if mean < middle / 2]
        if middle >= 20 and slow and len(slow) <= len(known) // 4:
            places = ", ".join(f"{gpu.host}:{gpu.index} {share((gpu.busy.mean or 0) / 100)}" for gpu in slow[:4])
            yield "warn", f"the GPUs of {role} are busy {share(middle / 100)}, but {places}"


def _in_vain(report: Report) -> Iterator[tuple[str, str]]:
    lost = [life for life in report.lives if not life.kept]
    hours = sum(life.held for life in lost)
    if lost and hours >= 0.01:
        names = ", ".join(f"{life.name} ({life.state})" for life in lost[:3]) + (", …" if len(lost) > 3 else "")
        yield "bad", f"{number(hours)} GPU-hours went into what did not succeed: {names}"


def _memory(report: Report) -> Iterator[tuple[str, str]]:
    nodes = [node for node in report.nodes if node.limit and node.memory.seconds]
    if not nodes:
        return
    fullest = max(nodes, key=lambda node: node.memory.peak / (node.limit or 1))
    peak, limit = fullest.memory.peak, fullest.limit or 1
    if not fullest.asked:
        yield "", f"memory peak {size(peak)} of the {size(limit)} of {fullest.host}"
    elif peak >= FULL * limit:
        yield "bad", f"memory asked {size(limit)}, peak {size(peak)}: nearly all; the next run may be killed for it"
    elif peak < LITTLE_MEMORY * limit:
        yield "warn", f'memory asked {size(limit)}, peak {size(peak)}: mem = "{_ample(peak)}" would do'
    else:
        yield "good", f"memory asked {size(limit)}, peak {size(peak)}"


def _ample(mib: float) -> str:
    """A third more, in whole GiB."""
    return f"{max(-(-int(mib * 4 / 3) // 1024), 1)}G"


def _gpu_memory(report: Report) -> Iterator[tuple[str, str]]:
    gpus = [gpu for gpu in report.gpus if gpu.capacity and gpu.memory.seconds and gpu.busy.peak]
    if not gpus:
        return
    fullest = max(gpus, key=lambda gpu: gpu.memory.peak / (gpu.capacity or 1))
    peak, capacity = fullest.memory.peak, fullest.capacity or 1
    if peak < LITTLE_MEMORY * capacity:
        yield "warn", f"GPU memory peak {size(peak)} of {size(capacity)}: room for a larger batch, or for smaller GPUs"
    elif peak >= FULL * capacity:
        yield "", f"GPU memory peak {size(peak)} of {size(capacity)}: nearly all, or a framework that reserves it"


def _cpus(report: Report) -> Iterator[tuple[str, str]]:
    nodes = [node for node in report.nodes if node.cpus and node.cpu.mean is not None]
    if not nodes:
        return
    asked = sum(node.cpus or 0 for node in nodes) / len(nodes)
    mean = sum(node.cpu.mean or 0.0 for node in nodes) / len(nodes)
    most = max(value for node in nodes for value in total([node.cpu.curve]) if value is not None)
    kind = "warn" if asked >= 8 and most < asked / 4 else ""
    yield kind, f"CPUs asked {number(asked)} a node, busy {number(mean)} in the mean and {number(most)} at most"


def _time(report: Report) -> Iterator[tuple[str, str]]:
    took = max((life.ended - life.began for life in report.lives if life.state == "COMPLETED"), default=None)
    asked = report.asked_time
    if took and asked and report.state.final and took >= LONG and took < asked / 4:
        words = "a shorter limit starts sooner, as it fits into gaps"
        yield "warn", f"time asked {clock(asked)}, took {clock(took)}: {words}"
