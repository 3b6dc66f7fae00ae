"""The flags of the batch job, from `[allocation]` and the profile, and which of a user's own cannot be sent."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gangrun.errors import Problem
from gangrun.spec.load import Experiment, Source, locate, nearest
from gangrun.spec.model import Allocation, Role, flag_name
from gangrun.spec.profile import Cluster
from gangrun.spec.toml import Key

AUTO = "auto"
"""The partition that is chosen when a job is sent, unless a profile has another one under this name."""
_OURS = ("job-name", "array", "wrap", "parsable", "test-only", "wait")
"""Flags that would take away what the record relies on."""
_MAIL = (
    "NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT", "TIME_LIMIT", "TIME_LIMIT_90",
    "TIME_LIMIT_80", "TIME_LIMIT_50", "ARRAY_TASKS",
)  # fmt: skip
"""What --mail-type takes, in either case, joined by commas, as its manual says."""


def batch_flags(
    experiment: Experiment,
    cluster: Cluster,
    allocation: Allocation,
    roles: Mapping[str, Role],
    problems: list[Problem],
) -> tuple[tuple[tuple[str, str | None], ...], list[str]]:
    """The batch flags in order, without those that only the run's name and directory decide; and notes."""
    profile, qos = cluster.profile, allocation.qos
    if profile.qos and qos is not None and qos not in profile.qos:
        hint = f"{nearest(qos, profile.qos)} known: {', '.join(profile.qos)}".lstrip()
        what = f"profile {cluster.name} knows no qos {qos!r}"
        problems.append(experiment.problem(("allocation", "qos"), what, hint))
    flags: dict[str, str | bool] = {"nodes": str(allocation.nodes), "ntasks-per-node": "1"}
    if allocation.gpus:
        # --gpus-per-node leaves SLURM_GPUS_PER_NODE behind, at which Slurm 26.05 refuses every step with --gres.
        flags["gres"] = f"gpu:{allocation.gpus}"
    optional = {
        "cpus-per-task": allocation.cpus,
        "mem": allocation.mem,
        "time": clock(allocation.time) if allocation.time else None,
        "partition": allocation.partition,
        "qos": allocation.qos,
        "account": allocation.account,
    }
    flags.update({name: str(value) for name, value in optional.items() if value is not None})
    if allocation.nodes > 1 and any(role.min_replicas for role in roles.values()):
        flags["no-kill"] = True  # it is the script that decides what the loss of a node means
    for name, value in allocation.sbatch.items():
        if what := _refusal(name, value, cluster, allocation):
            problems.append(_flag_problem(experiment, cluster, name, what))
        flags[name] = value
    flags = {name: value for name, value in flags.items() if value is not False}
    left_out = [name for name in profile.forbid if flags.pop(name, None) is not None]
    notes = [f"--{name} is not sent: profile {cluster.name} forbids it" for name in left_out]
    for name in profile.require:
        if name not in flags and profile.scheduler == "slurm":
            what = f"profile {cluster.name} requires --{name}, and nothing sets it"
            own = OWN_KEY.get(name, f"sbatch.{name}")
            problems.append(experiment.problem(("allocation", *own.split(".")), what, f"say allocation.{own}"))
    if flags.get("partition") == AUTO and profile.scheduler == "slurm":
        del flags["partition"]
        notes.append("the partition is chosen at submission: the one that would start the job soonest")
    return tuple((name, None if value is True else str(value)) for name, value in flags.items()), notes


OWN_KEY = {
    "nodes": "nodes",
    "cpus-per-task": "cpus",
    "mem": "mem",
    "time": "time",
    "partition": "partition",
    "qos": "qos",
    "account": "account",
}
"""Flags that have a key of their own in `[allocation]`, from which the plan is made."""
_GPU_ITEM = re.compile(r"(?:gres/)?gpu(?::[A-Za-z][^:,(]*)?(?::(\d+))?(?:\(.*)?")


def _refusal(flag: str, value: str | bool, cluster: Cluster, allocation: Allocation) -> str:
    """Why a flag of `[allocation] sbatch` cannot be sent; nothing if it can."""
    if flag in _OURS:
        return f"--{flag} is gangrun's own; the record relies on it"
    if value is False:
        return ""
    if flag in cluster.profile.forbid:
        return f"profile {cluster.name} forbids --{flag}"
    if flag in OWN_KEY:
        return f"the plan would not know of it: say allocation.{OWN_KEY[flag]}"
    if flag in ("ntasks", "ntasks-per-node"):
        return "the roles decide how many tasks run: say tasks for each role"
    if flag == "mail-type" and (odd := [event for event in str(value).split(",") if event.upper() not in _MAIL]):
        return f"--mail-type knows no {odd[0]!r}: there are {', '.join(_MAIL)}"
    if flag in ("gres", "gpus", "gpus-per-node"):
        # Said here rather than by allocation.gpus for a type of GPU, gpu:a100:4; the number must be the plan's.
        asked = _gpus(str(value) if flag == "gres" else f"gpu:{value}")
        planned = allocation.gpus * (allocation.nodes if flag == "gpus" else 1)
        if asked != planned:
            return f"--{flag}={value} asks for {asked} GPUs where allocation.gpus = {allocation.gpus} means {planned}"
    return ""


def _gpus(gres: str) -> int:
    """GPUs in `gpu:a100:4,nvme:1`."""
    found = (_GPU_ITEM.fullmatch(item) for item in gres.split(","))
    return sum(int(match[1] or 1) for match in found if match)


def _flag_problem(experiment: Experiment, cluster: Cluster, flag: str, what: str) -> Problem:
    if key := written_flag(experiment.sources, ("allocation", "sbatch"), flag):
        return experiment.problem(key, what)
    if key := written_flag(cluster.sources or {}, ("defaults", "sbatch"), flag):
        return locate(cluster.sources or {}, cluster.file, key, what)
    return experiment.problem(("allocation", "sbatch"), what)


def written_flag(sources: Mapping[Key, Source], table: Key, flag: str) -> Key | None:
    """The key under which a flag was written in a table: `mail_type`, `mail-type` or `--mail-type`."""
    return next((key for key in sources if key[:-1] == table and flag_name(str(key[-1])) == flag), None)


def clock(seconds: int) -> str:
    """Seconds in Slurm's notation, rounded to nothing: `1-12:00:00`."""
    days, rest = divmod(seconds, 86400)
    text = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text
