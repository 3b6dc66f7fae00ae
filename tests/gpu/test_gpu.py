"""On a real GPU: the monitor beside the real nvidia-smi, torchrun with NCCL, idle GPUs, and locks on devices."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gangrun_cli import Project, project_in

pytestmark = pytest.mark.gpu


def real_gpus() -> list[str]:
    """Names of the GPUs that the real nvidia-smi finds. Skips where there are none, or no torch for them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        pytest.skip("no GPU here: nvidia-smi is not installed")
    done = subprocess.run(
        [program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode or not done.stdout.strip():
        pytest.skip(f"no GPU here: nvidia-smi says {(done.stdout + done.stderr).strip()[:200]!r}")
    torch = pytest.importorskip("torch", reason="no torch here")
    if not torch.cuda.is_available():
        pytest.skip("there is a GPU, but this torch was built without CUDA, or its driver is too old")
    return done.stdout.strip().splitlines()


@pytest.fixture(scope="module")
def names() -> list[str]:
    return real_gpus()


@pytest.fixture
def project(names: list[str], tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path / "project", GANGRUN_CLUSTER="local") as project:
        yield project


def ran(project: Project, program: str, keys: str) -> dict[str, Any]:
    """What `gangrun gpus --json` tells of a run of this program on one GPU."""
    project.write("train.py", program)
    project.write("exp/run.toml", f"{keys}\nmonitor.every = '1s'\n[allocation]\ngpus = 1\n")
    done = project.gangrun("run", "exp/run.toml", limit=240)
    assert done.code == 0, done.out + done.err
    data = project.ok("gpus", "latest", "--json").data
    assert isinstance(data, dict)
    return data


BUSY = """
import time, torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
end = time.time() + 15
while time.time() < end:
    for _ in range(50): a = (a @ a).clamp(-1, 1)
    torch.cuda.synchronize()
"""
IDLE = """
import time, torch
held = torch.zeros(1 << 30, device="cuda", dtype=torch.uint8)
time.sleep(15)
"""


def test_the_monitor_sees_a_gpu_that_works(project: Project, names: list[str]) -> None:
    (node,) = ran(project, BUSY, "command = ['python', 'train.py']")["nodes"]
    (gpu,) = node["gpus"]
    assert gpu["name"] in names
    assert gpu["replicas"] == ["main.0"]
    assert gpu["busy_mean"] > 40
    assert gpu["power_mean"] > 50
    assert gpu["memory"] > 1000
    assert node["notes"] == []


def test_a_gpu_that_is_held_and_does_nothing_is_idle(project: Project) -> None:
    (node,) = ran(project, IDLE, "command = ['python', 'train.py']")["nodes"]
    (gpu,) = node["gpus"]
    assert gpu["idle_share"] > 0.7
    assert gpu["memory_peak"] > 1024


NCCL = """
import os, torch, torch.distributed as dist
dist.init_process_group("nccl")
one = torch.ones(1 << 20, device="cuda")
dist.all_reduce(one)
print("sum", one.sum().item(), "of", dist.get_world_size(), "backend", dist.get_backend(), flush=True)
dist.destroy_process_group()
"""


def test_torchrun_with_nccl_on_one_gpu(project: Project) -> None:
    project.write("train.py", NCCL)
    project.write(
        "exp/run.toml", "launcher = 'torchrun'\ncommand = ['train.py']\ndebug = true\n[allocation]\ngpus = 1\n"
    )
    done = project.gangrun("run", "exp/run.toml", limit=240)
    assert done.code == 0, done.out + done.err
    assert f"sum {float(1 << 20)} of 1 backend nccl" in done.out
    assert "NCCL INFO" in done.out, "debug = true lets NCCL speak"
    (banner,) = [line for line in done.out.splitlines() if "gangrun: main.0 rank 0 of 1" in line]
    assert "GPUs 0" in banner


def test_devices_that_are_given_are_those_that_are_seen(project: Project, names: list[str]) -> None:
    words = [
        "python",
        "-c",
        "import os, torch; print('sees', torch.cuda.device_count(), torch.cuda.get_device_name(0))",
    ]
    project.write("exp/run.toml", f"command = {json.dumps(words)}\n[allocation]\ngpus = 1\n")
    done = project.gangrun("run", "exp/run.toml", limit=120)
    assert done.code == 0, done.out + done.err
    assert any(f"sees 1 {name}" in done.out for name in names)
