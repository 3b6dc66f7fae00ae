"""The drawn plan and the plan as data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gangrun.plan.model import Plan
from gangrun.plan.place import place
from gangrun.spec.model import Allocation, Role
from gangrun.views.plan import _blocks, _ranges, _rows, as_data, draw, draw_explained

Resolved = Callable[..., Plan]


def drawn(plan: Plan, width: int = 80) -> str:
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(draw(plan, width))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def map_of(plan: Plan, width: int = 80) -> list[str]:
    """The lines of the map alone."""
    return drawn(plan, width).split("\n\n")[1].splitlines()


RL = """
[allocation]
nodes = {nodes}
gpus = 8
cpus = 64
mem = "500G"
time = "1-12:00:00"
partition = "gpu"
[roles.inference]
kind = "service"
replicas = 2
gpus = 4
ports = ["http"]
ready = {{ http = "http://{{self.host}}:{{self.port.http}}/health", within = "5m" }}
command = ["vllm", "serve", "some model"]
[roles.trainer]
nodes = {trainers}
gpus = 8
launcher = "torchrun"
command = ["train.py"]
restarts = 2
[roles.orchestrator]
beside = "trainer"
after = ["inference"]
command = ["python", "orchestrate.py", "{{inference.addresses.http}}", "and", "many", "more", "words", "than", "fit"]
[roles.monitor]
kind = "sidecar"
command = ["nvidia-smi"]
"""


def test_everything_at_a_glance(resolved: Resolved) -> None:
    assert (
        drawn(resolved(RL.format(nodes=2, trainers=1)))
        == """\
exp/step -> site (slurm)
2 nodes x 8 GPUs, 64 CPUs and 500G memory each, 1 d 12 h, 576 GPU-hours
partition gpu

GPU      0  1  2  3  4  5  6  7
node 0 |I0 I0 I0 I0|I1 I1 I1 I1| M0
node 1 |T0 T0 T0 T0 T0 T0 T0 T0| M0 O0

I = inference: service, 2 replicas, each 1 node x 4 GPUs, 32 CPUs, 1 task
    $ vllm serve 'some model'
    port http; ready: http http://${HOSTS[0]}:${PORTS[0]}/health within 5 min
T = trainer: main, 1 node x 8 GPUs, 63 CPUs, 1 task
    $ torchrun --standalone --nproc-per-node=8 train.py
    restarts up to 2 times
M = monitor: sidecar, all 2 nodes, 1 CPU, 1 task per node
    $ nvidia-smi
O = orchestrator: main, 1 node, 1 CPU, 1 task
    $ python orchestrate.py ${ADDRESSES[inference.http]} and many more words ...
    waits for inference"""
    )


def test_one_process_without_a_gpu(resolved: Resolved) -> None:
    assert (
        drawn(resolved("command = ['python', 'x.py']\n", profile={"scheduler": "local"}))
        == """\
exp/step -> site (local)
1 node, no time limit said

node 0  M0

M = main: main, 1 node, 1 task
    $ python x.py"""
    )


def test_what_is_not_used_is_said(resolved: Resolved) -> None:
    text = drawn(resolved(RL.format(nodes=8, trainers=4)))
    assert "note: 3 of 8 nodes unused: nodes 5-7" in text
    assert "note: 24 of 64 GPUs unused" in text
    assert "nodes 5-7 | -  -  -  -  -  -  -  -| M0" in text
    part = drawn(resolved("[allocation]\nnodes = 2\ngpus = 8\n[roles.a]\nreplicas = 7\ngpus = 2\ncommand = ['x']\n"))
    assert "note: 2 of 16 GPUs unused" in part
    assert "nodes unused" not in part
    assert "unused" not in drawn(resolved(RL.format(nodes=2, trainers=1)))


def test_notes_of_the_plan_are_shown(resolved: Resolved) -> None:
    text = drawn(resolved("command = ['x']\n[allocation]\nmem = '1G'\n", profile={"forbid": ["mem"]}), 60)
    assert "note: --mem is not sent: profile site forbids it" in text


def test_shared_gpus_show_both(resolved: Resolved) -> None:
    text = "[allocation]\ngpus = 2\n[roles.server]\nkind = 'service'\ngpus = 2\ncommand = ['s']\n"
    text += "[roles.client]\nbeside = 'server'\ngpus = 'shared'\ncommand = ['c']\n"
    plan = resolved(text)
    assert map_of(plan) == ["GPU         0     1", "node 0 |S0+C0 S0+C0|"]
    assert "C = client: main, 1 node x 2 GPUs (shared), 1 task" in drawn(plan)


def test_nodes_that_are_alike_are_one_line(resolved: Resolved) -> None:
    plan = resolved("launcher = 'torchrun'\ncommand = ['x']\n[allocation]\nnodes = 128\ngpus = 4\n")
    assert map_of(plan) == ["GPU           0  1  2  3", "nodes 0-127 |M0 M0 M0 M0|"]
    assert "M = main: main, all 128 nodes x 4 GPUs, 1 task per node" in drawn(plan)


GROUPS = "[allocation]\nnodes = {nodes}\ngpus = {gpus}\n[roles.l]\ngpus = 0\ncommand = ['l']\nkind = 'service'\n"
GROUPS += "[roles.t]\nreplicas = {replicas}\n{size}\ncommand = ['x']\nlauncher = 'torchrun'\n"


def test_a_series_of_replicas_is_one_line_after_the_first(resolved: Resolved) -> None:
    plan = resolved(GROUPS.format(nodes=128, gpus=8, replicas=1024, size="gpus = 1"))
    assert map_of(plan) == [
        "GPU            0   1   2   3   4   5   6   7",
        "node 0      | T0| T1| T2| T3| T4| T5| T6| T7| L0",
        "node 1      | T8| T9|T10|T11|T12|T13|T14|T15|",
        "nodes 2-127 |  T|  T|  T|  T|  T|  T|  T|  T| T16-T1023",
    ]


def test_a_series_of_replicas_over_nodes(resolved: Resolved) -> None:
    plan = resolved(GROUPS.format(nodes=16, gpus=2, replicas=8, size="nodes = 2"))
    assert map_of(plan) == [
        "GPU          0  1",
        "node 0     |T0 T0| L0",
        "node 1     |T0 T0|",
        "nodes 2-3  |T1 T1|",
        "nodes 4-15 | T  T| T2-T7 (2 nodes each)",
    ]


def test_short_series_are_shown_one_by_one(resolved: Resolved) -> None:
    text = "[allocation]\nnodes = 7\ngpus = 1\n[roles.t]\nreplicas = {}\ngpus = 1\ncommand = ['x']\n"
    few = map_of(resolved(text.format(4)))
    assert [line.split("|")[0].strip() for line in few[1:]] == ["node 0", "node 1", "node 2", "node 3", "nodes 4-6"]
    more = map_of(resolved(text.format(5)))
    assert [line.split("|")[0].strip() for line in more[1:]] == ["node 0", "nodes 1-4", "nodes 5-6"]


def test_few_nodes_are_shown_one_by_one(resolved: Resolved) -> None:
    plan = resolved("launcher = 'torchrun'\ncommand = ['x']\n[allocation]\nnodes = 4\ngpus = 1\n")
    assert len(map_of(plan)) == 5


def test_many_gpus_go_on_in_a_second_line(resolved: Resolved) -> None:
    text = "[allocation]\nnodes = 1\ngpus = 16\n[roles.t]\nreplicas = 16\ngpus = 1\ncommand = ['x']\n"
    text += "[roles.w]\nkind = 'sidecar'\ncommand = ['w']\n"
    assert map_of(resolved(text), 44) == [
        "GPU       0   1   2   3   4   5   6   7",
        "          8   9  10  11  12  13  14  15",
        "node 0 | T0| T1| T2| T3| T4| T5| T6| T7|",
        "       | T8| T9|T10|T11|T12|T13|T14|T15| W0",
    ]


def test_many_replicas_beside_go_on_below(resolved: Resolved) -> None:
    text = "[allocation]\nnodes = 1\n" + "".join(
        f"[roles.role{chr(97 + i)}]\ngpus = 0\ncommand = ['x']\nreplicas = 2\n" for i in range(20)
    )
    lines = map_of(resolved(text), 40)
    assert lines[0].startswith("node 0  R0-1 O0-1 L0-1 E0-1")
    assert len(lines) > 1
    assert all(line.startswith("        ") for line in lines[1:])


def test_letters_are_each_roles_own(resolved: Resolved) -> None:
    text = "".join(f"[roles.{name}]\ngpus = 0\ncommand = ['x']\n" for name in ("train", "test", "t", "t2", "tt"))
    legend = re.findall(r"^(.) = (\S+):", drawn(resolved(text)), re.MULTILINE)
    assert [name for _, name in legend] == ["train", "test", "t", "t2", "tt"]
    letters = [letter for letter, _ in legend]
    assert letters[:2] == ["T", "E"]
    assert len(set(letters)) == 5


def test_cpus_that_differ_are_a_range(resolved: Resolved) -> None:
    text = "[allocation]\nnodes = 2\ngpus = 2\ncpus = 16\n[roles.l]\ngpus = 0\ncommand = ['l']\n"
    text += "[roles.t]\nreplicas = 2\ngpus = 2\ncommand = ['x']\n"
    assert "T = t: main, 2 replicas, each 1 node x 2 GPUs, 15 to 16 CPUs, 1 task" in drawn(resolved(text))


@pytest.mark.parametrize("width", [10, 40, 60, 80, 200])
def test_no_line_is_wider_than_it_may_be_and_all_is_ascii(width: int, resolved: Resolved) -> None:
    for text in (RL.format(nodes=8, trainers=4), GROUPS.format(nodes=128, gpus=16, replicas=1024, size="gpus = 2")):
        for line in drawn(resolved(text), width).splitlines():
            assert len(line) <= max(width, 40)
            assert line.isascii()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, 1, 2, 4])), min_size=1, max_size=3),
    st.integers(1, 12),
)
def test_folding_loses_nothing(shapes: list[tuple[int, int]], nodes: int) -> None:
    """Every node is in exactly one block, and a block that is no series holds on each node what its first holds."""
    roles = {
        name: Role.model_validate({"replicas": replicas, "gpus": gpus})
        for name, (replicas, gpus) in zip("abc", shapes, strict=False)
    }
    spots, misfits = place(roles, Allocation(nodes=nodes, gpus=4))
    if misfits:
        return
    from gangrun.plan import model

    replicas = tuple(
        model.Replica(name, index, len(found), "main", spot.nodes, spot.gpus, None, 1, False, ())
        for name, found in spots.items()
        for index, spot in enumerate(found)
    )
    allocation = model.Allocation(nodes, 4, None, None, None)
    plan = Plan("e", "s", None, "c", "slurm", allocation, replicas, 0, (), (), "/", 30)
    rows = _rows(plan)
    blocks = _blocks(rows)
    assert [node for block in blocks for node in range(block.first, block.last + 1)] == list(range(nodes))
    for block in blocks:
        inside = rows[block.first : block.last + 1]
        if not block.ranges:
            assert all(row == block.row for row in inside)
            continue
        assert all([role for role, _ in row.replicas] == [role for role, _ in block.row.replicas] for row in inside)
        for role, low, high in block.ranges:
            indices = {index for row in inside for other, index in row.replicas if other == role}
            assert (min(indices), max(indices)) == (low, high)


@given(st.sets(st.integers(0, 30)))
def test_ranges_name_every_number(numbers: set[int]) -> None:
    found: set[int] = set()
    for part in _ranges(numbers).split(", ") if numbers else []:
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == numbers


# ---- data


def test_the_plan_as_data(resolved: Resolved) -> None:
    data = as_data(resolved("seed = 3\n" + RL.format(nodes=2, trainers=1) + "[env]\nA = '{run.dir}'\n"))
    assert json.loads(json.dumps(data)) == data
    assert data["run"] == "exp/step"
    assert (data["seed"], data["cluster"], data["scheduler"], data["ports"]) == (3, "site", "slurm", 2)
    assert data["allocation"] == {
        "nodes": 2,
        "gpus": 8,
        "cpus": 64,
        "mem": "500G",
        "time": 129_600,
        "gpu_hours": 576.0,
        "flags": {
            "nodes": "2",
            "ntasks-per-node": "1",
            "gres": "gpu:8",
            "cpus-per-task": "64",
            "mem": "500G",
            "time": "1-12:00:00",
            "partition": "gpu",
        },
    }
    assert data["replicas"][1] == {
        "role": "inference",
        "index": 1,
        "count": 2,
        "kind": "service",
        "nodes": [0],
        "gpus": [4, 5, 6, 7],
        "gpus_shared": False,
        "alone": False,
        "cpus": 32,
        "tasks": 1,
        "threads": 32,
        "ranks": False,
        "ports": {"http": 1},
        "argv": ["vllm", "serve", "some model"],
        "again": [],
        "env": {},
        "after": [],
        "ready": {"kind": "http", "target": "http://${HOSTS[0]}:${PORTS[1]}/health", "within": 300},
        "restarts": 0,
        "spare": 0,
        "step_flags": [],
    }
    assert data["env"] == {"A": "${RUN_DIR}"}
    assert data["unused"] == {"nodes": [], "gpus": 0}
    assert "explained" not in data


def test_without_a_time_limit_there_are_no_gpu_hours(resolved: Resolved) -> None:
    data = as_data(resolved("command = ['x']\n[allocation]\ngpus = 2\nsbatch = { exclusive = true }\n"))
    assert data["allocation"]["gpu_hours"] is None
    assert data["allocation"]["flags"]["exclusive"] is True


def test_where_values_come_from_as_data_and_as_a_table(resolved: Resolved) -> None:
    rows: list[tuple[str, Any, str]] = [("a.b", ["x", 1], "f:1"), ("[c]", "text [red]", "--set")]
    data = as_data(resolved("command = ['x']\n"), rows)
    assert data["explained"][0] == {"key": "a.b", "value": ["x", 1], "source": "f:1"}
    console = Console(width=60, color_system=None)
    with console.capture() as captured:
        console.print(draw_explained(rows))
    assert [line.split() for line in captured.get().splitlines()] == [
        ["key", "value", "from"],
        ["a.b", '["x",', "1]", "f:1"],
        ["[c]", "text", "[red]", "--set"],
    ]
