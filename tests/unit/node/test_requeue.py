"""Whether a run goes on, and why it does not: `gangrun.node.requeue` as a job runs it, beside a fake Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.gangrun_cli import REPOSITORY

from gangrun.node import requeue

KEYS = ("limit=2", "preemption=3", "node=1", "glob=model_*.pth")


@dataclass
class Job:
    """A run with a fake `scontrol` that notes how it was called and says what it is told to say."""

    dir: Path

    def attempt(self, number: int, **files: str) -> None:
        status = self.dir / f"attempts/{number:03d}/status"
        status.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (status / name.replace("_", ".", 1)).write_text(f"{text}\n")

    def call(self, what: str, attempt: int, *, restarts: int = 0, keys: tuple[str, ...] = KEYS, **env: str) -> int:
        told = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "a_run", "SLURM_RESTART_COUNT": str(restarts), **env}
        path = f"{self.dir}/bin{os.pathsep}{os.environ['PATH']}"
        argv = [
            sys.executable,
            str(self.dir / "node/requeue.py"),
            what,
            str(self.dir),
            f"{attempt:03d}",
            "a_run",
            *keys,
        ]
        done = subprocess.run(
            argv, env={**os.environ, "PATH": path, **told}, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    def read(self, attempt: int, name: str) -> str:
        file = self.dir / f"attempts/{attempt:03d}/status/{name}"
        return file.read_text().strip() if file.is_file() else ""

    @property
    def asked(self) -> list[str]:
        file = self.dir / "asked"
        return file.read_text().splitlines() if file.is_file() else []

    def says(self, described: str, requeue: str = ":") -> None:
        program = self.dir / "bin/scontrol"
        program.write_text(
            f'#!/bin/sh\necho "$*" >>"{self.dir}/asked"\n'
            f'case $1 in show) echo "{described}" ;; requeue) {requeue} ;; esac\n'
        )
        program.chmod(0o755)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "bin").mkdir()
    (tmp_path / "node").mkdir()
    for name in ("requeue.py", "checkpoint.py"):
        shutil.copy(REPOSITORY / "src/gangrun/node" / name, tmp_path / "node" / name)
    made = Job(tmp_path)
    made.says("JobState=RUNNING Reason=None PreemptTime=None ExcNodeList=node9")
    made.attempt(1)
    return made


def test_the_first_attempt_writes_down_what_it_begins_with(job: Job) -> None:
    assert job.call("begin", 1) == 0
    assert (job.read(1, "run.reason"), job.read(1, "run.had")) == ("first", "nothing")


def test_a_lost_node_is_left_out_beside_those_that_are_already(job: Job) -> None:
    job.call("begin", 1)
    job.attempt(1, run_cause="lost node4 main.0")
    job.dir.joinpath("attempts/001/status/main.0.lives").write_text("1 start\n9 lost node4\n")
    assert job.call("end", 1) == 0
    assert job.read(1, "run.requeue") == "again node"
    assert job.asked[1:] == ["requeue 7", "update JobId=7 ExcNodeList=node9,node4"]


@pytest.mark.parametrize(
    ("described", "onward"),
    [
        ("JobState=COMPLETING Reason=TimeLimit PreemptTime=None", "again limit"),
        ("JobState=COMPLETING Reason=None PreemptTime=2026-11-21T15:19:37", "again preemption"),
        ("JobState=NODE_FAIL Reason=NodeDown PreemptTime=None", "again node"),
        ("JobState=COMPLETING Reason=None PreemptTime=None", ""),  # cancelled
        ("", ""),
    ],
)
def test_slurm_says_what_a_signal_meant(job: Job, described: str, onward: str) -> None:
    job.call("begin", 1)
    (job.dir / "model_1.pth").write_text("weights")
    job.attempt(1, run_cause="signal TERM")
    job.says(described)
    assert job.call("end", 1) == 0
    assert job.read(1, "run.requeue") == onward
    assert ("requeue 7" in job.asked) == bool(onward)


@pytest.mark.parametrize("cause", ["main main.0 1", "setup 1", "unready server.0 3", "", "ports"])
def test_what_a_program_did_itself_is_no_reason(job: Job, cause: str) -> None:
    job.call("begin", 1)
    job.attempt(1, run_cause=cause)
    assert job.call("end", 1) == 0
    assert job.read(1, "run.requeue") == ""


def lives(job: Job, *, reason: str, attempts: int, saves: bool) -> str:
    """How the last of so many attempts ends, each for this reason."""
    cause = {"limit": "limit", "node": "lost node4 main.0", "preemption": "signal TERM"}[reason]
    job.says("JobState=RUNNING Reason=None PreemptTime=2026-11-21T15:19:37")
    for number in range(1, attempts + 1):
        job.attempt(number)
        assert job.call("begin", number, restarts=number - 1) == 0
        if saves:
            (job.dir / f"model_{number}.pth").write_text("weights")
        job.attempt(number, run_cause=cause)
        job.call("end", number, restarts=number - 1)
    return job.read(attempts, "run.requeue")


def test_every_reason_has_a_budget_of_its_own(job: Job) -> None:
    assert lives(job, reason="limit", attempts=2, saves=True) == "again limit"
    job.attempt(3)
    job.call("begin", 3, restarts=2)
    (job.dir / "model_3.pth").write_text("weights")
    job.attempt(3, run_cause="limit")
    job.call("end", 3, restarts=2)
    stop = "stop limit it has gone on after the time limit 2 times, and [requeue] limit = 2"
    assert job.read(3, "run.requeue") == stop
    job.attempt(3, run_cause="lost node1 main.0")
    job.call("end", 3, restarts=2)
    assert job.read(3, "run.requeue") == "again node"


def test_a_person_who_resumes_begins_the_count_anew(job: Job) -> None:
    assert lives(job, reason="limit", attempts=3, saves=True).startswith("stop")
    job.attempt(4)
    job.call("begin", 4)
    assert job.read(4, "run.reason") == "resume"
    (job.dir / "model_4.pth").write_text("weights")
    job.attempt(4, run_cause="limit")
    job.call("end", 4)
    assert job.read(4, "run.requeue") == "again limit"


def test_an_attempt_that_used_up_its_time_for_nothing_is_the_last(job: Job) -> None:
    assert lives(job, reason="limit", attempts=1, saves=False) == "stop limit no new checkpoint was left in attempt 1"


def test_three_attempts_that_were_cut_short_for_nothing_are_enough(job: Job) -> None:
    assert lives(job, reason="preemption", attempts=2, saves=False) == "again preemption"
    job.attempt(3)
    assert job.call("begin", 3, restarts=2) == 0
    job.attempt(3, run_cause="signal TERM")
    job.call("end", 3, restarts=2)
    assert job.read(3, "run.requeue") == "stop preemption no new checkpoint was left in 3 attempts in a row"


def test_where_nobody_can_tell_how_far_it_came_the_budget_decides(job: Job) -> None:
    job.call("begin", 1, keys=KEYS[:3])
    job.attempt(1, run_cause="limit")
    job.call("end", 1, keys=KEYS[:3])
    assert job.read(1, "run.requeue") == "again limit"


TOLD = "slurmstepd-node1: error: *** JOB 7 ON node1 CANCELLED AT 2099-11-21T15:19:37 DUE TO {} ***\n"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (TOLD.format("PREEMPTION"), "preemption"),
        (TOLD.format("NODE FAILURE"), "node"),
        (TOLD.format("JOB REQUEUE"), "requeue"),
        (TOLD.format("PREEMPTION").replace("2099", "2001"), "node"),
        ("", "node"),
    ],
)
def test_why_slurm_queued_a_job_again_whose_script_could_say_nothing(job: Job, log: str, reason: str) -> None:
    job.attempt(1, run_start="1795274892", run_reason="first", run_had="nothing")
    (job.dir / "job.log").write_text(log)
    job.attempt(2)
    assert job.call("begin", 2, restarts=1) == 0
    assert job.read(2, "run.reason") == reason


def test_an_attempt_that_slurm_began_beyond_the_budget_ends_at_once(job: Job) -> None:
    (job.dir / "job.log").write_text(TOLD.format("PREEMPTION"))
    job.attempt(1, run_start="1795274892", run_reason="first", run_had="nothing")
    job.attempt(2)
    keys = ("preemption=0",)
    assert job.call("begin", 2, restarts=1, keys=keys) == 1
    stop = "stop preemption it has gone on after a preemption 0 times, and [requeue] preemption = 0"
    assert job.read(2, "run.requeue") == stop


def test_what_slurm_refuses_is_said(job: Job) -> None:
    job.call("begin", 1)
    (job.dir / "model_1.pth").write_text("weights")
    job.attempt(1, run_cause="limit")
    job.says("JobState=RUNNING", requeue="echo Requested operation is presently disabled; exit 1")
    assert job.call("end", 1) == 0
    refusal = "Slurm refused to queue the job again: Requested operation is presently disabled"
    assert job.read(1, "run.requeue") == f"stop limit {refusal}"


def test_a_job_that_slurm_has_queued_already_goes_on(job: Job) -> None:
    job.call("begin", 1)
    job.attempt(1, run_cause="signal TERM")
    job.says("JobState=PENDING PreemptTime=2026-11-21T15:19:37", requeue="echo Job is pending execution; exit 1")
    job.call("end", 1)
    assert job.read(1, "run.requeue") == "again preemption"


def test_an_allocation_that_is_held_by_hand_is_left_alone(job: Job) -> None:
    job.call("begin", 1, SLURM_JOB_NAME="interactive")
    job.attempt(1, run_cause="limit")
    job.call("end", 1, SLURM_JOB_NAME="interactive")
    assert "requeue 7" not in job.asked


def test_the_last_task_of_an_array_is_not_the_whole_array(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue.job_id() == "7_3"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1-02:03:04", 93784), ("02:03:04", 7384), ("03:04", 184), ("UNLIMITED", None), ("INVALID", None), ("", None)],
)
def test_time_that_is_left(text: str, seconds: int | None) -> None:
    assert requeue.parse_left(text) == seconds
