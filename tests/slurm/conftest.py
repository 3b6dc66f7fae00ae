"""The real Slurm that the tests in this directory share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from gangrun.lab import Lab, packages


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Four nodes, each with 8 GPUs and 32 CPUs; a lab of its own for every worker of pytest-xdist."""
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    if absent := packages.missing(accounting=False):
        pytest.skip(f"packages are absent: {' '.join(absent)}")
    lab = Lab(f"tests{os.environ.get('PYTEST_XDIST_WORKER', '')}")
    lab.down()
    lab.up(nodes=4, gpus=8, cpus=32)
    yield lab
    lab.down()
