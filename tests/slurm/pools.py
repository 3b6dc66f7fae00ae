"""Pools of bash lines on the lab, for tests to start and look at."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gangrun.lab import Lab
from gangrun.node.pool.journal import Fold, Span
from gangrun.record import pools
from gangrun.record.rundir import RunDir
from tests.gangrun_cli import Project, marked, wait_for


def submitted(
    project: Project, name: str, items: Sequence[str], nodes: str = "node1", pool: str = "", *overrides: str, **top: str
) -> str:
    """Queues a pool on these nodes, 2 GPUs each, whose items are lines of bash; returns its run's id."""
    listed = ", ".join(f"{{ name = {json.dumps(f'i{n}')}, do = {json.dumps(line)} }}" for n, line in enumerate(items))
    keys = "".join(f"{key} = {value}\n" for key, value in top.items())
    project.write(
        f"experiments/{name}/run.toml",
        f"""grace = 4
command = ["bash", "-c", "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES; {{do}}"]
{keys}[allocation]
nodes = {nodes.count(",") + 1}
gpus = 2
cpus = 4
mem = "2G"
[sweep]
list = [{listed}]
[pool]
{pool}
""",
    )
    words = [word for override in overrides for word in ("--set", override)]
    done = project.ok("submit", f"experiments/{name}/run.toml", *words, "--", f"--nodelist={nodes}")
    return done.out.split()[0]


def told(project: Project, run: str) -> Fold:
    """The journal of a pool."""
    return pools.journal(RunDir(Path(project.run(run)["dir"])))


def spans(fold: Fold) -> Iterator[tuple[int, Span]]:
    """All starts of items, with the item's index."""
    for index, history in fold.items.items():
        for span in history.spans:
            yield index, span


def running(project: Project, run: str, count: int, limit: float = 60) -> dict[str, Any]:
    """Waits until so many items run, and returns the run."""
    path = RunDir(Path(project.run(run)["dir"]))
    wait_for(lambda: sum(one.state == "running" for one in pools.journal(path).items.values()) == count, limit)
    return project.run(run)


def ended(project: Project, run: str, limit: float = 60) -> dict[str, Any]:
    """Waits for its end, and returns the run."""

    def over() -> bool:
        listed = next(one for one in project.runs() if one["run"] == run)
        return listed["state"] not in {"PENDING", "RUNNING", "COMPLETING"}

    wait_for(over, limit, every=0.5)
    return project.run(run)


def left(lab: Lab, run: dict[str, Any]) -> list[str]:
    """What still runs of a pool or its items, on any host."""
    folders = [run["dir"], *(f"{run['dir']}/items/{one['name']}" for one in run["items"])]
    nodes = [node.name for node in lab.status().nodes if node.power]
    steps = [line for node in nodes for _, line in lab.processes(node) if f"[{run['job']}." in line]
    return [*marked(*(f"GANGRUN_RUN_DIR={folder}" for folder in folders)), *steps]


def slurm(lab: Lab, *argv: str) -> str:
    """What a program of Slurm prints."""
    done = subprocess.run(argv, env=lab.env(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout
