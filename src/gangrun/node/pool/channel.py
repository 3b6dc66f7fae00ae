"""Lines of JSON over TCP, between ends that have proved to each other that they know the job's key.

The key comes in the environment, never on a command line; it does not cross the network, and neither end obeys the
other before the proof. One job's ends do not know another's key, so two pools on the same nodes cannot meet.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import time
from typing import Any, Dict

KEY = "GANGRUN_POOL_KEY"
"""The variable that holds the key."""
BEAT = 5.0
"""Seconds between two signs of life in both directions."""
AGENT_GIVES_UP = 60.0
"""Seconds of silence after which an agent ends its items."""
LAST_GRACE = 5.0
"""Seconds that its items have then between being asked to end and being made to."""
DRIVER_GIVES_UP = 75.0
"""Seconds of silence after which the driver gives a node's items to others: later than the agent, so that no item
ever runs twice at once."""
_LARGEST = 1 << 26

Message = Dict[str, Any]


def patience(grace: float) -> float:
    """The grace of items: shorter than the job's, in which their ends must still be seen and written down."""
    return max(grace - 3.0, grace / 2)


class ChannelError(Exception):
    """The other end is gone, or is not who it should be."""


def proof(side: str, nonce: str) -> str:
    """What only who knows the key can answer to `nonce`; `side` keeps one end's answers from being the other's."""
    key = os.environ.get(KEY, "").encode()
    return hmac.new(key, f"{side} {nonce}".encode(), hashlib.sha256).hexdigest()


def proved(side: str, nonce: str, answer: object) -> bool:
    """Whether `answer` is that proof."""
    return isinstance(answer, str) and bool(os.environ.get(KEY)) and hmac.compare_digest(proof(side, nonce), answer)


def nonce() -> str:
    """A number used once."""
    return os.urandom(16).hex()


class Channel:
    """One end of a connection, on a socket that never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.heard = time.monotonic()
        """When something last came in."""
        self._beaten = 0.0
        self._closed = ""
        """Why it has ended, once it has."""
        self._in = b""
        self._out = b""

    def fileno(self) -> int:
        """For selectors."""
        return self.socket.fileno()

    @property
    def full(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    def send(self, message: Message) -> None:
        """Queues a message; `flush` sends."""
        self._out += json.dumps(message, separators=(",", ":")).encode() + b"\n"

    def flush(self) -> None:
        """Sends what the network takes now. Raises ChannelError."""
        while self._out:
            try:
                done = self.socket.send(self._out)
            except BlockingIOError:
                return
            except OSError as error:
                raise ChannelError(str(error)) from error
            self._out = self._out[done:]

    def beat(self) -> None:
        """Queues a sign of life when it is time for one."""
        now = time.monotonic()
        if now - self._beaten >= BEAT:
            self._beaten = now
            self.send({})

    def receive(self) -> list[Message]:
        """The messages that have come in whole. Raises ChannelError once the connection has ended and all are given."""
        if self._closed:
            raise ChannelError(self._closed)
        try:
            while True:
                data = self.socket.recv(1 << 16)
                if not data:
                    self._closed = "closed"
                    break
                self._in += data
                if len(self._in) > _LARGEST:
                    raise ChannelError("a line without end")
        except BlockingIOError:
            pass
        except OSError as error:
            self._closed = str(error)
        self.heard = time.monotonic()
        *lines, self._in = self._in.split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ChannelError("not a message") from error
        if not all(isinstance(message, dict) for message in messages):
            raise ChannelError("not a message")
        return [message for message in messages if message]

    def silent(self) -> float:
        """Seconds since something came in."""
        return time.monotonic() - self.heard

    def close(self) -> None:
        """Ends the connection."""
        self.socket.close()


def listen(port: int) -> socket.socket:
    """A socket that takes connections on this port, of whichever family they come."""
    try:
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", port))
    except OSError:  # a kernel without IPv6
        listener = socket.socket(socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def connect(host: str, port: int) -> socket.socket | None:
    """A connection, or None while nobody listens there."""
    try:
        return socket.create_connection((host, port), timeout=10)
    except OSError:
        return None
