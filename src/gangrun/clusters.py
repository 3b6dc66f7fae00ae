"""Which cluster is meant: by word, by environment, by the file, else the one that is found here, else `local`."""

from __future__ import annotations

import os
from pathlib import Path

from gangrun.lab.state import profile_path
from gangrun.scheduler import local, slurm
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


def found(project: Path) -> str:
    """The cluster that this machine belongs to.

    A Slurm that is configured here counts even while it is down: falling back to `local` then would run a training
    job on the login node.
    """
    more = elsewhere()
    if facts := slurm.configured():
        profiles = [name for name in known(project, {}) if name not in (LOCAL, SLURM)]
        if facts in profiles:
            return facts
        return profiles[0] if len(profiles) == 1 else SLURM
    return LAB if more else LOCAL


def scheduler_of(cluster: Cluster) -> Scheduler:
    """The scheduler behind a cluster."""
    if cluster.profile.scheduler == "local":
        return local.Local()
    return slurm.Slurm(conf=cluster.profile.slurm_conf or "")
