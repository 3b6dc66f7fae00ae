"""Replica groups that train on several hosts, lose workers, groups, the lighthouse and nodes, and go on.

The example really trains; which groups took part in an outer step stands in the journal that each of them writes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Project, wait_for
from tests.slurm.conftest import project_on
from tests.slurm.test_faults import ended, left, slurm

pytest.importorskip("torchft")
pytestmark = [pytest.mark.slurm, pytest.mark.torch]

FEWER = range(1, 4)
"""How many groups train when some of the four do not."""


@dataclass
class Groups:
    """A run of the example."""

    project: Project
    id: str
    dir: Path

    def journal(self, group: int) -> list[dict[str, Any]]:
        """Its outer steps: time, step, loss, and how many groups took part."""
        try:
            text = (self.dir / "checkpoints" / f"group{group}.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def took_a_step(self, *groups: int, after: float, present: range) -> None:
        """Waits until each of these has taken a step together with so many groups."""

        def taken() -> bool:
            return all(any(e["time"] > after and e["groups"] in present for e in self.journal(g)) for g in groups)

        wait_for(taken, 120)

    def whole(self, after: float = 0) -> None:
        """Waits until all four train together, in the lives that they have now."""
        for group in range(4):
            wait_for(lambda group=group: self.lives(f"main.{group}")[-1:] == ["start"], 60)
            self.took_a_step(group, after=max(after, self.started(f"main.{group}")), present=range(4, 5))

    def processes(self, replica: str, program: str = "") -> list[int]:
        """Of a replica, wherever it runs; those of one program, or all."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                environment = (folder / "environ").read_bytes().decode("utf-8", "replace").split("\0")
                words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            except OSError:
                continue
            mine = {f"GANGRUN_RUN_DIR={self.dir}", f"GANGRUN_REPLICA={replica}"} <= {*environment}
            if mine and (not program or any(word.rpartition("/")[2] == program for word in words[:3])):
                found.append(int(folder.name))
        return found

    def kill(self, replica: str, program: str = "") -> None:
        pids = self.processes(replica, program)
        assert pids, f"nothing of {replica} runs"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def diary(self, replica: str) -> list[str]:
        file = self.dir / "attempts" / "latest" / "status" / f"{replica}.lives"
        return file.read_text().splitlines() if file.exists() else []

    def lives(self, replica: str) -> list[str]:
        """What its diary says, without the times."""
        return [line.partition(" ")[2] for line in self.diary(replica)]

    def started(self, replica: str) -> float:
        """When its last life began, to the second above."""
        return max(float(line.split()[0]) for line in self.diary(replica) if line.endswith(" start")) + 1


@pytest.fixture(scope="module")
def project(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_on(lab, tmp_path_factory.mktemp("torchft") / "project") as project:
        project.example("diloco")
        yield project


def submitted(project: Project, file: str, train: str, *settings: str) -> Groups:
    words = ["train.py", *train.split(), "--out", "{run.dir}/checkpoints"]
    sets = [word for setting in (f"command={json.dumps(words)}", *settings) for word in ("--set", setting)]
    (run,) = project.ok("submit", f"examples/diloco/{file}", "--json", *sets).data
    return Groups(project, run["run"], Path(run["dir"]))


def test_a_group_that_cannot_come_back_leaves_the_rest_to_finish(project: Project, lab: Lab) -> None:
    groups = submitted(project, "diloco.toml", "--steps 15 --batch 4", "restarts=1")
    groups.whole()
    groups.kill("main.3")
    wait_for(lambda: groups.lives("main.3").count("start") == 2 and groups.processes("main.3", "torchrun"))
    groups.kill("main.3")
    run = ended(project, groups.id, 120)

    assert (run["state"], run["exit_code"]) == ("COMPLETED", 0)
    assert groups.lives("main.3") == ["start", "exit 137", "start", "exit 137", "given up"]
    assert "all mains exited 0, but for main.3, without which the job went on" in project.ok("why", groups.id).out
    shown = project.ok("show", groups.id).out
    assert "main.3 ended with exit code 137, and was given up" in shown
    for group in range(3):
        journal = groups.journal(group)
        assert (journal[0]["groups"], journal[-1]["groups"], journal[-1]["step"]) == (4, 3, 15)
        assert journal[-1]["loss"] < journal[0]["loss"] / 2
    assert "validation loss" in (groups.dir / "attempts/001/logs/main.0.log").read_text()
    assert wait_for(lambda: not left(lab, run)), "the lighthouse ended with the groups"


def test_groups_over_several_nodes_go_on_from_disk_when_the_job_is_requeued(project: Project, lab: Lab) -> None:
    groups = submitted(project, "groups.toml", "--steps 12 --batch 4", "allocation.gpus=1", "allocation.cpus=2")
    wait_for(lambda: (groups.dir / "checkpoints" / "step_00003.pt").exists(), 120)
    job = project.run(groups.id)["job"]
    slurm(lab, "scontrol", "requeue", job)
    wait_for(lambda: project.run(groups.id)["state"] == "PENDING")
    slurm(lab, "scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm would hold it back for two minutes
    run = ended(project, groups.id, 180)

    assert (run["state"], run["exit_code"], run["attempt"]) == ("COMPLETED", 0, 2)
    for group in (0, 1):
        assert "goes on from step_0000" in (groups.dir / f"attempts/002/logs/main.{group}.log").read_text()
        journal = groups.journal(group)
        assert [entry["groups"] for entry in journal] == [2] * len(journal)
        assert [entry["step"] for entry in journal].count(1) == 1, "the second attempt did not begin anew"
        assert journal[-1]["step"] == 12
        assert journal[-1]["loss"] < journal[0]["loss"] / 2
    assert wait_for(lambda: not left(lab, run))


def test_whatever_dies_the_others_go_on(project: Project, lab: Lab) -> None:
    groups = submitted(
        project,
        "diloco.toml",
        "--steps 100000 --batch 2 --sync-every 5",
        *("replicas=4", "nodes=1", "gpus=1", "min_replicas=1", "allocation.nodes=3"),  # the third is spare
    )
    groups.whole()
    hosts = project.run(groups.id)["hosts"]

    groups.kill("main.1", "train.py")
    groups.kill("main.2", "torchrun")
    groups.kill("main.3")
    wait_for(lambda: [groups.lives(f"main.{group}").count("start") for group in range(4)] == [1, 2, 2, 2])
    groups.whole()
    # Steps without them are looked for below: where one that was killed had promised to meet the survivor, that waits
    # for it, and by then all may be back.
    codes = [groups.lives(f"main.{group}")[1:-1] for group in range(4)]
    assert codes == [[], ["exit 1"], ["exit 137"], ["exit 137"]], "torchrun says 1 when its worker was killed"
    assert [len(groups.processes(f"main.{group}", "train.py")) for group in range(4)] == [1, 1, 1, 1]

    groups.kill("lighthouse.0")
    wait_for(lambda: groups.lives("lighthouse.0") == ["start", "ready", "exit 137", "start"])
    groups.whole(after=time.time())
    assert [groups.lives(f"main.{group}").count("start") for group in range(4)] == [1, 2, 2, 2], "no group died"

    try:
        when = time.time()
        lab.kill(hosts[1])
        groups.took_a_step(0, 1, after=when + 0.5, present=FEWER)
        wait_for(lambda: [groups.lives(f"main.{group}").count("start") for group in range(4)] == [1, 2, 3, 3], 90)
        groups.whole()

        when = time.time()
        lab.kill(hosts[2])
        groups.took_a_step(0, 1, after=when + 0.5, present=FEWER)
        wait_for(lambda: [groups.lives(f"main.{group}")[-1] for group in (2, 3)] == ["given up"] * 2, 90)
        groups.took_a_step(0, 1, after=time.time(), present=FEWER)
        run = project.run(groups.id)
        assert run["state"] == "RUNNING"
        shown = project.ok("show", groups.id).out
        for group in (2, 3):
            assert f"main.{group} was lost with {hosts[1]}\n" in shown
            assert f"main.{group} was lost with {hosts[2]}, and was given up\n" in shown
        assert shown.count("main.1 was started again") == 1
        project.ok("cancel", groups.id)
    finally:
        for node in lab.status().nodes:
            if not node.power:
                lab.start(node.name)
    assert ended(project, groups.id)["state"] == "CANCELLED"  # for Slurm it completes until all its nodes answer
    assert wait_for(lambda: not left(lab, run))
    wait_for(lambda: {node.slurm for node in lab.status().nodes} == {"idle"}, 60)
