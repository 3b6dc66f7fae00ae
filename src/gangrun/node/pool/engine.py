"""What an engine is: it has nodes, starts items on them, and tells what happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Union


@dataclass
class NodeUp:
    """A node can be used from now on."""

    name: str
    order: int
    """Its number in the allocation."""
    gpus: list[str]
    cpus: float


@dataclass
class NodeGone:
    """A node cannot be used any more; what ran on it has ended, or will be ended there before it can come back."""

    name: str
    why: str


@dataclass
class Begun:
    """A start of an item whose devices were not known when it was ordered."""

    ticket: int
    gpus: list[str]


@dataclass
class Over:
    """A start of an item has ended."""

    ticket: int
    code: int
    seconds: float
    why: str


Event = Union[NodeUp, NodeGone, Begun, Over]


class EngineError(Exception):
    """The engine cannot work; its words are for the user."""


class Engine(Protocol):
    """See the module."""

    def open(self) -> None:
        """Begins; nodes come up later. Raises EngineError."""

    def start(self, node: str, order: dict[str, Any]) -> list[str] | None:
        """Starts an item on a node that has room for it. Names of its devices; None where `Begun` will tell them."""

    def stop(self, ticket: int) -> None:
        """Ends it gently: TERM, after the grace KILL. Its `Over` follows."""

    def wait(self, seconds: float) -> list[Event]:
        """What has happened; waits for it, so long at most. Raises EngineError."""

    def close(self) -> None:
        """Ends everything."""
