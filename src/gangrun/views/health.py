"""What is right, wrong or missing on a cluster, one line each."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gangrun import clusters
from gangrun.errors import GangrunError
from gangrun.scheduler import discover
from gangrun.scheduler.discover import ClusterFacts
from gangrun.spec.profile import Cluster

_NEEDED = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
_RUNTIMES = {"ch-run": "charliecloud", "apptainer": "apptainer", "podman": "podman", "enroot": "enroot"}
_SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "wekafs", "panfs", "orangefs", "cifs", "9p"}
_PATIENCE = 30
"""Seconds for nvidia-smi."""
_OWN = {"tmpfs", "ext4", "xfs", "btrfs", "overlay", "ext3"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    grade: Literal["ok", "note", "wrong"]
    what: str
    words: str


def examine(cluster: Cluster, project: Path) -> Iterator[Finding]:
    """Looks at commands, controller, limits, accounting, partitions, GPUs, containers and the project's directory."""
    profile = cluster.profile
    if profile.scheduler == "local":
        yield from _local()
        return
    missing = [name for name in _NEEDED if not shutil.which(name)]
    if missing:
        yield Finding("wrong", "commands", f"not on PATH: {', '.join(missing)}")
        return
    yield Finding("ok", "commands", "sbatch and its family are on PATH")
    try:
        facts = discover.collect(clusters.slurm_of(cluster))
    except GangrunError as error:
        yield Finding("wrong", "controller", str(error))
        return
    yield Finding("ok", "controller", f"{facts.name} answers, Slurm {facts.version}")
    yield from _limits(facts)
    yield from _partitions(cluster, facts)
    yield from _containers(profile.slurm_conf or "")
    yield _directory(project)


def _local() -> Iterator[Finding]:
    yield Finding("ok", "processors", f"{os.cpu_count()} CPUs")
    smi = shutil.which("nvidia-smi")
    if not smi:
        yield Finding("note", "GPUs", "no nvidia-smi: GPU numbers in experiments are placeholders on this machine")
        return
    try:
        listed = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        yield Finding("wrong", "GPUs", f"nvidia-smi gives no answer within {_PATIENCE} s: does the driver hang?")
        return
    count = listed.stdout.count("GPU ")
    yield Finding(
        "ok" if count else "wrong", "GPUs", f"{count} GPUs" if count else listed.stderr.strip() or "none found"
    )


def _limits(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.max_array_index is not None:
        words = f"array indices up to {facts.max_array_index}, {facts.max_jobs} jobs in the queue"
        yield Finding("ok" if facts.max_array_index > 0 else "note", "limits", words)
    if not facts.limits_enforced:
        yield Finding("note", "limits", "a job over its partition's limits is not refused but waits without end")
    if facts.accounting:
        yield Finding("ok", "accounting", "sacct knows ended jobs")
    else:
        forgets = f"{facts.remembered} s" if facts.remembered else "minutes"
        words = f"none: Slurm forgets ended jobs after {forgets}; gangrun's own record remembers"
        yield Finding("note", "accounting", words)
    if facts.kill_wait is not None and facts.kill_wait < 30:
        words = f"jobs are killed {facts.kill_wait} s after the time limit or scancel, so checkpoints must be quick"
        yield Finding("note", "KillWait", words)


def _partitions(cluster: Cluster, facts: ClusterFacts) -> Iterator[Finding]:
    there = {part.name: part for part in facts.partitions}
    profile = cluster.profile
    used = [profile.defaults.partition, *profile.partitions.values(), *(qos.partition for qos in profile.qos.values())]
    for name in dict.fromkeys(profile.partitions.get(name, name) for name in used if name):
        if name not in there:
            yield Finding("wrong", "partition", f"{name}: Slurm shows you none of that name")
        elif not there[name].up:
            yield Finding("note", "partition", f"{name} is not up")
        else:
            yield Finding("ok", "partition", f"{name} is up")
    if facts.accounts_enforced and not (profile.defaults.account or any(qos.account for qos in profile.qos.values())):
        yield Finding("wrong", "account", "jobs without a known account are refused, and the profile names none")
    gpus = sum(group.count * gpu.count for part in facts.partitions for group in part.nodes for gpu in group.gpus)
    if gpus:
        seen = {True: "are", False: "are not", None: "may not be"}[facts.devices_constrained]
        yield Finding("ok", "GPUs", f"Slurm hands out GPUs; steps {seen} confined to theirs by the system")
    else:
        yield Finding("note", "GPUs", "Slurm knows of no GPUs on the nodes that you can see")


def _containers(conf: str) -> Iterator[Finding]:
    found = [name for program, name in _RUNTIMES.items() if shutil.which(program)]
    if "--container-image" in discover.srun_help(conf):
        found.insert(0, "pyxis")
    words = f"here: {', '.join(found)}" if found else "no runtime on this machine; the nodes may have others"
    yield Finding("ok" if found else "note", "containers", words)


def _directory(project: Path) -> Finding:
    """Whether the nodes can see the project, judged by its file system."""
    kind, longest = "", -1
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, type_, *_ = line.split(" ")
        point = point.encode().decode("unicode_escape")
        if project.is_relative_to(point) and len(point) > longest:
            kind, longest = type_, len(point)
    if kind in _SHARED:
        return Finding("ok", "directory", f"{project} is on {kind}, which nodes can share")
    if kind in _OWN:
        return Finding(
            "note", "directory", f"{project} is on {kind}: do the nodes see the same? runs are written there"
        )
    return Finding(
        "note", "directory", f"{project} is on {kind or 'an unknown file system'}; the nodes must see it too"
    )
