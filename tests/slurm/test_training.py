"""RL from one TOML on a real Slurm: it learns, and whatever happens to one of its three roles, the job ends rightly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Project, marked, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.torch]

ENDLESS = ("--max-steps", "100000", "--orchestrator.batch-size", "32", "--ckpt.interval", "100000")

STAND_INS = """
[gangrun.roles.trainer]
launcher = "exec"
[commands]
inference = ["python", "-m", "http.server", "{port}", "--directory", "web"]
"""
"""Programs that say nothing and learn nothing, in place of those that need torch."""


def queued(project: Project, *words: str) -> dict[str, Any]:
    """Sends the shipped example, with these words after it, and waits for its end."""
    project.example("rl")
    done = project.gangrun("rl", "@", "examples/rl/rl.toml", *words, "--wait", limit=300)
    run = project.run()
    assert done.code == run["exit_code"], done.err
    return run


def log(run: dict[str, Any], name: str) -> str:
    return Path(run["dir"], "slurm", f"latest_{name}.log").read_text()


def left(lab: Lab, run: dict[str, Any]) -> list[str]:
    """What still runs of this run, on any host."""
    steps = [line for node in lab.nodes for _, line in lab.processes(node) if f"[{run['job']}." in line]
    return [*marked(f"GANGRUN_RUN_DIR={run['dir']}", f"SLURM_JOB_NAME={run['run']}"), *steps]


def of(run: dict[str, Any], replica: str, program: str) -> list[int]:
    """The processes of a replica that run this program, on whatever host."""
    mine = set(marked(f"GANGRUN_RUN_DIR={run['dir']}")) & set(marked(f"GANGRUN_REPLICA={replica}"))
    return sorted(int(line.partition(":")[0]) for line in mine if program in line)


def states(lab: Lab) -> set[str]:
    """Those that Slurm's nodes are in."""
    argv = ["sinfo", "--noheader", "--Node", "--format=%T"]
    return set(subprocess.run(argv, env=lab.env(), capture_output=True, text=True, check=True).stdout.split())


def test_the_reward_rises_and_nothing_is_left(project: Project, lab: Lab) -> None:
    run = queued(project, "--max-steps", "50")
    assert (run["state"], run["exit_code"]) == ("COMPLETED", 0)
    rewards = [float(text) for text in re.findall(r"step \d+/50  reward (\S+)", log(run, "orchestrator"))]
    assert len(rewards) == 50
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
    told = json.loads(Path(run["dir"], "metrics.json").read_text())
    assert told["reward"][-1] == pytest.approx(rewards[-1], abs=1e-3)
    assert "learning from step 0 on 2 workers" in log(run, "train_node_rank_0")
    # The evaluation after the trainer's end was answered, and then the service was ended.
    assert "evaluation:" in log(run, "orchestrator")
    assert wait_for(lambda: not left(lab, run))
    assert Path(run["dir"], "rl.sh").read_text().startswith("#!/usr/bin/env bash")


def test_two_inference_nodes_and_the_trainer_on_a_third(project: Project, lab: Lab) -> None:
    run = queued(project, "--max-steps", "3", "--num-infer-nodes", "2")
    assert (run["state"], run["exit_code"]) == ("COMPLETED", 0)
    assert len(set(run["hosts"])) == 3
    for rank in (0, 1):
        assert "serving tiny on port" in log(run, f"infer_node_rank_{rank}")
    assert wait_for(lambda: not left(lab, run))


@pytest.mark.parametrize(
    ("replica", "program", "code"),
    [
        ("trainer.0", "trainer.py", 1),  # what torchrun says of a worker that was killed
        ("orchestrator.0", "orchestrator.py", 137),
        ("inference.0", "inference.py", 137),
    ],
)
def test_a_killed_role_ends_the_job(replica: str, program: str, code: int, project: Project, lab: Lab) -> None:
    project.example("rl")
    project.ok("rl", "@", "examples/rl/rl.toml", *ENDLESS)
    trainer = Path(project.runs()[0]["dir"], "slurm/latest_train_node_rank_0.log")
    wait_for(lambda: trainer.exists() and "step 2/" in trainer.read_text(), 90)
    run = project.run()
    os.kill(of(run, replica, program)[-1], signal.SIGKILL)
    ended = wait_for(lambda: project.run() if project.run()["exit_code"] is not None else None, 60)
    assert (ended["state"], ended["exit_code"], ended["failed"]["replica"]) == ("FAILED", code, replica)
    if replica != "trainer.0":
        assert "checkpoint written" in trainer.read_text(), "the trainer was given time for it"
        assert list(Path(run["dir"], "checkpoints").glob("step_*"))
    assert wait_for(lambda: not left(lab, run))
    assert wait_for(lambda: states(lab) == {"idle"}), "the nodes are free"


def test_later_attempts_go_on_from_the_last_checkpoint(project: Project, lab: Lab) -> None:
    """Queued again by a person, and after that by `resume`: one run, whose steps go on."""
    project.example("rl")
    project.ok("rl", "@", "examples/rl/rl.toml", *ENDLESS, "--ckpt.interval", "2")
    run = project.runs()[0]
    folder = Path(run["dir"])

    def begun(attempt: int) -> list[int]:
        """The steps of an attempt once both have made one: that from which the trainer goes on, and its last."""
        seen = []
        for replica, words in (
            ("trainer.0", r"learning from step (\d+)|step (\d+)/.*loss"),
            ("orchestrator.0", "(re)ward"),
        ):
            file = folder / f"attempts/{attempt:03d}/logs/{replica}.log"
            seen.append(re.findall(words, file.read_text()) if file.exists() else [])
        if len(seen[0]) < 4 or not seen[1]:
            return []
        assert (folder / "slurm/latest_train_node_rank_0.log").resolve() == (
            folder / f"attempts/{attempt:03d}/logs/trainer.0.log"
        ).resolve()
        return [int(seen[0][0][0]), int(seen[0][-1][1])]

    def rewarded(attempt: int) -> int:
        """The first step of the orchestrator in an attempt."""
        told = re.search(r"step (\d+)/", (folder / f"attempts/{attempt:03d}/logs/orchestrator.0.log").read_text())
        assert told
        return int(told[1])

    first = wait_for(lambda: begun(1), 90)
    assert first[0] == 0
    job = project.run()["job"]
    subprocess.run(["scontrol", "requeue", job], env=lab.env(), check=True)
    second = wait_for(lambda: begun(2), 120)
    assert second[0] >= first[1] - 1, "at most what was learnt after the last checkpoint is lost"
    assert (rewarded(1), rewarded(2)) == (1, second[0] + 1)
    assert (project.run()["run"], project.run()["job"], project.run()["attempt"]) == (run["run"], job, 2)
    project.ok("cancel", "latest")
    wait_for(lambda: project.run()["state"] == "CANCELLED", 60)
    project.ok("resume", "latest")
    third = wait_for(lambda: begun(3), 120)
    assert third[0] >= second[1] - 1
    assert rewarded(3) == third[0] + 1
    assert [one["run"] for one in project.runs()] == [run["run"]]
    assert "learning from step 0 on" in (folder / "attempts/001/logs/trainer.0.log").read_text()
    project.ok("cancel", "latest")
    wait_for(lambda: project.run()["state"] == "CANCELLED", 60)
    assert wait_for(lambda: not left(lab, project.run()))


def test_inference_that_never_gets_healthy(project: Project, lab: Lab) -> None:
    project.write(
        "never.toml", STAND_INS + 'trainer = ["sleep", "1000"]\n[gangrun.roles.inference.ready]\nwithin = "3s"\n'
    )
    run = queued(project, "@", "never.toml")
    assert (run["state"], run["failed"]["replica"]) == ("FAILED", "inference.0")
    assert "orchestrator.0" not in {name for name, one in run["replicas"].items() if one.get("exit") == 0}
    why = project.ok("why").out
    assert "inference.0 was not ready within 3s" in why
    assert wait_for(lambda: not left(lab, run))


def test_an_orchestrator_that_ends_first_waits_for_the_trainer(project: Project, lab: Lab) -> None:
    project.write("web/health", "")
    ours = 'orchestrator = ["true"]\ntrainer = ["sleep", "3"]\n'
    project.write("first.toml", STAND_INS + ours)
    run = queued(project, "@", "first.toml")
    assert (run["state"], run["exit_code"]) == ("COMPLETED", 0)
    ends = {name: one["lives"][-1]["ended"] for name, one in run["replicas"].items()}
    assert ends["trainer.0"] - ends["orchestrator.0"] >= 2
    assert ends["inference.0"] - ends["trainer.0"] < 10
    assert wait_for(lambda: not left(lab, run))
