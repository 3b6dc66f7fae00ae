"""The nodes: each a network, mount, UTS and PID namespace with a slurmd in it, on a switch of the lab's own.

The switch is a bridge in a network namespace of its own, joined to the machine by one cable `gr-NAME`. So the machine
gets one interface per lab, and its packet filter (Docker's drops what crosses a bridge) does not see what nodes send
each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from gangrun.errors import LabError
from gangrun.lab import commands, config, processes
from gangrun.lab.processes import Process
from gangrun.lab.state import BASE, Home, Shape

NETNS = Path("/run/netns")
"""Where iproute2 keeps the names of network namespaces."""


def cable(name: str) -> str:
    """Interface of the machine that leads to the lab's switch."""
    return f"gr-{name}"


def switch(name: str) -> str:
    """Network namespace of the lab's switch."""
    return f"gangrun-{name}-switch"


def netns(name: str, node: str) -> str:
    """Network namespace of a node."""
    return f"gangrun-{name}-{node}"


def require_mounts() -> None:
    """LabError where a node could have no mounts of its own, as in a directory that was entered by plain chroot."""
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    if not any(fields[4] == "/" for fields in mounts):
        raise LabError(
            "nodes need a root that is a mount point, and / is none here",
            why="this is the inside of a chroot, where `unshare --mount` cannot keep mounts to itself",
            way_out="outside, before chroot: mount --bind DIRECTORY DIRECTORY, then /proc, /sys and /dev in it",
        )


@contextlib.contextmanager
def free_subnet() -> Iterator[int]:
    """Yield a K such that 10.77.K.0/24 and its ports are free on the machine; no other lab chooses meanwhile."""
    lock = os.open(BASE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        taken = taken_subnets(
            commands.run("ip", "-json", "-4", "route", "show", "table", "all"),
            commands.run("ip", "-json", "-4", "address"),
        )
        free = next((k for k in range(1, 255) if k not in taken and all(map(_bindable, config.ports(k)))), None)
        if free is None:
            raise LabError("no free subnet in 10.77.0.0/16", way_out="gangrun lab down --name NAME of a lab not needed")
        yield free
    finally:
        os.close(lock)


def taken_subnets(routes: str, addresses: str) -> set[int]:
    """Return the K of 10.77.K.0/24 in use, from what `ip -json route` and `ip -json address` print.

    Wider routes than 10.77.0.0/16 (a default route, a VPN's 10.0.0.0/8) do not count: ours is more specific.
    """
    labs = ipaddress.IPv4Network("10.77.0.0/16")
    networks = [entry.get("dst", "") for entry in json.loads(routes or "[]")]
    for entry in json.loads(addresses or "[]"):
        networks += [f"{a.get('local', '')}/{a.get('prefixlen', 32)}" for a in entry.get("addr_info", [])]
    taken: set[int] = set()
    for text in networks:
        try:
            network = ipaddress.IPv4Network(text, strict=False)
        except ValueError:
            continue
        if network.subnet_of(labs):
            first, last = network.network_address, network.broadcast_address
            taken.update(range(first.packed[2], last.packed[2] + 1))
    return taken


def build_switch(shape: Shape) -> None:
    """Make the switch and the machine's cable to it."""
    name = switch(shape.name)
    commands.run("ip", "netns", "add", name)
    _batch(name, "link add br0 type bridge", "link set br0 up")
    commands.run("ip", "link", "add", cable(shape.name), "type", "veth", "peer", "name", "login", "netns", name)
    _batch(name, "link set login master br0 up")
    _batch("", f"address add {shape.login_address}/24 dev {cable(shape.name)}", f"link set {cable(shape.name)} up")


def plug(shape: Shape, nodes: tuple[str, ...]) -> None:
    """Make the nodes' network namespaces, each with a cable `eth0` to the switch."""
    for node in nodes:
        commands.run("ip", "netns", "add", netns(shape.name, node))
    ports = []
    for node in nodes:
        # A fixed address, so that a node that has booted again is found at once by peers that remember it.
        mac = f"02:67:72:{shape.subnet:02x}:00:{shape.index(node):02x}"
        ports.append(f"link add {node} type veth peer name eth0 address {mac} netns {netns(shape.name, node)}")
        ports.append(f"link set {node} master br0 up")
    _batch(switch(shape.name), *ports)
    for node in nodes:
        _batch(
            netns(shape.name, node),
            "link set lo up",
            f"address add {shape.address(node)}/24 dev eth0",
            "link set eth0 up",
            # Nothing outside answers, but programs that find their own address by a default route (Ray) get it right,
            # and connections to the outside fail within seconds.
            "route add default dev eth0",
        )


def set_cable(shape: Shape, node: str, *, plugged: bool) -> None:
    """Pull a node's cable out of the switch, or put it back."""
    _batch(switch(shape.name), f"link set {node} {'up' if plugged else 'down'}")


def plugged(shape: Shape, node: str) -> bool:
    """Whether the node's cable is in the switch."""
    try:
        said = commands.run("ip", "-json", "-n", switch(shape.name), "link", "show", "dev", node)
    except LabError:
        return False
    return "UP" in json.loads(said)[0]["flags"]


def power_on(shape: Shape, place: Home, node: str) -> None:
    """Start process 1 of a node, which starts slurmd; does not wait for either."""
    fifo = place.run / f"{node}.fifo"
    if not fifo.exists():
        os.mkfifo(fifo, 0o600)
    commands.spawn(
        [
            commands.program("nsenter"),
            f"--net={NETNS / netns(shape.name, node)}",
            commands.program("unshare"),
            # What the machine mounts or unmounts later, the node sees; never the other way round.
            *("--mount", "--propagation=slave", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
            commands.program("bash"),
            str(place.run / f"{node}.sh"),
        ],
        record=place.pid(node),
        log=place.log(node),
        env=commands.environment(SLURM_CONF=str(place.slurm_conf)),
    )


def power_off(shape: Shape, place: Home, node: str) -> None:
    """Cut a node's power: silent on the network first, as a dead host sends no farewell, then every process at once.

    Its network namespace goes too: left alone, its kernel would go on answering for connections that died.
    """
    with contextlib.suppress(LabError):
        set_cable(shape, node, plugged=False)
    slay(residents(place, node))
    unplug(shape.name, node)


def unplug(name: str, node: str) -> None:
    """Remove a node's cable and network namespace, with whatever process is still in it."""
    with contextlib.suppress(LabError):
        commands.run("ip", "-n", switch(name), "link", "delete", node)
    remove_netns(netns(name, node))


def remove_netns(name: str) -> None:
    """Kill what runs in a network namespace and remove it; one that is not there is fine."""
    path = NETNS / name
    if not path.exists():
        return
    identity = f"net:[{path.stat().st_ino}]"
    if identity != processes.namespace(os.getpid(), "net"):
        slay(processes.inside("net", identity))
    commands.run("ip", "netns", "delete", name)


def slay(victims: list[Process]) -> None:
    """Kill processes at once and wait until they are gone."""
    for victim in victims:
        processes.send(victim, signal.SIGKILL)
    commands.wait_until(lambda: not any(v.alive for v in victims), 20, f"the end of {len(victims)} processes")


def residents(place: Home, node: str) -> list[Process]:
    """Return every living process of a node: those in its PID namespace, and the one outside that holds it."""
    holder = processes.recorded(place.pid(node))
    if holder is None:
        return []
    return [holder, *_inner(holder)]


def init(place: Home, node: str) -> Process | None:
    """Return process 1 of a node."""
    holder = processes.recorded(place.pid(node))
    if holder is None:
        return None
    return next((process for process in _inner(holder) if processes.inner_pid(process) == 1), None)


def slurmd(place: Home, node: str) -> Process | None:
    """Return a node's slurmd, which writes its pid as its own namespace counts."""
    holder = processes.recorded(place.pid(node))
    try:
        pid = int((place.run / f"slurmd-{node}.own").read_text())
    except (OSError, ValueError):
        return None
    if holder is None:
        return None
    found = next((process for process in _inner(holder) if processes.inner_pid(process) == pid), None)
    return found if found and processes.command_line(found).split()[0].endswith("slurmd") else None


def workload(place: Home, node: str) -> list[Process]:
    """Return the processes of a node other than its process 1 and its slurmd."""
    holder = processes.recorded(place.pid(node))
    if holder is None:
        return []
    daemon = slurmd(place, node)
    return [p for p in _inner(holder) if p != daemon and processes.inner_pid(p) > 1]


def enter(place: Home, node: str) -> list[str]:
    """Return the argv that goes before a command to run it on a node. LabError where the node is off."""
    first = init(place, node)
    if first is None:
        raise LabError(f"{node} is off", way_out=f"gangrun lab start {node}")
    return [commands.program("nsenter"), f"--target={first.pid}", "--mount", "--uts", "--net", "--pid", "--"]


def start_slurmd(place: Home, node: str) -> None:
    """Start slurmd on a running node that has none."""
    commands.run(
        *enter(place, node),
        commands.program("slurmd"),
        *("-f", str(place.slurm_conf), "-N", node),
        env=commands.environment(SLURM_CONF=str(place.slurm_conf)),
    )


def stop_slurmd(place: Home, node: str) -> None:
    """End a node's slurmd; the steps on the node go on."""
    daemon = slurmd(place, node)
    if daemon is None:
        return
    processes.send(daemon, signal.SIGTERM)
    commands.wait_until(lambda: not daemon.alive, 20, f"slurmd of {node} to end", log=place.logs / f"slurmd-{node}.log")


def demolish(name: str) -> None:
    """Remove the machine's cable and every network namespace of the lab, and kill what is left in them."""
    if Path(f"/sys/class/net/{cable(name)}").exists():
        commands.run("ip", "link", "delete", cable(name))
    for path in sorted(NETNS.glob(f"gangrun-{name}-*")) if NETNS.is_dir() else []:
        remove_netns(path.name)


def _inner(holder: Process) -> list[Process]:
    """Return the living processes of the PID namespace that `holder` made for its children."""
    identity = processes.namespace(holder.pid, "pid_for_children")
    if identity == processes.namespace(os.getpid(), "pid"):
        return []  # it has not come to its unshare yet
    return processes.inside("pid", identity)


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        # As the daemons do: connections of a former lab that are still fading out are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _batch(namespace: str, *lines: str) -> None:
    words = ["-n", namespace] if namespace else []
    commands.run("ip", *words, "-batch", "-", text="\n".join(lines) + "\n")
