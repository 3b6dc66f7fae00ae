"""A pool as roles on its allocation: the driver is the main, and an engine adds what starts the items."""

from __future__ import annotations

from collections.abc import Mapping

from gangrun import node
from gangrun.spec.model import Allocation, Pool, Role

PROGRAMS = node.POOL
"""Files of `gangrun.node` that are packed into the run directory for it."""
SETUP = ("read -r GANGRUN_POOL_KEY </proc/sys/kernel/random/uuid && export GANGRUN_POOL_KEY",)
"""What the job does before its roles start: draws the key by which the pool's processes know each other."""
SBATCH = {"no-kill": True}
"""Flags of a job of several nodes: the loss of one is not the end of the others."""
_POOL = ("python3", "{run.dir}/node/pool")
_ALONE = ("python3", "-IS", "{run.dir}/node/pool")
"""Isolated and without site-packages, of which only Ray has need."""


def roles(pool: Pool, allocation: Allocation) -> Mapping[str, Role]:
    """The roles of the pool's job. `{run.dir}` holds `items.jsonl`, `pool.json` and `node/`."""
    place = ("name={index}", "host={main.host}")
    cpus = (f"cpus={allocation.cpus}",) if allocation.cpus else ()
    # Sidecars, so that one which is lost with its node does not end the job.
    everywhere = Role(
        kind="sidecar",
        replicas=allocation.nodes,
        nodes=1,
        gpus=allocation.gpus,
        cpus=allocation.cpus,
        restarts=3,
    )
    if pool.engine == "steps":
        command = (*_ALONE, "work", *place, "port={main.port.pool}", *cpus)
        return {
            "main": Role(command=(*_ALONE, "drive", "{self.port.pool}"), nodes=1, gpus=0, ports=("pool",)),
            "agent": everywhere.model_copy(update={"command": command}),
        }
    ports = ("port={main.port.ray}", "client_port={main.port.client}", f"gpus={allocation.gpus}")
    drive = (*_POOL, "drive", "{self.port.pool}", "{self.port.ray}")
    return {
        "main": Role(command=drive, nodes=1, gpus=0, ports=("pool", "ray", "client")),
        "ray": everywhere.model_copy(update={"command": (*_POOL, "ray", *place, *ports, *cpus)}),
    }
