"""A real Chromium without a window, spoken to through its pipe (the DevTools protocol)."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest


class Chromium:
    """One tab. What it tells unasked is kept in `told`."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            pytest.skip("chromium is absent: `make slurm` installs it where it may")
        words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        reading, commands = os.pipe()
        self._answers, writing = os.pipe()
        # It reads from 3 and writes to 4, wherever the pipes are here.
        redirect = f'exec "$@" 3<&{reading} 4>&{writing}'
        self.process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *words, f"--user-data-dir={profile}"],
            pass_fds=(reading, writing),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(reading)
        os.close(writing)
        self._commands, self._rest, self._number = commands, b"", 0
        self.told: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = ""
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if getattr(self, "_session", ""):
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.told.append(answer)

    def open(self, address: str) -> None:
        """Goes there and waits until all is loaded."""
        self.told.clear()
        self.ask("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.told):
            self.told.append(self._next())

    def value(self, script: str) -> Any:
        """What a line of JavaScript says of the page."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def resize(self, width: int, *, dark: bool = False) -> None:
        """Another window, and day or night."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def requested(self) -> set[str]:
        """The schemes of everything that it fetched for the page."""
        events = [event["params"]["request"]["url"] for event in self.told if self._is(event, "Network.requestWillBe")]
        return {url.partition(":")[0] for url in events}

    def complaints(self) -> list[str]:
        """What its console says."""
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [json.dumps(event["params"]) for event in self.told if self._is(event, *kinds)]

    def _is(self, event: dict[str, Any], *methods: str) -> bool:
        return str(event.get("method")).startswith(methods)

    def _next(self, limit: float = 60.0) -> dict[str, Any]:
        deadline = time.monotonic() + limit
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(deadline - time.monotonic(), 0))
            data = os.read(self._answers, 1 << 16) if ready else b""
            assert data, "Chromium does not answer"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def close(self) -> None:
        """Ends it."""
        os.close(self._commands)  # on which it ends itself
        os.close(self._answers)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()
