"""The engine `steps`: one agent on every node, which has come to the driver by itself."""

from __future__ import annotations

import selectors
import time
from typing import Any

from .channel import DRIVER_GIVES_UP, Channel, ChannelError, Message, listen, nonce, proof, proved
from .engine import Begun, Event, NodeGone, NodeUp, Over


class Guest:
    """A connection, and from its proof on an agent."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.nonce = nonce()
        self.node = ""
        """Where it is; empty before its proof."""
        self.gpus: list[str] = []
        self.tickets: set[int] = set()


class Agents:
    """The agents of all nodes."""

    def __init__(self, port: int, grace: float) -> None:
        self._port = port
        self._grace = grace
        self._selector = selectors.DefaultSelector()
        self._guests: list[Guest] = []
        self._by_node: dict[str, Guest] = {}
        self._events: list[Event] = []

    def open(self) -> None:
        """Listens on the port."""
        self._listener = listen(self._port)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def start(self, node: str, order: dict[str, Any]) -> list[str] | None:
        """See Engine."""
        guest = self._by_node[node]
        self._send(guest, order)
        return None if order["own_step"] else [guest.gpus[gpu] for gpu in order["gpus"]]

    def _send(self, guest: Guest, order: dict[str, Any]) -> None:
        guest.tickets.add(order["ticket"])
        guest.channel.send({"start": order})

    def stop(self, ticket: int) -> None:
        """See Engine."""
        for guest in self._guests:
            if ticket in guest.tickets:
                guest.channel.send({"stop": ticket})

    def wait(self, seconds: float) -> list[Event]:
        """See Engine."""
        self._flush()
        for key, _ in self._selector.select(0 if self._events else seconds):
            if key.fileobj is self._listener:
                self._welcome()
            elif isinstance(key.data, Guest):
                self._hear(key.data)
        for guest in list(self._guests):
            limit = DRIVER_GIVES_UP if guest.node else 10.0
            if guest.channel.silent() > limit:
                self._part(guest, f"silent for {guest.channel.silent():.0f} s")
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Says goodbye to all agents."""
        for guest in self._guests:
            guest.channel.send({"bye": True})
        deadline = time.monotonic() + 2
        while any(guest.channel.full for guest in self._guests) and time.monotonic() < deadline:
            self._flush()
        for guest in self._guests:
            guest.channel.close()
        self._listener.close()

    # -----------------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        for guest in list(self._guests):
            try:
                if guest.node:
                    guest.channel.beat()
                guest.channel.flush()
            except ChannelError as error:
                self._part(guest, str(error))
                continue
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if guest.channel.full else 0)
            if self._selector.get_key(guest.channel).events != wanted:
                self._selector.modify(guest.channel, wanted, guest)

    def _welcome(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        guest = Guest(Channel(connection))
        self._guests.append(guest)
        self._selector.register(guest.channel, selectors.EVENT_READ, guest)

    def _hear(self, guest: Guest) -> None:
        try:
            for message in guest.channel.receive():
                if not guest.node:
                    self._introduce(guest, message)
                elif "began" in message:
                    self._events.append(Begun(message["began"], message["gpus"]))
                elif "ended" in message:
                    guest.tickets.discard(message["ended"])
                    self._events.append(Over(message["ended"], message["code"], message["seconds"], message["why"]))
                    self._freed(guest)
                elif "leaving" in message:
                    self._left(guest, "its agent was asked to end")
        except (ChannelError, KeyError, TypeError) as error:
            self._part(guest, str(error))

    def _introduce(self, guest: Guest, message: Message) -> None:
        if "hello" in message:
            answer = proof("driver", str(message["hello"]))
            guest.channel.send({"hello": guest.nonce, "proof": answer, "grace": self._grace})
            return
        if not proved("agent", guest.nonce, message.get("proof")):
            raise ChannelError("not one of our agents")
        guest.gpus = message["gpus"]
        self._admit(guest, message)

    def _admit(self, guest: Guest, message: Message) -> None:
        """It has proved who it is."""
        name = message["host"]
        if name in self._by_node:
            self._part(self._by_node[name], "another agent has come in its place")
        guest.node = name
        self._by_node[name] = guest
        self._events.append(NodeUp(name, message["agent"], guest.gpus, message["cpus"]))

    def _freed(self, guest: Guest) -> None:
        """An item of it has ended."""

    def _left(self, guest: Guest, why: str) -> None:
        """It takes no more items."""
        if self._by_node.get(guest.node) is guest:
            del self._by_node[guest.node]
            self._events.append(NodeGone(guest.node, why))

    def _part(self, guest: Guest, why: str) -> None:
        """It is gone, and so is what ran there: an agent that cannot hear us ends its items before we give up."""
        self._guests.remove(guest)
        self._selector.unregister(guest.channel)
        guest.channel.close()
        self._left(guest, why)
        self._events += [Over(ticket, 137, 0.0, "lost") for ticket in guest.tickets]
