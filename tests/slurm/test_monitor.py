"""Monitors on the nodes of a real Slurm, with the lab's stand-in GPUs."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Project, marked, sh, wait_for

pytestmark = pytest.mark.slurm
FILE = "exp/watched.toml"


def nodes(project: Project) -> list[dict[str, Any]]:
    found = project.ok("gpus", "--json").data["nodes"]
    assert isinstance(found, list)
    return found


def test_every_node_is_watched_and_a_monitor_that_is_killed_ends_alone(project: Project, lab: Lab) -> None:
    project.write(
        FILE,
        f"""
monitor.every = "1s"
[allocation]
nodes = 2
gpus = 3
cpus = 4
[roles.trainer]
nodes = 2
gpus = 2
launcher = "srun"
tasks = 1
{sh("until [[ -e go ]]; do :; done")}
[roles.server]
kind = "service"
gpus = 1
{sh("exec sleep 600")}
""",
    )
    project.ok("submit", FILE)
    wait_for(lambda: [len(node["gpus"]) for node in nodes(project)] == [3, 3], 25)
    busy = wait_for(lambda: next((gpu for gpu in nodes(project)[0]["gpus"] if (gpu["busy_mean"] or 0) > 1), None), 60)
    assert busy["replicas"] == ["trainer.0"]
    first, second = nodes(project)
    assert [first["host"], second["host"]] == project.run()["hosts"]
    assert [gpu["replicas"] for gpu in first["gpus"]] == [["trainer.0"], ["trainer.0"], ["server.0"]]
    assert [gpu["replicas"] for gpu in second["gpus"]] == [["trainer.0"], ["trainer.0"], []]
    assert (first["cpus"], first["memory_limit"], first["memory_limit_is_the_jobs"]) == (4, 1024, True)
    assert list(second["replicas"]) == ["trainer.0"]

    [victim] = [
        pid for pid, line in lab.processes(second["host"]) if "monitor.py" in line and line.startswith("python3")
    ]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: not any("monitor.py" in line for _, line in lab.processes(second["host"])))
    before = nodes(project)[0]["end"]
    wait_for(lambda: nodes(project)[0]["end"] > before)
    project.write("go", "")
    wait_for(lambda: project.run()["state"] == "COMPLETED", 60)

    run = project.run()
    assert set(run["replicas"]) == {"trainer.0", "server.0"}
    assert re.search(r"GPU  REPLICA +BUSY", project.ok("gpus").out)
    assert len(project.ok("gpus", "--gutil", "out").out.splitlines()) == 2
    assert sorted(path.name for path in (project.dir / "out").iterdir()) == [
        f"slurm-{run['job']}.{node}.gutil" for node in sorted(run["hosts"])
    ]
    wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={Path(run['dir'])}"))
    assert "_monitor" not in project.ok("logs").out


def test_debug_tells_more_about_every_node(project: Project) -> None:
    described = "cd {run.dir}/attempts/001; until [[ -e nodes/0.txt && -e nodes/1.txt ]]; do sleep 0.1; done"
    text = sh(f"{described}; echo faults=$PYTHONFAULTHANDLER")
    text += "debug = true\nlauncher = 'srun'\ntasks = 2\nsetup = ['echo ready']\nenv = { API_KEY = 'of mine' }\n"
    project.write(FILE, text + "[allocation]\nnodes = 2\ngpus = 2\ncpus = 2\n")
    done = project.gangrun("submit", FILE, "--wait")
    assert done.code == 0, done.out + done.err
    run = project.run()
    folder = Path(run["dir"])
    log = (folder / "attempts/001/logs/main.0.log").read_text()
    assert log.count("faults=1") == 4
    for rank in range(4):
        where = f"rank {rank} of 4 (local rank {rank % 2}) on {run['hosts'][rank // 2]}, GPUs 0,1, CPUs any, pid "
        assert f"gangrun: main.0 {where}" in log
    assert re.search(r"^\+ \d\d:\d\d:\d\d echo ready$", (folder / "job.log").read_text(), re.MULTILINE)
    for node, host in enumerate(run["hosts"]):
        text = (folder / f"attempts/001/nodes/{node}.txt").read_text()
        assert f"SLURMD_NODENAME='{host}'" in text
        assert "of mine" not in text
