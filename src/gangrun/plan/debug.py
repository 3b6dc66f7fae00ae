"""What `debug = true` adds to a job: variables that make libraries talk, and a sidecar that describes the nodes."""

from __future__ import annotations

from gangrun.plan.model import Replica
from gangrun.plan.sidecar import sidecar
from gangrun.spec.model import Allocation

PROGRAM = "trace.py"
ROLE = "_trace"

VARIABLES = {
    "PYTHONFAULTHANDLER": "1",
    "CUDA_LAUNCH_BLOCKING": "1",
    "NCCL_DEBUG": "INFO",
    "NCCL_DEBUG_SUBSYS": "INIT,NET",
    "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
    "TORCH_SHOW_CPP_STACKTRACES": "1",
}
"""Whatever the profile or the experiment says of one of these wins."""


def trace(allocation: Allocation, scheduler: str) -> Replica:
    """One replica on all nodes; on this machine, which plays every node, on one."""
    nodes = (0,) if scheduler == "local" else tuple(range(allocation.nodes))
    return sidecar(ROLE, PROGRAM, nodes)
