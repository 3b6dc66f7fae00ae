"""The topology `torchft`: the groups, their lighthouse, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gangrun.plan.model import Plan, Replica
from gangrun.script.quote import shown

Resolved = Callable[..., Plan]
Refused = Callable[..., list[str]]

GROUPS = """
launcher = "torchrun"
topology = "torchft"
replicas = 16
command = ["train.py"]
[allocation]
nodes = 2
gpus = 8
cpus = 128
"""


def by_name(plan: Plan) -> dict[str, Replica]:
    return {replica.name: replica for replica in plan.replicas}


def argv(replica: Replica) -> str:
    return " ".join(map(shown, replica.argv))


def test_groups_inside_nodes(resolved: Resolved) -> None:
    plan = resolved(GROUPS)
    replicas = by_name(plan)
    lighthouse, last = replicas["lighthouse.0"], replicas["main.15"]
    assert (lighthouse.kind, lighthouse.nodes, lighthouse.gpus, lighthouse.cpus) == ("service", (0,), (), 1)
    assert argv(lighthouse) == (
        "python3 ${RUN_DIR}/node/lighthouse.py --port ${PORTS[0]} --min_replicas 1 --quorum_tick_ms 100 "
        "--join_timeout_ms 10000 --heartbeat_timeout_ms 2000"
    )
    assert plan.programs == ("lighthouse.py", "monitor.py")
    assert lighthouse.restarts > 10
    assert [(replicas[f"main.{i}"].nodes, replicas[f"main.{i}"].gpus) for i in (0, 7, 8, 15)] == [
        ((0,), (0,)),
        ((0,), (7,)),
        ((1,), (0,)),
        ((1,), (7,)),
    ]
    # On node 0 the lighthouse has its share first.
    assert (replicas["main.0"].cpus, last.cpus) == (127 // 8, 16)
    assert argv(last) == "torchrun --standalone --nproc-per-node=1 --local-addr=${HOSTS[1]} train.py"
    assert {name: shown(value) for name, value in last.env} == {
        "TORCHFT_LIGHTHOUSE": "http://${HOSTS[0]}:${PORTS[0]}",
        "REPLICA_GROUP_ID": "15",
        "NUM_REPLICA_GROUPS": "16",
        "TORCHFT_TIMEOUT_SEC": "60",
        "TORCHFT_QUORUM_TIMEOUT_SEC": "60",
        "TORCHFT_CONNECT_TIMEOUT_SEC": "60",
        "TORCHFT_QUORUM_RETRIES": "59",
    }
    assert (last.restarts, last.spare, last.after) == (10, 15, ("lighthouse",))
    assert ("no-kill", None) in plan.allocation.flags


def test_groups_over_nodes(resolved: Resolved) -> None:
    replicas = by_name(resolved(GROUPS, "replicas=2", "allocation.nodes=4"))
    assert (replicas["main.0"].nodes, replicas["main.1"].nodes) == ((0, 1), (2, 3))
    assert "--rdzv-endpoint=${HOSTS[2]}:${PORTS[2]}" in argv(replicas["main.1"])
    assert "--local-addr" not in argv(replicas["main.1"]), "rank 0 need not be on the first node"


def test_one_group_for_each_node(resolved: Resolved) -> None:
    replicas = by_name(resolved(GROUPS, "replicas=2"))
    assert argv(replicas["main.1"]) == "torchrun --standalone --nproc-per-node=8 --local-addr=${HOSTS[1]} train.py"


def test_everything_can_be_said_otherwise(resolved: Resolved) -> None:
    plan = resolved(
        GROUPS,
        "min_replicas=12",
        "restarts=2",
        "topology={type='torchft', quorum_tick_ms=7, join_timeout_ms=8, heartbeat_timeout_ms=9, lighthouse_cpus=8}",
        "launcher={type='torchrun', local_addr='elsewhere'}",
        "env.TORCHFT_QUORUM_RETRIES='3'",
        "roles.main.env.TORCHFT_TIMEOUT_SEC='4'",
    )
    replicas = by_name(plan)
    assert argv(replicas["lighthouse.0"]).endswith(
        "--min_replicas 12 --quorum_tick_ms 7 --join_timeout_ms 8 --heartbeat_timeout_ms 9"
    )
    assert replicas["lighthouse.0"].cpus == 8
    main = replicas["main.0"]
    assert (main.restarts, main.spare, main.cpus) == (2, 4, 15)
    assert "--local-addr=elsewhere" in argv(main)
    env = {name: shown(value) for name, value in main.env}
    assert env["TORCHFT_TIMEOUT_SEC"] == "4"
    assert "TORCHFT_QUORUM_RETRIES" not in env, "the file's [env] says it for all roles"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["replicas=5"], "5 replicas do not divide among 2 nodes"),
        (["replicas=6"], "8 GPUs of a node do not divide among 3 replicas"),
        (["replicas=2", "allocation.nodes=3"], "3 nodes do not divide among 2 replicas"),
        (["min_replicas=17"], "17 are needed, but there are 16 replicas"),
        (["topology={type='torchft', min_replicas=3}"], "min_replicas is a key of the role itself"),
        (["topology={type='torchft', join_timeout=3}"], "did you mean 'join_timeout_ms'?"),
        (["topology={type='torchft', quorum_tick_ms='1s'}"], "quorum_tick_ms is a whole number from 1, not '1s'"),
        (["topology={type='torchft', lighthouse_cpus=128}"], "node 0 has 128 CPUs"),
        (["kind='service'"], 'of the kind "main", not "service"'),
        (["roles.lighthouse.command=['x']"], "adds a role 'lighthouse', and there is one already"),
    ],
)
def test_what_does_not_fit(refused: Refused, overrides: list[str], told: str) -> None:
    words = refused(GROUPS, *overrides)
    assert any(told in word for word in words), words


# ---- min_replicas, under any topology or none


def test_a_spare_node_is_told_to_the_script_and_to_the_reader(resolved: Resolved) -> None:
    text = "command=['x']\nreplicas=2\nmin_replicas=2\nnodes=1\nrestarts=1\n[allocation]\nnodes=3\n"
    assert resolved(text).spare_nodes == (2,)
    assert resolved(text, "allocation.sbatch.no-kill=false").spare_nodes == ()
    assert resolved(text.replace("min_replicas=2\n", "")).spare_nodes == ()


def test_a_sidecar_needs_no_min_replicas(refused: Refused) -> None:
    text = "command=['x']\n[roles.w]\nkind='sidecar'\nmin_replicas=1\ncommand=['w']\n"
    (told,) = refused(text)
    assert "a sidecar may die unnoticed" in told
