"""Where a lab keeps its things, and whether one is up. Cheap to import: the command line asks before every command."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from gangrun.errors import UsageError
from gangrun.lab import processes

BASE = Path("/var/tmp")  # noqa: S108 - the directory below is checked to be root's own, see `owned`
"""Labs live here: on a disk (a database is 100 MB), readable by all, and with paths short enough for sockets."""

PREFIX = "gangrun-lab-"
NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
"""What a lab may be called: 12 characters, for `gr-NAME` must be the name of a network interface (15)."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Shape:
    """What `up` was asked for, and the numbers it chose."""

    name: str
    nodes: int
    gpus: int
    """Stand-in GPUs per node."""
    cpus: int
    """CPUs per node, as Slurm is told."""
    mem: int
    """Memory per node in MB, as Slurm is told."""
    accounting: bool
    slurmd_timeout: int
    """Seconds until Slurm gives a silent node up."""
    min_job_age: int
    """Seconds until slurmctld forgets a job that has ended."""
    subnet: int
    """K of 10.77.K.0/24."""
    login: str
    """The machine's own host name, without a domain."""

    @property
    def node_names(self) -> tuple[str, ...]:
        """Names of the nodes, in order."""
        return tuple(f"node{i}" for i in range(1, self.nodes + 1))

    @property
    def login_address(self) -> str:
        """IPv4 address of the machine on the lab's network."""
        return f"10.77.{self.subnet}.1"

    def address(self, node: str) -> str:
        """IPv4 address of a node."""
        return f"10.77.{self.subnet}.{10 + self.index(node)}"

    def index(self, node: str) -> int:
        """1-based number of a node. UsageError where there is no such node."""
        if node not in self.node_names:
            raise UsageError(
                f"no node called {node!r}",
                where=f"lab {self.name}",
                way_out=f"its nodes are {', '.join(self.node_names)}",
            )
        return self.node_names.index(node) + 1


@dataclass(frozen=True, slots=True)
class Home:
    """The lab's directory: the one place that knows the names in it."""

    root: Path

    @property
    def shape(self) -> Path:
        """The `Shape` as JSON, with the boot it was made in."""
        return self.root / "lab.json"

    @property
    def builder(self) -> Path:
        """Record of the process that is in the middle of `up`."""
        return self.root / "builder.pid"

    @property
    def profile(self) -> Path:
        """The cluster profile; written last by `up`, so its presence says that `up` came to its end."""
        return self.root / "profile.toml"

    @property
    def slurm_conf(self) -> Path:
        """The configuration that all daemons and clients share; gres.conf, cgroup.conf, slurmdbd.conf beside it."""
        return self.root / "slurm.conf"

    @property
    def run(self) -> Path:
        """Pid records and sockets."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """The daemons' logs."""
        return self.root / "log"

    @property
    def devices(self) -> Path:
        """Stand-in GPUs `nvidia0`…"""
        return self.root / "dev"

    @property
    def programs(self) -> Path:
        """What jobs find first on their PATH: an `nvidia-smi` for the stand-in GPUs."""
        return self.root / "bin"

    @property
    def controller(self) -> Path:
        """StateSaveLocation of slurmctld."""
        return self.root / "ctld"

    @property
    def spool(self) -> Path:
        """SlurmdSpoolDir of every node, one directory each."""
        return self.root / "spool"

    @property
    def database(self) -> Path:
        """MariaDB's data."""
        return self.root / "db"

    @property
    def munge_key(self) -> Path:
        """The lab's own munge key."""
        return self.root / "munge.key"

    @property
    def munge_socket(self) -> Path:
        """Socket of the lab's own munged."""
        return self.run / "munge" / "s"

    @property
    def database_socket(self) -> Path:
        """Socket of the lab's own MariaDB."""
        return self.run / "mariadb.s"

    def pid(self, daemon: str) -> Path:
        """Record of a daemon (slurmctld slurmdbd mariadb munged, or a node): a copy of its /proc/PID/stat."""
        return self.run / f"{daemon}.pid"

    def log(self, daemon: str) -> Path:
        """Where a daemon writes."""
        return self.logs / f"{daemon}.log"


def home(name: str) -> Home:
    """Return the directory of the lab called `name`, there or not. UsageError for a name that no lab can have."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a lab", way_out="a letter, then up to 11 lower-case letters and digits"
        )
    return Home(BASE / f"{PREFIX}{name}")


def owned(root: Path) -> bool:
    """Whether `root` is a directory that only root can have filled: /var/tmp is open to everyone."""
    try:
        found = root.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o022


def make_directory(path: Path) -> None:
    """Make a directory that job users can enter, whatever root's umask is. FileExistsError where it is there."""
    path.mkdir(mode=0o755)
    path.chmod(0o755)


def write(place: Home, shape: Shape) -> None:
    """Record `shape` and the present boot."""
    place.shape.write_text(json.dumps({"boot": _boot(), **asdict(shape)}, indent=1) + "\n")
    place.shape.chmod(0o644)


def read(place: Home) -> Shape | None:
    """Return the lab's shape; None where there is none, or it was made before the machine last booted."""
    if not owned(place.root):
        return None
    try:
        fields = json.loads(place.shape.read_text())
        if fields.pop("boot") != _boot():
            return None
        return Shape(**fields)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def profile_path(name: str = "lab") -> Path | None:
    """Return the profile of the lab called `name` if that lab is up, else None.

    Up means: `up` came to its end in this boot of the machine, and slurmctld or a node still lives. It is cheap (two
    small files and a look at /proc) and needs no rights.
    """
    if not NAME.fullmatch(name):
        return None
    place = home(name)
    shape = read(place)
    if shape is None or not place.profile.is_file():
        return None
    if any(processes.recorded(place.pid(daemon)) for daemon in ("slurmctld", *shape.node_names)):
        return place.profile
    return None


def _boot() -> str:
    return BOOT_ID.read_text().strip()
