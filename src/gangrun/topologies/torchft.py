"""`torchft`: the role's replicas are replica groups of TorchFT, which train on when some of them die.

Adds the lighthouse through which the groups find each other: a service without GPUs on the first node. A group that
ends badly is started again and rejoins; so is the lighthouse, at the same host and port, and goes on counting where it
was (`gangrun.node.lighthouse`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gangrun.spec.load import nearest
from gangrun.spec.model import Allocation, Choice, Ready, Role

LIGHTHOUSE = "lighthouse"
ENVIRONMENT = {
    "TORCHFT_LIGHTHOUSE": f"http://{{{LIGHTHOUSE}.host}}:{{{LIGHTHOUSE}.port.http}}",
    "REPLICA_GROUP_ID": "{index}",
    "NUM_REPLICA_GROUPS": "{count}",
    "TORCHFT_TIMEOUT_SEC": "60",
    "TORCHFT_QUORUM_TIMEOUT_SEC": "60",
    "TORCHFT_CONNECT_TIMEOUT_SEC": "60",
    # Without these every group gives up when the lighthouse dies, even if it comes back at once; between two of them
    # pass TORCHFT_QUORUM_TIMEOUT_SEC / (retries + 1).
    "TORCHFT_QUORUM_RETRIES": "59",
}
OPTIONS = {
    "quorum_tick_ms": 100,
    # How long a quorum waits for a group that is alive but has not asked for one: longer than a group takes to recover,
    # or the others go on without it again and again.
    "join_timeout_ms": 10_000,
    # How long a dead group holds up the others. TorchFT's own default is 5000.
    "heartbeat_timeout_ms": 2000,
    "lighthouse_cpus": 1,
    "lighthouse_within": 120,
}
"""The topology's keys and their defaults: milliseconds, CPUs, seconds."""
RESTARTS, LIGHTHOUSE_RESTARTS = 10, 100


def expand(name: str, role: Role, allocation: Allocation) -> Mapping[str, Role]:
    """The lighthouse and the groups."""
    options = _options(role)
    if role.kind != "main":
        raise ValueError(f'the groups of torchft train, so they are of the kind "main", not "{role.kind}"')
    needed = role.min_replicas or 1
    asked = {"min_replicas": needed, **{key: options[key] for key in OPTIONS if key.endswith("_ms")}}
    lighthouse = Role(
        command=(
            *("python3", "{run.dir}/node/lighthouse.py", "--port", "{self.port.http}"),
            *(word for key, value in asked.items() for word in (f"--{key}", str(value))),
        ),
        kind="service",
        gpus=0,
        cpus=options["lighthouse_cpus"],
        ports=("http",),
        ready=Ready(port="http", within=options["lighthouse_within"]),
        restarts=LIGHTHOUSE_RESTARTS,
        container=role.container,
    )
    groups = role.model_copy(
        update={
            "after": (*role.after, LIGHTHOUSE),
            "env": {**ENVIRONMENT, **role.env},
            "launcher": _reachable(role, allocation),
            "min_replicas": needed,
            "restarts": role.restarts if "restarts" in role.model_fields_set else RESTARTS,
        }
    )
    return {LIGHTHOUSE: lighthouse, name: groups}


def _options(role: Role) -> dict[str, int]:
    given: dict[str, Any] = role.topology.options if role.topology else {}
    for key, value in given.items():
        if key in Role.model_fields:
            raise ValueError(f"{key} is a key of the role itself: say {key} = {value!r} beside topology")
        if key not in OPTIONS:
            raise ValueError(f"torchft has no key {key!r}; {nearest(key, OPTIONS) or 'it has ' + ', '.join(OPTIONS)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{key} is a whole number from 1, not {value!r}")
    return {**OPTIONS, **given}


def _reachable(role: Role, allocation: Allocation) -> Choice:
    """The launcher, told the address at which the other groups reach this one.

    On a single node torchrun calls that node localhost, and TorchFT would hand this name to the other nodes.
    """
    whole = role.gpus is None and (allocation.gpus or role.cpus is None) and role.replicas < allocation.nodes
    single = (role.nodes or (allocation.nodes // role.replicas if whole else 1)) == 1
    if role.launcher.type != "torchrun" or not single:
        return role.launcher
    return Choice(type="torchrun", **{"local_addr": "{self.host}", **role.launcher.options})
