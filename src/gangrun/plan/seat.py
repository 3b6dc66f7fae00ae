"""What launchers, topologies and containers are given and give back: the vocabulary of extensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gangrun.plan.model import Host, Kind, Port, Word
from gangrun.spec.model import Allocation, Container, Role


@dataclass(frozen=True, slots=True)
class Seat:
    """One placed replica before its launcher has seen it."""

    role: str
    index: int
    nodes: tuple[int, ...]
    gpus: tuple[int, ...]
    """On each of its nodes."""
    tasks: int | None
    """Processes on each node, if the role says."""
    command: tuple[Word, ...]
    options: Mapping[str, Any]
    """The launcher's own keys, from `launcher = { type = …, … }`; text with references is a Word."""
    port: Callable[[str], Port]
    """A TCP port of this replica by name, reserved at the first call and checked free on its first node."""
    kind: Kind = "main"

    @property
    def host(self) -> Host:
        """Its first node, rank 0's."""
        return Host(self.nodes[0])

    @property
    def processes(self) -> int:
        """Processes on each node: what the role says, else one for each GPU, else one."""
        return self.tasks or len(self.gpus) or 1


@dataclass(frozen=True, slots=True)
class Launch:
    """How one replica is started."""

    argv: tuple[Word, ...]
    """What runs in each process that the scheduler starts."""
    nodes: int | None = None
    """On how many of its nodes, from the first; None for all."""
    tasks: int = 1
    """How many processes the scheduler starts on each of these."""
    workers: int = 1
    """How many processes each of those becomes, as torchrun's agent does; they share its CPUs."""
    ranks: bool = False
    """Whether each gets RANK, LOCAL_RANK, WORLD_SIZE, NODE_RANK, MASTER_ADDR and MASTER_PORT."""


@dataclass(frozen=True, slots=True)
class Contained:
    """A command inside a container."""

    argv: tuple[Word, ...]
    step_flags: tuple[Word, ...] = ()
    """Flags for srun, for runtimes that are plugins of Slurm."""
    parts: tuple[str, ...] = ()
    """What each node must have for it: programs by their names, and absolute paths."""
    notes: tuple[str, ...] = ()
    """What a reader of the plan should know about it."""


class Launcher(Protocol):
    """A placed replica to its command line."""

    def __call__(self, seat: Seat) -> Launch:
        """See the class."""


class Topology(Protocol):
    """A role to itself and its companions. Raises ValueError with words for the user."""

    def __call__(self, name: str, role: Role, allocation: Allocation) -> Mapping[str, Role]:
        """See the class."""


class Runtime(Protocol):
    """A command line to the same in a container. Raises ValueError with words for the user.

    The container comes with the project among its mounts and with a workdir; `argv` sets its environment itself.
    """

    def __call__(self, container: Container, argv: tuple[Word, ...], seat: Seat) -> Contained:
        """See the class."""


def flags(options: Mapping[str, Any]) -> tuple[Word, ...]:
    """Options as long flags: `max_restarts = 3` is `--max-restarts=3`, `true` a bare flag, `false` nothing.

    Raises ValueError for a list or a table.
    """
    for name, value in options.items():
        if not isinstance(value, (bool, str, Word, int, float)):
            raise ValueError(f"{name} is text, a number, true or false, not {value!r}")
    return tuple(_flag(name.replace("_", "-"), value) for name, value in options.items() if value is not False)


def _flag(name: str, value: bool | str | Word | int | float) -> Word:
    if value is True:
        return Word.of(f"--{name}")
    return Word.of(f"--{name}=", *(value.parts if isinstance(value, Word) else [str(value)]))


def mounts(container: Container, forbidden: str = "") -> list[tuple[str, str, bool]]:
    """Source, target and whether it is read-only, of each mount.

    Raises ValueError for a character that the runtime takes for a separator.
    """
    found = []
    for mount in container.mounts:
        if wrong := [letter for letter in forbidden if letter in mount]:
            raise ValueError(f"{container.runtime} cannot mount {mount!r}: it reads {wrong[0]!r} as a separator")
        source, target, *mode = mount.split(":")
        found.append((source, target, bool(mode)))
    return found


def paths(container: Container) -> tuple[str, ...]:
    """What of the node the container is made of: its image, where that is a file, and the sources of its mounts."""
    image = (container.image,) if container.image.startswith("/") else ()
    return (*image, *(source for source, _, _ in mounts(container)))


def no_more_keys(container: Container) -> None:
    """Raises ValueError for a key that containers do not have."""
    if container.options:
        known = ", ".join(Container.model_fields)
        raise ValueError(f"{container.runtime} has no key {next(iter(container.options))!r}; a container has {known}")


def no_options(launcher: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError if there are any."""
    if options:
        raise ValueError(f"{launcher} has no options, but {', '.join(options)} is given: launcher = {launcher!r}")
