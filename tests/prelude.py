"""Scripts put together by hand as the renderer does it: header, preludes, then the body that a test is about."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PRELUDES = files("gangrun.script") / "preludes"


@dataclass(frozen=True)
class Run:
    """A run directory and the script in it."""

    dir: Path

    @property
    def script(self) -> Path:
        return self.dir / "script.sh"

    @property
    def status(self) -> Path:
        return self.dir / "attempts" / "latest" / "status"

    def read(self, name: str) -> str:
        """A status file without its last newline, empty where there is none."""
        try:
            return (self.status / name).read_text().rstrip("\n")
        except FileNotFoundError:
            return ""

    def log(self, name: str) -> str:
        try:
            return (self.status.parent / "logs" / f"{name}.log").read_text()
        except FileNotFoundError:
            return ""

    def events(self, name: str) -> list[str]:
        """What the replica's diary says, without the times."""
        return [line.split(" ", 1)[1] for line in self.read(f"{name}.lives").splitlines()]

    def wait_for(self, what: Callable[[Run], T], limit: float = 20) -> T:
        return wait_for(lambda: what(self), limit)


def wait_for(what: Callable[[], T], limit: float = 20) -> T:
    """Polls until it is true, and returns what it was then."""
    deadline = time.monotonic() + limit
    while not (value := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit} s")
        time.sleep(0.05)
    return value


def write(
    run_dir: Path,
    scheduler: str,
    body: str,
    *,
    begin: str = "1 0",
    setup: Sequence[str] = (":",),
    grace: int = 2,
    gpus: int = 0,
    sbatch: Sequence[str] = (),
) -> Run:
    """Writes `script.sh` into a new run directory."""
    run_dir.mkdir(parents=True)
    prelude = "\n".join((PRELUDES / f"{name}.sh").read_text() for name in ("common", scheduler))
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {flag}" for flag in sbatch),
        "# shellcheck disable=SC2016,SC2034,SC2329",
        f"RUN_NAME={shlex.quote(run_dir.name)}",
        f"RUN_DIR={shlex.quote(str(run_dir))}",
        "FIRST_ATTEMPT=1",
        f"NODE_GPUS={gpus}",
        f"GRACE={grace}",
        "setup() {",
        *setup,
        "}",
        "roles() {",
        body,
        "}",
        prelude,
        f"begin {begin}",
        "roles",
        "finish_when_mains_end",
    ]
    run = Run(run_dir)
    run.script.write_text("\n".join(lines) + "\n")
    run.script.chmod(0o755)
    return run


def start(name: str, kind: str, command: str, keys: str = "", *, flags: Sequence[str] = ()) -> str:
    """One `start` line: `command` is bash."""
    role, _, index = name.partition(".")
    words = " ".join([f"flags={len(flags)}", *map(shlex.quote, flags)]) if flags else ""
    return f"start {role} {index or 0} {kind} nodes=0 {keys} {words} -- bash -c {shlex.quote(command)}"
