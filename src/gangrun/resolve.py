"""Experiment and cluster to plan, in the order in which it reads: allocation, roles, placement, commands.

Pure: the same experiment and profile give the same plan, and nothing is read, written or asked here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gangrun.errors import PlacementError, Problem, SpecError
from gangrun.plan import extensions, refs
from gangrun.plan import model as plan
from gangrun.plan.place import Spot, place
from gangrun.plan.refs import Address, Scope, UnknownReferenceError
from gangrun.plan.seat import Contained, Launch, Seat
from gangrun.spec.load import Experiment, Source, locate, nearest
from gangrun.spec.model import Allocation, Container, Role, flag_name
from gangrun.spec.profile import Cluster
from gangrun.spec.toml import Key

_OURS = ("job-name", "array", "wrap", "parsable", "test-only", "wait")
"""Flags that would take away what the record relies on."""


def resolve(experiment: Experiment, cluster: Cluster) -> plan.Plan:
    """The plan. Raises SpecError, or PlacementError where the roles do not fit, with every problem found."""
    problems: list[Problem] = []
    allocation, _ = effective_allocation(experiment, cluster)
    flags, notes = _flags(experiment, cluster, allocation, problems)
    roles = effective_roles(experiment, cluster, allocation, problems)
    for name, role in roles.items():
        problems += _role_problems(experiment, cluster, name, role, roles)
    if problems:
        raise SpecError(experiment.in_order(problems))
    order = _start_order(experiment, roles)
    spots, misfits = place(roles, allocation)
    if misfits:
        # Wrong references are told all the same, as if every role that has no place had one.
        seated = {name: found or (Spot((0,)),) for name, found in spots.items()}
        composer = _Composer(experiment, cluster, roles, seated)
        for name in order:
            composer.texts(name, 0)
        composer.environment()
        for misfit in misfits:
            key = _key("roles", misfit.role, *misfit.key.split())
            composer.problems.append(experiment.problem(key, misfit.what, misfit.way_out))
        raise PlacementError(experiment.in_order(composer.problems))
    composer = _Composer(experiment, cluster, roles, spots)
    replicas = tuple(replica for name in order for replica in composer.replicas(name))
    env = composer.environment()
    if composer.problems:
        raise SpecError(experiment.in_order(composer.problems))
    spec = experiment.spec
    return plan.Plan(
        experiment=experiment.experiment,
        step=experiment.step,
        seed=experiment.seed,
        cluster=cluster.name,
        scheduler=cluster.profile.scheduler,
        allocation=plan.Allocation(
            allocation.nodes, allocation.gpus, allocation.cpus, allocation.mem, allocation.time, flags
        ),
        replicas=replicas,
        ports=composer.reserved,
        setup=_setup(experiment, cluster),
        env=env,
        workdir=spec.workdir or str(experiment.project),
        grace=spec.grace,
        template=spec.template,
        notes=(*notes, *composer.notes),
    )


def effective_allocation(experiment: Experiment, cluster: Cluster) -> tuple[Allocation, dict[str, Source]]:
    """What is asked for after the profile has filled in, and where each value comes from."""
    wanted, profile = experiment.spec.allocation, cluster.profile
    values: dict[str, object] = {}
    origins: dict[str, Source] = {}

    def choose(key: str) -> None:
        brought = profile.qos.get(str(values.get("qos")))
        if key in wanted.model_fields_set:
            values[key] = getattr(wanted, key)
            origins[key] = experiment.origin("allocation", key)
        elif brought is not None and getattr(brought, key, None) is not None:
            values[key] = getattr(brought, key)
            origins[key] = cluster.origin("qos", str(values["qos"]), key)
        elif key in profile.defaults.model_fields_set:
            values[key] = getattr(profile.defaults, key)
            origins[key] = cluster.origin("defaults", key)
        else:
            values[key] = getattr(wanted, key)
            origins[key] = Source("default")

    for key in ("qos", *(name for name in Allocation.model_fields if name != "qos")):
        choose(key)
    if (alias := values["partition"]) in profile.partitions:
        values["partition"] = profile.partitions[str(alias)]
    # A profile's own pass-through flags stay unless the experiment says the same flag.
    values["sbatch"] = {**profile.defaults.sbatch, **wanted.sbatch}
    return wanted.model_copy(update=values), origins


def _flags(
    experiment: Experiment, cluster: Cluster, allocation: Allocation, problems: list[Problem]
) -> tuple[tuple[tuple[str, str | None], ...], list[str]]:
    """The batch flags in order, without those that only the run's name and directory decide; and notes."""
    profile, qos = cluster.profile, allocation.qos
    if profile.qos and qos is not None and qos not in profile.qos:
        hint = nearest(qos, profile.qos) or f"known: {', '.join(profile.qos)}"
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


def effective_roles(
    experiment: Experiment, cluster: Cluster, allocation: Allocation, problems: list[Problem]
) -> dict[str, Role]:
    """The roles with the companions that topologies add."""
    roles: dict[str, Role] = {}
    for name, role in experiment.spec.roles.items():
        if role.topology is None:
            roles[name] = role
            continue
        key = ("roles", name, "topology")
        try:
            expand = extensions.find("topologies", role.topology.type)
        except KeyError:
            problems.append(_unknown(experiment, cluster, key, "topologies", role.topology.type))
            roles[name] = role
            continue
        try:
            roles.update(expand(name, role, allocation))
        except ValueError as error:
            problems.append(experiment.problem(key, str(error)))
            roles[name] = role
    if not experiment.spec.roles:
        problems.append(experiment.problem(("command",), "is missing: there is nothing to run", _FIRST_COMMAND))
    elif not any(role.kind == "main" for role in roles.values()):
        key = ("roles", next(iter(roles)), "kind")
        problems.append(experiment.problem(key, "no role is a main, so the job would never end", 'kind = "main"'))
    return roles


_FIRST_COMMAND = 'command = ["python", "train.py"]'


def _role_problems(
    experiment: Experiment, cluster: Cluster, name: str, role: Role, roles: Mapping[str, Role]
) -> list[Problem]:
    problems: list[Problem] = []

    def add(key: str, what: str, way_out: str = "") -> None:
        problems.append(experiment.problem(_key("roles", name, *key.split()), what, way_out))

    if role.command is None:
        short = [key[2] for key, source in experiment.sources.items() if key[:2] == ("roles", name) and source.written]
        other = next((other for other in roles if other != name), "")
        for key in dict.fromkeys(map(str, short)) if other else ():
            what = f"at the top it means roles.{name}.{key}, and roles.{name} has no command"
            add(key, what, f"did you mean roles.{other}.{key}?")
        if not short or not other:
            add("command", "is missing", _FIRST_COMMAND)
    if not _exists("launchers", role.launcher.type):
        problems.append(_unknown(experiment, cluster, ("roles", name, "launcher"), "launchers", role.launcher.type))
    container, at = effective_container(experiment, cluster, name, role)
    if container is not None and not _exists("containers", container.runtime):
        problem = _unknown(experiment, cluster, (*at, "runtime"), "containers", container.runtime)
        problems += [problem] if len(at) > 1 or name == next(iter(roles)) else []
    for key, others in (("beside", (role.beside,) if role.beside is not None else ()), ("after", role.after)):
        for other in others:
            if other == name:
                add(key, f"{name!r} cannot wait for or stand beside itself")
            elif other not in roles:
                add(key, f"there is no role {other!r}", nearest(other, roles) or f"roles are {', '.join(roles)}")
            elif key == "after" and roles[other].kind == "sidecar":
                add(key, f"{other!r} is a sidecar, which may die unnoticed, so nothing waits for it")
    if role.ready and role.ready.port is not None and role.ready.port not in role.ports:
        add("ready port", f"there is no port {role.ready.port!r}", f'ports = ["{role.ready.port}"]')
    if len(set(role.ports)) < len(role.ports):
        add("ports", "names a port twice")
    return problems


def _start_order(experiment: Experiment, roles: Mapping[str, Role]) -> list[str]:
    """Roles such that each comes after those that it waits for; else as written. Raises SpecError on a circle."""
    order: list[str] = []
    left = dict(roles)
    while left:
        free = [name for name, role in left.items() if not any(other in left for other in role.after)]
        if not free:
            circle = _circle(left)
            what = f"roles wait for each other: {' → '.join(circle)}"
            raise SpecError([experiment.problem(("roles", circle[0], "after"), what)])
        order += free
        left = {name: role for name, role in left.items() if name not in free}
    return order


def _circle(left: Mapping[str, Role]) -> list[str]:
    path: list[str] = [next(iter(left))]
    while True:
        following = next(other for other in left[path[-1]].after if other in left)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)


def _setup(experiment: Experiment, cluster: Cluster) -> tuple[str, ...]:
    """The profile's preparation, then the experiment's; one virtual environment, the most particular."""
    below, above = cluster.profile.setup, experiment.spec.setup
    venv, _ = effective_venv(experiment, cluster)
    lines = [f"module load {shlex.quote(module)}" for module in (*below.modules, *above.modules)]
    if venv:
        lines.append(f"source {shlex.quote(f'{venv}/bin/activate')}")
    return (*lines, *below.lines, *above.lines)


def effective_venv(experiment: Experiment, cluster: Cluster) -> tuple[str | Literal[False] | None, Source]:
    """The virtual environment to activate and who says so: the experiment, the profile, else the project has one."""
    if (venv := experiment.spec.setup.venv) is not None:
        return venv, experiment.origin("setup", "venv")
    if (venv := cluster.profile.setup.venv) is not None:
        return venv, cluster.origin("setup", "venv")
    return str(experiment.venv) if experiment.venv else None, Source("found in the project")


def effective_container(
    experiment: Experiment, cluster: Cluster, name: str, role: Role
) -> tuple[Container | None, Key]:
    """The container that a role runs in, and the key of the experiment that says so or could say otherwise."""
    if role.container is not None:
        return role.container, ("roles", name, "container")
    return experiment.spec.container or cluster.profile.container, ("container",)


def _exists(group: extensions.Group, name: str) -> bool:
    try:
        extensions.find(group, name)
    except KeyError:
        return False
    return True


_ONE = {"launchers": "launcher", "topologies": "topology", "containers": "container runtime"}


def _unknown(experiment: Experiment, cluster: Cluster, key: Key, group: extensions.Group, name: str) -> Problem:
    known = extensions.names(group)
    hint = nearest(name, known) or f"there are {', '.join(known) or 'none installed'}"
    return _problem(experiment, cluster, key, f"no {_ONE[group]} is named {name!r}", hint)


def _problem(experiment: Experiment, cluster: Cluster, key: Key, what: str, way_out: str = "") -> Problem:
    """A problem at a key of the experiment, or of the profile where only that has it: `env` and `container`."""
    theirs = cluster.sources or {}
    if key not in experiment.sources and key in theirs:
        return locate(theirs, cluster.file, key, what, way_out)
    return experiment.problem(key, what, way_out)


def _key(*parts: str) -> Key:
    return tuple(part for part in parts if part)


_Words: TypeAlias = "tuple[plan.Word, ...]"


@dataclass
class _Composer:
    """Turns placed roles into replicas: references, then the launcher, then the container."""

    experiment: Experiment
    cluster: Cluster
    roles: Mapping[str, Role]
    spots: Mapping[str, tuple[Spot, ...]]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ports: dict[tuple[str, int], dict[str, plan.Port]] = field(default_factory=dict)
    """Of each replica, by name."""
    reserved: int = 0

    def __post_init__(self) -> None:
        for name, role in self.roles.items():
            for index in range(len(self.spots[name])):
                self.ports[name, index] = {}
                for port in role.ports:
                    self._reserve(name, index)(port)
        self.addresses = {
            name: [self._address(name, index) for index in range(len(spots))] for name, spots in self.spots.items()
        }

    def _reserve(self, role: str, index: int) -> Callable[[str], plan.Port]:
        def port(name: str) -> plan.Port:
            own = self.ports[role, index]
            if name not in own:
                own[name] = plan.Port(self.reserved)
                self.reserved += 1
            return own[name]

        return port

    def _address(self, role: str, index: int) -> Address:
        return Address(plan.Host(self.spots[role][index].nodes[0]), self.ports[role, index].get)

    def _scope(self, role: str = "", index: int = 0) -> Scope:
        facts: dict[str, plan.Part] = {
            "run.dir": plan.Var("run_dir"),
            "run.name": plan.Var("run_name"),
            "file.dir": str(self.experiment.file.parent),
        }
        if self.experiment.seed is not None:
            facts["seed"] = str(self.experiment.seed)
        if not role:
            return Scope(self.addresses, facts)
        facts.update({"index": str(index), "count": str(len(self.spots[role]))})
        return Scope(self.addresses, facts, self.addresses[role][index])

    def _word(self, text: str, scope: Scope, key: Key) -> plan.Word:
        try:
            return refs.word(text, scope)
        except UnknownReferenceError as error:
            self._once(_problem(self.experiment, self.cluster, key, str(error)))
            return plan.Word()

    def environment(self) -> tuple[tuple[str, plan.Word], ...]:
        """The environment of every role: the profile's, then the experiment's over it."""
        values = {**self.cluster.profile.env, **self.experiment.spec.env}
        scope = self._scope()
        return tuple((name, self._word(value, scope, ("env", name))) for name, value in values.items())

    def replicas(self, name: str) -> list[plan.Replica]:
        """The role's replicas in order."""
        return [self._replica(name, index) for index in range(len(self.spots[name]))]

    def texts(self, name: str, index: int) -> tuple[_Words, tuple[tuple[str, plan.Word], ...], plan.Ready | None]:
        """Command, environment and readiness of a replica with their references resolved."""
        role, scope = self.roles[name], self._scope(name, index)
        words = tuple(
            self._word(text, scope, ("roles", name, "command", position))
            for position, text in enumerate(role.command or ())
        )
        env = tuple((key, self._word(value, scope, ("roles", name, "env", key))) for key, value in role.env.items())
        return words, env, self._ready(name, role, scope)

    def _replica(self, name: str, index: int) -> plan.Replica:
        role, spot = self.roles[name], self.spots[name][index]
        words, env, ready = self.texts(name, index)
        launch = self._launch(name, index, words)
        contained = self._contain(name, launch.argv)
        return plan.Replica(
            role=name,
            index=index,
            count=len(self.spots[name]),
            kind=role.kind,
            nodes=spot.nodes[: launch.nodes],
            gpus=spot.gpus,
            cpus=spot.cpus,
            tasks=launch.tasks,
            ranks=launch.ranks,
            argv=contained.argv,
            env=env,
            ports=tuple(self.ports[name, index].items()),
            after=role.after,
            ready=ready,
            restarts=role.restarts,
            step_flags=contained.step_flags,
            shares_gpus=spot.shares_gpus,
            alone=spot.alone,
        )

    def _launch(self, name: str, index: int, words: tuple[plan.Word, ...]) -> Launch:
        role, spot = self.roles[name], self.spots[name][index]
        key = ("roles", name, "launcher")
        seat = Seat(
            name,
            index,
            spot.nodes,
            spot.gpus,
            role.tasks,
            words,
            role.launcher.options,
            self._reserve(name, index),
            role.kind,
        )
        try:
            launch: Launch = extensions.find("launchers", role.launcher.type)(seat)
        except ValueError as error:
            self._once(self.experiment.problem(key, str(error)))
        else:
            if spot.cpus is not None and spot.cpus < launch.tasks:
                what = f"{launch.tasks} processes on each node share {spot.cpus} CPUs"
                self._once(self.experiment.problem(("roles", name, "tasks"), what, "ask for more CPUs or fewer tasks"))
            if launch.nodes is not None and launch.nodes < len(spot.nodes) and not role.beside and index == 0:
                held = f"a replica of {name} holds {len(spot.nodes)} nodes"
                self.notes.append(f"{held}, and {role.launcher.type} starts its command on the first of them only")
            return launch
        return Launch(words)

    def _contain(self, name: str, argv: tuple[plan.Word, ...]) -> Contained:
        container, at = effective_container(self.experiment, self.cluster, name, self.roles[name])
        if container is None:
            return Contained(argv)
        try:
            contained: Contained = extensions.find("containers", container.runtime)(container, argv)
        except ValueError as error:
            self._once(_problem(self.experiment, self.cluster, at, str(error)))
        else:
            return contained
        return Contained(argv)

    def _ready(self, name: str, role: Role, scope: Scope) -> plan.Ready | None:
        ready = role.ready
        if ready is None:
            return None
        if ready.port is not None:
            text, kind = f"{{self.host}}:{{self.port.{ready.port}}}", "port"
        else:
            text, kind = (ready.http, "http") if ready.http is not None else (ready.file or "", "file")
        word = self._word(text or "", scope, ("roles", name, "ready", kind))
        return plan.Ready(kind, word, ready.within)  # type: ignore[arg-type]

    def _once(self, problem: Problem) -> None:
        """Every replica of a role has the same."""
        if problem not in self.problems:
            self.problems.append(problem)
