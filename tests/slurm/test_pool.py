"""Pools on a real Slurm: with both engines, and through everything that can go wrong with them.

What takes its time (a limit, a lost node, a node that is cut off, a requeue) is begun before the first test, and the
last tests look at what became of it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gangrun.lab import Lab
from gangrun.node.pool.folder import BASE, PREFIX
from gangrun.node.pool.journal import Fold, Span
from gangrun.record import pools
from gangrun.record.rundir import RunDir
from tests.gangrun_cli import Project, marked, wait_for
from tests.slurm.conftest import project_on

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def project(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_on(lab, tmp_path_factory.mktemp("pools") / "project") as project:
        yield project


def submitted(
    project: Project, name: str, items: Sequence[str], nodes: str = "node1", pool: str = "", **top: str
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
    done = project.ok("submit", f"experiments/{name}/run.toml", "--", f"--nodelist={nodes}")
    return done.out.split()[0]


def told(project: Project, run: str) -> Fold:
    """The journal of a pool."""
    return pools.journal(RunDir(Path(project.run(run)["dir"])))


def spans(fold: Fold) -> Iterator[tuple[int, Span]]:
    for index, history in fold.items.items():
        for span in history.spans:
            yield index, span


def running(project: Project, run: str, count: int, limit: float = 60) -> dict[str, Any]:
    """Waits until so many items run, and returns the run."""
    path = RunDir(Path(project.run(run)["dir"]))
    wait_for(lambda: sum(one.state == "running" for one in pools.journal(path).items.values()) == count, limit)
    return project.run(run)


def ended(project: Project, run: str, limit: float = 60) -> dict[str, Any]:
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
    done = subprocess.run(argv, env=lab.env(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


def folders() -> list[Path]:
    return list(BASE.glob(f"{PREFIX}*"))


# ---- Ray


def test_two_ray_clusters_side_by_side_and_one_is_cancelled(project: Project, lab: Lab) -> None:
    before = folders()
    ask = 'python -c \'import ray; ray.init(); print(int(ray.cluster_resources()["GPU"]), "GPUs")\''
    one = submitted(project, "ray-one", ["sleep 1"] * 6 + ["exit 3", ask], "node1,node3", 'engine = "ray"')
    other = submitted(project, "ray-other", ["sleep 300"] * 6, "node1,node3", 'engine = "ray"')
    cancelled = running(project, other, 4, 90)
    made = [folder for folder in folders() if folder not in before]
    assert made
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in made)
    project.ok("cancel", other)
    run = ended(project, one, 90)
    assert (run["state"], run["exit_code"]) == ("FAILED", 1)
    assert [item["state"] for item in run["items"]] == ["COMPLETED"] * 6 + ["FAILED", "COMPLETED"]
    assert "4 GPUs" in project.ok("logs", one, "--item", "i7").out
    found = list(spans(told(project, one)))
    assert len(found) == 8
    assert {(span.node, *span.gpus) for _, span in found} == {(f"node{n}", g) for n in (1, 3) for g in ("0", "1")}
    for index, span in found:
        printed = Path(run["dir"], f"items/i{index}/attempts/001/logs/main.0.log").read_text()
        assert printed.startswith(f"{span.node} {span.gpus[0]}\n")
        others = [two for n, two in found if n != index and (two.node, two.gpus) == (span.node, span.gpus)]
        assert all((span.ended or 0) <= two.started or (two.ended or 0) <= span.started for two in others)
    assert ended(project, other)["state"] == "CANCELLED"
    assert wait_for(lambda: not left(lab, run) and not left(lab, cancelled))
    assert [folder for folder in folders() if folder in made] == []


def test_ray_is_not_there(project: Project, lab: Lab) -> None:
    run = submitted(
        project, "no-ray", ["touch {run.dir}/ran"] * 2, "node1", 'engine = "ray"', setup='["PATH=/usr/bin:/bin"]'
    )
    shown = ended(project, run)
    assert (shown["state"], shown["exit_code"]) == ("FAILED", 1)
    assert not list(Path(shown["dir"]).glob("items/*/ran"))
    log = project.ok("logs", run).out
    assert 'engine = "ray" needs Ray in the environment of the items, and /usr/bin/python3 has none' in log
    assert "pip install 'ray>=2.52'" in log


# ---- the example


@pytest.mark.torch
def test_the_example_with_every_engine(project: Project) -> None:
    """All 20 in warm workers; a few where each item has to import torch."""
    folder = Path(project.example("pool")).parent
    few = ("--set", "sweep.blocks=[4, 80, 40, 60, 20]")
    for file, words, count in (("warm", (), 20), ("pool", few, 5), ("ray", few, 5)):
        done = project.gangrun("submit", f"{folder}/{file}.toml", *words, "--wait", limit=300)
        assert done.code == 0, done.out + done.err
        run = project.run()
        assert (run["state"], run["progress"]["done"]) == ("COMPLETED", count)
        rows = project.ok("results", "latest", "--json").data
        assert all(row["metrics"]["loss"] < 1.1 for row in rows), "it was ln 3 at first"
        found = list(spans(told(project, run["run"])))
        assert len({(span.node, *span.gpus) for _, span in found}) == 4
        (longest,) = (span for index, span in found if rows[index]["parameters"]["blocks"] == 80)
        assert longest.started == min(span.started for _, span in found)
