"""Fixtures for all tests: fake programs first on PATH, never patches of our own code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fakes"))

from fake_slurm import FakeSlurm, Installed, install

# Tests in the background of a script have it ignored, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Installed]:
    """`fake_slurm(kind=FakeSlurm)` puts Slurm's commands first on PATH and returns the handle on them."""

    def start(kind: type[FakeSlurm] = FakeSlurm) -> Installed:
        installed = install(tmp_path / f"slurm-{kind.__name__}", kind)
        monkeypatch.setenv("PATH", f"{installed.bin}{os.pathsep}{os.environ['PATH']}")
        return installed

    return start
