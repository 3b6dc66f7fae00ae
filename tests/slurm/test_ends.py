"""However a job ends, its hosts are as they were: a short version of `benchmarks/ends.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from benchmarks.ends import WAYS, Ended, bench_on, measure

from tests.slurm.conftest import a_lab

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

SHORT = [name for name, way in WAYS.items() if way.apart in ("", "preempted")]
"""The others take minutes, and other tests look at what they leave."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """On a lab of its own: what cannot be killed drains its node. Five jobs at once leave a node of two cores the time
    to act within the 5 s that the lab's Slurm gives."""
    with contextmanager(a_lab)("e", nodes=4, gpus=0) as lab:
        bench = bench_on(lab, tmp_path_factory.mktemp("ends") / "project")
        yield measure(bench, [*SHORT, "preempted", "preempted"], at_once=5)


@pytest.mark.parametrize("way", SHORT)
def test_nothing_is_left(ended: dict[str, Ended], way: str) -> None:
    assert not ended[way].left
    assert ended[way].states.keys() <= {"COMPLETED"} if way == "finish" else "COMPLETED" not in ended[way].states
