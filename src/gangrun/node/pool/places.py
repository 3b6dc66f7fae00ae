"""What each node of the pool has, and what of it is taken."""

from __future__ import annotations

from dataclasses import dataclass, field

_NOTHING = 1e-9


@dataclass
class Place:
    """What one start of an item holds on a node."""

    node: str
    gpus: list[int]
    """Positions among the node's devices."""
    share: float
    """Of each of these devices."""
    cpus: float


@dataclass
class Node:
    """One node that has an agent."""

    name: str
    gpus: list[str]
    """Names of its devices, as they go into CUDA_VISIBLE_DEVICES."""
    cpus: float
    order: int
    """Its number in the allocation."""
    free: list[float] = field(init=False)
    """Of each device."""
    free_cpus: float = field(init=False)
    held: int = 0
    """Starts that hold something of it."""

    def __post_init__(self) -> None:
        self.free = [1.0] * len(self.gpus)
        self.free_cpus = self.cpus

    def fits(self, gpus: float, cpus: float) -> list[int] | None:
        """Devices for an item of these needs; None where it does not fit now."""
        if cpus > self.free_cpus + _NOTHING:
            return None
        if 0 < gpus < 1:
            # The fullest that still has room, so that others stay whole.
            room = [gpu for gpu, free in enumerate(self.free) if free >= gpus - _NOTHING]
            return [min(room, key=lambda gpu: self.free[gpu])] if room else None
        whole = [gpu for gpu, free in enumerate(self.free) if free >= 1 - _NOTHING]
        return whole[: int(gpus)] if len(whole) >= gpus else None

    def could_ever(self, gpus: float, cpus: float) -> bool:
        """Whether it fits into the empty node."""
        return cpus <= self.cpus + _NOTHING and gpus <= len(self.gpus)


class Places:
    """All nodes."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def choose(
        self, gpus: float, cpus: float, avoid: set[str], closed: set[str], *, pack: bool, most_nodes: int | None
    ) -> Place | None:
        """Takes room for an item, on a node that it need not avoid if there is one; None where there is none.

        `pack` fills one node before the next, which leaves room for wide items; otherwise items spread out.
        """
        best = None
        allowed = None if most_nodes is None else self._within(most_nodes)
        for node in self.nodes.values():
            if node.name in closed or (allowed is not None and node.name not in allowed):
                continue
            found = node.fits(gpus, cpus)
            if found is None:
                continue
            left = sum(node.free) if gpus else node.free_cpus
            rank = (node.name in avoid, left if pack else -left, node.order)
            if best is None or rank < best[0]:
                best = (rank, node, found)
        if best is None:
            return None
        _, node, found = best
        place = Place(node.name, found, gpus if 0 < gpus < 1 else 1.0, cpus)
        for gpu in found:
            node.free[gpu] -= place.share
        node.free_cpus -= cpus
        node.held += 1
        return place

    def _within(self, most: int) -> set[str]:
        """The nodes that may take an item. Where more run something, as the limit was lowered, the others only end."""
        if self.used() < most:
            return set(self.nodes)
        held = [node for node in self.nodes.values() if node.held]
        return {node.name for node in sorted(held, key=lambda node: (-node.held, node.order))[:most]}

    def release(self, place: Place) -> None:
        """Gives it back, unless the node is gone."""
        node = self.nodes.get(place.node)
        if node is None:
            return
        for gpu in place.gpus:
            node.free[gpu] = min(1.0, node.free[gpu] + place.share)
        node.free_cpus += place.cpus
        node.held -= 1

    def used(self) -> int:
        """Nodes that run something."""
        return sum(1 for node in self.nodes.values() if node.held)

    def busy(self) -> float:
        """GPUs that are taken, or CPUs where there are no GPUs."""
        if any(node.gpus for node in self.nodes.values()):
            return sum(len(node.gpus) - sum(node.free) for node in self.nodes.values())
        return sum(node.cpus - node.free_cpus for node in self.nodes.values())

    def size(self) -> float:
        """GPUs that there are, or CPUs where there are no GPUs."""
        return sum(len(node.gpus) for node in self.nodes.values()) or sum(node.cpus for node in self.nodes.values())

    def widest(self) -> str | None:
        """The node with the most room, to be kept for an item that fits nowhere."""
        nodes = self.nodes.values()
        return max(nodes, key=lambda node: (sum(node.free), node.free_cpus, -node.order)).name if nodes else None
