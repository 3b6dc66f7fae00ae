"""What a node is described by, and the time in quiet logs: `gangrun.node.trace` as a job runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.gangrun_cli import REPOSITORY, wait_for

from gangrun.node import trace


def test_no_secret_is_written_down() -> None:
    given = {
        "HF_TOKEN": "hf_x",
        "WANDB_API_KEY": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "DATABASE_URL": "postgres://me:x@db/x",
        "MY_SITE": "x",
        "SLURM_JWT": "x",
        "TORCH_AUTH": "x",
        "PYTHONPATH": "https://me:x@host/y:/a b",
        "NCCL_DEBUG": "INFO",
        "CUDA_VISIBLE_DEVICES": "",
    }
    lines = list(trace.environment(given))
    hidden = [name for name in sorted(given) if name not in ("PYTHONPATH", "NCCL_DEBUG", "CUDA_VISIBLE_DEVICES")]
    assert [line for line in lines if line.endswith(" (not shown)")] == [f"{name} (not shown)" for name in hidden]
    assert "NCCL_DEBUG='INFO'" in lines
    assert "PYTHONPATH='https://…@host/y:/a b'" in lines
    assert len(lines) == len(given) - 1


def last_line(now: float, minutes: int) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    return f"gangrun: it is {at}, nothing for {minutes} min\n"


def test_a_log_that_stays_quiet_tells_the_time(tmp_path: Path) -> None:
    now = time.time()
    for name, age in (("main.0", 700), ("main.1", 5), ("main.0.step", 700), ("_monitor.0", 700)):
        log = tmp_path / f"{name}.log"
        log.write_text("working\n")
        os.utime(log, (now - age, now - age))
    told: dict[str, tuple[int, float]] = {}
    trace.stamp(tmp_path, 600, now, told)
    assert (tmp_path / "main.0.log").read_text().endswith("nothing for 12 min\n")
    for name in ("main.1", "main.0.step", "_monitor.0"):
        assert (tmp_path / f"{name}.log").read_text() == "working\n"
    before = (tmp_path / "main.0.log").read_text()
    trace.stamp(tmp_path, 600, now, told)
    assert (tmp_path / "main.0.log").read_text() == before, "its own line counts as one"
    trace.stamp(tmp_path, 600, now + 660, told)
    assert (tmp_path / "main.0.log").read_text().endswith("nothing for 23 min\n"), "but not as word of the program"
    with (tmp_path / "main.0.log").open("a") as log:
        log.write("working\n")
    os.utime(tmp_path / "main.0.log", (now + 700, now + 700))
    trace.stamp(tmp_path, 600, now + 1300, told)
    assert (tmp_path / "main.0.log").read_text().endswith("working\n" + last_line(now + 1300, 10))


def test_it_runs_on_a_node_that_has_nothing(tmp_path: Path) -> None:
    logs = tmp_path / "attempts/001/logs"
    logs.mkdir(parents=True)
    (logs / "main.0.log").write_text("")
    names = {"GANGRUN_RUN_DIR": str(tmp_path), "GANGRUN_ATTEMPT": "001", "GANGRUN_NODE_RANK": "0", "PATH": "/nowhere"}
    program = REPOSITORY / "src/gangrun/node/trace.py"
    process = subprocess.Popen([sys.executable, "-IS", str(program), "quiet=0.5"], env=names)
    try:
        wait_for(lambda: "nothing for 0 min" in (logs / "main.0.log").read_text())
        text = (tmp_path / "attempts/001/nodes/0.txt").read_text()
        assert "ulimit   nofile" in text
        assert "nvidia-smi" not in text
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()
