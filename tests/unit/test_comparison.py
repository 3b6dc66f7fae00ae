"""What a sweep costs as an array and as a pool, against numbers that were calculated by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gangrun.comparison import Comparison, Size, Work, compare, of_plan, simulate_jobs, simulate_pool
from gangrun.spec.load import load
from gangrun.spec.model import Profile
from gangrun.spec.profile import Cluster
from gangrun.sweeps import plan_sweep
from gangrun.views import comparison as view
from gangrun.views.planned_items import as_data, compared

DEMO = [1.3 + 0.795 * number for number in range(20)]
"""The seconds of the 20 configurations on which the words were first compared, up to rounding: 177.05 in all."""


def works(*seconds: float, gpus: float = 1, cpus: float = 1) -> list[Work]:
    """In the order in which they are queued: longest first."""
    order = sorted(range(len(seconds)), key=lambda index: -seconds[index])
    return [Work(index, f"item{index}", seconds[index], gpus, cpus) for index in order]


def begins(found: Comparison) -> dict[int, tuple[float, float]]:
    return {one.work.index: (one.begin, one.end) for one in found.chart}


def test_five_items_on_two_gpus() -> None:
    """6 and 5 start; 4 follows the 5 at 5, 3 follows the 6 at 6, both end at 9; 2 ends at 11. 20 s of work."""
    found = compare(works(6, 5, 4, 3, 2), [Size(2, 8)], "pool", time=15)
    assert begins(found) == {0: (0, 6), 1: (0, 5), 2: (5, 9), 3: (6, 9), 4: (9, 11)}
    pool, array = found.pool, found.spread
    assert (pool.jobs, pool.each, pool.at_once, pool.time, pool.makespan) == (1, 2, 2, 15, 11)
    assert (pool.computing, pool.held, pool.asked) == (20, 2 * 11, 2 * 15)
    assert (pool.wasted, pool.blocked) == (2, 8)
    assert (array.name, array.jobs, array.each, array.at_once, array.time, array.makespan) == ("array", 5, 1, 2, 6, 11)
    assert (array.computing, array.held, array.asked) == (20, 20, 5 * 6)
    assert (array.wasted, array.blocked) == (0, 10)
    assert found.bound == 10


def test_every_second_that_is_asked_for_is_computing_wasted_or_blocked() -> None:
    found = compare(works(*DEMO), [Size(2, 8), Size(2, 8)], "pool", time=50)
    for way in (found.spread, found.pool):
        assert way.asked == pytest.approx(way.computing + way.wasted + way.blocked)
    assert found.spread.asked == pytest.approx(20 * 16.405)
    assert found.pool.asked == 200, "GPU-seconds: 4 GPUs for 50 s, not 200 s"
    assert found.bound == pytest.approx(177.05 / 4)
    assert found.pool.makespan < 1.05 * found.bound
    assert (found.better, found.why) == (
        "pool",
        "asks for 39 % fewer GPU-hours, for which the queue has to find room",
    )


def test_an_array_without_a_limit_is_held_against_a_pool_that_is_through_as_early() -> None:
    """8 s of work, the longest item 4: two GPUs do it in 4 s, too."""
    found = compare(works(4, 2, 2), None, "array", time=5)
    assert (found.spread.at_once, found.spread.makespan, found.spread.asked) == (3, 4, 15)
    assert (found.pool.at_once, found.pool.makespan, found.pool.asked, found.pool.wasted) == (2, 4, 8, 0)


def test_a_pool_that_would_wait_for_one_item_is_the_worse_way() -> None:
    found = compare(works(100, 1, 1, 1), [Size(4, 8)], "pool")
    assert (found.pool.held, found.pool.wasted, found.spread.held) == (400, 297, 103)
    assert (found.better, found.why) == (
        "array",
        "holds 74 % fewer GPU-hours, and what is held is what is charged",
    )


def test_in_an_array_all_tasks_ask_for_what_the_widest_needs() -> None:
    mixed = [Work(0, "wide", 10, 4, 4), Work(1, "narrow", 10, 1, 1)]
    array = compare(mixed, [Size(8, 8)], "pool").spread
    assert (array.each, array.computing, array.held, array.asked, array.wasted) == (4, 50, 80, 80, 30)


def test_a_pool_keeps_a_node_free_for_a_wide_item() -> None:
    """What ends at 2 makes room for the last narrow item, but then the wide one would wait on."""
    mixed = [Work(0, "long", 4, 1, 0), Work(1, "wide", 3, 2, 0), Work(2, "a", 2, 1, 0), Work(3, "b", 1, 1, 0)]
    chart = simulate_pool(mixed, [Size(2, 8)])
    assert {one.work.name: one.begin for one in chart} == {"long": 0, "a": 0, "wide": 4, "b": 7}


def test_fractions_of_a_gpu_share_one() -> None:
    chart = simulate_pool(works(2, 2, 2, gpus=0.5, cpus=0), [Size(1, 8)])
    assert [(one.begin, one.gpus) for one in chart] == [(0, ("0",)), (0, ("0",)), (2, ("0",))]


def test_without_gpus_cpus_are_counted() -> None:
    found = compare(works(3, 2, 1, gpus=0, cpus=2), [Size(0, 4)], "pool")
    assert (found.unit, found.pool.at_once, found.pool.computing, found.pool.held) == ("CPU", 4, 12, 12)
    assert view.rows(found)[2] == ("CPUs of each", "2", "4")


def test_jobs_wait_for_those_before_them_in_their_lanes() -> None:
    five = works(6, 5, 4, 3, 2)
    assert simulate_jobs(five, 2, None) == [0, 0, 5, 6, 9]
    assert simulate_jobs(five, None, None) == [0, 0, 0, 0, 0]
    found = compare(five, None, "jobs", max_parallel=2)
    assert (found.spread.name, found.spread.makespan, found.pool.at_once, found.pool.makespan) == ("jobs", 11, 2, 11)


# ---- from a file, and as it is shown

FILE = """\
command = ["x", "{x}"]
[allocation]
gpus = 2
time = "00:01:00"
[pool]
estimate = "{x}"
[sweep]
x = [2, 6, 4, 3, 5]
"""


@pytest.fixture
def planned(write: Callable[..., Path]) -> Callable[..., Any]:
    """`planned(*overrides)` is the plan of the sweep on a Slurm."""

    def plan(*overrides: str) -> Any:
        return plan_sweep(load(write(FILE), overrides), Cluster("site", Profile()))

    return plan


def test_a_plan_shows_both_ways_and_the_items_over_time(planned: Callable[..., Any]) -> None:
    lines = compared(planned(), 60)
    assert lines[1:11] == [
        "                                  array  pool",
        "jobs or tasks                         5     1",
        "GPUs of each                          1     2",
        "time that each asks for             6 s  60 s",
        "GPUs at once                          2     2",
        "first start to last end            11 s  11 s",
        "GPU-seconds asked for                30   120",
        "  computing                          20    20",
        "  wasted: held, but idle              0     2",
        "  blocked: asked for, given back     10    98",
    ]
    assert lines[11:13] == [
        "no way ends before 10 s on 2 GPUs",
        "better: array, which asks for 75 % fewer GPU-hours, for which the queue has to find room",
    ]
    assert lines[15:] == [
        "node 0 GPU 0  |1───────────────────────|3──────────|0───────",
        "node 0 GPU 1  |4──────────────────|2───────────────·········",
        "              0 --------------------------------------- 11 s",
    ]
    assert as_data(planned())["comparison"]["pool"]["wasted"] == 2


def test_an_array_is_drawn_in_as_many_rows_as_it_has_tasks_at_once(planned: Callable[..., Any]) -> None:
    lines = compared(planned("sweep.mode=array", "sweep.max_parallel=2", "allocation.gpus=1"), 60)
    assert [line[:6] for line in lines[-3:-1]] == ["#0  |1", "#1  |4"]


def test_a_time_that_is_too_short_is_told(planned: Callable[..., Any]) -> None:
    lines = compared(planned("allocation.time=8s"), 60)
    assert "note: as pool it asks for 8 s, and needs 11 s" in lines


@pytest.mark.parametrize(
    "without",
    [["pool.estimate=1", "sweep.mode=jobs", "allocation.nodes=2"], ["allocation.gpus=0"]],
    ids=["items of several nodes", "a node of unknown CPUs"],
)
def test_what_cannot_be_compared_is_not(planned: Callable[..., Any], without: list[str]) -> None:
    assert compared(planned(*without), 60) == []
    assert as_data(planned(*without))["comparison"] is None
    assert of_plan(planned(*without)) is None


def test_without_estimates_there_is_nothing_to_compare(write: Callable[..., Path]) -> None:
    file = write(FILE.replace('estimate = "{x}"', ""))
    assert of_plan(plan_sweep(load(file), Cluster("site", Profile()))) is None
