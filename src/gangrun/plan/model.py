"""What will happen, as data: a plan is replicas placed on the nodes and GPUs of one allocation.

Nodes and GPUs are indices here (node 0 is the first that the scheduler names, GPU 0 the first of the allocation on
its node). Host names, port numbers and the run's directory are known only when the job runs, so a `Word` may hold
references to them, which the script turns into bash variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["main", "service", "sidecar"]


@dataclass(frozen=True, slots=True)
class Host:
    """The host name of one node of the allocation, known when the job starts."""

    node: int


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port: the job's port base plus `offset`."""

    offset: int


@dataclass(frozen=True, slots=True)
class Addresses:
    """`host:port` of all replicas of a role, joined by commas."""

    role: str
    port: str
    """The port's name."""


@dataclass(frozen=True, slots=True)
class Var:
    """A fact of the run that only the script knows."""

    name: Literal["run_dir", "run_name", "job", "attempt", "load", "resumed"]


@dataclass(frozen=True, slots=True)
class Value:
    """A value of each item of a sweep, in the plan that items share before `gangrun.plan.fill` makes it theirs."""

    name: str


@dataclass(frozen=True, slots=True)
class Option:
    """Parts that are there only where a fact is not empty."""

    given: Var
    parts: tuple[Part, ...]


Part: TypeAlias = "str | Host | Port | Addresses | Var | Value | Option"


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command line: literal text and references, in order. Quoting is the renderer's business."""

    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, *parts: Part) -> Word:
        """Joins neighbouring literals, so that equal words compare equal."""
        joined: list[Part] = []
        for part in parts:
            if isinstance(part, str) and joined and isinstance(joined[-1], str):
                joined[-1] += part
            elif part != "":
                joined.append(part)
        return cls(tuple(joined))


@dataclass(frozen=True, slots=True)
class Ready:
    """When a replica counts as ready: a port of it listens, a URL answers 2xx or 3xx, or a file exists."""

    kind: Literal["port", "http", "file"]
    target: Word
    """`host:port`, the URL, or the path."""
    within: int
    """Seconds until it counts as failed."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One placed replica of a role: one step of the job."""

    role: str
    index: int
    count: int
    """Replicas of the role."""
    kind: Kind
    nodes: tuple[int, ...]
    """Ascending node indices."""
    gpus: tuple[int, ...]
    """GPU indices, the same on each of its nodes; empty for none."""
    cpus: int | None
    """CPUs on each of its nodes, None where the allocation does not say."""
    tasks: int
    """Processes that the scheduler starts on each node."""
    ranks: bool
    """Whether each process gets RANK, LOCAL_RANK, WORLD_SIZE, NODE_RANK, MASTER_ADDR and MASTER_PORT."""
    argv: tuple[Word, ...]
    env: tuple[tuple[str, Word], ...] = ()
    ports: tuple[tuple[str, Port], ...] = ()
    after: tuple[str, ...] = ()
    """Names of roles all of whose replicas must be ready (services) or have exited 0 (mains) before it starts."""
    ready: Ready | None = None
    restarts: int = 0
    spare: int = 0
    """How many replicas of its role the job can go on without."""
    step_flags: tuple[Word, ...] = ()
    """Flags for the step itself, as a container runtime may need them."""
    parts: tuple[str, ...] = ()
    """What each of its nodes must have for its container: programs by their names, and absolute paths."""
    shares_gpus: bool = False
    """Whether its GPUs belong to the role that it runs beside."""
    threads: int | None = None
    """CPUs for each process in the end, workers of torchrun included: the default of OMP_NUM_THREADS."""
    again: tuple[Word, ...] = ()
    """What takes the place of `argv` in an attempt that goes on from a checkpoint of the run's own, if anything."""
    alone: bool = True
    """Whether no other replica but sidecars uses its nodes."""

    @property
    def name(self) -> str:
        """`ROLE.INDEX`, the replica's name in logs, status files and steps."""
        return f"{self.role}.{self.index}"


@dataclass(frozen=True, slots=True)
class Allocation:
    """What is asked of the scheduler."""

    nodes: int
    gpus: int
    """Per node."""
    cpus: int | None
    """Per node."""
    mem: str | None
    """Per node, in Slurm's notation."""
    time: int | None
    """Seconds."""
    flags: tuple[tuple[str, str | None], ...] = ()
    """The batch flags in order, long names without dashes; None for a flag without a value."""


@dataclass(frozen=True, slots=True)
class Need:
    """A step whose newest run, or one item of it, must have succeeded before this one starts."""

    experiment: str
    step: str
    item: str = ""

    @property
    def whole(self) -> Need:
        """The step itself."""
        return Need(self.experiment, self.step)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.experiment, self.step, self.item)))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the job loads, found when it starts."""

    path: str
    """A file, or a directory to look in; empty where there is only `own`."""
    glob: str
    """Names in that directory."""
    need: Need | None = None
    """The step whose run's directory the path is. Until that run is known it is the link to the newest one."""
    own: str = ""
    """Names in the run's own directory, which come first: what its earlier attempts left."""


@dataclass(frozen=True, slots=True)
class Import:
    """How a program of the run would import the project."""

    python: Word
    """The interpreter, as the command names it."""
    first: str
    """The directory that the interpreter puts first on its path; from the root of the copy, if it is in it."""
    path: Word | None = None
    """PYTHONPATH where a role has one of its own."""


@dataclass(frozen=True, slots=True)
class Code:
    """The copy of the code that the run uses."""

    words: str
    """Commit, changes and content, for the job's log."""
    copy: str
    """Where the copy of the repository is."""
    live: str
    """Where the repository is."""
    project: str
    """The project's root, from that of the repository."""
    packages: tuple[str, ...]
    """Packages that Python may import from the copy, and from nowhere else."""
    modules: tuple[str, ...]
    """Single modules of the copy, which it must not import from the repository."""
    imports: tuple[Import, ...]


@dataclass(frozen=True, slots=True)
class Requeue:
    """After what the job is queued again, and how its program hears of the time limit."""

    limit: int
    preemption: int
    node: int
    """How often, by reason."""
    before: int
    """Seconds before the time limit at which the program is warned; 0 for no warning."""
    signal: str = ""
    """By which signal, besides the file."""
    glob: str = ""
    """Names of the run's own checkpoints, which tell how far it has come; empty where they do not."""
    items: bool = False
    """Whether the items of its pool that are done tell it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the script needs, and nothing that depends on when or under which name it runs."""

    experiment: str
    step: str
    seed: int | None
    cluster: str
    scheduler: Literal["slurm", "local"]
    allocation: Allocation
    replicas: tuple[Replica, ...]
    """In the order in which they start."""
    ports: int
    """How many ports the job needs."""
    setup: tuple[str, ...]
    """Lines of bash, run once at the start of the job."""
    env: tuple[tuple[str, Word], ...]
    workdir: str
    """Absolute directory in which the commands start."""
    grace: int
    """Seconds between asking a replica to stop and making it."""
    template: str | None = None
    """Path of the user's own script template."""
    variables: tuple[tuple[str, Word | int | float | bool], ...] = ()
    """What that template may use besides what every template gets."""
    files: tuple[tuple[str, Word], ...] = ()
    """Text files for the run's directory, by their path in it; of references only those that are known when it is
    made: `Var` of the run's name and directory."""
    own: tuple[Replica, ...] = ()
    """Sidecars that gangrun adds. No role is called like them (`_NAME`), and they take no part in the placement."""
    programs: tuple[str, ...] = ()
    """Files of `gangrun.node` that the job runs; they are packed into the run directory."""
    needs: tuple[Need, ...] = ()
    """Steps that must have succeeded before."""
    waits: tuple[str, ...] = ()
    """Directories of attempts on this machine that must end well first; on a cluster its scheduler waits."""
    checkpoint: Checkpoint | None = None
    """What it loads."""
    code: Code | None = None
    """The copy of the code that it uses; None for the project as it is when the job runs."""
    debug: bool = False
    """Whether the job tells more about itself."""
    requeue: Requeue | None = None
    """When its job is queued again; None on this machine, which has no queue."""
    notes: tuple[str, ...] = ()
    """What a reader of the plan should know, such as a flag that the site forbids and that is left out."""

    @property
    def unused_nodes(self) -> tuple[int, ...]:
        """Nodes with nothing on them but sidecars, which only watch."""
        used = {node for replica in self.replicas if replica.kind != "sidecar" for node in replica.nodes}
        return tuple(node for node in range(self.allocation.nodes) if node not in used)

    @property
    def spare_nodes(self) -> tuple[int, ...]:
        """Unused nodes onto which a replica with restarts moves when it loses its own and the job outlives that."""
        return self.unused_nodes if "no-kill" in dict(self.allocation.flags) else ()
