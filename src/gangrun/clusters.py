"""Which cluster is meant: by word, by environment, by the file, else the one that is found here, else `local`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gangrun.errors import InputError, Problem, SpecError, UsageError
from gangrun.lab.state import profile_path
from gangrun.plan.batch import clock
from gangrun.plan.compose import effective_container
from gangrun.plan.model import Plan
from gangrun.plan.problems import problem_at
from gangrun.scheduler.commands import silent
from gangrun.scheduler.model import Scheduler
from gangrun.spec.load import Experiment
from gangrun.spec.model import Role
from gangrun.spec.profile import LOCAL, SLURM, Cluster, known, load_cluster
from gangrun.spec.toml import Key
from gangrun.sweeps import SweepPlan, plans_of

if TYPE_CHECKING:
    from gangrun.scheduler.discover import ClusterFacts, Partition
    from gangrun.scheduler.slurm import Slurm

LAB = "lab"


def elsewhere() -> dict[str, Path]:
    """Profiles that are in neither folder: that of the lab while it is up."""
    lab = profile_path()
    return {LAB: lab} if lab else {}


@cache
def named(name: str, project: Path, where: str = "") -> Cluster:
    """The cluster of that name. Raises InputError, which says `where` it was named, when there is none."""
    return load_cluster(name, project, elsewhere(), where)


def choose(word: str | None, written: str | None, project: Path, where: str = "") -> Cluster:
    """`--cluster`, then GANGRUN_CLUSTER, then the file's own, written at `where`, then what is found."""
    if word:
        return named(word, project)
    if name := os.environ.get("GANGRUN_CLUSTER"):
        return named(name, project, "GANGRUN_CLUSTER")
    return named(written, project, where) if written else named(found(project), project)


def require_sbatch(cluster: Cluster) -> None:
    """Raises UsageError where this machine cannot send to the cluster: better before anything is written than after."""
    if cluster.profile.scheduler == SLURM and not shutil.which("sbatch"):
        way_out = "log in to a machine of the cluster, load its Slurm module, or --cluster local"
        raise UsageError(f"there is no sbatch on this machine's PATH to send to {cluster.name} with", way_out=way_out)


def require_parts(experiment: Experiment, planned: Plan | SweepPlan, cluster: Cluster) -> None:
    """Raises SpecError for working directories that are none, and images, mounted paths and runtimes that containers
    lack, as far as that can be seen from here, each at the key that says so.

    A cluster's nodes may have what this machine has not. Only a path whose folder is here while it is not is wrong
    for sure; whatever else is missing the node tells.
    """
    here = cluster.profile.scheduler == LOCAL
    first = plans_of(planned)[0]
    prepared = any(not line.startswith("source ") for line in first.setup)  # a module may bring the runtime
    problems: dict[tuple[str, str], Problem] = {}
    lacks: dict[str, bool] = {}
    # What it needs may make the directory, and a copy of the code is not there yet.
    if not first.needs and first.code is None and _no_directory(first.workdir, experiment.project, here=here):
        what = f"there is no directory {first.workdir}, and commands are to start there"
        problems[first.workdir, ""] = experiment.problem(("workdir",), what, "make it, or name one that is there")
    for number, plan in enumerate(plans_of(planned)):
        for part, role in [(part, replica.role) for replica in plan.replicas for part in replica.parts]:
            if part not in lacks:
                lacks[part] = _lacks(part, here=here, prepared=prepared)
            if lacks[part] and (part, role) not in problems:
                own = planned.items[number].experiment if isinstance(planned, SweepPlan) else experiment
                problems[part, role] = _lacking(own, cluster, part, role)
    if problems:
        raise SpecError(experiment.in_order(dict.fromkeys(problems.values())))


def _no_directory(path: str, project: Path, *, here: bool) -> bool:
    """Whether that is so for sure: all nodes see what is in the project."""
    directory = Path(path)
    seen = here or directory.is_relative_to(project) or (directory.parent != Path("/") and directory.parent.is_dir())
    return seen and not directory.is_dir()


def _lacks(part: str, *, here: bool, prepared: bool) -> bool:
    path = Path(part)
    if part.startswith("/"):
        return not path.exists() and (here or (path.parent != Path("/") and path.parent.is_dir()))
    return here and not prepared and not shutil.which(part)


def _lacking(experiment: Experiment, cluster: Cluster, part: str, role: str) -> Problem:
    """That a part of this role's container is missing, at the key that names it, with what can be done."""
    container, at = effective_container(experiment, cluster, role, experiment.spec.roles.get(role, Role()))
    mounted = [mount.partition(":")[0] for mount in container.mounts] if container else []
    key: Key = at
    kind, way_out = "no such file or directory", "put it there, or say where it is"
    if not part.startswith("/"):
        key, kind = (*at, "runtime"), "no such program on PATH"
        way_out = "install it, choose another runtime, or --cluster for a machine that has it"
    elif part in mounted:
        key = (*at, "mounts", mounted.index(part))
    elif container and container.image == part:
        key = (*at, "image")
    what = f"{part}: {kind}, and the container of {role} needs it"
    return problem_at(experiment, cluster, key, what, way_out)


def doubts_about_containers(plans: Sequence[Plan], cluster: Cluster) -> str:
    """That srun here does not know flags of these plans' containers, as a login machine may lack a plugin of the
    nodes; empty where all is well."""
    contained = [replica for plan in plans for replica in plan.replicas if replica.parts]
    flags = {str(flag.parts[0]).partition("=")[0] for replica in contained for flag in replica.step_flags}
    if not flags:
        return ""
    from gangrun.scheduler.discover import srun_help

    known = srun_help(cluster.profile.slurm_conf or "")
    unknown = sorted(flag for flag in flags if flag not in known)
    if not known or not unknown:
        return ""
    return f"srun on this machine does not know {unknown[0]}: is the plugin of Slurm that brings it on the nodes?"


def require_room(nodes: int) -> None:
    """Raises UsageError where the allocation held has fewer nodes."""
    held = os.environ.get("SLURM_JOB_NUM_NODES", "")
    if held.isdecimal() and int(held) < nodes:
        way_out = f"hold more with salloc -N{nodes}, or --set allocation.nodes={held}"
        raise UsageError(f"the plan needs {nodes} nodes, and the allocation held has {held}", way_out=way_out)


def here(project: Path) -> Cluster:
    """Where `gangrun run` runs: in the allocation that is held, else on this machine."""
    if "SLURM_JOB_ID" in os.environ:
        return choose(None, None, project)
    return named(LOCAL, project)


@cache
def found(project: Path) -> str:
    """The cluster that this machine belongs to. Raises InputError where there are profiles and none is for it.

    A Slurm that is configured here counts even while it is down: falling back to `local` then would run a training
    job on the login node.
    """
    from gangrun.scheduler import discover
    from gangrun.scheduler.slurm import Slurm

    lab = elsewhere()
    if not discover.configured():
        return LAB if lab else LOCAL
    if lab and Path(os.environ.get("SLURM_CONF", "/")).parent == lab[LAB].parent:
        return LAB
    profiles = {name: named(name, project).profile for name in known(project, {}) if name not in (LOCAL, SLURM)}
    profiles = {name: profile for name, profile in profiles.items() if profile.scheduler == SLURM}
    if not profiles:
        return SLURM
    conf = os.environ.get("SLURM_CONF", "")
    mine = [name for name, profile in profiles.items() if conf and profile.slurm_conf == conf]
    if len(mine) == 1:
        return mine[0]
    own = discover.cluster_name(Slurm())
    mine = [name for name, profile in profiles.items() if own == (profile.cluster_name or name)]
    if len(mine) == 1:
        return mine[0]
    raise InputError(
        f"no profile is for the Slurm of this machine, {own}"
        if not mine
        else f"{len(mine)} profiles are for the Slurm of this machine, {own}: {', '.join(mine)}",
        why=f"a profile is found by cluster_name, or else its own name; there are {', '.join(sorted(profiles))}",
        way_out=f"gangrun cluster discover writes one; or choose: --cluster {SLURM} or another, GANGRUN_CLUSTER",
    )


def scheduler_of(cluster: Cluster, say: Callable[[str], None] = silent) -> Scheduler:
    """The scheduler behind a cluster; `say` is told what it waits for."""
    if cluster.profile.scheduler == "local":
        from gangrun.scheduler.local import Local

        return Local()
    return slurm_of(cluster, say)


def slurm_of(cluster: Cluster, say: Callable[[str], None] = silent, room: float = 0.0) -> Slurm:
    """The Slurm behind a cluster; `room` is for how many seconds a submission waits for a full queue."""
    from gangrun.scheduler.slurm import Slurm

    profile = cluster.profile
    # A slurm.conf means one cluster; without one the commands talk to whichever this machine belongs to.
    name = profile.cluster_name or "" if profile.slurm_conf is None else ""
    return Slurm(conf=profile.slurm_conf or "", name=name, say=say, room=room)


def profile_text(facts: ClusterFacts, slurm_conf: str = "") -> str:
    """A profile for a cluster as it describes itself, with what a person has to decide in comments."""
    usable = [part for part in facts.partitions if part.up]
    default = next((part.name for part in usable if part.default), usable[0].name if usable else "")
    lines = [
        f"# {facts.name or 'A cluster'}, Slurm {facts.version}, as sinfo and scontrol described it.",
        'scheduler = "slurm"',
    ]
    if facts.name:
        lines.append(f"cluster_name = {_text(facts.name)}")
    if slurm_conf:
        lines.append(f"slurm_conf = {_text(slurm_conf)}")
    needed = ["account"] if facts.accounts_enforced else []
    if needed:
        lines.append(f"require = {json.dumps(needed)}   # jobs without a known account are refused here")
    if not facts.memory_managed:
        lines.append("# Memory is not handed out here, so mem has no effect.")
    lines += ["", "[defaults]   # any key of [allocation], for experiments that do not say it"]
    if default:
        lines.append(f"partition = {_text(default)}")
    lines += ["# cpus = 8      # on each node; without it Slurm gives 1", "# account = …", "# qos = …", ""]
    lines.append("[partitions]   # alias in experiments = name here")
    for part in facts.partitions:
        lines += [f"# {described(part)}", f"{_text(part.name)} = {_text(part.name)}"]
    return "\n".join(lines) + "\n"


def described(part: Partition) -> str:
    """One partition in one line: its nodes, what is on them, and its limits."""
    shapes: dict[str, int] = {}
    for group in part.nodes:
        gpus = " + ".join(f"{gpu.count} x {gpu.type or 'GPU'}" for gpu in group.gpus)
        shape = f"{group.cpus} CPUs, {group.memory} MB" + (f", {gpus}" if gpus else "")
        shapes[shape] = shapes.get(shape, 0) + group.count
    words = [f"{count} nodes with {shape}" for shape, count in shapes.items()] or ["no nodes"]
    if part.max_time is not None:
        words.append(f"at most {clock(part.max_time)}")
    if part.max_nodes is not None:
        words.append(f"at most {part.max_nodes} nodes a job")
    for name, only in (("accounts", part.accounts), ("groups", part.groups), ("qos", part.qos)):
        if only:
            words.append(f"{name} {', '.join(only)}")
    if not part.up:
        words.append("not up")
    return "; ".join(words)


def _text(value: str) -> str:
    # JSON's strings are TOML's, but for DEL, which no name here can hold.
    return json.dumps(value, ensure_ascii=False)
