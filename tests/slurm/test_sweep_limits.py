"""Sweeps that meet the limits of a real Slurm: MaxArraySize and MaxJobCount."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Project, sh, wait_for
from tests.slurm.conftest import a_lab, project_on

pytestmark = pytest.mark.slurm

SMALL = "MaxArraySize=4\nMaxJobCount=8\n"
"""Four tasks in an array; fewer than eight jobs and tasks that the controller knows, those that ended included."""

FILE = "experiments/sweep/ten.toml"
SWEEP = f"""
{sh('until test -e go; do sleep 0.2; done; echo "{x} $SLURM_ARRAY_TASK_COUNT" >>ran')}
[allocation]
cpus = 1
mem = "100M"
[sweep]
mode = "MODE"
x = {{ from = 1, to = 10, step = 1 }}
"""


@pytest.fixture(scope="module")
def small() -> Iterator[Lab]:
    """A lab with small limits, which forgets a job within seconds of its end."""
    with contextmanager(a_lab)("l", nodes=1, gpus=0, min_job_age=1) as lab:
        with lab.slurm_conf.open("a") as conf:
            conf.write(SMALL)
        lab.restart_slurmctld()
        yield lab


@pytest.fixture
def project(small: Lab, tmp_path: Path) -> Iterator[Project]:
    with project_on(small, tmp_path / "project") as project:
        yield project


@pytest.mark.parametrize("mode", ["jobs", "array"])
def test_a_full_queue_takes_the_rest_when_there_is_room(project: Project, mode: str) -> None:
    """Ten items: seven jobs fit, or the first two of three arrays with 4, 3 and 3 tasks."""
    project.write(FILE, SWEEP.replace("MODE", mode))
    sender = project.start("submit", FILE, "--wait")

    def sent() -> int:
        return sum(1 for one in project.run()["items"] if one["job"]) if project.runs() else 0

    wait_for(lambda: sent() == 7, 60)
    assert sender.process.poll() is None
    project.write("go", "")
    done = sender.done()
    assert done.code == 0, done.err
    assert "queue is full (MaxJobCount); sbatch waits for room" in done.err
    run = project.run()
    assert (run["state"], run["progress"]["done"]) == ("COMPLETED", 10)
    ran = dict(line.split(" ") for line in (project.dir / "ran").read_text().splitlines())
    assert len((project.dir / "ran").read_text().splitlines()) == 10
    assert sorted(map(int, ran)) == list(range(1, 11)), "each once, with its own parameter"
    assert sorted(ran.values()) == (["3"] * 6 + ["4"] * 4 if mode == "array" else [""] * 10), "tasks of its array"
