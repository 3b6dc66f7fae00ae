"""Pools on a real Slurm: with both engines, and through everything that can go wrong with them.

What takes its time (a limit, a lost node, a node that is cut off, a requeue) is begun before the first test, and the
last tests look at what became of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gangrun.lab import Lab
from gangrun.node.pool.folder import BASE, PREFIX
from gangrun.record import pools
from gangrun.record.rundir import RunDir
from tests.gangrun_cli import Project, marked, wait_for
from tests.slurm.conftest import project_on
from tests.slurm.pools import ended, left, running, slurm, spans, submitted, told

pytestmark = pytest.mark.slurm

DOOMED, CUT = "node4", "node2"
"""The nodes that lose their power, and their network for half a minute; other pools stay away from them."""


@pytest.fixture(scope="module")
def project(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_on(lab, tmp_path_factory.mktemp("pools") / "project") as project:
        yield project


def folders() -> list[Path]:
    return list(BASE.glob(f"{PREFIX}*"))


@pytest.fixture(scope="module", autouse=True)
def slow(project: Project, lab: Lab) -> Iterator[dict[str, str]]:
    """By fault, the pool that meets it."""
    long = "test $GANGRUN_ATTEMPT != 001 || sleep 200"
    there = f"if test $SLURMD_NODENAME = {DOOMED}; then sleep 200; else sleep 8; fi"
    runs = {
        "lost": submitted(project, "lost", [there] * 6, f"node3,{DOOMED}"),
        "cut": submitted(project, "cut", ["true", *["sleep 45"] * 4, "true"], f"node1,{CUT}"),
        "limit": submitted(
            project, "limit", ["true", "trap 'echo bye; exit 0' TERM; for i in {1..900}; do sleep 0.2; done"]
        ),
        "requeue": submitted(project, "requeue", ["true", long, long, "true"]),
    }
    slurm(lab, "scontrol", "update", f"JobId={project.run(runs['limit'])['job']}", "TimeLimit=1")
    running(project, runs["cut"], 4)
    lab.cut(CUT)
    mending = threading.Timer(30, lab.mend, [CUT])
    mending.start()
    running(project, runs["requeue"], 2)
    slurm(lab, "scontrol", "requeue", project.run(runs["requeue"])["job"])
    wait_for(lambda: sum(one.ended is None for _, one in spans(told(project, runs["lost"])) if one.node == DOOMED) == 2)
    lab.kill(DOOMED)
    yield runs
    mending.join()
    project.ok("cancel", *runs.values())
    # Slurm takes minutes to believe that the lost node is done with its job.
    slurm(lab, "scontrol", "update", f"NodeName={DOOMED}", "State=DOWN", "Reason=test")
    lab.start(DOOMED)
    wait_for(lambda: {node.slurm for node in lab.status().nodes} == {"idle"}, 60)


# ---- Ray


ASK = """
import ray, time
ray.init()
while ray.cluster_resources()["GPU"] < 4:
    time.sleep(0.2)
print("4 GPUs")
"""


def test_two_ray_clusters_side_by_side_and_one_is_cancelled(project: Project, lab: Lab) -> None:
    before = folders()
    project.write("ask.py", ASK)
    one = submitted(
        project,
        "ray-one",
        ["sleep 1"] * 6 + ["exit 3", f"python {project.dir}/ask.py"],
        "node1,node3",
        'engine = "ray"',
    )
    other = submitted(project, "ray-other", ["sleep 300"] * 6, "node1,node3", 'engine = "ray"')
    cancelled = running(project, other, 4, 90)
    places = {(span.node, *span.gpus) for _, span in spans(told(project, other))}
    assert sorted(node for node, _ in places) == ["node1", "node1", "node3", "node3"], "two devices on each"
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


# ---- faults


def test_an_item_that_asks_for_more_than_a_node_has(project: Project) -> None:
    project.write(
        "experiments/wide/run.toml", 'command = ["true"]\nallocation.gpus = 2\nsweep.seeds = "0-3"\npool.gpus = 3\n'
    )
    for command in ("plan", "submit"):
        done = project.gangrun(command, "experiments/wide/run.toml")
        assert done.code == 2
        assert "an item asks for 3 GPUs, but a node of the pool has 2" in done.err
        assert "run.toml:4" in done.err
    assert not (project.dir / "outputs" / "wide").exists()


def test_retries_a_timeout_and_a_driver_that_is_killed(project: Project, lab: Lab) -> None:
    items = [
        "test $GANGRUN_ATTEMPT = 003 || exit 7",
        "exit 8",
        "sleep 300 & sleep 301",
        "test $GANGRUN_ATTEMPT != 001 || sleep 20",
    ]
    name = submitted(project, "killed", items, pool='retries = 2\ntimeout = "6s"\ngpus = 0')
    path = RunDir(Path(project.run(name)["dir"]))
    wait_for(lambda: [h.state for _, h in sorted(pools.journal(path).items.items())][:2] == ["done", "failed"], 60)
    os.kill(_driver(path), signal.SIGKILL)
    run = ended(project, name)
    assert [(item["state"], item["exit_code"]) for item in run["items"]] == [
        ("COMPLETED", 0),
        ("FAILED", 8),
        ("FAILED", 143),
        ("COMPLETED", 0),
    ]
    fold = pools.journal(path)
    assert [span.code for span in fold.items[0].spans] == [7, 7, 0], "what has ended is never repeated"
    assert [span.code for span in fold.items[1].spans] == [8, 8, 8]
    assert [span.why for span in fold.items[2].spans if span.ended] == ["timeout"] * 3
    assert len(fold.opened) == 2
    assert "the driver ended with 137, and is begun again" in project.ok("logs", name).out
    assert wait_for(lambda: not left(lab, run))


def _driver(path: RunDir) -> int:
    """The process id that the driver has outside of its node's namespace."""
    found = [
        int(line.partition(":")[0]) for line in marked(f"GANGRUN_RUN_DIR={path.path}") if "node/pool drive" in line
    ]
    return max(found)


WARM = """
import os, time
def work(x):
    print(os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    if x == 2:
        os.kill(os.getpid(), 11)
    time.sleep(0.3)
    return {"squared": x * x}
"""


def test_a_warm_item_that_crashes_takes_only_its_worker_with_it(project: Project) -> None:
    project.write("mine.py", WARM)
    text = "[allocation]\ngpus = 2\ncpus = 2\n[sweep]\nx = [0, 1, 2, 3, 4, 5, 6, 7]\n[pool]\ncall = 'mine:work'\n"
    project.write("experiments/warm/run.toml", text)
    assert project.gangrun("submit", "experiments/warm/run.toml", "--wait", "--", "--nodelist=node1").code == 1
    run = project.run("warm")
    assert [item["exit_code"] for item in run["items"]] == [0, 0, 139, 0, 0, 0, 0, 0]
    rows = project.ok("results", "warm", "--json").data
    assert [row["metrics"].get("squared") for row in rows] == [0, 1, None, 9, 16, 25, 36, 49]
    told = [project.ok("logs", "warm", "--item", str(x)).out.split() for x in range(8)]
    workers = {(pid, gpu) for *_, pid, gpu in told}
    assert len(workers) == 3
    assert {gpu for _, gpu in workers} == {"0", "1"}


def test_throttled_and_cancelled_in_the_middle(project: Project, lab: Lab) -> None:
    tree = "trap '' TERM; setsid sleep 300 & (setsid sleep 300 &); sleep 300; sleep 300"
    name = submitted(project, "middle", [tree] * 12, "node1,node3", "gpus = 0.5", "sweep.max_parallel=2")
    running(project, name, 2)
    project.ok("throttle", name, "6")
    running(project, name, 6)
    project.ok("throttle", name, "any")
    run = running(project, name, 8)
    assert len(left(lab, run)) > 8 * 3
    project.ok("cancel", name)
    run = ended(project, name)
    assert run["state"] == "CANCELLED"
    assert {item["state"] for item in run["items"]} == {"CANCELLED"}
    assert wait_for(lambda: not left(lab, run))


def test_two_pools_of_one_user_on_the_same_nodes(project: Project, lab: Lab) -> None:
    items = ["sleep 1; echo $GANGRUN_RUN_DIR"] * 8
    names = [submitted(project, f"twin{n}", items, "node1,node3") for n in range(2)]
    for name in names:
        run = ended(project, name, 90)
        assert (run["state"], run["progress"]["done"]) == ("COMPLETED", 8)
        for _, span in spans(told(project, name)):
            assert span.node in {"node1", "node3"}
        for index in range(8):
            assert f"{run['dir']}/items/i{index}" in project.ok("logs", name, "--item", f"i{index}").out
        assert wait_for(lambda run=run: not left(lab, run))


# ---- what takes its time


def test_the_time_limit_with_items_running(project: Project, lab: Lab, slow: dict[str, str]) -> None:
    run = ended(project, slow["limit"], 150)
    assert run["state"] == "TIMEOUT"
    assert [item["state"] for item in run["items"]] == ["COMPLETED", "LEFT"]
    assert "bye" in project.ok("logs", slow["limit"], "--item", "i1").out, "it got TERM first"
    assert wait_for(lambda: not left(lab, run))


def test_a_node_that_is_lost(project: Project, lab: Lab, slow: dict[str, str]) -> None:
    run = ended(project, slow["lost"], 240)
    assert (run["state"], run["progress"]["done"]) == ("COMPLETED", 6), project.ok("why", slow["lost"]).out
    fold = told(project, slow["lost"])
    ways = [[(span.node, span.why) for span in history.spans] for history in fold.items.values()]
    assert ways.count([(DOOMED, "lost"), ("node3", "")]) == 2, "what ran there is run again"
    assert ways.count([("node3", "")]) == 4
    assert wait_for(lambda: not left(lab, run))


def test_a_node_that_is_cut_off_for_half_a_minute(project: Project, slow: dict[str, str]) -> None:
    run = ended(project, slow["cut"], 120)
    assert (run["state"], run["progress"]["done"]) == ("COMPLETED", 6)
    assert [len(history.spans) for history in told(project, slow["cut"]).items.values()] == [1] * 6


def test_a_requeued_pool_repeats_only_what_was_running(project: Project, slow: dict[str, str]) -> None:
    run = ended(project, slow["requeue"], 240)
    assert (run["state"], run["attempt"], run["progress"]["done"]) == ("COMPLETED", 2, 4)
    fold = told(project, slow["requeue"])
    first = [opened["t"] for opened in fold.opened][1]
    assert len(fold.opened) == 2
    for history in fold.items.values():
        *before, last = history.spans
        assert (last.code, last.why) == (0, "")
        assert all((span.ended or 0) < first and span.again for span in before)
    assert sorted(len(history.spans) for history in fold.items.values()) == [1, 1, 2, 2]
