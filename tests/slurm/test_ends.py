"""However a job ends, its hosts are as they were: a short version of `benchmarks/ends.py`."""

from __future__ import annotations

import pytest
from benchmarks.ends import WAYS, Ended, bench_on, measure

from gangrun.lab import Lab

pytestmark = pytest.mark.slurm

LONG = {"limit", "limit, ignores TERM", "preempted", "a host loses its power"}
"""These take minutes, and other tests look at what they leave."""


@pytest.fixture(scope="module")
def ended(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    bench = bench_on(lab, tmp_path_factory.mktemp("ends") / "project")
    return measure(bench, [name for name in WAYS if name not in LONG], at_once=len(WAYS))


@pytest.mark.parametrize("way", [name for name in WAYS if name not in LONG])
def test_nothing_is_left(ended: dict[str, Ended], way: str) -> None:
    assert not ended[way].left
    assert ended[way].states.keys() <= {"COMPLETED"} if way == "finish" else "COMPLETED" not in ended[way].states
