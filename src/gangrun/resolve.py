"""Experiment and cluster to plan, in the order in which it reads: allocation, roles, placement, commands.

Pure: the same experiment and profile give the same plan, and nothing is read, written or asked here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Literal

from gangrun import node
from gangrun.errors import PlacementError, Problem, SpecError
from gangrun.plan import chain, code, debug, extensions, monitor
from gangrun.plan import model as plan
from gangrun.plan.batch import batch_flags
from gangrun.plan.compose import Composer, effective_container
from gangrun.plan.place import Misfit, Spot, place
from gangrun.plan.problems import unknown
from gangrun.plan.requeue import requeue
from gangrun.spec.load import Experiment, Source, nearest
from gangrun.spec.model import Allocation, Role
from gangrun.spec.profile import Cluster


def resolve(experiment: Experiment, cluster: Cluster, left: Mapping[str, plan.Value] | None = None) -> plan.Plan:
    """The plan, with the references `left` as they are, for each item of a sweep to fill in.

    Raises SpecError, or PlacementError where the roles do not fit, with every problem found.
    """
    problems: list[Problem] = []
    allocation, _ = effective_allocation(experiment, cluster)
    roles = effective_roles(experiment, cluster, allocation, problems)
    flags, notes = batch_flags(experiment, cluster, allocation, roles, problems)
    for name, role in roles.items():
        problems += _role_problems(experiment, cluster, name, role, roles)
    setup = _setup(experiment, cluster)
    workdir = code.workdir(experiment, problems)
    problems += code.problems_of(experiment, roles, setup)
    needs, checkpoint = chain.needs(experiment, problems), chain.checkpoint(experiment)
    goes_on = requeue(experiment, cluster, allocation, problems)
    if problems:
        raise SpecError(experiment.in_order(problems))
    order = _start_order(experiment, roles)
    spots, misfits = place(roles, allocation)
    # Where roles have no place, wrong references are told all the same, as if they had one.
    seated = {name: found or (Spot((0,)),) for name, found in spots.items()} if misfits else spots
    composer = Composer(experiment, cluster, roles, seated, left or {})
    if misfits:
        raise PlacementError(experiment.in_order(_unplaced(experiment, composer, misfits)))
    replicas = tuple(replica for name in order for replica in composer.replicas(name))
    env, files, variables = composer.environment(), composer.files(), composer.variables()
    if composer.problems:
        raise SpecError(experiment.in_order(composer.problems))
    spec, copy = experiment.spec, experiment.copy
    scheduler = cluster.profile.scheduler
    own = (
        *((monitor.monitor(spec.monitor, allocation, scheduler),) if spec.monitor.on else ()),
        *((debug.trace(allocation, scheduler),) if spec.debug else ()),
    )
    return plan.Plan(
        experiment=experiment.experiment,
        step=experiment.step,
        seed=experiment.seed,
        cluster=cluster.name,
        scheduler=scheduler,
        allocation=plan.Allocation(
            allocation.nodes, allocation.gpus, allocation.cpus, allocation.mem, allocation.time, flags
        ),
        replicas=replicas,
        ports=composer.reserved,
        setup=tuple(copy.text(line) for line in setup) if copy else setup,
        env=env,
        workdir=workdir,
        grace=spec.grace,
        template=spec.template,
        variables=variables,
        files=files,
        own=own,
        programs=(
            *_programs((*replicas, *own)),
            *(("checkpoint.py",) if checkpoint or goes_on else ()),
            *(("requeue.py",) if goes_on else ()),
            *((code.PROGRAM,) if copy else ()),
        ),
        needs=needs,
        checkpoint=checkpoint,
        code=code.code(copy, workdir, roles, replicas) if copy else None,
        debug=spec.debug,
        requeue=goes_on,
        notes=(*notes, *composer.notes),
    )


def _unplaced(experiment: Experiment, composer: Composer, misfits: list[Misfit]) -> list[Problem]:
    """Why roles have no place, and whatever else is wrong with their texts."""
    for name in composer.roles:
        composer.texts(name, 0)
    for compose in (composer.environment, composer.files, composer.variables):
        compose()
    found = [experiment.problem(("roles", one.role, *one.key.split()), one.what, one.way_out) for one in misfits]
    return [*composer.problems, *found]


def _programs(replicas: tuple[plan.Replica, ...]) -> Iterator[str]:
    """Of gangrun's programs for a node those that commands name, as `{run.dir}/node/NAME`."""
    words = {word for replica in replicas for word in replica.argv}
    for name in node.PROGRAMS:
        if plan.Word.of(plan.Var("run_dir"), f"/node/{name}") in words:
            yield name


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
    for key, table in (("partition", profile.partitions), ("account", profile.accounts)):
        if (alias := values[key]) in table:
            values[key] = table[str(alias)]
    # A profile's own pass-through flags stay unless the experiment says the same flag.
    values["sbatch"] = {**profile.defaults.sbatch, **wanted.sbatch}
    return wanted.model_copy(update=values), origins


def effective_roles(
    experiment: Experiment, cluster: Cluster, allocation: Allocation, problems: list[Problem]
) -> dict[str, Role]:
    """The roles with the companions that topologies add."""
    roles: dict[str, Role] = {}
    said = {**cluster.profile.env, **experiment.spec.env}
    for name, role in experiment.spec.roles.items():
        if role.topology is None:
            roles[name] = role
            continue
        key = ("roles", name, "topology")
        try:
            expand = extensions.find("topologies", role.topology.type)
        except KeyError:
            problems.append(unknown(experiment, cluster, key, "topologies", role.topology.type))
            roles[name] = role
            continue
        try:
            added = expand(name, role, allocation)
        except ValueError as error:
            problems.append(experiment.problem(key, str(error)))
            roles[name] = role
            continue
        for other in added:
            if other != name and (other in experiment.spec.roles or other in roles):
                what = f"adds a role {other!r}, and there is one already"
                problems.append(experiment.problem(key, what, "give that role another name"))
        roles.update({other: _giving_way(made, role, said) for other, made in added.items()})
    if not experiment.spec.roles:
        problems.append(experiment.problem(("command",), "is missing: there is nothing to run", _FIRST_COMMAND))
    elif not any(role.kind == "main" for role in roles.values()):
        key = ("roles", next(iter(roles)), "kind")
        problems.append(experiment.problem(key, "no role is a main, so the job would never end", 'kind = "main"'))
    return roles


def _giving_way(made: Role, role: Role, said: Mapping[str, str]) -> Role:
    """What a topology puts into the environment stands back behind what the user says for all roles."""
    env = {name: value for name, value in made.env.items() if name in role.env or name not in said}
    return made.model_copy(update={"env": env})


_FIRST_COMMAND = 'command = ["python", "train.py"]'


def _role_problems(
    experiment: Experiment, cluster: Cluster, name: str, role: Role, roles: Mapping[str, Role]
) -> list[Problem]:
    problems: list[Problem] = []

    def add(key: str, what: str, way_out: str = "") -> None:
        problems.append(experiment.problem(("roles", name, *key.split()), what, way_out))

    if role.command is None:
        short = [key[2] for key, source in experiment.sources.items() if key[:2] == ("roles", name) and source.written]
        other = next((other for other in roles if other != name), "")
        for key in dict.fromkeys(map(str, short)) if other else ():
            what = f"at the top it means roles.{name}.{key}, and roles.{name} has no command"
            add(key, what, f"did you mean roles.{other}.{key}?")
        if experiment.sources.get(("roles", name)) == Source("--set"):
            own = ", ".join(one for one in experiment.spec.roles if one != name)
            add("command", f"is missing: the file has no role {name!r}", f"it has {own}" if own else "")
        elif not short or not other:
            add("command", "is missing", _FIRST_COMMAND)
    if not extensions.exists("launchers", role.launcher.type):
        problems.append(unknown(experiment, cluster, ("roles", name, "launcher"), "launchers", role.launcher.type))
    container, at = effective_container(experiment, cluster, name, role)
    if container is not None and not extensions.exists("containers", container.runtime):
        problem = unknown(experiment, cluster, (*at, "runtime"), "containers", container.runtime)
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
    if role.min_replicas is not None and role.min_replicas > role.replicas:
        add("min_replicas", f"{role.min_replicas} are needed, but there are {role.replicas} replicas", "replicas = …")
    if role.min_replicas is not None and role.kind == "sidecar":
        add("min_replicas", "a sidecar may die unnoticed, so none of them is needed", 'kind = "service"')
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
