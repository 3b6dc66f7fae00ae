"""What runs in the step that an item has for itself: starts the item, and ends it when its agent says so or is gone.

An item whose agent is gone is given to another.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

from .channel import Channel, ChannelError
from .door import same_user
from .processes import adopt, cannot_start, end_children, exit_code


def main(words: list[str]) -> int:
    """`step DOOR TICKET`. Returns the item's exit code."""
    signals, wake = socket.socketpair()
    for end in (signals, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    # Slurm signals all that is in a step: the item decides what to do.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"\0{words[0]}")
    except OSError as error:
        print(f"pool: its agent is gone: {error}", file=sys.stderr)
        return 1
    if not same_user(connection):
        print("pool: that is not its agent", file=sys.stderr)
        return 1
    channel = Channel(connection)
    channel.send({"ticket": int(words[1])})
    adopt()
    try:
        return _Item(channel, signals).run()
    except ChannelError:
        return 1
    finally:
        end_children()


class _Item:
    """What runs in the step."""

    def __init__(self, channel: Channel, signals: socket.socket) -> None:
        self._channel = channel
        self._signals = signals
        self._process: subprocess.Popen[bytes] | None = None
        self._code: int | None = None
        self._why = ""
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)
        self._selector.register(signals, selectors.EVENT_READ)

    def run(self) -> int:
        """Its exit code. Raises ChannelError once the agent is gone."""
        while self._code is None:
            self._channel.flush()
            self._selector.select()
            with suppress(BlockingIOError):
                while self._signals.recv(4096):
                    pass
            for message in self._channel.receive():
                if "argv" in message:
                    self._start(message)
                elif "signal" in message and self._process is not None:
                    with suppress(OSError):
                        os.killpg(self._process.pid, message["signal"])
            if self._process is not None and self._process.poll() is not None:
                self._code = exit_code(self._process.returncode)
        end_children()
        self._channel.send({"code": self._code, "why": self._why})
        self._channel.flush()
        return self._code

    def _start(self, order: dict[str, Any]) -> None:
        given = os.environ.get("SLURM_STEP_GPUS", "")
        self._channel.send({"gpus": given.split(",") if given else []})
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(
                order["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=order["cwd"],
                env={**os.environ, **order["env"]},
                start_new_session=True,
            )
        except OSError as error:
            self._code, self._why = cannot_start(log, error), "unstartable"
        finally:
            os.close(log)
