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
