"""A command on a terminal of its own, as a person sits before it."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Terminal:
    """What it shows is in `shown`."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *argv],
            cwd=cwd,
            env={**env, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        """Types it."""
        os.write(self._ours, text.encode())

    def see(self, text: str, limit: float = 60) -> str:
        """Waits until it shows this and returns all that it has shown."""
        deadline = time.monotonic() + limit
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} is not shown, but {self.shown!r}"
            assert self._read(left), f"it ended without {text!r}: {self.shown!r}"
        return self.shown

    def done(self, limit: float = 60) -> int:
        """Waits for its end and returns its exit code."""
        deadline = time.monotonic() + limit
        while (code := self.process.poll()) is None:  # something in its background may hold on to the terminal
            assert time.monotonic() < deadline, f"it does not end: {self.shown!r}"
            self._read(0.1)
        while select.select([self._ours], [], [], 0)[0] and self._read(0):
            pass  # what it said last
        return code

    def kill(self) -> None:
        """Ends it if it has not ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self._ours >= 0:
            os.close(self._ours)  # which hangs up whatever it leaves
            self._ours = -1

    def _read(self, limit: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], limit)
        try:
            data = os.read(self._ours, 65536) if ready else b" "
        except OSError:  # how Linux says that nobody is at the other end
            return False
        self.shown += data.decode("utf-8", "replace") if ready else ""
        return bool(data)
