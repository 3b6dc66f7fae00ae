"""What the items of pools on a real Slurm have and see: steps of their own, devices, CPUs, and a limit that changes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gangrun.lab import Lab
from gangrun.record import pools
from gangrun.record.rundir import RunDir
from tests.gangrun_cli import Project, wait_for
from tests.slurm.pools import ended, left, running, slurm, spans, submitted, told

pytestmark = pytest.mark.slurm


def printed(run: dict[str, Any], index: int, attempt: int = 1) -> list[str]:
    """The lines of an item's log."""
    return Path(run["dir"], f"items/i{index}/attempts/{attempt:03d}/logs/main.0.log").read_text().splitlines()


def test_items_that_are_steps_of_their_own(project: Project, lab: Lab) -> None:
    """A code, a timeout with its grace, daemons that are left, a program that is not there."""
    seen = "echo $SLURM_JOB_ID.$SLURM_STEP_ID $SLURM_CPUS_PER_TASK $OMP_NUM_THREADS; "
    items = [
        seen + "sleep 3; exit 7",
        seen + "trap 'echo bye; exit 5' TERM; for i in {1..900}; do sleep 0.1; done",
        seen + "(setsid sleep 300 &); setsid sleep 300 & sleep 1",
        seen + "until test -e $GANGRUN_RUN_DIR/../../go; do sleep 0.1; done",
        seen,
        "exec /nowhere/at-all",
    ]
    name = submitted(project, "steps", items, pool='own_step = true\ntimeout = "9s"')
    run = running(project, name, 2)

    def listed() -> dict[str, str]:
        lines = slurm(lab, "squeue", "-s", "-h", "-j", run["job"], "-o", "%i %j").splitlines()
        return {step: words for step, _, words in (line.partition(" ") for line in lines)}

    wait_for(lambda: {"i0", "i1"} <= set(listed().values()))
    wait_for(lambda: "i3" in listed().values())
    (Path(run["dir"]) / "go").touch()
    run = ended(project, name)
    assert (run["state"], run["exit_code"]) == ("FAILED", 1)
    assert [(item["state"], item["exit_code"]) for item in run["items"]] == [
        ("FAILED", 7),
        ("FAILED", 5),
        ("COMPLETED", 0),
        ("COMPLETED", 0),
        ("COMPLETED", 0),
        ("FAILED", 127),
    ]
    found = dict(spans(told(project, name)))
    assert found[1].why == "timeout"
    assert 8 < found[1].seconds < 14
    steps = []
    for index, span in found.items():
        said = printed(run, index)
        assert (span.node, *span.gpus) == tuple(said[0].split()), "what the program sees is what the journal says"
        others = [two for n, two in found.items() if n != index and two.gpus == span.gpus]
        assert all((span.ended or 0) <= two.started or (two.ended or 0) <= span.started for two in others)
        steps += [said[1].split()] if index < 5 else []
    assert len({step for step, *_ in steps}) == 5
    assert {tuple(rest) for _, *rest in steps} == {("2", "2")}, "CPUs by its share of the GPUs"
    assert printed(run, 1)[-1] == "bye", "TERM first"
    assert wait_for(lambda: not left(lab, run))


def test_steps_whose_agent_or_step_is_killed_and_a_cancel(project: Project, lab: Lab) -> None:
    once = "test $GANGRUN_ATTEMPT != 001 || sleep 200"
    name = submitted(project, "killed-steps", [once, "sleep 201"], pool="own_step = true\nretries = 1")
    run = running(project, name, 2)
    steps = slurm(lab, "squeue", "-s", "-h", "-j", run["job"], "-o", "%i %j").splitlines()
    (agent,) = (line.split()[0] for line in steps if line.endswith(" agent.0"))
    slurm(lab, "scancel", "--signal=KILL", agent)
    path = RunDir(Path(run["dir"]))
    wait_for(lambda: pools.journal(path).items[0].state == "done", 60)
    running(project, name, 1)
    fold = told(project, name)
    assert [(span.code, span.why, span.again) for span in fold.items[0].spans] == [(137, "lost", True), (0, "", False)]
    steps = slurm(lab, "squeue", "-s", "-h", "-j", run["job"], "-o", "%i %j").splitlines()
    (step,) = (line.split()[0] for line in steps if line.endswith(" i1"))
    slurm(lab, "scancel", step)
    wait_for(lambda: len(pools.journal(path).items[1].spans) == 3, 60)
    assert pools.journal(path).items[1].spans[1].code == 137
    project.ok("cancel", name)
    run = ended(project, name)
    assert [item["state"] for item in run["items"]] == ["COMPLETED", "CANCELLED"]
    assert wait_for(lambda: not left(lab, run))


def test_each_item_has_its_share_of_a_node_for_itself(project: Project) -> None:
    see = "echo $OMP_NUM_THREADS; python3 -c 'import os; print(*os.sched_getaffinity(0))'; sleep 1"
    name = submitted(project, "pinned", [see] * 8, "node1,node3", "", "allocation.cpus=2")
    run = ended(project, name)
    assert run["state"] == "COMPLETED"
    found = dict(spans(told(project, name)))
    seen = {index: printed(run, index) for index in found}
    assert len(seen) == 8
    for index, span in found.items():
        place, threads, cpus = seen[index]
        assert (place, threads) == (f"{span.node} {span.gpus[0]}", "1")
        beside = [
            n
            for n, other in found.items()
            if n != index
            and other.node == span.node
            and other.started < (span.ended or 0)
            and span.started < (other.ended or 0)
        ]
        assert len(beside) <= 2, "there is room for two, and one that begins when another ends"
        assert all(found[n].gpus != span.gpus for n in beside)
        if len(os.sched_getaffinity(0)) >= 2:
            assert cpus.isdigit(), "a CPU for itself"
            assert all(seen[n][2] != cpus for n in beside)
    assert len({(span.node, *span.gpus) for span in found.values()}) == 4


def test_how_many_nodes_items_hold_is_changed_while_they_run(project: Project) -> None:
    gate = "until test -e $GANGRUN_RUN_DIR/../../go; do sleep 0.1; done"
    name = submitted(project, "nodes", [gate] * 4 + ["sleep 0.5"] * 6, "node1,node3", "", "sweep.max_nodes=1")
    path = RunDir(Path(running(project, name, 2)["dir"]))

    def nodes(first: int = 0) -> set[str]:
        return {span.node for index, span in spans(pools.journal(path)) if index >= first}

    assert len(nodes()) == 1
    assert "2 nodes at once" in project.ok("throttle", name, "2", "--nodes").out
    running(project, name, 4)
    assert len(nodes()) == 2
    project.ok("throttle", name, "1", "--nodes")
    # The driver reads the limit before it writes down how it does.
    wait_for(lambda: json.loads((path.pool / "status.json").read_text())["t"] > path.throttle.stat().st_mtime)
    (path.path / "go").touch()
    run = ended(project, name)
    assert (run["state"], run["progress"]["done"]) == ("COMPLETED", 10)
    last = [span for index, span in spans(told(project, name)) if index >= 6]
    assert len({span.node for span in last}) == 1


def test_a_further_job_does_what_the_time_limit_leaves(project: Project, lab: Lab) -> None:
    """When the first two items have ended, the others could not end in this job any more: they are the second's."""
    project.write(
        "experiments/further/run.toml",
        """command = ["sleep", "{nap}"]
parameters.nap = 0
[allocation]
gpus = 2
cpus = 2
time = "1m"
[sweep]
list = [{ n = 0, nap = 10 }, { n = 1, nap = 10 }, { n = 2, nap = 1 }, { n = 3, nap = 1 }]
[pool]
continue = true
estimate = "39 + {nap} / 10"
""",
    )
    name = project.ok("submit", "experiments/further/run.toml").out.split()[0]
    run = ended(project, name, 90)
    assert (run["state"], run["progress"]["done"]) == ("COMPLETED", 4)
    fold = told(project, name)
    first, second = fold.opened
    assert first["job"] != second["job"]
    assert run["job"] == second["job"]
    assert [len(fold.items[index].spans) for index in range(4)] == [1] * 4, "nothing is repeated"
    began = [fold.items[index].spans[0].started > second["t"] for index in range(4)]
    assert began == [False, False, True, True]
    assert (
        f"2 done, 0 failed, 2 left, which job {second['job']} goes on with"
        in project.ok("logs", name, "--attempt", "1").out
    )
    assert slurm(lab, "squeue", "-h", "-n", name, "-o", "%i %T") == "", "no third job waits"
