"""A lab as a whole: up, the faults one can put on it, down."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gangrun.errors import LabError, UsageError
from gangrun.lab import commands, config, hosts, packages, processes, services, state
from gangrun.lab.state import Home, Shape


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node, as the machine sees it and as Slurm does."""

    name: str
    address: str
    power: bool
    """Whether its processes live."""
    cable: bool
    """Whether it is joined to the network."""
    slurmd: bool
    """Whether its slurmd runs."""
    slurm: str
    """Slurm's word for its state such as `idle` or `down*`; empty where slurmctld does not answer."""


@dataclass(frozen=True, slots=True)
class Status:
    """A lab that is up."""

    name: str
    directory: str
    profile: str
    slurm_conf: str
    network: str
    slurmctld: bool
    accounting: bool
    nodes: tuple[NodeStatus, ...]


class Lab:
    """A real Slurm of several hosts on this machine. Needs root; several stand side by side under different names."""

    def __init__(self, name: str = "lab") -> None:
        """Name a lab, up or not. UsageError for a name that no lab can have."""
        self.name = name
        self._place = state.home(name)

    @property
    def directory(self) -> Path:
        """Where it keeps everything."""
        return self._place.root

    @property
    def slurm_conf(self) -> Path:
        """Its slurm.conf."""
        return self._place.slurm_conf

    @property
    def profile(self) -> Path | None:
        """Its cluster profile; None while it is not up."""
        return state.profile_path(self.name)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of its nodes. LabError where it is not up."""
        return self._shape().node_names

    def up(
        self,
        nodes: int = 4,
        gpus: int = 8,
        cpus: int = 32,
        mem: int = 200_000,
        *,
        accounting: bool = False,
        slurmd_timeout: int = 300,
        min_job_age: int = 300,
    ) -> None:
        """Build it and wait until every node is idle; take everything down again where that fails.

        `gpus`, `cpus` and `mem` (MB) are per node and what Slurm is told, whatever the machine has. Times in seconds.
        LabError without root, without the packages, or where a lab of that name is up; UsageError for numbers that
        cannot be. What an earlier lab of that name left behind is removed first.
        """
        _check_numbers(
            nodes=nodes, gpus=gpus, cpus=cpus, mem=mem, slurmd_timeout=slurmd_timeout, min_job_age=min_job_age
        )
        _require_root()
        hosts.require_mounts()
        packages.require(accounting=accounting)
        if self.profile is not None:
            raise LabError(
                f"a lab called {self.name} is up already",
                where=str(self.directory),
                way_out="gangrun lab down, or --name",
            )
        self.down()
        try:
            state.make_directory(self.directory)
        except FileExistsError as error:
            raise self._being_built() from error
        try:
            processes.record(self._place.builder)
            with hosts.free_subnet() as subnet:
                shape = Shape(
                    name=self.name,
                    nodes=nodes,
                    gpus=gpus,
                    cpus=cpus,
                    mem=mem,
                    accounting=accounting,
                    slurmd_timeout=slurmd_timeout,
                    min_job_age=min_job_age,
                    subnet=subnet,
                    login=socket.gethostname().split(".")[0],
                )
                state.write(self._place, shape)
                hosts.build_switch(shape)
            self._build(shape)
            self._place.builder.unlink()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove every trace: processes, network, directory. A lab half-built, crashed or not there is fine.

        LabError where another process is building it just now.
        """
        _require_root()
        if self.directory.is_symlink() or (self.directory.exists() and not state.owned(self.directory)):
            raise LabError("is not a lab's directory: somebody else made it", where=str(self.directory))
        builder = processes.recorded(self._place.builder)
        if builder is not None and builder.pid != os.getpid():
            raise self._being_built()
        self._place.profile.unlink(missing_ok=True)
        for record in sorted(self._place.run.glob("node*.pid")):
            hosts.slay(hosts.residents(self._place, record.stem))
        services.kill_all(self._place)
        hosts.demolish(self.name)
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def env(self) -> dict[str, str]:
        """Return the present environment with SLURM_CONF set, for `subprocess`: sbatch then reaches this lab.

        LabError where it is not up. Needs no root.
        """
        self._shape()
        return {**os.environ, "SLURM_CONF": str(self.slurm_conf)}

    def status(self) -> Status:
        """Return how it is. LabError where it is not up."""
        _require_root()
        shape = self._shape()
        slurmctld = processes.recorded(self._place.pid("slurmctld")) is not None
        # Without slurmctld, sinfo would take 10 s to say nothing.
        seen = self._slurm_states() if slurmctld else {}
        return Status(
            name=self.name,
            directory=str(self.directory),
            profile=str(self._place.profile),
            slurm_conf=str(self.slurm_conf),
            network=f"10.77.{shape.subnet}.0/24",
            slurmctld=slurmctld,
            accounting=shape.accounting,
            nodes=tuple(
                NodeStatus(
                    name=node,
                    address=shape.address(node),
                    power=processes.recorded(self._place.pid(node)) is not None,
                    cable=hosts.plugged(shape, node),
                    slurmd=hosts.slurmd(self._place, node) is not None,
                    slurm=seen.get(node, ""),
                )
                for node in shape.node_names
            ),
        )

    def enter(self, node: str) -> list[str]:
        """Return the argv that, put before a command, runs it on a node, in the present directory.

        LabError where the node is off.
        """
        self._node(node)
        # Entering a mount namespace leads to its root; a full path holds on both sides.
        here = [commands.program("sh"), "-c", 'cd -- "$0" && exec "$@"', str(Path.cwd())]
        return [*hosts.enter(self._place, node), *here]

    def processes(self, node: str) -> list[tuple[int, str]]:
        """Return (pid on the machine, command line) of what jobs have running on a node.

        Its process 1, its slurmd and zombies are left out; slurmstepd of a step that has not ended is among them.
        """
        self._node(node)
        return [(p.pid, processes.command_line(p)) for p in hosts.workload(self._place, node)]

    def kill(self, node: str) -> None:
        """Cut a node's power: its processes die at once and its network falls silent. A node that is off stays off."""
        hosts.power_off(self._node(node), self._place, node)

    def start(self, node: str) -> None:
        """Boot a node that was killed, and wait until its slurmd runs (not until Slurm uses it again)."""
        shape = self._node(node)
        if processes.recorded(self._place.pid(node)) is not None:
            raise UsageError(
                f"{node} is running", where=f"lab {self.name}", way_out=f"gangrun lab restart slurmd {node}"
            )
        hosts.unplug(self.name, node)
        (self._place.run / f"slurmd-{node}.own").unlink(missing_ok=True)
        hosts.plug(shape, (node,))
        hosts.power_on(shape, self._place, node)
        self._await_slurmd(node)

    def cut(self, node: str) -> None:
        """Pull a node's network cable; its processes live on. LabError where the node is off."""
        shape = self._running(node)
        hosts.set_cable(shape, node, plugged=False)

    def mend(self, node: str) -> None:
        """Put a node's network cable back. LabError where the node is off."""
        shape = self._running(node)
        hosts.set_cable(shape, node, plugged=True)

    def stop_slurmctld(self) -> None:
        """End slurmctld in order; jobs go on without it."""
        _require_root()
        self._shape()
        services.stop_slurmctld(self._place)

    def start_slurmctld(self) -> None:
        """Start slurmctld after `stop_slurmctld`, and wait until it answers. UsageError where it runs."""
        _require_root()
        self._shape()
        if processes.recorded(self._place.pid("slurmctld")) is not None:
            raise UsageError("slurmctld is running", where=f"lab {self.name}", way_out="gangrun lab restart slurmctld")
        services.start_slurmctld(self._place)

    def restart_slurmctld(self) -> None:
        """End slurmctld, start it again, and wait until it answers."""
        self.stop_slurmctld()
        self.start_slurmctld()

    def restart_slurmd(self, node: str) -> None:
        """End a node's slurmd and start it again; the steps on the node go on. LabError where the node is off."""
        self._running(node)
        hosts.stop_slurmd(self._place, node)
        hosts.start_slurmd(self._place, node)
        self._await_slurmd(node)

    def _being_built(self) -> LabError:
        return LabError(f"a lab called {self.name} is being built just now", way_out="wait, or take another --name")

    def _shape(self) -> Shape:
        shape = state.read(self._place)
        if shape is None or not self._place.profile.is_file():
            raise LabError(f"no lab called {self.name} is up", way_out=f"gangrun lab up --name {self.name}")
        return shape

    def _node(self, node: str) -> Shape:
        _require_root()
        shape = self._shape()
        shape.index(node)
        return shape

    def _running(self, node: str) -> Shape:
        shape = self._node(node)
        if processes.recorded(self._place.pid(node)) is None:
            raise LabError(f"{node} is off", where=f"lab {self.name}", way_out=f"gangrun lab start {node}")
        return shape

    def _build(self, shape: Shape) -> None:
        place = self._place
        for path in (place.run, place.munge_socket.parent, place.logs, place.devices, place.programs, place.spool):
            state.make_directory(path)
        for node in shape.node_names:
            state.make_directory(place.spool / node)
        place.controller.mkdir(mode=0o700)
        files = config.files(
            shape,
            place,
            version=config.version_of(commands.run("slurmd", "-V")),
            nsswitch_text=Path("/etc/nsswitch.conf").read_text(),
            slurmd=commands.program("slurmd"),
        )
        for path, (text, mode) in files.items():
            path.touch(mode)
            path.chmod(mode)
            path.write_text(text)
        _make_devices(shape, place)
        with ThreadPoolExecutor(max_workers=1) as beside:
            database = beside.submit(services.start_database, place) if shape.accounting else None
            services.start_munged(place)
            hosts.plug(shape, shape.node_names)
            if database is not None:
                database.result()
                services.start_slurmdbd(shape, place)
            services.start_slurmctld(place)
            for node in shape.node_names:
                hosts.power_on(shape, place, node)
        try:
            commands.wait_until(self._all_idle, 60, "every node to be idle", log=place.log("slurmctld"))
        except LabError as error:
            late = next((node for node in shape.node_names if self._slurm_states().get(node) != "idle"), "")
            slurmd = commands.tail(place.logs / f"slurmd-{late}.log")
            raise LabError(error.what, where=late, why="\n    ".join(filter(None, (error.why, slurmd)))) from error
        fresh = place.profile.with_suffix(".new")
        fresh.write_text(config.profile(shape, place))
        fresh.chmod(0o644)
        fresh.replace(place.profile)

    def _all_idle(self) -> bool:
        shape = state.read(self._place)
        for node in shape.node_names if shape else ():
            if processes.recorded(self._place.pid(node)) is None:
                raise LabError("did not come up", where=node, why=commands.tail(self._place.log(node)))
        seen = self._slurm_states()
        return shape is not None and all(seen.get(node) == "idle" for node in shape.node_names)

    def _slurm_states(self) -> dict[str, str]:
        env = commands.environment(SLURM_CONF=str(self.slurm_conf))
        try:
            said = commands.run("sinfo", "--noheader", "--Node", "--format=%N %T", env=env, limit=10)
        except LabError:
            return {}
        return dict(line.split(maxsplit=1) for line in said.splitlines() if " " in line)

    def _await_slurmd(self, node: str) -> None:
        log = self._place.logs / f"slurmd-{node}.log"
        commands.wait_until(lambda: hosts.slurmd(self._place, node) is not None, 30, f"slurmd on {node}", log=log)


def _make_devices(shape: Shape, place: Home) -> None:
    for index in range(shape.gpus):
        path = place.devices / f"nvidia{index}"
        # 1:3 is /dev/null: slurmd wants a character device and nothing of it.
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.chmod(0o666)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("a lab needs root", why="it makes network namespaces and starts Slurm's daemons", way_out="sudo")


def _check_numbers(**numbers: int) -> None:
    limits = {"nodes": (1, 240), "gpus": (0, 64), "cpus": (1, 4096), "mem": (1, 100_000_000)}
    for name, number in numbers.items():
        low, high = limits.get(name, (1, 65533))
        if not low <= number <= high:
            raise UsageError(f"{name} = {number} is out of range", way_out=f"from {low} to {high}")
