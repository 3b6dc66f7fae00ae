"""What a cluster says of itself: partitions, nodes, limits. One function that asks, the rest is pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gangrun.errors import ProgramMissing, Unreachable
from gangrun.scheduler import scontrol, sinfo, srun
from gangrun.scheduler.commands import reading_environment, run
from gangrun.scheduler.sinfo import Nodes
from gangrun.scheduler.slurm import Slurm
from gangrun.scheduler.text import seconds


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition that this user can see."""

    name: str
    default: bool
    up: bool
    max_time: int | None
    """Seconds; None is without limit."""
    default_time: int | None
    """Seconds that a job without --time gets; None where the partition sets none (then it gets max_time)."""
    max_nodes: int | None
    """Nodes per job; None is without limit."""
    accounts: tuple[str, ...]
    """Accounts that may use it; empty is all."""
    groups: tuple[str, ...]
    """Unix groups that may use it; empty is all."""
    qos: tuple[str, ...]
    """QOS that may be used in it; empty is all."""
    nodes: tuple[Nodes, ...]


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """One cluster as its own commands describe it."""

    name: str
    version: str
    """Such as `22.05.8`."""
    partitions: tuple[Partition, ...]
    max_array_index: int | None
    """The highest index of an array: MaxArraySize - 1. It caps the index, not the count."""
    max_jobs: int | None
    """Jobs in the whole queue; at the limit sbatch waits 120 s and fails."""
    remembered: int | None
    """Seconds for which the controller remembers an ended job (MinJobAge)."""
    accounting: bool
    """Whether sacct knows ended jobs."""
    accounts_enforced: bool
    """Whether a job without a known account is refused."""
    limits_enforced: bool
    """Whether a job over its partition's limits is refused at submission, instead of waiting without end."""
    memory_managed: bool
    """Whether memory is handed out: where it is, a job without --mem gets the default share or a whole node's."""
    devices_constrained: bool | None
    """Whether a step sees only its own GPUs; None where the version does not tell."""
    kill_wait: int | None
    """Seconds between TERM and KILL."""


def collect(slurm: Slurm) -> ClusterFacts:
    """Asks the cluster, with three commands. Raises Unreachable, ProgramMissing or SchedulerError."""
    return facts(
        config=slurm.read(scontrol.CONFIG), partitions=slurm.read(scontrol.PARTITIONS), nodes=slurm.read(sinfo.NODES)
    )


def partitions(slurm: Slurm) -> tuple[Partition, ...]:
    """The partitions that this user can see, without their nodes. Raises as `collect` does."""
    return tuple(_partition(fields, ()) for fields in scontrol.partitions(slurm.read(scontrol.PARTITIONS)))


def facts(*, config: str, partitions: str, nodes: str) -> ClusterFacts:
    """The facts in the text of `scontrol show config`, `scontrol show partition --oneliner` and sinfo."""
    keys = scontrol.config(config)
    seen = tuple(sinfo.nodes(nodes))
    enforced = keys.get("AccountingStorageEnforce", "")
    constrained = keys.get("ConstrainDevices")
    array = _number(keys.get("MaxArraySize"))
    return ClusterFacts(
        name=keys.get("ClusterName", ""),
        version=keys.get("SLURM_VERSION", ""),
        partitions=tuple(_partition(fields, seen) for fields in scontrol.partitions(partitions)),
        max_array_index=array - 1 if array else None,
        max_jobs=_number(keys.get("MaxJobCount")),
        remembered=_number(keys.get("MinJobAge")),
        # `accounting_storage/none` in 20.11 and 22.05, `(null)` from 24.11 on.
        accounting=keys.get("AccountingStorageType", "").removeprefix("accounting_storage/") not in {"", "none"},
        accounts_enforced="associations" in enforced,
        limits_enforced=keys.get("EnforcePartLimits", "NO").upper() in {"YES", "ALL", "ANY"},
        memory_managed="MEMORY" in keys.get("SelectTypeParameters", "").upper(),
        devices_constrained=None if constrained is None else constrained.lower() == "yes",
        kill_wait=_number(keys.get("KillWait")),
    )


def _partition(fields: Mapping[str, str], seen: Sequence[Nodes]) -> Partition:
    name = fields["PartitionName"]
    return Partition(
        name=name,
        default=fields.get("Default") == "YES",
        up=fields.get("State") == "UP",
        max_time=seconds(fields.get("MaxTime", "")),
        default_time=seconds(fields.get("DefaultTime", "")),
        max_nodes=_number(fields.get("MaxNodes")),
        accounts=_names(fields.get("AllowAccounts", "ALL")),
        groups=_names(fields.get("AllowGroups", "ALL")),
        qos=_names(fields.get("AllowQos", "ALL")),
        # Sorted, as the order of sinfo's lines differs between versions.
        nodes=tuple(sorted((group for group in seen if group.partition == name), key=lambda group: group.names)),
    )


def _names(text: str) -> tuple[str, ...]:
    return () if text.upper() == "ALL" else tuple(part for part in text.split(",") if part)


def _number(text: str | None) -> int | None:
    """The number that `300 sec` or `1001` begins with; None for `UNLIMITED`."""
    match = re.match(r"\d+", text or "")
    return int(match.group()) if match else None


def configured() -> bool:
    """Whether this machine belongs to a Slurm cluster, up, down or hanging. Asked by ping, which waits for nobody."""
    try:
        answer = run(scontrol.PING, env=reading_environment(os.environ), timeout=10.0)
    except ProgramMissing:
        return False
    return answer.code is None or scontrol.up(answer.out) is not None


def srun_help(conf: str) -> str:
    """What srun on this machine says of its flags, those of plugins among them; empty where it says nothing."""
    try:
        return run(srun.HELP, env=reading_environment(os.environ, conf), timeout=30.0).out
    except ProgramMissing:
        return ""


def cluster_name(slurm: Slurm) -> str:
    """The name that the cluster gives itself: to its jobs, else by its controller, else in the file that this machine
    has while that does not answer. Raises Unreachable, ProgramMissing or SchedulerError."""
    if "SLURM_JOB_ID" in os.environ and (own := os.environ.get("SLURM_CLUSTER_NAME")):
        return own
    try:
        return scontrol.config(slurm.read(scontrol.CONFIG)).get("ClusterName", "")
    except Unreachable:
        for path in (os.environ.get("SLURM_CONF"), *_CONF):
            with suppress(OSError, UnicodeDecodeError):
                if path and (found := _NAMED.search(Path(path).read_text())):
                    return found[1]
        raise


_CONF = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")
"""Where packages look for it, and where slurmd keeps what its controller has sent."""
_NAMED = re.compile(r"^\s*ClusterName\s*=\s*([^\s#]+)", re.IGNORECASE | re.MULTILINE)
