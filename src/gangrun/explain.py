"""Where every value comes from: a file and line, `--set`, the cluster's profile, the placement or a default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from gangrun.plan.batch import OWN_KEY, clock, written_flag
from gangrun.plan.compose import effective_container, effective_environment
from gangrun.plan.model import Plan, Replica
from gangrun.resolve import effective_allocation, effective_roles, effective_venv
from gangrun.spec.load import Experiment, Source
from gangrun.spec.model import Role
from gangrun.spec.profile import Cluster

DEFAULT = "default"
_FLAGS = {key: flag for flag, key in OWN_KEY.items()}
_PLACED: dict[str, Callable[[Replica], int | None]] = {
    "nodes": lambda replica: len(replica.nodes),
    "gpus": lambda replica: len(replica.gpus),
    "cpus": lambda replica: replica.cpus,
}


class Row(NamedTuple):
    """One effective value."""

    key: str
    """Key path such as `roles.trainer.gpus`."""
    value: Any
    """As JSON takes it."""
    source: str
    """`FILE:LINE`, `--set`, `profile NAME (FILE:LINE)`, `placement`, `launcher NAME`, `default`, or other words."""


def explain(experiment: Experiment, cluster: Cluster, plan: Plan, replicas: Sequence[Replica]) -> list[Row]:
    """Every effective value of the allocation, the environment, the setup and each role, with where it comes from.

    `replicas` are the plan's, or those of one item where it is the plan of a job around many.
    """
    allocation, _ = effective_allocation(experiment, cluster)
    first: dict[str, Replica] = {}
    for replica in replicas:
        first.setdefault(replica.role, replica)
    roles = effective_roles(experiment, cluster, allocation, [])
    return [
        *_run(experiment, cluster, plan),
        *_allocation(experiment, cluster, plan),
        *_environment(experiment, cluster),
        *_setup(experiment, cluster),
        *(row for name, role in roles.items() for row in _role(experiment, cluster, name, role, first[name])),
    ]


def _run(experiment: Experiment, cluster: Cluster, plan: Plan) -> Iterator[Row]:
    written = experiment.spec.model_fields_set

    def row(key: str, value: object, otherwise: str) -> Row:
        return Row(key, value, str(experiment.origin(key)) if key in written else otherwise)

    yield row("experiment", plan.experiment, "name of the folder")
    yield row("step", plan.step, "name of the file")
    if plan.seed is not None:
        yield row("seed", plan.seed, "end of the file's name")
    chosen = str(experiment.origin("cluster")) if experiment.spec.cluster == cluster.name else ""
    yield Row("cluster", cluster.name, chosen or "--cluster, GANGRUN_CLUSTER, or found here")
    yield row("workdir", plan.workdir, "root of the project")
    if plan.template:
        yield row("template", plan.template, "")
    yield row("grace", plan.grace, DEFAULT)
    monitor = experiment.spec.monitor
    for key, value in {"on": monitor.on, "every": monitor.every}.items():
        source = str(experiment.origin("monitor", key)) if key in monitor.model_fields_set else DEFAULT
        yield Row(f"monitor.{key}", value, source)


def _allocation(experiment: Experiment, cluster: Cluster, plan: Plan) -> Iterator[Row]:
    allocation, origins = effective_allocation(experiment, cluster)
    sent = dict(plan.allocation.flags)
    for name in (name for name in type(allocation).model_fields if name != "sbatch"):
        if (value := getattr(allocation, name)) is not None:
            shown = clock(value) if name == "time" else value
            left_out = ", but not sent" if _FLAGS.get(name, "nodes") not in sent else ""
            yield Row(f"allocation.{name}", shown, _words(origins[name], cluster) + left_out)
    for flag, value in allocation.sbatch.items():
        if key := written_flag(experiment.sources, ("allocation", "sbatch"), flag):
            source = experiment.origin(*key)
        elif key := written_flag(cluster.sources or {}, ("defaults", "sbatch"), flag):
            source = cluster.origin(*key)
        else:
            source = origins["sbatch"]
        yield Row(f"allocation.sbatch.{flag}", value, _words(source, cluster))


def _environment(experiment: Experiment, cluster: Cluster) -> Iterator[Row]:
    for name, (text, key) in effective_environment(experiment, cluster).items():
        source = experiment.origin(*key)
        if key == ("wandb", "mode") and key not in experiment.sources:
            source = cluster.origin("internet")
        elif key == ("env", name) and name not in experiment.spec.env:
            source = cluster.origin(*key)
        yield Row(f"env.{name}", text, _words(source, cluster))
    for name, entries in experiment.spec.dotlist.items():
        text = " ".join(f"{key}={value}" for key, value in entries.items())
        yield Row(f"env.{name}", text, str(experiment.origin("dotlist", name)))


def _setup(experiment: Experiment, cluster: Cluster) -> Iterator[Row]:
    below, above = cluster.profile.setup, experiment.spec.setup

    def rows(key: str, theirs: Iterable[str], ours: Iterable[str]) -> Iterator[Row]:
        for index, value in enumerate(theirs):
            # `setup = […]` is short for `setup.lines = […]`.
            sources = cluster.sources or {}
            source = sources.get(("setup", index)) or cluster.origin("setup", key, index)
            yield Row(f"setup.{key}", value, _words(source, cluster))
        for index, value in enumerate(ours):
            source = experiment.sources.get(("setup", index)) or experiment.origin("setup", key, index)
            yield Row(f"setup.{key}", value, str(source))

    yield from rows("modules", below.modules, above.modules)
    venv, source = effective_venv(experiment, cluster)
    if venv is not None:
        yield Row("setup.venv", venv, _words(source, cluster))
    yield from rows("lines", below.lines, above.lines)


def _role(experiment: Experiment, cluster: Cluster, name: str, role: Role, replica: Replica) -> Iterator[Row]:
    own = experiment.spec.roles.get(name)
    topologies = {given.topology.type for given in experiment.spec.roles.values() if given.topology}
    by_topology = f"topology {' or '.join(sorted(topologies))}"

    def source(key: str, *rest: str) -> str:
        if own is not None and getattr(own, key) == getattr(role, key):
            return str(experiment.origin("roles", name, key, *rest)) if key in own.model_fields_set else DEFAULT
        return by_topology if key in role.model_fields_set or own is not None else DEFAULT

    for key in (field for field in Role.model_fields if field not in ("env", "container")):
        value = getattr(role, key)
        if value is not None and value != ():
            yield Row(f"roles.{name}.{key}", _plain(value), source(key))
        elif key in _PLACED and (placed := _PLACED[key](replica)) is not None:
            yield Row(f"roles.{name}.{key}", placed, "placement")
        elif key == "tasks":
            yield Row(f"roles.{name}.{key}", replica.tasks, f"launcher {role.launcher.type}")
    for variable, value in role.env.items():
        yield Row(f"roles.{name}.env.{variable}", value, source("env", variable))
    container, at = effective_container(experiment, cluster, name, role)
    if container is not None:
        inherited = len(at) == 1 and experiment.spec.container is None
        origin = cluster.origin("container") if inherited else experiment.origin(*at)
        yield Row(f"roles.{name}.container", _plain(container), _words(origin, cluster))


def _words(source: Source, cluster: Cluster) -> str:
    """A line of the profile is named as one, so that nobody looks for it in the experiment."""
    if cluster.file and source.file == cluster.file:
        return f"profile {cluster.name} ({source})"
    return str(source)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_unset=True)
        return given["type"] if list(given) == ["type"] else given
    return list(value) if isinstance(value, tuple) else value
