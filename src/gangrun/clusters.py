"""Which cluster is meant: by word, by environment, by the file, else the one that is found here, else `local`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gangrun.lab.state import profile_path
from gangrun.scheduler.commands import silent
from gangrun.scheduler.model import Scheduler
from gangrun.spec.profile import LOCAL, SLURM, Cluster, known, load_cluster

LAB = "lab"


def elsewhere() -> dict[str, Path]:
    """Profiles that are in neither folder: that of the lab while it is up."""
    lab = profile_path()
    return {LAB: lab} if lab else {}


def named(name: str, project: Path) -> Cluster:
    """The cluster of that name. Raises InputError when there is none."""
    return load_cluster(name, project, elsewhere())


def choose(word: str | None, written: str | None, project: Path) -> Cluster:
    """`--cluster`, then GANGRUN_CLUSTER, then the file's own, then what is found."""
    return named(word or os.environ.get("GANGRUN_CLUSTER") or written or found(project), project)


def here(project: Path) -> Cluster:
    """Where `gangrun run` runs: in the allocation that is held, else on this machine."""
    if "SLURM_JOB_ID" in os.environ:
        return choose(None, None, project)
    return named(LOCAL, project)


def found(project: Path) -> str:
    """The cluster that this machine belongs to.

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
    profiles = [name for name in known(project, {}) if name not in (LOCAL, SLURM)]
    if len(profiles) > 1:
        own = discover.cluster_name(Slurm())
        return own if own in profiles else SLURM
    return profiles[0] if profiles else SLURM


def scheduler_of(cluster: Cluster, say: Callable[[str], None] = silent) -> Scheduler:
    """The scheduler behind a cluster; `say` is told what it waits for."""
    if cluster.profile.scheduler == "local":
        from gangrun.scheduler.local import Local

        return Local()
    from gangrun.scheduler.slurm import Slurm

    return Slurm(conf=cluster.profile.slurm_conf or "", say=say)
