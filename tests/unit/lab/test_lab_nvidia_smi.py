"""The lab's nvidia-smi: what it says follows from the processes of this machine that hold a GPU."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gangrun.lab import config
from gangrun.lab.state import Shape

SHAPE = Shape(
    name="x", nodes=1, gpus=70, cpus=1, mem=1, accounting=False, slurmd_timeout=1, min_job_age=1, subnet=1, login="l"
)
BUSY = 64
"""An index that no other test hands out."""


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> Path:
    program = tmp_path / "nvidia-smi"
    program.write_text(config.nvidia_smi(SHAPE))
    program.chmod(0o755)
    return program


@pytest.fixture
def burning() -> Iterator[None]:
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"], env={"CUDA_VISIBLE_DEVICES": str(BUSY)})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def said(program: Path, *words: str) -> list[str]:
    return subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.usefixtures("burning")
def test_a_gpu_is_as_busy_as_who_holds_it(nvidia_smi: Path) -> None:
    fields = "--query-gpu=index,utilization.gpu,power.draw"
    rows = [line.split(", ") for line in said(nvidia_smi, fields, "--format=csv,noheader,nounits")]
    assert len(rows) == SHAPE.gpus
    assert int(rows[BUSY][1]) > 0
    assert rows[BUSY + 1] == [str(BUSY + 1), "0", "70.00"]
    head, first, *_ = said(nvidia_smi, fields, "--format=csv")
    assert (head, first.endswith("W")) == ("index, utilization.gpu [%], power.draw [W]", True)


def test_what_else_it_knows(nvidia_smi: Path, tmp_path: Path) -> None:
    assert said(nvidia_smi, "-L")[3].startswith("GPU 3: Stand-in H100 80GB (UUID: GPU-00000003-")
    refused = subprocess.run([nvidia_smi, "--query-gpu=index,fan"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout.strip()) == (2, 'Field "fan" is not a valid field to query.')
    file = tmp_path / "x.gutil"
    words = [nvidia_smi, "dmon", "--delay", "1", "--select", "pumt", "--options", "DT", "--filename", file]
    with subprocess.Popen(words, env=dict(os.environ)) as process:
        while not (file.exists() and file.read_text().count("\n") >= 2 + SHAPE.gpus):
            assert process.poll() is None
        process.terminate()
    names, units, row = (line.split() for line in file.read_text().splitlines()[:3])
    assert (len(names), len(units)) == (len(row), len(row))
    assert names[:4] == ["#Date", "Time", "gpu", "pwr"]
