"""Placement: every replica gets its nodes, GPUs and CPUs. The only code that knows a GPU index.

Nothing is rounded: what does not fit is a `Misfit` with the numbers in it. The order is that of the file, except that
roles which claim GPUs or whole nodes come first, then CPU-only ones, then those beside another, then sidecars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gangrun.spec.model import Allocation, Role


@dataclass(frozen=True, slots=True)
class Spot:
    """Where one replica sits."""

    nodes: tuple[int, ...]
    gpus: tuple[int, ...] = ()
    """On each of its nodes."""
    cpus: int | None = None
    """On each of its nodes; None where the allocation does not say how many there are."""
    shares_gpus: bool = False
    alone: bool = True
    """Whether no other replica but sidecars uses its nodes."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a role cannot be placed."""

    role: str
    key: str
    """The key of the role, or of the allocation where `role` is empty, that stands in the way."""
    what: str
    way_out: str = ""


class _CannotPlaceError(Exception):
    def __init__(self, key: str, what: str, way_out: str = "") -> None:
        self.key, self.what, self.way_out = key, what, way_out


def place(roles: Mapping[str, Role], allocation: Allocation) -> tuple[dict[str, tuple[Spot, ...]], list[Misfit]]:
    """The spots of every role's replicas, and why the others have none."""
    board = _Board(allocation)
    misfits: list[Misfit] = []
    for name in _order(roles):
        try:
            board.seat(name, roles[name])
        except _CannotPlaceError as error:
            misfits.append(Misfit(name, error.key, error.what, error.way_out))
    if not misfits:
        misfits = board.split_cpus(roles)
    return {name: tuple(board.spots.get(name, ())) for name in roles}, misfits


def _order(roles: Mapping[str, Role]) -> list[str]:
    """Claims first, then CPU-only roles, then roles beside others (after those), then sidecars; else as written."""

    def depth(name: str, seen: tuple[str, ...] = ()) -> int:
        beside = roles[name].beside
        return 1 + depth(beside, (*seen, name)) if beside is not None and beside in roles and name not in seen else 0

    def rank(name: str) -> tuple[int, int]:
        role = roles[name]
        if role.beside is not None:
            return 2, depth(name)
        if role.kind == "sidecar" and not role.gpus:
            return 3, 0
        return (1 if role.gpus == 0 else 0), 0

    return sorted(roles, key=rank)


@dataclass
class _Board:
    allocation: Allocation
    spots: dict[str, list[Spot]] = field(default_factory=dict)
    free: list[set[int]] = field(init=False)
    """Free GPUs of each node."""
    holder: list[str] = field(init=False)
    """The role that holds the whole node, or nothing."""

    def __post_init__(self) -> None:
        self.free = [set(range(self.allocation.gpus)) for _ in range(self.allocation.nodes)]
        self.holder = [""] * self.allocation.nodes

    def seat(self, name: str, role: Role) -> None:
        if role.nodes is not None and role.nodes > self.allocation.nodes:
            have = _count(self.allocation.nodes, "node")
            raise _CannotPlaceError(
                "nodes", f"{_count(role.nodes, 'node')} for each replica, the allocation has {have}"
            )
        if isinstance(role.gpus, int) and role.gpus > self.allocation.gpus:
            have = _count(self.allocation.gpus, "GPU")
            raise _CannotPlaceError(
                "gpus", f"{_count(role.gpus, 'GPU')} on each node, the allocation has {have} on each"
            )
        if role.gpus == "shared" and role.beside is None:
            raise _CannotPlaceError("gpus", '"shared" needs a role to share with', 'say beside = "ROLE"')
        if role.beside is not None:
            spots = self._beside(role)
        elif role.kind == "sidecar" and not role.gpus:
            spots = self._spread(role, role.nodes or self.allocation.nodes)
        elif role.gpus == 0:
            spots = self._spread(role, role.nodes or 1)
        elif role.gpus is None and role.nodes is None:
            spots = self._everything(name, role)
        elif role.gpus is None:
            spots = [self._whole_nodes(name, role.nodes or 1, index, role) for index in range(role.replicas)]
        else:
            spots = [self._slice(int(role.gpus), role.nodes or 1, index, role) for index in range(role.replicas)]
        self.spots[name] = spots

    def _everything(self, name: str, role: Role) -> list[Spot]:
        """The whole allocation, divided evenly among the replicas."""
        nodes, gpus, replicas = self.allocation.nodes, self.allocation.gpus, role.replicas
        if role.cpus is not None and not gpus:
            return self._spread(role, 1)
        if replicas <= nodes:
            if nodes % replicas:
                raise _CannotPlaceError("replicas", f"{_count(nodes, 'node')} do not divide among {replicas} replicas")
            return [self._whole_nodes(name, nodes // replicas, index, role) for index in range(replicas)]
        if replicas % nodes:
            raise _CannotPlaceError("replicas", f"{replicas} replicas do not divide among {_count(nodes, 'node')}")
        each = replicas // nodes
        if not gpus:
            return self._spread(role, 1)
        if gpus % each:
            raise _CannotPlaceError("replicas", f"{gpus} GPUs of a node do not divide among {each} replicas")
        return [self._slice(gpus // each, 1, index, role) for index in range(replicas)]

    def _whole_nodes(self, name: str, nodes: int, index: int, role: Role) -> Spot:
        everything = set(range(self.allocation.gpus))
        empty = [node for node, free in enumerate(self.free) if not self.holder[node] and free == everything]
        if len(empty) < nodes:
            have = f"{len(empty)} of {_count(self.allocation.nodes, 'node')} free"
            taken = self._taken()
            raise _CannotPlaceError(
                "nodes" if role.nodes else "",
                f"replica {index} of {role.replicas} takes {_count(nodes, 'whole node')}, but only {have}{taken}",
                "say nodes and gpus for each role, or ask for more nodes",
            )
        for node in empty[:nodes]:
            self.free[node] = set()
            self.holder[node] = name
        return Spot(tuple(empty[:nodes]), tuple(sorted(everything)))

    def _slice(self, gpus: int, nodes: int, index: int, role: Role) -> Spot:
        """The lowest free GPUs that are free on enough nodes together."""
        for first, free in enumerate(self.free):
            chosen = sorted(free)[:gpus]
            if len(chosen) < gpus:
                continue
            fitting = [node for node in range(first, len(self.free)) if self.free[node].issuperset(chosen)][:nodes]
            if len(fitting) == nodes:
                for node in fitting:
                    self.free[node] -= set(chosen)
                return Spot(tuple(fitting), tuple(chosen))
        left = ", ".join(f"node {node}: {len(free)}" for node, free in enumerate(self.free[:8]))
        left += ", …" if len(self.free) > 8 else ""
        raise _CannotPlaceError(
            "gpus" if role.gpus else "",
            f"replica {index} of {role.replicas} needs {_count(gpus, 'GPU')} on {_count(nodes, 'node')}; "
            f"free GPUs are {left}{self._taken()}",
        )

    def _spread(self, role: Role, nodes: int) -> list[Spot]:
        """Replicas without GPUs, evenly over the nodes in order, next to whoever is there."""
        total, replicas = self.allocation.nodes, role.replicas
        spots = []
        for index in range(replicas):
            first = min(
                index * max(total // replicas, 1) if replicas <= total else index * total // replicas, total - nodes
            )
            spots.append(Spot(tuple(range(first, first + nodes))))
        return spots

    def _beside(self, role: Role) -> list[Spot]:
        if role.beside not in self.spots:
            raise _CannotPlaceError("beside", f"{role.beside!r} has no place itself")
        hosts = self.spots[role.beside]
        if role.replicas != 1 and role.replicas % len(hosts):
            raise _CannotPlaceError("replicas", f"{role.replicas} do not divide among {len(hosts)} of {role.beside!r}")
        each = max(role.replicas // len(hosts), 1)
        spots = []
        for index in range(role.replicas):
            host = hosts[index // each]
            if role.nodes is not None and role.nodes > len(host.nodes):
                raise _CannotPlaceError(
                    "nodes", f"{role.nodes}, but {role.beside!r} has {_count(len(host.nodes), 'node')}"
                )
            nodes = host.nodes[: role.nodes or len(host.nodes)]
            if role.gpus == "shared":
                spots.append(Spot(nodes, host.gpus, shares_gpus=True))
            elif role.gpus:
                spots.append(self._slice_on(nodes, role.gpus, role))
            else:
                spots.append(Spot(nodes))
        return spots

    def _slice_on(self, nodes: tuple[int, ...], gpus: int, role: Role) -> Spot:
        common = sorted(set.intersection(*(self.free[node] for node in nodes)))
        if len(common) < gpus:
            raise _CannotPlaceError(
                "gpus",
                f"{_count(gpus, 'GPU')} beside {role.beside!r}, but {len(common)} are free on its nodes",
                'gpus = "shared" uses the GPUs of that role',
            )
        for node in nodes:
            self.free[node] -= set(common[:gpus])
        return Spot(nodes, tuple(common[:gpus]))

    def _taken(self) -> str:
        parts = [f"{name} has {len({n for spot in spots for n in spot.nodes})}" for name, spots in self.spots.items()]
        return f" (nodes in use: {', '.join(parts)})" if parts else ""

    def split_cpus(self, roles: Mapping[str, Role]) -> list[Misfit]:
        """Gives every spot its CPUs: what its role says, else a share of the rest in proportion to its GPUs."""
        here: list[list[tuple[str, int]]] = [[] for _ in range(self.allocation.nodes)]
        for name, spots in self.spots.items():
            for index, spot in enumerate(spots):
                for node in spot.nodes:
                    here[node].append((name, index))
        shares: dict[tuple[str, int], list[int]] = {}
        misfits: dict[str, Misfit] = {}
        for node, replicas in enumerate(here):
            for replica, cpus in self._node_cpus(node, replicas, roles, misfits).items():
                shares.setdefault(replica, []).append(cpus)
        for name, spots in self.spots.items():
            for index, spot in enumerate(spots):
                others = {
                    r for node in spot.nodes for r in here[node] if r != (name, index) and roles[r[0]].kind != "sidecar"
                }
                share = min(shares[name, index]) if (name, index) in shares else roles[name].cpus
                spots[index] = Spot(spot.nodes, spot.gpus, share, spot.shares_gpus, alone=not others)
        return list(misfits.values())

    def _node_cpus(
        self, node: int, replicas: list[tuple[str, int]], roles: Mapping[str, Role], misfits: dict[str, Misfit]
    ) -> dict[tuple[str, int], int]:
        total = self.allocation.cpus
        if total is None:
            return {}
        weights = {r: len(self.spots[r[0]][r[1]].gpus) for r in replicas}
        somebody_has_gpus = any(weights.values())
        shares: dict[tuple[str, int], int] = {}
        for replica in replicas:
            role = roles[replica[0]]
            if role.cpus is not None:
                shares[replica] = role.cpus
            elif role.kind == "sidecar" or (somebody_has_gpus and not weights[replica]):
                shares[replica] = 1  # it waits or watches; whoever needs more says cpus
        # Sidecars only watch: they take nothing away from the split.
        rest = total - sum(c for r, c in shares.items() if roles[r[0]].kind != "sidecar")
        wanting = [r for r in replicas if r not in shares]
        weight = sum(weights[r] if somebody_has_gpus else 1 for r in wanting)
        for replica in wanting:
            shares[replica] = rest * (weights[replica] if somebody_has_gpus else 1) // weight
        for replica, cpus in shares.items():
            name = replica[0]
            if cpus < 1 or rest < 0:
                users = ", ".join(f"{r[0]}.{r[1]}" for r in replicas[:6]) + (", …" if len(replicas) > 6 else "")
                words = f"node {node} has {_count(total, 'CPU')} for {len(replicas)} replicas ({users})"
                misfits.setdefault(name, Misfit(name, "cpus", words, "say cpus for each role, or ask for more"))
        return shares


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
