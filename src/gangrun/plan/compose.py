"""Placed roles to replicas: references become words, then the launcher has its say, then the container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from gangrun.errors import Problem
from gangrun.plan import debug, extensions, refs, wandb
from gangrun.plan import model as plan
from gangrun.plan.place import Spot
from gangrun.plan.problems import problem_at
from gangrun.plan.refs import Address, Scope, UnknownReferenceError
from gangrun.plan.seat import Contained, Launch, Seat
from gangrun.spec.load import Experiment
from gangrun.spec.model import Container, Role
from gangrun.spec.profile import Cluster
from gangrun.spec.toml import Key


def effective_container(
    experiment: Experiment, cluster: Cluster, name: str, role: Role
) -> tuple[Container | None, Key]:
    """The container that a role runs in, and the key of the experiment that says so or could say otherwise."""
    if role.container is not None:
        return role.container, ("roles", name, "container")
    return experiment.spec.container or cluster.profile.container, ("container",)


def effective_environment(experiment: Experiment, cluster: Cluster) -> dict[str, tuple[str, Key]]:
    """Each variable of every role but the dotlists, with its text and the key that says so: what `debug` and `[wandb]`
    set, the profile's over it, the experiment's over both."""
    talking = debug.VARIABLES if experiment.spec.debug else {}
    given = {**cluster.profile.env, **experiment.spec.env}
    return {
        **{name: (text, ("debug",)) for name, text in talking.items()},
        **wandb.variables(experiment, cluster),
        **{name: (text, ("env", name)) for name, text in given.items()},
    }


def facts_of(experiment: Experiment) -> dict[str, plan.Part]:
    """What any string of the experiment may refer to besides its parameters."""
    return {
        "run.dir": plan.Var("run_dir"),
        "run.name": plan.Var("run_name"),
        "file.dir": placed(experiment, str(experiment.file.parent)),
        "code.dir": placed(experiment, str(experiment.project)),
    }


def placed(experiment: Experiment, text: str) -> str:
    """The text with paths of the project as paths of the copy, where the run uses one."""
    return experiment.copy.text(text) if experiment.copy else text


_LOADED = frozenset({plan.Var("load"), plan.Var("resumed")})
_Words: TypeAlias = "tuple[plan.Word, ...]"


@dataclass
class Composer:
    """Turns placed roles into replicas: references, then the launcher, then the container."""

    experiment: Experiment
    cluster: Cluster
    roles: Mapping[str, Role]
    spots: Mapping[str, tuple[Spot, ...]]
    left: Mapping[str, plan.Value] = field(default_factory=dict)
    """References that are left as they are, for each item of a sweep to fill in."""
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
        # A copy: the ports that launchers reserve for themselves later are nobody else's, or whether they can be
        # referred to would depend on which role is composed first.
        return Address(plan.Host(self.spots[role][index].nodes[0]), dict(self.ports[role, index]))

    def _scope(self, role: str = "", index: int = 0, *, before: bool = False) -> Scope:
        """What the texts of a replica may refer to, those of the whole experiment, or those that are needed before
        the job runs, when there are neither hosts nor ports."""
        facts = {**facts_of(self.experiment), "load": plan.Var("load"), "resumed": plan.Var("resumed")}
        facts.update(refs.values(self.experiment.spec.parameters, self.experiment.seed))
        facts.update(self.left)
        if not role:
            return Scope({} if before else self.addresses, facts)
        facts.update({"index": str(index), "count": str(len(self.spots[role]))})
        return Scope(self.addresses, facts, self.addresses[role][index])

    def _word(self, text: str, scope: Scope, key: Key) -> plan.Word:
        try:
            word = refs.word(placed(self.experiment, text), scope)
        except UnknownReferenceError as error:
            self._once(problem_at(self.experiment, self.cluster, key, str(error)))
            return plan.Word()
        spec = self.experiment.spec
        if spec.load is None and spec.resume is None and (_LOADED & {*word.parts}):
            what = "{load} and {resumed} mean something where there is a [load] or a [resume]"
            self._once(problem_at(self.experiment, self.cluster, key, what, 'load = { from = "STEP" }'))
        return word

    def environment(self) -> tuple[tuple[str, plan.Word], ...]:
        """The environment of every role."""
        values = effective_environment(self.experiment, self.cluster)
        scope = self._scope()
        words = [(name, self._word(text, scope, key)) for name, (text, key) in values.items()]
        for name, entries in self.experiment.spec.dotlist.items():
            if values.get(name, ("", ()))[1] == ("env", name):
                self._once(self.experiment.problem(("dotlist", name), f"{name} stands in env as well", "keep one"))
            words.append((name, self._dotlist(name, entries, scope)))
        return tuple(words)

    def _dotlist(self, name: str, entries: Mapping[str, str], scope: Scope) -> plan.Word:
        """`a=1 b=2`; an entry with `{load}` is left out where nothing is loaded."""
        parts: list[plan.Part] = []
        for key, value in entries.items():
            at = ("dotlist", name, *key.split("."))
            entry = self._word(value, scope, at)
            if plan.Var("run_dir") in entry.parts and " " in str(self.experiment.project):
                self._once(self.experiment.problem(at, "the run's directory has a blank in its path, which splits it"))
            separate = (" ",) if parts else ()
            if plan.Var("load") in entry.parts:
                option = plan.Word.of(*separate, f"{key}=", *entry.parts)
                parts.append(plan.Option(plan.Var("load"), option.parts))
            else:
                parts += [*separate, f"{key}=", *entry.parts]
        return plan.Word.of(*parts)

    def files(self) -> tuple[tuple[str, plan.Word], ...]:
        """The files for the run's directory."""
        scope = self._scope(before=True)
        return tuple(
            (name, self._word(text, scope, ("files", name))) for name, text in self.experiment.spec.files.items()
        )

    def variables(self) -> tuple[tuple[str, plan.Word | int | float | bool], ...]:
        """The values for a template of the user's own."""
        scope = self._scope(before=True)
        return tuple(
            (name, self._word(value, scope, ("variables", name)) if isinstance(value, str) else value)
            for name, value in self.experiment.spec.variables.items()
        )

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
        contained, left = self._contain(name, index, launch.argv, env)
        resumed = self._resumed(name, index, words)
        again = self._contain(name, index, self._launch(name, index, resumed).argv, env)[0].argv if resumed else ()
        return plan.Replica(
            role=name,
            index=index,
            count=len(self.spots[name]),
            kind=role.kind,
            nodes=spot.nodes[: launch.nodes],
            gpus=spot.gpus,
            cpus=spot.cpus,
            tasks=launch.tasks,
            threads=max(spot.cpus // (launch.tasks * launch.workers), 1) if spot.cpus is not None else None,
            ranks=launch.ranks,
            argv=contained.argv,
            again=again,
            env=left,
            ports=tuple(self.ports[name, index].items()),
            after=role.after,
            ready=ready,
            restarts=role.restarts,
            spare=role.replicas - (role.min_replicas or role.replicas),
            step_flags=contained.step_flags,
            parts=contained.parts,
            shares_gpus=spot.shares_gpus,
            alone=spot.alone,
        )

    def _resumed(self, name: str, index: int, words: _Words) -> _Words:
        """The command in an attempt that goes on from a checkpoint of the run's own; nothing where it is the same."""
        role, scope, key = self.roles[name], self._scope(name, index), ("roles", name)
        for option in ("resume_command", "resume_flags"):
            if getattr(role, option) and self.experiment.spec.resume is None:
                what = "means something where there is a [resume], which says what the run's checkpoints are called"
                self._once(self.experiment.problem((*key, option), what, 'resume = { glob = "model_*.pth" }'))

        def said(option: str) -> _Words:
            texts = getattr(role, option) or ()
            return tuple(self._word(text, scope, (*key, option, position)) for position, text in enumerate(texts))

        command, flags = said("resume_command"), said("resume_flags")
        return (*(command or words), *flags) if command or flags else ()

    def _seat(self, name: str, index: int, words: _Words) -> Seat:
        role, spot = self.roles[name], self.spots[name][index]
        key, scope = ("roles", name, "launcher"), self._scope(name, index)
        options = {
            option: self._word(value, scope, (*key, option))
            if isinstance(value, str) and ("{" in value or "}" in value)
            else value
            for option, value in role.launcher.options.items()
        }
        port = self._reserve(name, index)
        return Seat(name, index, spot.nodes, spot.gpus, role.tasks, words, options, port, role.kind)

    def _launch(self, name: str, index: int, words: _Words) -> Launch:
        role, spot = self.roles[name], self.spots[name][index]
        key = ("roles", name, "launcher")
        seat = self._seat(name, index, words)
        try:
            launch: Launch = extensions.find("launchers", role.launcher.type)(seat)
        except ValueError as error:
            said = self.experiment.sources  # a launcher that nobody chose refuses the tasks that somebody asked for
            tasks = (*key[:2], "tasks")
            self._once(self.experiment.problem(tasks if key not in said and tasks in said else key, str(error)))
        else:
            if spot.cpus is not None and spot.cpus < launch.tasks:
                what = f"{launch.tasks} processes on each node share {spot.cpus} CPUs"
                self._once(self.experiment.problem(("roles", name, "tasks"), what, "ask for more CPUs or fewer tasks"))
            if launch.nodes is not None and launch.nodes < len(spot.nodes) and not role.beside and index == 0:
                held = f"a replica of {name} holds {len(spot.nodes)} nodes"
                self.notes.append(f"{held}, and {role.launcher.type} starts its command on the first of them only")
            return launch
        return Launch(words)

    def _contain(
        self, name: str, index: int, argv: _Words, env: tuple[tuple[str, plan.Word], ...]
    ) -> tuple[Contained, tuple[tuple[str, plan.Word], ...]]:
        """The command in the role's container, if it has one, and the environment that is left to set outside."""
        container, at = effective_container(self.experiment, self.cluster, name, self.roles[name])
        if container is None:
            return Contained(argv), env
        # Said inside again, as an image's own variables win over those that come from outside.
        inside = {**dict(self.environment()), **dict(env)}
        for variable, value in container.env.items():
            inside[variable] = self._word(value, self._scope(name, index), (*at, "env", variable))
        if inside:
            words = (plan.Word.of(f"{variable}=", *word.parts) for variable, word in inside.items())
            argv = (plan.Word.of("env"), *words, *argv)
        try:
            contain = extensions.find("containers", container.runtime)
            contained: Contained = contain(self._furnished(container), argv, self._seat(name, index, argv))
        except ValueError as error:
            self._once(problem_at(self.experiment, self.cluster, at, str(error)))
            return Contained(argv), ()
        if contained.step_flags and self.cluster.profile.scheduler == "local":
            what = f"{container.runtime} is a plugin of Slurm's srun, which starts nothing on one machine and in a pool"
            self._once(problem_at(self.experiment, self.cluster, (*at, "runtime"), what))
        self.notes += [note for note in contained.notes if note not in self.notes]
        return contained, ()

    def _furnished(self, container: Container) -> Container:
        """The container with the project's root at its own path, where nothing else is mounted there, and a workdir.

        Raises ValueError where its name cannot be said in a mount.
        """
        project = str(self.experiment.project)
        if ":" in project:
            raise ValueError(f"the project {project} cannot be mounted, as its name holds a colon")
        taken = any(mount.split(":")[1] == project for mount in container.mounts)
        mounts = container.mounts if taken else (f"{project}:{project}", *container.mounts)
        workdir = container.workdir or placed(self.experiment, self.experiment.spec.workdir or project)
        return container.model_copy(update={"mounts": mounts, "workdir": workdir})

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
