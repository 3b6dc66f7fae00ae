"""Placement: every replica gets its nodes, GPUs and CPUs. The only code that knows a GPU index.

Nothing is rounded: what does not fit is a `Misfit` with the numbers in it. The order is that of the file, except that
roles which claim GPUs or whole nodes come first, then CPU-only ones, then sidecars, then those beside another. Only if
that does not fit, the claims are tried again with the largest first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeAlias

from gangrun.spec.model import Allocation, Role

_Who: TypeAlias = "tuple[str, int]"
"""A replica: its role and index."""


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
    """The key of the role that stands in the way."""
    what: str
    way_out: str = ""


class _CannotPlaceError(Exception):
    def __init__(self, key: str, what: str, way_out: str = "") -> None:
        self.key, self.what, self.way_out = key, what, way_out


def place(roles: Mapping[str, Role], allocation: Allocation) -> tuple[dict[str, tuple[Spot, ...]], list[Misfit]]:
    """The spots of every role's replicas, and why the others have none."""
    board = _Board(allocation, roles)
    misfits = board.fill(_order(roles))
    if misfits:
        # Four replicas of one GPU can break up a node that a later role needs whole.
        other = _Board(allocation, roles)
        if not other.fill(_order(roles, lambda role: _claim(role, allocation))):
            board, misfits = other, []
    return {name: tuple(board.spots.get(name, ())) for name in roles}, misfits


def _claim(role: Role, allocation: Allocation) -> tuple[int, int]:
    """What sorts larger claims before smaller ones: GPUs on a node, then nodes."""
    gpus = allocation.gpus if role.gpus is None else int(role.gpus) if role.gpus != "shared" else 0
    return -gpus, -(role.nodes or (allocation.nodes if role.gpus is None else 1))


def _order(roles: Mapping[str, Role], size: Callable[[Role], tuple[int, int]] = lambda _: (0, 0)) -> list[str]:
    """Claims first, then CPU-only roles, then sidecars, then roles beside others (after those); else as written."""

    def depth(name: str, seen: tuple[str, ...] = ()) -> int:
        beside = roles[name].beside
        return 1 + depth(beside, (*seen, name)) if beside is not None and beside in roles and name not in seen else 0

    def rank(name: str) -> tuple[int, ...]:
        role = roles[name]
        if role.beside is not None:
            return 3, depth(name)
        if role.kind == "sidecar" and not role.gpus:
            return 2, 0
        return (1, 0) if role.gpus == 0 else (0, *size(role))

    return sorted(roles, key=rank)


@dataclass
class _Board:
    allocation: Allocation
    roles: Mapping[str, Role]
    spots: dict[str, list[Spot]] = field(default_factory=dict)
    free: list[set[int]] = field(init=False)
    """Free GPUs of each node."""
    holder: list[str] = field(init=False)
    """The role that holds the whole node, or nothing."""

    def __post_init__(self) -> None:
        self.free = [set(range(self.allocation.gpus)) for _ in range(self.allocation.nodes)]
        self.holder = [""] * self.allocation.nodes

    def fill(self, order: list[str]) -> list[Misfit]:
        """Seats the roles in this order and shares out the CPUs."""
        misfits: dict[str, Misfit] = {}
        for name in order:
            role = self.roles[name]
            if role.beside in misfits:
                misfits[name] = misfits[role.beside]
                continue
            try:
                self.spots[name] = self._seat(name, role)
            except _CannotPlaceError as error:
                misfits[name] = Misfit(name, error.key, error.what, error.way_out)
        return list(dict.fromkeys(misfits.values())) or self._split_cpus()

    def _seat(self, name: str, role: Role) -> list[Spot]:
        allocation = self.allocation
        for key, noun, wanted, have, each in (
            ("nodes", "node", role.nodes, allocation.nodes, "for each replica"),
            ("gpus", "GPU", role.gpus, allocation.gpus, "on each node"),
            ("cpus", "CPU", role.cpus, allocation.cpus, "on each node"),
        ):
            if isinstance(wanted, int) and have is not None and wanted > have:
                what = f"{_count(wanted, noun)} {each}, but allocation.{key} is {have}"
                raise _CannotPlaceError(key, what, f"ask for allocation.{key} = {wanted}, or for less here")
        if role.gpus == "shared" and role.beside is None:
            raise _CannotPlaceError("gpus", '"shared" needs a role to share with', 'say beside = "ROLE"')
        if role.beside is not None:
            return self._beside(name, role)
        if role.kind == "sidecar" and not role.gpus:
            # One sidecar watches every node; several share them out.
            return self._spread(role, role.nodes or (allocation.nodes if role.replicas == 1 else 1))
        if role.gpus == 0:
            return self._spread(role, role.nodes or 1)
        if role.gpus is None and role.nodes is None:
            return self._everything(name, role)
        if role.gpus is None:
            return [self._whole_nodes(name, role.nodes or 1, index, role) for index in range(role.replicas)]
        return [self._slice(int(role.gpus), role.nodes or 1, index, role) for index in range(role.replicas)]

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
        """The lowest free GPUs of some node that are free on enough nodes together, on the first of these nodes."""
        # More than each node's lowest need not be tried: as all claims take the lowest, what several nodes have in
        # common is the lowest of the one with the fewest (60,000 random sets of roles: no other choice ever fitted).
        for candidates in self.free:
            chosen = set(sorted(candidates)[:gpus])
            if len(chosen) < gpus:
                continue
            fitting = tuple(islice((node for node, free in enumerate(self.free) if chosen <= free), nodes))
            if len(fitting) == nodes:
                for node in fitting:
                    self.free[node] -= chosen
                return Spot(fitting, tuple(sorted(chosen)))
        each = f"{_count(gpus, 'GPU')} on {_count(nodes, 'node')}" if nodes == 1 else ""
        each = each or f"the same {_count(gpus, 'GPU')} on each of {nodes} nodes"
        raise _CannotPlaceError(
            "gpus" if role.gpus else "",
            f"replica {index} of {role.replicas} needs {each}; {self._left()}{self._taken()}",
        )

    def _left(self) -> str:
        left = [f"{len(free)} on node {node}" for node, free in enumerate(self.free) if free]
        return f"free GPUs are {', '.join(left[:8])}{', …' if len(left) > 8 else ''}" if left else "no GPU is free"

    def _spread(self, role: Role, nodes: int) -> list[Spot]:
        """Replicas without GPUs, evenly over the nodes in order, next to whoever is there."""
        total, replicas = self.allocation.nodes, role.replicas
        blocks = total // nodes
        if replicas <= blocks:
            firsts = [index * (total // replicas) for index in range(replicas)]
        else:
            firsts = [index * blocks // replicas * nodes for index in range(replicas)]
        return [Spot(tuple(range(first, first + nodes))) for first in firsts]

    def _beside(self, name: str, role: Role) -> list[Spot]:
        if role.beside not in self.spots:
            raise _CannotPlaceError("beside", f"roles stand beside each other in a circle: {self._circle(name)}")
        hosts = self.spots[role.beside]
        if role.replicas != 1 and role.replicas % len(hosts):
            what = f"{role.replicas} replicas do not divide among the {len(hosts)} of {role.beside!r}"
            raise _CannotPlaceError("replicas", what, f"replicas = 1 or a multiple of {len(hosts)}")
        each = max(role.replicas // len(hosts), 1)
        spots = []
        for index in range(role.replicas):
            host = hosts[index // each]
            if role.nodes is not None and role.nodes > len(host.nodes):
                raise _CannotPlaceError(
                    "nodes", f"{role.nodes}, but each replica of {role.beside!r} has {_count(len(host.nodes), 'node')}"
                )
            nodes = host.nodes[: role.nodes or len(host.nodes)]
            if role.gpus == "shared":
                spots.append(Spot(nodes, host.gpus, shares_gpus=bool(host.gpus)))
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

    def _circle(self, name: str) -> str:
        path = [name]
        while (following := str(self.roles[path[-1]].beside)) not in path:
            path.append(following)
        return " → ".join([*path[path.index(following) :], following])

    def _split_cpus(self) -> list[Misfit]:
        """Gives every spot its CPUs: what its role says, else a share of the rest in proportion to its GPUs."""
        here: list[list[_Who]] = [[] for _ in range(self.allocation.nodes)]
        for name, spots in self.spots.items():
            for index, spot in enumerate(spots):
                for node in spot.nodes:
                    here[node].append((name, index))
        lasting = [[who for who in replicas if self.roles[who[0]].kind != "sidecar"] for replicas in here]
        shares: dict[_Who, int] = {}
        misfits: dict[str, Misfit] = {}
        for node, replicas in enumerate(here):
            for who, cpus in self._node_cpus(node, replicas, lasting[node], misfits).items():
                shares[who] = min(cpus, shares.get(who, cpus))
        for name, spots in self.spots.items():
            for index, spot in enumerate(spots):
                who = (name, index)
                alone = all(other == who for node in spot.nodes for other in lasting[node])
                spots[index] = replace(spot, cpus=shares.get(who, self.roles[name].cpus), alone=alone)
        return list(misfits.values())

    def _node_cpus(
        self, node: int, replicas: list[_Who], lasting: list[_Who], misfits: dict[str, Misfit]
    ) -> dict[_Who, int]:
        total = self.allocation.cpus
        if total is None:
            return {}
        weights = {who: len(self.spots[who[0]][who[1]].gpus) for who in replicas}
        somebody_has_gpus = any(weights[who] for who in lasting)
        shares: dict[_Who, int] = {}
        for who in replicas:
            role = self.roles[who[0]]
            if role.cpus is not None:
                shares[who] = role.cpus
            elif role.kind == "sidecar" or (somebody_has_gpus and not weights[who]):
                shares[who] = 1  # it waits or watches; whoever needs more says cpus
        # Sidecars only watch: they take nothing away from the split.
        asked = [who for who in lasting if who in shares]
        wanting = [who for who in lasting if who not in shares]
        rest = total - sum(shares[who] for who in asked)
        weight = sum(weights[who] if somebody_has_gpus else 1 for who in wanting)
        for who in wanting:
            shares[who] = rest * (weights[who] if somebody_has_gpus else 1) // weight
        short = [who for who in wanting if shares[who] < 1]
        if rest < 0 or short:
            blamed = min(asked, key=lambda who: self.roles[who[0]].cpus is None) if rest < 0 else short[0]
            what = _too_few(node, total, {who: shares[who] for who in asked}, len(wanting))
            misfit = Misfit(blamed[0], "cpus", what, "say cpus for each role, or ask for more")
            misfits.setdefault(blamed[0], misfit)
        return shares


def _too_few(node: int, total: int, asked: Mapping[_Who, int], wanting: int) -> str:
    have = f"node {node} has {_count(total, 'CPU')}"
    if not asked:
        return f"{have}, less than one for each of {wanting} replicas"
    each = ", ".join(f"{role}.{index} {cpus}" for (role, index), cpus in islice(asked.items(), 6))
    taken = f"{have}, of which replicas take {sum(asked.values())} ({each}{', …' if len(asked) > 6 else ''})"
    less = sum(asked.values()) > total
    return taken if less else f"{taken}; that leaves less than one for each of {wanting} others"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
