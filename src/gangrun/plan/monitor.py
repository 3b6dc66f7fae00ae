"""The sidecar that watches every node of a job: `gangrun.node.monitor`."""

from __future__ import annotations

from gangrun.plan.model import Replica
from gangrun.plan.sidecar import sidecar
from gangrun.spec.model import Allocation, Monitor

PROGRAM = "monitor.py"
ROLE = "_monitor"


def monitor(wanted: Monitor, allocation: Allocation, scheduler: str) -> Replica:
    """One replica on all nodes."""
    nodes, gpus = tuple(range(allocation.nodes)), allocation.gpus
    asked = {"cpus": allocation.cpus, "mem": allocation.mem}
    if scheduler == "local":
        # One machine plays every node, has what it has, and is watched once.
        nodes, gpus, asked = (0,), gpus * allocation.nodes, {}
    facts = {"every": wanted.every, "gpus": gpus, **asked}
    return sidecar(ROLE, PROGRAM, nodes, *(f"{name}={value}" for name, value in facts.items() if value))
