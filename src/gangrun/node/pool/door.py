"""Where the steps of a node's items come to their agent, and how srun is asked for one.

Agent and step are on one node, and talk over a Unix socket. So an item gets the signals that its agent sends, and the
time to obey them: srun, whatever ends it, has its tasks killed at once, and a step lives on when its srun is killed.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from .channel import KEY, Channel

_OF_A_STEP = (
    "SLURM_GPU",
    "SLURM_MEM_",
    "SLURM_CPU_BIND",
    "SLURM_CPUS_PER",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_TRES_PER",
    "SLURM_DISTRIBUTION",
    "SLURM_STEP",
    "SRUN_",
)
"""How variables begin that describe the agent's step, and that srun would take for its own flags."""


class Door:
    """Where the programs in the steps of this node come to their agent."""

    def __init__(self) -> None:
        self.name = f"gangrun-{os.urandom(16).hex()}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"\0{self.name}")  # no file, so nothing is left when we are killed
        self._listener.listen(1024)
        self._listener.setblocking(False)

    def fileno(self) -> int:
        """For selectors."""
        return self._listener.fileno()

    def enter(self) -> Channel | None:
        """Who has come; None for whoever is not this user."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return None
        if not same_user(connection):
            connection.close()
            return None
        return Channel(connection)

    def command(self, order: dict[str, Any]) -> list[str]:
        """What begins the step of an item. It has CPUs and GPUs of its own, which the agent's step does not hold."""
        gpus = len(order["gpus"])
        return [
            "srun",
            f"--job-name={order['name']}",
            "--exact",
            "--nodes=1",
            "--ntasks=1",
            f"--nodelist={os.environ['SLURMD_NODENAME']}",
            f"--cpus-per-task={max(1, int(order['cpus'] or 0))}",
            f"--gres=gpu:{gpus}" if gpus else "--gres=none",
            "--mem=0",
            "--export=ALL",
            "--input=none",
            "--chdir=/",
            sys.executable,
            str(Path(__file__).resolve().parent),
            "step",
            self.name,
            str(order["ticket"]),
        ]


def environment() -> dict[str, str]:
    """Of the agent's variables those that srun may see, and hands on to the step."""
    return {name: value for name, value in os.environ.items() if name != KEY and not name.startswith(_OF_A_STEP)}


def same_user(connection: socket.socket) -> bool:
    """Whether the other end of a Unix socket is this user's, too."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())
