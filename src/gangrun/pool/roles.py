"""A pool as roles on its allocation: the driver is the main, and an engine may add services of its own."""

from __future__ import annotations

from collections.abc import Mapping

from gangrun.spec.model import Allocation, Pool, Role

PROGRAMS: tuple[str, ...] = ()
"""Files of `gangrun.node` that are packed into the run directory for it."""


def roles(pool: Pool, allocation: Allocation) -> Mapping[str, Role]:  # noqa: ARG001
    """The roles of the pool's job. `{run.dir}` holds `items.jsonl`, `pool.json` and `node/`."""
    return {"main": Role(command=("bash", "-c", "echo no engine yet; exit 1"), nodes=1, gpus=0)}
