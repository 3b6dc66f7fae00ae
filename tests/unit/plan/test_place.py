"""Placement: the topologies of the design as specs, what does not fit, and what holds whatever is asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gangrun.plan.place import Misfit, Spot, place
from gangrun.spec.model import Allocation, Role

Roles = dict[str, dict[str, Any]]
Seats = list[tuple[tuple[int, ...], tuple[int, ...], int | None]]


def seats(roles: Roles, **allocation: Any) -> dict[str, Seats]:
    """Nodes, GPUs and CPUs of every replica, by role."""
    spots, misfits = placed(roles, **allocation)
    assert misfits == []
    return {name: [(spot.nodes, spot.gpus, spot.cpus) for spot in found] for name, found in spots.items()}


def placed(roles: Roles, **allocation: Any) -> tuple[dict[str, tuple[Spot, ...]], list[Misfit]]:
    models = {name: Role.model_validate(role) for name, role in roles.items()}
    return place(models, Allocation.model_validate(allocation))


def misfit(roles: Roles, **allocation: Any) -> Misfit:
    _, misfits = placed(roles, **allocation)
    assert len(misfits) == 1
    return misfits[0]


ALL = tuple(range(8))

# ---- every topology


def test_one_trainer_has_everything() -> None:
    assert seats({"main": {}}, nodes=2, gpus=8, cpus=112) == {"main": [((0, 1), ALL, 112)]}


def test_trainer_and_a_sidecar_on_every_node() -> None:
    found = seats({"main": {"tasks": 8}, "monitor": {"kind": "sidecar"}}, nodes=2, gpus=8, cpus=112)
    # A sidecar takes no CPU away and nobody's node.
    assert found == {"main": [((0, 1), ALL, 112)], "monitor": [((0, 1), (), 1)]}
    spots, _ = placed({"main": {}, "monitor": {"kind": "sidecar"}}, nodes=2, gpus=8)
    assert spots["main"][0].alone


def test_replicas_inside_a_node() -> None:
    roles: Roles = {"lighthouse": {"kind": "service", "gpus": 0}, "trainer": {"replicas": 4, "gpus": 4}}
    assert seats(roles, nodes=2, gpus=8, cpus=64) == {
        "lighthouse": [((0,), (), 1)],
        "trainer": [
            # 63 CPUs for two on the node of the lighthouse.
            ((0,), (0, 1, 2, 3), 31),
            ((0,), (4, 5, 6, 7), 31),
            ((1,), (0, 1, 2, 3), 32),
            ((1,), (4, 5, 6, 7), 32),
        ],
    }


def test_replicas_inside_a_node_by_their_number_alone() -> None:
    found = seats({"trainer": {"replicas": 4}}, nodes=2, gpus=8)
    assert [(nodes, gpus) for nodes, gpus, _ in found["trainer"]] == [
        ((0,), (0, 1, 2, 3)),
        ((0,), (4, 5, 6, 7)),
        ((1,), (0, 1, 2, 3)),
        ((1,), (4, 5, 6, 7)),
    ]


@pytest.mark.parametrize(
    "trainer", [{"replicas": 2, "nodes": 2}, {"replicas": 2}, {"replicas": 2, "nodes": 2, "gpus": 8}]
)
def test_replicas_over_nodes(trainer: dict[str, Any]) -> None:
    roles: Roles = {"lighthouse": {"kind": "service", "gpus": 0}, "trainer": trainer}
    found = seats(roles, nodes=4, gpus=8)
    assert [(nodes, gpus) for nodes, gpus, _ in found["trainer"]] == [((0, 1), ALL), ((2, 3), ALL)]
    assert found["lighthouse"] == [((0,), (), None)]


def test_reinforcement_learning_with_three_roles() -> None:
    roles: Roles = {
        "inference": {"kind": "service", "replicas": 4, "gpus": 2, "cpus": 8},
        "trainer": {"nodes": 1, "gpus": 8},
        "orchestrator": {"beside": "trainer", "cpus": 4},
    }
    found = seats(roles, nodes=2, gpus=8, cpus=64)
    assert found["inference"] == [((0,), (at, at + 1), 8) for at in (0, 2, 4, 6)]
    assert found["trainer"] == [((1,), ALL, 60)]
    assert found["orchestrator"] == [((1,), (), 4)]


def test_server_and_client_share_gpus() -> None:
    roles: Roles = {"server": {"kind": "service", "gpus": 2}, "client": {"beside": "server", "gpus": "shared"}}
    assert seats(roles, nodes=1, gpus=2, cpus=10) == {"server": [((0,), (0, 1), 5)], "client": [((0,), (0, 1), 5)]}
    spots, _ = placed(roles, nodes=1, gpus=2)
    assert [(spot.shares_gpus, spot.alone) for role in ("server", "client") for spot in spots[role]] == [
        (False, False),
        (True, False),
    ]


def test_server_and_client_side_by_side() -> None:
    roles: Roles = {"server": {"kind": "service", "gpus": 1}, "client": {"beside": "server", "gpus": 1}}
    found = seats(roles, nodes=1, gpus=2)
    assert [gpus for _, gpus, _ in found["server"] + found["client"]] == [(0,), (1,)]


def test_a_pool_driver_over_the_allocation() -> None:
    assert seats({"driver": {}}, nodes=3, gpus=4) == {"driver": [((0, 1, 2), (0, 1, 2, 3), None)]}


def test_a_ray_head_and_a_worker_on_each_node() -> None:
    roles: Roles = {
        "worker": {"kind": "service", "replicas": 3},
        "head": {"kind": "service", "gpus": 0},
        "driver": {"beside": "head"},
    }
    found = seats(roles, nodes=3, gpus=4)
    assert [nodes for nodes, _, _ in found["worker"]] == [(0,), (1,), (2,)]
    assert found["head"] == found["driver"] == [((0,), (), None)]


# ---- details


def test_a_role_beside_one_of_many_replicas() -> None:
    roles: Roles = {"server": {"replicas": 4, "gpus": 1}, "client": {"beside": "server", "replicas": 4}}
    assert [nodes for nodes, _, _ in seats(roles, nodes=2, gpus=2)["client"]] == [(0,), (0,), (1,), (1,)]
    roles["client"]["replicas"] = 8
    assert [nodes[0] for nodes, _, _ in seats(roles, nodes=2, gpus=2)["client"]] == [0, 0, 0, 0, 1, 1, 1, 1]
    roles["client"]["replicas"] = 1
    assert [nodes for nodes, _, _ in seats(roles, nodes=2, gpus=2)["client"]] == [(0,)]


def test_a_role_beside_one_that_is_beside_another() -> None:
    roles: Roles = {
        "c": {"beside": "b"},
        "b": {"beside": "a"},
        "a": {"nodes": 1, "gpus": 2},
        "x": {"nodes": 1, "gpus": 2},
    }
    found = seats(roles, nodes=2, gpus=2)
    assert found["c"] == found["b"] == [((0,), (), None)]


def test_roles_without_gpus_spread_evenly() -> None:
    def nodes(replicas: int, each: int, total: int) -> list[tuple[int, ...]]:
        found = seats({"x": {"replicas": replicas, "nodes": each, "gpus": 0}}, nodes=total)
        return [spot[0] for spot in found["x"]]

    assert nodes(2, 1, 4) == [(0,), (2,)]
    assert nodes(4, 1, 2) == [(0,), (0,), (1,), (1,)]
    assert nodes(3, 2, 4) == [(0, 1), (0, 1), (2, 3)]
    assert nodes(2, 2, 5) == [(0, 1), (2, 3)]


def test_one_sidecar_is_everywhere_and_several_are_shared_out() -> None:
    def nodes(**sidecar: Any) -> list[tuple[int, ...]]:
        found = seats({"main": {}, "watch": {"kind": "sidecar", **sidecar}}, nodes=3, gpus=1)
        return [spot[0] for spot in found["watch"]]

    assert nodes() == [(0, 1, 2)]
    assert nodes(nodes=1) == [(0,)]
    assert nodes(replicas=3) == [(0,), (1,), (2,)]


def test_claims_keep_the_order_of_the_file_where_it_fits() -> None:
    roles: Roles = {"small": {"gpus": 2}, "large": {"gpus": 6}}
    assert [gpus for role in ("small", "large") for _, gpus, _ in seats(roles, nodes=1, gpus=8)[role]] == [
        (0, 1),
        (2, 3, 4, 5, 6, 7),
    ]


def test_larger_claims_come_first_where_the_files_order_does_not_fit() -> None:
    # One GPU each on the first node would leave the trainer no four GPUs on both.
    roles: Roles = {"inference": {"replicas": 4, "gpus": 1}, "trainer": {"nodes": 2, "gpus": 4}}
    found = seats(roles, nodes=2, gpus=6)
    assert found["trainer"] == [((0, 1), (0, 1, 2, 3), None)]
    assert [(nodes, gpus) for nodes, gpus, _ in found["inference"]] == [
        ((0,), (4,)),
        ((0,), (5,)),
        ((1,), (4,)),
        ((1,), (5,)),
    ]


def test_gpus_that_nodes_have_in_common_are_found() -> None:
    roles: Roles = {"a": {"gpus": 4}, "b": {"gpus": 6}, "c": {"nodes": 2, "gpus": 2}}
    assert seats(roles, nodes=2, gpus=8)["c"] == [((0, 1), (6, 7), None)]


def test_cpus_that_are_said_are_kept_and_the_rest_goes_by_gpus() -> None:
    roles: Roles = {"a": {"gpus": 1, "cpus": 10}, "b": {"gpus": 1}, "c": {"gpus": 2}, "d": {"gpus": 0}}
    found = seats(roles, nodes=1, gpus=4, cpus=41)
    assert [found[role][0][2] for role in "abcd"] == [10, 10, 20, 1]


def test_cpus_without_gpus_are_shared_evenly() -> None:
    found = seats({"a": {"replicas": 3}, "b": {"gpus": 0}}, nodes=1, gpus=0, cpus=16)
    assert [spot[2] for spot in found["a"] + found["b"]] == [4, 4, 4, 4]


def test_a_sidecars_gpu_does_not_take_the_others_cpus() -> None:
    found = seats({"a": {"gpus": 0}, "watch": {"kind": "sidecar", "gpus": 1}}, nodes=1, gpus=1, cpus=16)
    assert found["a"][0][2] == 16


# ---- what does not fit


@pytest.mark.parametrize(
    ("roles", "allocation", "key", "what"),
    [
        ({"a": {"nodes": 3}}, {"nodes": 2}, "nodes", "3 nodes for each replica, but allocation.nodes is 2"),
        ({"a": {"gpus": 8}}, {"gpus": 4}, "gpus", "8 GPUs on each node, but allocation.gpus is 4"),
        ({"a": {"cpus": 8}}, {"cpus": 4}, "cpus", "8 CPUs on each node, but allocation.cpus is 4"),
        ({"a": {"kind": "sidecar", "cpus": 8}}, {"cpus": 4}, "cpus", "8 CPUs on each node, but allocation.cpus is 4"),
        ({"a": {"replicas": 3}}, {"nodes": 2, "gpus": 6}, "replicas", "3 replicas do not divide among 2 nodes"),
        ({"a": {"replicas": 2}}, {"nodes": 3}, "replicas", "3 nodes do not divide among 2 replicas"),
        (
            {"a": {"replicas": 6}},
            {"nodes": 2, "gpus": 8},
            "replicas",
            "8 GPUs of a node do not divide among 3 replicas",
        ),
        ({"a": {"gpus": "shared"}}, {"gpus": 1}, "gpus", '"shared" needs a role to share with'),
        (
            {"a": {"replicas": 3, "gpus": 4}},
            {"gpus": 8},
            "gpus",
            "replica 2 of 3 needs 4 GPUs on 1 node; no GPU is free (nodes in use: )",
        ),
        (
            {"a": {"replicas": 2, "gpus": 5}},
            {"gpus": 8},
            "gpus",
            "replica 1 of 2 needs 5 GPUs on 1 node; free GPUs are 3 on node 0",
        ),
        (
            {"a": {"gpus": 5}, "b": {"nodes": 2, "gpus": 4}},
            {"nodes": 2, "gpus": 8},
            "gpus",
            "replica 0 of 1 needs the same 4 GPUs on each of 2 nodes; free GPUs are 3 on node 0, 8 on node 1",
        ),
        (
            {"a": {"gpus": 1}, "b": {"nodes": 2}},
            {"nodes": 2, "gpus": 8},
            "nodes",
            "replica 0 of 1 takes 2 whole nodes, but only 1 of 2 nodes free (nodes in use: a has 1)",
        ),
        (
            {"a": {}, "b": {}},
            {"nodes": 2, "gpus": 8},
            "",
            "replica 0 of 1 takes 2 whole nodes, but only 0 of 2 nodes free (nodes in use: a has 2)",
        ),
        (
            {"a": {"replicas": 4, "gpus": 1}, "b": {"beside": "a", "replicas": 3}},
            {"gpus": 4},
            "replicas",
            "3 replicas do not divide among the 4 of 'a'",
        ),
        (
            {"a": {"gpus": 4}, "b": {"beside": "a", "gpus": 1}},
            {"gpus": 4},
            "gpus",
            "1 GPU beside 'a', but 0 are free on its nodes",
        ),
        (
            {"a": {"nodes": 1, "gpus": 1}, "b": {"beside": "a", "nodes": 2}},
            {"nodes": 2, "gpus": 4},
            "nodes",
            "2, but each replica of 'a' has 1 node",
        ),
        (
            {"a": {"beside": "b"}, "b": {"beside": "c"}, "c": {"beside": "b"}},
            {},
            "beside",
            "roles stand beside each other in a circle: b → c → b",
        ),
        (
            {"a": {"replicas": 3, "cpus": 2}},
            {"cpus": 4},
            "cpus",
            "node 0 has 4 CPUs, of which replicas take 6 (a.0 2, a.1 2, a.2 2)",
        ),
        (
            {"a": {"replicas": 2, "gpus": 1}, "b": {"gpus": 0, "cpus": 4}},
            {"gpus": 2, "cpus": 5},
            "cpus",
            "node 0 has 5 CPUs, of which replicas take 4 (b.0 4); that leaves less than one for each of 2 others",
        ),
        (
            {"a": {"replicas": 3, "gpus": 1}},
            {"gpus": 3, "cpus": 2},
            "cpus",
            "node 0 has 2 CPUs, less than one for each of 3",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_its_numbers(
    roles: Roles, allocation: dict[str, Any], key: str, what: str
) -> None:
    found = misfit(roles, **allocation)
    assert found.key == key
    assert found.what.startswith(what.removesuffix(" (nodes in use: )"))


def test_a_role_beside_one_without_a_place_does_not_repeat_its_problem() -> None:
    roles: Roles = {"a": {"nodes": 2}, "b": {"beside": "a"}, "c": {"beside": "b"}, "d": {"gpus": 9}}
    _, misfits = placed(roles, nodes=1, gpus=8)
    assert [found.role for found in misfits] == ["a", "d"]


# ---- whatever is asked

allocations = st.builds(
    lambda nodes, gpus, cpus: Allocation(nodes=nodes, gpus=gpus, cpus=cpus),
    st.sampled_from([1, 2, 2, 3, 4]),
    st.sampled_from([0, 4, 6, 8, 8]),
    st.sampled_from([None, None, 8, 24, 61]),
)


@st.composite
def role_tables(draw: st.DrawFn) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for name in draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True)):
        table: dict[str, Any] = {
            "kind": draw(st.sampled_from(["main", "service", "sidecar"])),
            "replicas": draw(st.sampled_from([1, 1, 1, 2, 3, 4])),
            "nodes": draw(st.sampled_from([None, 1, 1, 1, 2, 3])),
            "gpus": draw(st.sampled_from([None, 0, 1, 1, 2, 2, 3, 4, 8])),
            "cpus": draw(st.sampled_from([None, None, None, 1, 5])),
        }
        if roles and draw(st.booleans()):
            table["beside"] = draw(st.sampled_from(sorted(roles)))
            table["gpus"] = draw(st.sampled_from([None, 0, 1, "shared"]))
        roles[name] = Role.model_validate(table)
    return roles


@given(role_tables(), allocations)
@settings(max_examples=300)
def test_what_is_placed_fits(roles: dict[str, Role], allocation: Allocation) -> None:
    spots, misfits = place(roles, allocation)
    if misfits:
        assert all(found.role in roles and found.what for found in misfits)
        return
    holders: Counter[tuple[int, int]] = Counter()
    cpus: Counter[int] = Counter()
    lasting: Counter[int] = Counter()
    for name, role in roles.items():
        assert len(spots[name]) == role.replicas
        for spot in spots[name]:
            assert list(spot.nodes) == sorted(set(spot.nodes))
            assert set(spot.nodes) <= set(range(allocation.nodes))
            assert list(spot.gpus) == sorted(set(spot.gpus))
            assert set(spot.gpus) <= set(range(allocation.gpus))
            if role.nodes is not None:
                assert len(spot.nodes) == role.nodes
            if isinstance(role.gpus, int):
                assert len(spot.gpus) == role.gpus
            if role.cpus is not None:
                assert spot.cpus == role.cpus
            assert spot.cpus is None or spot.cpus >= 1
            assert spot.cpus is None or allocation.cpus is None or spot.cpus <= allocation.cpus
            if not spot.shares_gpus:
                holders.update((node, gpu) for node in spot.nodes for gpu in spot.gpus)
            if role.kind != "sidecar":
                cpus.update(dict.fromkeys(spot.nodes, spot.cpus or 0))
                lasting.update(spot.nodes)
    assert max(holders.values(), default=0) <= 1
    assert allocation.cpus is None or max(cpus.values(), default=0) <= allocation.cpus
    for name, role in roles.items():
        for spot in spots[name]:
            own = role.kind != "sidecar"
            assert spot.alone == all(lasting[node] == int(own) for node in spot.nodes)


@given(role_tables(), allocations)
def test_placing_again_gives_the_same(roles: dict[str, Role], allocation: Allocation) -> None:
    assert place(roles, allocation) == place(roles, allocation)


@given(st.integers(1, 16), st.integers(1, 8), st.integers(0, 8), st.data())
def test_equal_replicas_fit_whenever_there_are_enough_gpus(
    nodes: int, gpus: int, each: int, data: st.DataObject
) -> None:
    """The same question answered by counting: floor(gpus / each) replicas on every node."""
    each = min(max(each, 1), gpus)
    room = nodes * (gpus // each)
    replicas = data.draw(st.integers(1, room + 2))
    _, misfits = placed({"a": {"replicas": replicas, "gpus": each}}, nodes=nodes, gpus=gpus)
    assert bool(misfits) == (replicas > room)
