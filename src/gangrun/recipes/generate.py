"""MuLoCo's job generator: a training by DDP, or by replica groups and their lighthouse, from its flags."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gangrun.errors import InputError, PlacementError, Problem, UsageError
from gangrun.project import project_root
from gangrun.spec.load import Experiment, Source, experiment_of
from gangrun.spec.model import verbatim
from gangrun.spec.profile import Cluster
from gangrun.spec.toml import Key, Table

NODES, GPUS, GROUPS, TIME = 2, 8, 8, "36:00:00"
"""What is taken where neither a flag nor, for GPUs and time, the cluster's profile says it."""
LIGHTHOUSE_CPUS = 8
MAIL = "BEGIN,END,FAIL"
_WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*"|['"])+""")
"""A word ends at white space, unless that stands between quotes."""
_FLAGS: dict[Key, str] = {
    ("step",): "--job-name",
    ("command",): "--config-file",
    ("allocation", "nodes"): "--nodes",
    ("allocation", "gpus"): "--gpus-per-node",
    ("allocation", "cpus"): "--cpus-per-node",
    ("allocation", "mem"): "--mem",
    ("allocation", "time"): "--time",
    ("allocation", "partition"): "--partition",
    ("allocation", "account"): "--account",
    ("allocation", "qos"): "--qos",
    ("allocation", "sbatch", "mail-type"): "--mail-type",
    ("allocation", "sbatch", "mail-user"): "--mail-user",
    ("allocation", "sbatch", "output"): "--output",
    ("allocation", "sbatch", "error"): "--error",
}
"""The flag behind each key."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The flags; None for those that were not given."""

    config_file: str
    job_name: str = "diloco"
    qos: str | None = None
    partition: str | None = None
    account: str | None = None
    mem: str | None = None
    time: str | None = None
    nodes: int = NODES
    gpus_per_node: int | None = None
    cpus_per_node: int | None = None
    ntasks_per_node: int | None = None
    num_ft_replicas_per_node: int | None = None
    nodes_per_replica: int = 1
    use_ddp: bool = False
    extra_args: str = ""
    mail_type: str | None = None
    mail_user: str | None = None
    output: str | None = None
    error: str | None = None

    @property
    def groups_on_node(self) -> int:
        """Replica groups that share a node."""
        return 1 if self.use_ddp or self.nodes_per_replica > 1 else self.num_ft_replicas_per_node or GROUPS


def experiment(asked: Asked, cluster: Cluster) -> Experiment:
    """The experiment that the flags mean on this cluster. Raises UsageError, InputError, PlacementError, SpecError."""
    values = as_spec(asked, cluster)
    flags = {**_FLAGS, ("replicas",): "--nodes" if asked.nodes_per_replica > 1 else "--num-ft-replicas-per-node"}
    sources = {key: Source(flag) for key, flag in flags.items()}
    return experiment_of(
        {"step": asked.job_name, **values}, asked.config_file, sources, project=project_root(Path.cwd())
    )


def as_spec(asked: Asked, cluster: Cluster) -> Table:
    """What an experiment file would say, but for the names that it has from its own path. Raises as `experiment`."""
    _check(asked)
    shares = _cpus(asked, cluster)
    options = _WORD.findall(asked.extra_args)
    values: Table = {"workdir": str(Path.cwd()), "launcher": "torchrun"}
    if not asked.use_ddp:
        values["topology"] = {"type": "torchft", **({"lighthouse_cpus": shares.lighthouse} if shares else {})}
        values["replicas"] = asked.nodes * asked.groups_on_node // asked.nodes_per_replica
        values["min_replicas"] = values["replicas"]
        if asked.nodes_per_replica > 1:
            values["nodes"] = asked.nodes_per_replica
        if shares:
            values["cpus"] = shares.group
    values["command"] = [
        *("-m", "torchtitan.train", "--job.config_file", verbatim(asked.config_file)),
        *(["--cfg_options"] if options or not asked.use_ddp else []),
        *([] if asked.use_ddp else _GROUP_OPTIONS),
        *map(verbatim, options),
    ]
    values["allocation"] = _allocation(asked, cluster, shares)
    return values


_GROUP_OPTIONS = (
    "fault_tolerance.enable=True",
    "fault_tolerance.replica_id={index}",
    "fault_tolerance.group_size={count}",
)


@dataclass(frozen=True, slots=True)
class _Shares:
    """CPUs of a node, and of those that run there."""

    node: int
    lighthouse: int
    group: int


def _check(asked: Asked) -> None:
    if not Path(asked.config_file).is_file():
        raise InputError(f"no such file: {asked.config_file}", where="--config-file")
    groups = asked.num_ft_replicas_per_node
    if asked.use_ddp and (groups is not None or asked.nodes_per_replica > 1):
        flag = "--num-ft-replicas-per-node" if groups is not None else "--nodes-per-replica"
        raise UsageError(f"--use-ddp trains as one, and {flag} speaks of replicas", way_out="leave one of them out")
    if asked.nodes_per_replica > 1 and (groups or 1) > 1:
        what = f"a replica over {asked.nodes_per_replica} nodes has them to itself, and {groups} were to share each"
        raise UsageError(what, way_out="leave --num-ft-replicas-per-node out")
    if asked.nodes % asked.nodes_per_replica:
        what = f"{asked.nodes} nodes do not divide into replicas of {asked.nodes_per_replica}"
        raise PlacementError([Problem("", what, "--nodes-per-replica", way_out="choose a divisor of --nodes")])


def _cpus(asked: Asked, cluster: Cluster) -> _Shares | None:
    """MuLoCo's arithmetic: a node's CPUs are rounded down to what its tasks share evenly; of those the lighthouse takes
    up to 8, and the groups share the rest. None where nobody says how many CPUs a node has."""
    cpus = asked.cpus_per_node or _of_profile(asked, cluster, "cpus")
    if cpus is None:
        return None
    companion = 0 if asked.use_ddp else 1
    tasks = asked.ntasks_per_node or companion + asked.groups_on_node
    if cpus < max(tasks, companion + asked.groups_on_node):
        what = f"{cpus} CPUs on each node are fewer than the {tasks} tasks that share them"
        way_out = "fewer replicas on each node, or more CPUs"
        raise PlacementError([Problem("", what, "--cpus-per-node", way_out=way_out)])
    node = cpus // tasks * tasks
    lighthouse = min(LIGHTHOUSE_CPUS, node // (companion + asked.groups_on_node)) if companion else 0
    return _Shares(node, lighthouse, (node - lighthouse) // asked.groups_on_node)


def _allocation(asked: Asked, cluster: Cluster, shares: _Shares | None) -> Table:
    """`[allocation]`: flags, then what the profile says, which is not repeated here, then the generator's defaults."""
    gpus = asked.gpus_per_node
    if gpus is None and _of_profile(asked, cluster, "gpus") is None:
        gpus = GPUS
    time = asked.time
    if time is None and _of_profile(asked, cluster, "time") is None:
        time = TIME
    mail_type = asked.mail_type or (MAIL if asked.mail_user else None)
    sbatch = {
        "requeue": True,
        "mail-type": mail_type,
        "mail-user": asked.mail_user,
        "output": _log(asked.output),
        "error": _log(asked.error),
    }
    values = {
        "nodes": asked.nodes,
        "gpus": gpus,
        "cpus": shares.node if shares else None,
        "mem": asked.mem,
        "time": time,
        "partition": asked.partition,
        "qos": asked.qos,
        "account": asked.account,
        "sbatch": {flag: value for flag, value in sbatch.items() if value is not None},
    }
    return {key: value for key, value in values.items() if value is not None}


def _of_profile(asked: Asked, cluster: Cluster, key: str) -> Any:
    """What the profile says of this key of `[allocation]`: its qos, then its defaults."""
    profile = cluster.profile
    brought = profile.qos.get(str(asked.qos or profile.defaults.qos))
    if (value := getattr(brought, key, None)) is not None:
        return value
    return getattr(profile.defaults, key) if key in profile.defaults.model_fields_set else None


def _log(path: str | None) -> str | None:
    """The path as one that means the same from wherever the script is sent."""
    return None if path is None else os.path.normpath(Path(path).expanduser().absolute())
