"""The real Slurm that the tests in this directory share, and projects on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gangrun.lab import Lab, packages, processes
from gangrun.lab.state import BASE, PREFIX
from tests.gangrun_cli import Project, project_in

HERE = Path(__file__).parent
LONGEST = ("test_torchft", "test_requeue", "test_ends", "test_pool", "test_faults", "test_training", "test_containers")
"""Files that take a minute and more: they begin first, or one worker would be at them when all others have ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all else as it was."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)) if item.path.parent == HERE else len(order))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Four nodes, each with 8 GPUs and 32 CPUs; a lab of its own for every process that runs tests."""
    yield from a_lab("t", nodes=4, gpus=8)


def a_lab(letter: str, nodes: int, gpus: int, min_job_age: int = 300) -> Iterator[Lab]:
    """A lab for as long as a fixture lives, named after this process, for two sessions may run side by side."""
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    if absent := packages.missing(accounting=False):
        pytest.skip(f"packages are absent: {' '.join(absent)}")
    for directory in BASE.glob(f"{PREFIX}{letter}[0-9]*"):
        pid = int(directory.name.removeprefix(f"{PREFIX}{letter}"))
        if processes.of_pid(pid) is None:  # that session was killed before it could do this itself
            Lab(f"{letter}{pid}").down()
    lab = Lab(f"{letter}{os.getpid()}")
    try:
        lab.up(nodes=nodes, gpus=gpus, min_job_age=min_job_age)
        yield lab
    finally:
        lab.down()


@pytest.fixture
def project(lab: Lab, tmp_path: Path) -> Iterator[Project]:
    """A project of its own whose cluster is the lab."""
    with project_on(lab, tmp_path / "project") as project:
        yield project


def project_on(lab: Lab, folder: Path) -> Project:
    """A project in this folder whose one profile, which is therefore the one found, is the lab's: `mine`."""
    project = project_in(folder, SLURM_CONF=str(lab.slurm_conf))
    (folder / "clusters" / "mine.toml").write_text(profile_of(lab))
    return project


def profile_of(lab: Lab) -> str:
    """The lab's profile, in which jobs do not get all the memory that their nodes have when they say nothing."""
    assert lab.profile
    return lab.profile.read_text().replace('partition = "gpu"', 'partition = "gpu", mem = "1G"', 1)
