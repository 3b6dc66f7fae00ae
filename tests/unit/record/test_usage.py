"""What monitors wrote, folded: by time, by replica and by GPU, whatever is torn or missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.usage import BEGIN, day, head, line, written

from gangrun.record import usage
from gangrun.record.usage import NodeUse, Span


def folded(folder: Path, *nodes: str, slices: int = 4) -> list[NodeUse]:
    run = written(folder, *nodes)
    span = usage.times(run, 1)
    assert span is not None
    return usage.read(run, 1, Span(*span, slices))


def test_samples_count_by_the_time_since_the_one_before(tmp_path: Path) -> None:
    text = head()
    for when, cpus in ((1, 8.0), (3, 2.0), (7, 2.0), (15, 2.0)):
        text += line(t=BEGIN + when, r={"a.0": [cpus, 100 * when, 10.0, 0.0]})
    [node] = folded(tmp_path, text)
    replica = node.replicas["a.0"]
    assert replica.cpu.mean == (8 * 1 + 2 * 14) / 15
    assert (replica.cpu.peak, replica.cpu.last, replica.memory.peak, replica.read) == (8.0, 2.0, 1500, 150.0)
    assert replica.cpu.curve[1:] == [2.0, 2.0, 2.0]
    assert (node.host, node.cpus, node.limit, node.asked, node.begin, node.end) == (
        "node1", 8, 16384, True, BEGIN, BEGIN + 15,
    )  # fmt: skip


def test_a_gap_counts_for_a_while_and_leaves_the_curve_open(tmp_path: Path) -> None:
    text = head() + "".join(line(t=BEGIN + when, r={"a.0": [1.0, 1, 0.0, 0.0]}) for when in (15, 1000))
    [node] = folded(tmp_path, text, slices=10)
    assert node.replicas["a.0"].cpu.seconds == 15 + 60
    assert node.replicas["a.0"].cpu.curve[1:9] == [None] * 8


def test_slurms_own_count_goes_before_the_sum_over_processes(tmp_path: Path) -> None:
    text = head() + line(t=BEGIN + 15, job=[3.0, 900], r={"a.0": [1.0, 800, 0.0, 0.0], "b.0": [1.0, 800, 0.0, 0.0]})
    text += line(t=BEGIN + 30, r={"a.0": [1.0, 800, 0.0, 0.0], "b.0": [1.5, 700, 0.0, 0.0]})
    [node] = folded(tmp_path, text)
    assert (node.cpu.mean, node.memory.peak) == (2.75, 1500)


def test_gpus_belong_to_whom_they_were_given(tmp_path: Path) -> None:
    text = head(gpus=3)
    text += line(
        t=BEGIN + 1,
        devices=[["0", "GPU-aaaa-1", "H100", 80000], ["1", "GPU-bbbb-2", "H100", 80000], ["2", None, None, None]],
    )
    text += line(t=BEGIN + 1, given={"a.0": ["0", "GPU-bbbb"]}) + line(t=BEGIN + 2, given={"b.0": ["1"]})
    text += line(
        t=BEGIN + 15, r={}, g=[[90, 10, 500, 60, 300.5], [4, 0, 100, 40, None], [None, None, None, None, None]]
    )
    text += line(
        t=BEGIN + 30, r={}, g=[[100, 10, 700, 70, 400.5], [50, 0, 100, 45, None], [None, None, None, None, None]]
    )
    [node] = folded(tmp_path, text)
    first, second, third = node.gpus
    assert [gpu.replicas for gpu in node.gpus] == [("a.0",), ("a.0", "b.0"), ()]
    assert (first.busy.mean, first.idle_share, first.memory.peak, first.power.mean, first.heat.peak) == (
        95,
        0,
        700,
        350.5,
        70,
    )
    assert (second.busy.mean, second.idle_share) == (27, 0.5)
    assert (third.busy.mean, third.idle_share) == (None, None)


def test_a_monitor_that_begins_again_goes_on_in_the_same_file(tmp_path: Path) -> None:
    device = line(t=BEGIN, devices=[["0", "GPU-a", "H100", 1]])
    sample = {"r": {"a.0": [1.0, 5, 0.0, 0.0]}, "g": [[50, 0, 0, 0, 0]]}
    text = head(gpus=1) + device + line(t=BEGIN + 15, **sample)
    text += head(gpus=1, t=BEGIN + 500) + device + line(t=BEGIN + 515, **sample)
    [node] = folded(tmp_path, text)
    assert len(node.gpus) == 1
    assert (node.begin, node.replicas["a.0"].cpu.seconds, node.gpus[0].busy.seconds) == (BEGIN, 30, 30)


def test_what_is_torn_is_left_out_and_notes_are_kept_once(tmp_path: Path) -> None:
    good = line(t=BEGIN + 15, r={"a.0": [1.0, 5, 0.0, 0.0]})
    for bad in (
        good[: len(good) // 2], "\0\0\0", "[1]\n", "null\n", '{"r":{"a.0":[1.0]},"t":1}\n', '{"r":3,"t":1}\n',
        '{"g":[[1]],"r":{},"t":"x"}\n', '{"v":1}\n', '{"devices":[3],"t":1}\n', '{"t":null,"r":{}}\n',
    ):  # fmt: skip
        note = line(t=BEGIN, note="nvidia-smi is not installed")
        [node] = folded(tmp_path, head() + note + bad + "\n" + note + good)
        assert node.replicas["a.0"].cpu.seconds > 0
        assert node.notes == ["nvidia-smi is not installed"]


def test_without_files_there_is_nothing(tmp_path: Path) -> None:
    run = written(tmp_path)
    assert usage.times(run, 1) is None
    assert usage.read(run, 1, Span(0, 1)) == []
    written(tmp_path, "")
    assert usage.times(run, 1) is None


def test_a_day_of_a_node_with_8_gpus_is_small(tmp_path: Path) -> None:
    text = day(0)
    assert len(text) < 20e6
    [node] = folded(tmp_path, text, slices=240)
    assert (len(node.gpus), len(node.replicas)) == (8, 8)
    assert None not in node.gpus[7].busy.curve
    assert 40 < (node.gpus[0].busy.mean or 0) < 60


def test_many_nodes_are_read_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [day(node, hours=0.1) for node in range(3)]
    alone = folded(tmp_path, *texts)
    monkeypatch.setattr(usage, "_LARGE", 1)
    together = folded(tmp_path, *texts)
    assert [node.host for node in together] == ["node0", "node1", "node2"]
    assert [gpu.busy.curve for node in together for gpu in node.gpus] == [
        gpu.busy.curve for node in alone for gpu in node.gpus
    ]
