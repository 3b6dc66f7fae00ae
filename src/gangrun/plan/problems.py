"""Problems that come up while a plan is made, at the line of the file that can mend them."""

from __future__ import annotations

from gangrun.errors import Problem
from gangrun.plan import extensions
from gangrun.spec.load import Experiment, locate, nearest
from gangrun.spec.profile import Cluster
from gangrun.spec.toml import Key

_ONE = {"launchers": "launcher", "topologies": "topology", "containers": "container runtime"}


def problem_at(experiment: Experiment, cluster: Cluster, key: Key, what: str, way_out: str = "") -> Problem:
    """A problem at a key of the experiment, or of the profile where only that has it: `env` and `container`."""
    theirs = cluster.sources or {}
    if key not in experiment.sources and key in theirs:
        return locate(theirs, cluster.file, key, what, way_out)
    return experiment.problem(key, what, way_out)


def unknown(experiment: Experiment, cluster: Cluster, key: Key, group: extensions.Group, name: str) -> Problem:
    """That no extension of the group has this name, and which one may have been meant."""
    known = extensions.names(group)
    hint = nearest(name, known) or f"there are {', '.join(known) or 'none installed'}"
    return problem_at(experiment, cluster, key, f"no {_ONE[group]} is named {name!r}", hint)
