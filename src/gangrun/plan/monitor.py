"""The sidecar that watches every node of a job: `gangrun.node.monitor`."""

from __future__ import annotations

from gangrun.plan.model import Replica, Var, Word
from gangrun.spec.model import Allocation, Monitor

PROGRAM = "monitor.py"
ROLE = "_monitor"


def monitor(wanted: Monitor, allocation: Allocation, scheduler: str) -> Replica:
    """One replica on all nodes. It asks for no GPUs, and for a CPU that it leaves to the others."""
    nodes, gpus = tuple(range(allocation.nodes)), allocation.gpus
    asked = {"cpus": allocation.cpus, "mem": allocation.mem}
    if scheduler == "local":
        # One machine plays every node, has what it has, and is watched once.
        nodes, gpus, asked = (0,), gpus * allocation.nodes, {}
    facts = {"every": wanted.every, "gpus": gpus, **asked}
    return Replica(
        role=ROLE,
        index=0,
        count=1,
        kind="sidecar",
        nodes=nodes,
        gpus=(),
        cpus=None,
        tasks=1,
        ranks=False,
        # Isolated and without site-packages: whatever Python the job brings along, it starts in 15 ms.
        argv=(
            Word.of("python3"),
            Word.of("-IS"),
            Word.of(Var("run_dir"), f"/node/{PROGRAM}"),
            *(Word.of(f"{name}={value}") for name, value in facts.items() if value),
        ),
        # A monitor that is killed ends alone, not together with those on the other nodes.
        step_flags=(Word.of("--kill-on-bad-exit=0"),),
        alone=False,
    )
