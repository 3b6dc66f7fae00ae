"""Pools put together by hand: a run directory with items, and driver and agents as plain processes of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gangrun.node.pool import journal
from tests.gangrun_cli import wait_for

SOURCE = Path(journal.__file__).parent
PYTHON = os.environ.get("GANGRUN_TEST_PYTHON", sys.executable)
"""What runs driver and agents."""


def item(name: str, *argv: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "argv": list(argv), **more}


def bash(name: str, text: str, **more: Any) -> dict[str, Any]:
    return item(name, "bash", "-c", text, **more)


@dataclass
class Pool:
    """Used in a `with`, it ends what it started."""

    dir: Path
    port: int = 0
    key: str = "sesame"
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def write(self, items: Sequence[dict[str, Any]], **settings: Any) -> None:
        """Makes the run directory."""
        self.dir.mkdir(parents=True)
        shutil.copytree(SOURCE, self.dir / "node" / "pool", ignore=shutil.ignore_patterns("__pycache__"))
        (self.dir / "pool.json").write_text(json.dumps({"engine": "steps", "nodes": 1, "grace": 2, **settings}))
        lines = ({"index": index, "cwd": str(self.dir), **each} for index, each in enumerate(items))
        (self.dir / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def _spawn(self, *words: str, env: dict[str, str]) -> subprocess.Popen[str]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "GANGRUN_RUN_DIR": str(self.dir),
            "GANGRUN_JOB": "local-1-1",
            "GANGRUN_ATTEMPT": "001",
            "GANGRUN_POOL_KEY": self.key,
            **env,
        }
        process = subprocess.Popen(
            [PYTHON, "-IS", str(self.dir / "node" / "pool"), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def drive(self, **env: str) -> subprocess.Popen[str]:
        return self._spawn("drive", str(self.port), env=env)

    def work(self, node: int = 0, gpus: str = "", cpus: int = 4, **env: str) -> subprocess.Popen[str]:
        """The agent of a node."""
        words = (f"name={node}", "host=127.0.0.1", f"port={self.port}", f"cpus={cpus}")
        env = {"SLURMD_NODENAME": f"n{node}", "CUDA_VISIBLE_DEVICES": gpus, **env}
        return self._spawn("work", *words, env=env)

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        try:
            data = (self.dir / "pool" / "journal.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        return [event for event in journal.decode(data) if kind in {"", event["type"]}]

    def fold(self) -> journal.Fold:
        return journal.fold(self.events())

    def log(self, name: str, attempt: int = 1) -> str:
        return (self.dir / "items" / name / "attempts" / f"{attempt:03d}" / "logs" / "main.0.log").read_text()

    def status(self) -> Any:
        return json.loads((self.dir / "pool" / "status.json").read_text())

    def ended(self, process: subprocess.Popen[str], limit: float = 30) -> tuple[int, str]:
        out, _ = process.communicate(timeout=limit)
        return process.returncode, out

    def wait_for(self, kind: str, count: int = 1, limit: float = 20) -> list[dict[str, Any]]:
        return wait_for(lambda: found if len(found := self.events(kind)) >= count else [], limit, every=0.02)


def alive(pid: int) -> bool:
    """Whether a process lives, zombies excluded."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def now() -> float:
    return time.monotonic()
