"""On every node: starts the items that the driver sends, tells how they ended, and ends with the driver.

It connects to the driver, proves that it belongs to the job, and says which GPUs and CPUs it has. Where the driver goes
away, all items are ended and it waits for the next driver, as one that was killed is started again; where none comes,
it ends.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from .channel import AGENT_GIVES_UP, BEAT, LAST_GRACE, Channel, ChannelError, Message, connect, nonce, proof, proved
from .processes import Processes, Report, adopt

DOUBT = 0.5
"""Seconds in which an end other than with 0 may turn out to be the job's: a signal to all of the job reaches its
processes one after another."""


class Post(NamedTuple):
    """Where an agent is, and where its driver."""

    name: int
    """The node's number in the allocation."""
    host: str
    port: int
    cpus: int = 0
    """0 for all that it may use."""
    only: int | None = None
    """The one item that it is there for."""


class Agent:
    """One node's, or one item's."""

    def __init__(self, place: Post) -> None:
        self._place = place
        self._selector = selectors.DefaultSelector()
        self._processes = Processes(self._begun, self._ended, LAST_GRACE, self._selector)
        self._channel: Channel | None = None
        self._stopping = False
        self._finished = False
        self._doubted: list[tuple[float, Report]] = []
        """Ends that are not told yet, with when they will be."""
        self._awake, self._wake = socket.socketpair()
        self._awake.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)

    def _asked(self, *_: Any) -> None:
        self._stopping = True

    def run(self) -> int:
        """Works until the driver says that all is done, or is gone."""
        adopt()
        while True:
            channel = self._channel = self._find_driver()
            if channel is None:
                return 0
            try:
                self._serve(channel)
            except ChannelError as error:
                print(f"agent: the driver is gone ({error})", file=sys.stderr, flush=True)
            self._channel = None
            self._doubted = []
            self._end_items()
            channel.close()
            if self._finished or self._stopping or self._place.only is not None:
                return 0

    # --- the driver --------------------------------------------------------------------------------------------------

    def _find_driver(self) -> Channel | None:
        deadline = time.monotonic() + AGENT_GIVES_UP
        began, pause, told = time.monotonic(), 0.01, ""
        while not self._stopping and time.monotonic() < deadline:
            connection = connect(self._place.host, self._place.port)
            if connection is not None:
                channel = Channel(connection)
                try:
                    self._introduce(channel)
                except ChannelError as error:
                    channel.close()
                    if str(error) != told:
                        told = str(error)
                        print(f"agent: no driver yet ({told})", file=sys.stderr, flush=True)
                else:
                    return channel
            self._wait(pause)
            if time.monotonic() - began > 1:
                pause = 0.5  # the driver begins together with us, and seldom later
        return None

    def _introduce(self, channel: Channel) -> None:
        ours = nonce()
        channel.send({"hello": ours})
        answer = self._next(channel)
        if not proved("driver", ours, answer.get("proof")):
            raise ChannelError("that is not our driver")
        self._processes.grace = float(answer.get("grace", LAST_GRACE))
        devices = self._processes.devices.get("CUDA_VISIBLE_DEVICES", [])
        channel.send(
            {
                "proof": proof("agent", str(answer.get("hello"))),
                "agent": self._place.name,
                "only": self._place.only,
                "host": self._node(),
                "gpus": devices,
                "cpus": self._place.cpus or len(os.sched_getaffinity(0)),
            }
        )
        channel.flush()

    def _node(self) -> str:
        """Slurm's name for this node; this machine's, numbered where it plays several."""
        name = os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]
        return name if "SLURMD_NODENAME" in os.environ or not self._place.name else f"{name}.{self._place.name}"

    def _next(self, channel: Channel) -> Message:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not self._stopping:
            channel.flush()
            if messages := channel.receive():
                return messages[0]
            self._wait(0.05, channel)
        raise ChannelError("no answer")

    def _wait(self, seconds: float, channel: Channel | None = None) -> None:
        if channel is not None:
            self._selector.register(channel, selectors.EVENT_READ)
        self._look(seconds)
        if channel is not None:
            self._selector.unregister(channel)

    def _serve(self, channel: Channel) -> None:
        """Until the driver is gone or says goodbye, or somebody has asked us to end and all items have ended."""
        leaving = False
        self._selector.register(channel, selectors.EVENT_READ)
        try:
            while not self._finished and not (leaving and not self._doubted and len(self._processes) == 0):
                if self._stopping and not leaving:
                    leaving = True
                    channel.send({"leaving": True})
                    self._processes.stop_all()
                self._tell_doubted()
                channel.beat()
                channel.flush()
                self._look(0.02 if channel.full else BEAT)
                for message in channel.receive():
                    if "start" in message and leaving:
                        self._ended(Report(message["start"]["ticket"], 143, 0.0, "stopped"))
                    elif "start" in message:
                        self._processes.start(message["start"])
                    elif "stop" in message:
                        self._processes.stop(message["stop"])
                    elif "bye" in message:
                        self._finished = True
                if channel.silent() > AGENT_GIVES_UP:
                    self._processes.grace = min(self._processes.grace, LAST_GRACE)
                    raise ChannelError(f"silent for {channel.silent():.0f} s")
            channel.flush()
        finally:
            self._selector.unregister(channel)

    # --- the items ---------------------------------------------------------------------------------------------------

    def _begun(self, ticket: int, gpus: list[str]) -> None:
        if self._channel is not None:
            self._channel.send({"began": ticket, "gpus": gpus})

    def _ended(self, report: Report) -> None:
        if report.code and not report.why:
            self._doubted.append((time.monotonic() + DOUBT, report))
        else:
            self._tell(report)

    def _tell_doubted(self) -> None:
        """Tells those of which it is clear by now whose end it was."""
        waiting, self._doubted = self._doubted, []
        for when, report in waiting:
            if self._stopping:
                self._tell(replace(report, why="stopped"))
            elif when <= time.monotonic():
                self._tell(report)
            else:
                self._doubted.append((when, report))

    def _tell(self, report: Report) -> None:
        if self._channel is not None:
            seconds = round(report.seconds, 4)
            self._channel.send({"ended": report.ticket, "code": report.code, "seconds": seconds, "why": report.why})

    def _look(self, most: float) -> None:
        """Waits for whatever comes first, `most` seconds at most, and sees to the items."""
        times = [self._processes.next_deadline(), *(when for when, _ in self._doubted)]
        until = min((when for when in times if when is not None), default=None)
        wait = most if until is None else min(most, max(0.0, until - time.monotonic()))
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._awake:
                with suppress(BlockingIOError):
                    while self._awake.recv(4096):
                        pass
            elif key.data is not None:
                self._processes.answer(key.data)
        self._processes.reap()
        self._processes.tick()

    def _end_items(self) -> None:
        self._processes.stop_all()
        while len(self._processes):
            self._look(1)
        self._processes.dismiss()
        self._processes.reap()


def main(words: list[str]) -> int:
    """`work name=NODE host=HOST port=PORT [cpus=COUNT] [only=NUMBER]`, see Post."""
    # Without argparse, which would cost every agent 8 ms before its first item.
    given = dict(word.split("=", 1) for word in words)
    host = given.pop("host")
    return Agent(Post(host=host, **{name: int(value) for name, value in given.items()})).run()
