"""Sending runs to a real Slurm: never doubled, never forgotten, refused in plain words, watched at little cost."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gangrun.lab import Lab
from gangrun.record.ledger import SENDER_QUIET, refresh
from gangrun.record.store import Store
from gangrun.scheduler.slurm import Slurm
from tests.gangrun_cli import PROGRAMS, Project, Started, marked, sh, wait_for
from tests.slurm.conftest import a_lab, project_on

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def deserted() -> Iterator[Lab]:
    """A lab of one node whose controller is away for good."""
    for lab in a_lab("u", nodes=1, gpus=0):
        lab.stop_slurmctld()
        yield lab


@pytest.fixture(scope="module", autouse=True)
def unanswered(deserted: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Started, float]]:
    """A submission to it, begun before the first test, as it takes a minute to give up; and when that was."""
    with project_on(deserted, tmp_path_factory.mktemp("unanswered") / "project") as project:
        project.write("experiments/void/run.toml", sh("true"))
        yield project, project.start("submit", "experiments/void/run.toml"), time.monotonic()


def queue(lab: Lab, states: str = "all") -> list[tuple[str, str]]:
    """The jobs that the controller remembers: id and name."""
    argv = ["squeue", "--noheader", f"--states={states}", "--format=%i %j"]
    done = subprocess.run(argv, env=lab.env(), capture_output=True, text=True, check=True)
    return [(job, name) for job, name in (line.split(maxsplit=1) for line in done.stdout.splitlines())]


def job_facts(lab: Lab, job: str) -> dict[str, str]:
    done = subprocess.run(
        ["scontrol", "show", "job", "-o", job], env=lab.env(), capture_output=True, text=True, check=True
    )
    return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)


def test_killed_at_any_instant(project: Project, lab: Lab) -> None:
    """Whatever is on disk afterwards is told truthfully, and Slurm has exactly the jobs that the record knows."""
    file = "experiments/killed/run.toml"
    project.write(file, sh("true"))
    began = time.monotonic()
    project.ok("submit", file)
    whole = time.monotonic() - began
    kills = 25
    for number in range(kills):
        instant = time.monotonic() + 1.1 * whole * (number + random.random()) / kills
        started = project.start("submit", file)
        time.sleep(max(instant - time.monotonic(), 0))
        os.kill(started.process.pid, signal.SIGKILL)
        started.done(10)
    # sbatch goes on without the one who called it.
    own = f"XDG_CONFIG_HOME={project.dir}/.config"
    wait_for(lambda: not [line for line in marked(own) if "sbatch" in line])

    runs = list(Store(project.dir / "outputs").runs())
    for run in runs:
        assert run.spec.is_file()
        assert run.script.is_file()
    slurm = Slurm(str(lab.slurm_conf))
    refresh(runs, lambda _: slurm, time.time() + SENDER_QUIET + 1)
    listed = wait_for(lambda: settled(project), 60)
    assert {run["dir"] for run in listed} == {run.dir for run in runs}
    names = {run["run"] for run in listed}
    queued = {name: job for job, name in queue(lab) if name in names}
    assert max(Counter(name for _, name in queue(lab) if name in names).values()) == 1, "a job was sent twice"
    assert {run["run"]: run["job"] for run in listed if run["job"]} == queued
    assert {run["state"] for run in listed if run["job"]} == {"COMPLETED"}
    assert {run["state"] for run in listed if not run["job"]} <= {"CREATED", "NEVER_SENT"}
    assert not any(run["stale"] for run in listed)
    assert 1 < len(queued) < kills + 1, "the instants must lie before and after the sending"


def settled(project: Project) -> list[dict[str, Any]]:
    runs = project.runs()
    return runs if not any(run["state"] in {"PENDING", "RUNNING", "COMPLETING"} for run in runs) else []


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("allocation.partition=nope", "there is no such partition"),
        ("allocation.gpus=64", "too few nodes, of the partition have what was asked for"),
        ("allocation.sbatch.begin=yesteryear", "begin"),
    ],
)
def test_a_refusal_is_told_and_recorded(project: Project, lab: Lab, asked: str, why: str) -> None:
    project.write("experiments/refused/run.toml", sh("true"))
    done = project.gangrun("submit", "experiments/refused/run.toml", "--set", asked)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "Slurm refused refused_run_" in done.err
    assert why in done.err
    (run,) = project.runs()
    assert (run["state"], run["job"], run["exit_code"]) == ("REJECTED", "", None)
    assert why in project.ok("why").out
    assert "REJECTED" in project.ok("show").out
    assert "nothing to cancel, it is REJECTED" in project.ok("cancel", "latest").out
    # Slurm remembers some that it refused, as failed.
    assert run["run"] not in {name for _, name in queue(lab, "PENDING,RUNNING,COMPLETING")}


def test_what_slurm_takes_in_but_never_starts(project: Project) -> None:
    project.write("experiments/huge/run.toml", sh("true"))
    project.ok("submit", "experiments/huge/run.toml", "--set", "allocation.nodes=9")
    waiting = wait_for(lambda: [run for run in project.runs() if run["reason"]])[0]
    assert (waiting["state"], waiting["reason"] in ("PartitionNodeLimit", "PartitionConfig")) == ("PENDING", True)
    # Slurm begins with the one and comes to the other.
    words = "cancel it and submit with another number of nodes|its partition does not take this job"
    assert re.search(words, project.ok("why").out)
    project.ok("cancel", "latest")
    assert wait_for(lambda: project.run()["state"] == "CANCELLED")


def test_one_refused_of_several(project: Project) -> None:
    project.write("experiments/some/good.toml", sh("true"))
    project.write("experiments/some/refused.toml", sh("true") + "[allocation]\npartition = 'nope'\n")
    done = project.gangrun("submit", "experiments/some/refused.toml", "experiments/some/good.toml", "--wait")
    assert done.code == 3
    assert {run["state"] for run in project.runs()} == {"REJECTED", "COMPLETED"}


def test_one_bad_file_keeps_all_at_home(project: Project, lab: Lab) -> None:
    project.write("experiments/some/good.toml", sh("true"))
    project.write("experiments/some/bad.toml", "comand = ['true']\n")
    before = queue(lab)
    done = project.gangrun("submit", "experiments/some/good.toml", "experiments/some/bad.toml")
    assert done.code == 2
    assert "experiments/some/bad.toml:1" in done.err
    assert not (project.dir / "outputs").exists()
    assert set(queue(lab)) <= set(before)  # Slurm forgets old jobs meanwhile


def test_dry_run_sends_nothing(project: Project, lab: Lab) -> None:
    project.write("experiments/dry/run.toml", sh("true"))
    before = queue(lab)
    done = project.ok("submit", "experiments/dry/run.toml", "--dry-run", "--", "--nice=5")
    assert done.out.startswith("#!/usr/bin/env bash\n#SBATCH --job-name=dry_run_")
    assert "sbatch --parsable --nice=5" in done.out
    assert not (project.dir / "outputs").exists()
    assert set(queue(lab)) <= set(before)  # Slurm forgets old jobs meanwhile


def test_flags_reach_slurm_and_the_users_win(project: Project, lab: Lab) -> None:
    text = "[allocation]\nnodes = 2\ngpus = 3\ncpus = 4\ntime = '00:07:00'\n[allocation.sbatch]\nnice = 7\n"
    project.write("experiments/flags/run.toml", sh("true") + text + "comment = 'two words'\nmem = false\n")
    project.ok("submit", "experiments/flags/run.toml", "--", "--hold", "--time=00:09:00", "--nice=9")
    run = project.run()
    facts = job_facts(lab, run["job"])
    assert (facts["JobName"], facts["Comment"]) == (run["run"], "two")  # scontrol does not quote
    assert (facts["NumNodes"], facts["TimeLimit"], facts["Nice"]) == ("2-2", "00:09:00", "9")
    assert (facts["MinCPUsNode"], facts["TresPerNode"]) == ("4", "gres:gpu:3")
    assert facts["StdOut"] == facts["StdErr"] == f"{run['dir']}/job.log"
    assert "--mem" not in Path(run["dir"], "script.sh").read_text().split("setup()")[0]
    assert (run["state"], run["reason"]) == ("PENDING", "JobHeldUser")
    assert "scontrol release" in project.ok("why").out
    assert run["job"] in project.ok("show", run["job"]).out, "a job id names its run"
    project.ok("cancel", run["job"])


def test_a_job_may_submit_another(project: Project) -> None:
    project.write("experiments/nest/inner.toml", sh("echo inner of $GANGRUN_RUN_NAME; exit 4"))
    project.write("experiments/nest/outer.toml", 'command = ["gangrun", "submit", "experiments/nest/inner.toml"]')
    done = project.ok("submit", "experiments/nest/outer.toml", "--wait")
    assert "inner_" in done.out
    inner = wait_for(lambda: [run for run in settled(project) if run["state"] == "FAILED"])[0]
    assert inner["run"].startswith("nest_inner_")
    assert inner["exit_code"] == 4
    assert f"inner of {inner['run']}" in project.ok("logs", inner["run"]).out
    assert Path(inner["dir"]).parts[-3:-1] == ("nest", "inner")


@pytest.fixture
def counted(tmp_path: Path) -> tuple[str, Any]:
    """A PATH whose squeue writes down the arguments of each call under the name in COUNT_AS; and how to read them."""
    folder = tmp_path / "counting"
    folder.mkdir()
    real = shutil.which("squeue")
    wrapper = folder / "squeue"
    wrapper.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >>{folder}/$COUNT_AS\nexec {real} "$@"\n')
    wrapper.chmod(0o755)

    def calls(name: str) -> list[str]:
        file = folder / name
        return file.read_text().splitlines() if file.is_file() else []

    return os.pathsep.join((str(folder), str(PROGRAMS), os.environ["PATH"])), calls


def test_watching_costs_one_query_for_any_number_of_runs(project: Project, counted: tuple[str, Any]) -> None:
    path, calls = counted
    project.write("experiments/watch/run.toml", sh("true"))
    watchers = {
        count: project.start(
            *("submit", "experiments/watch/run.toml", "--seeds", f"0-{count - 1}", "--wait", "--", "--hold"),
            env={"PATH": path, "COUNT_AS": str(count)},
        )
        for count in (1, 12)
    }
    wait_for(lambda: all(len(calls(str(count))) >= 4 for count in watchers), 60)
    for count in watchers:
        first, *others = calls(str(count))
        assert first.count(",") >= count - 1
        assert all(other == first for other in others), "every query names all runs"
    few, many = (len(calls(str(count))) for count in watchers)
    assert abs(few - many) <= 2, "the intervals do not depend on the number"

    listed = project.gangrun("ls", "--json", env={"PATH": path, "COUNT_AS": "ls"}).data
    assert {run["state"] for run in listed} == {"PENDING"}
    assert len(listed) == 13
    assert len(calls("ls")) == 1
    project.ok("cancel", *(run["run"] for run in listed))
    assert [watchers[count].done(60).code for count in watchers] == [1, 1]
    assert {run["state"] for run in project.runs()} == {"CANCELLED"}
    done = project.gangrun("ls", "--json", env={"PATH": path, "COUNT_AS": "after"})
    assert len(done.data) == 13
    assert not calls("after"), "ended runs are read from the record"


def test_interrupting_a_submission_that_waits(deserted: Lab, tmp_path: Path) -> None:
    with project_on(deserted, tmp_path / "project") as project:
        project.write("experiments/wait/run.toml", sh("true"))
        started = project.start("submit", "experiments/wait/run.toml")
        assert started.process.stderr
        assert "trying again" in started.process.stderr.readline()
        os.kill(started.process.pid, signal.SIGINT)
        done = started.done(5)
        assert done.code == 130
        assert "Traceback" not in done.err
        (run,) = project.runs()
        assert (run["state"], run["stale"]) == ("SUBMITTING", True)


def test_interrupting_a_watch_leaves_the_run_alone(project: Project) -> None:
    flag = project.dir / "go"
    project.write("experiments/wait/run.toml", sh(f"echo up; while [ ! -e {flag} ]; do sleep 0.1; done"))
    started = project.start("submit", "experiments/wait/run.toml", "--wait")
    assert started.process.stdout
    while "| up" not in (line := started.process.stdout.readline()):
        assert line, "it ended early"
    os.kill(started.process.pid, signal.SIGINT)
    assert started.done(5).code == 130
    assert project.runs()[0]["state"] == "RUNNING"
    flag.touch()
    assert wait_for(lambda: settled(project))[0]["state"] == "COMPLETED"


def test_nobody_answers(unanswered: tuple[Project, Started, float]) -> None:
    project, started, began = unanswered
    listed = project.runs()
    done = started.done(100)
    assert done.code == 1
    assert time.monotonic() - began > 55
    assert "controller does not answer" in done.err
    assert "trying again" in done.err
    assert "was not queued within 60 s" in done.err
    assert "Traceback" not in done.err
    (run,) = project.runs()
    assert (run["state"], run["job"], run["exit_code"]) == ("UNREACHED", "", None)
    assert "Unable to contact slurm controller" in project.ok("why").out
    assert listed[0]["run"] == run["run"]


def test_giving_up_leaves_nothing_to_come(unanswered: tuple[Project, Started, float], deserted: Lab) -> None:
    """Once the controller is back and has no job of that run, this is known for certain."""
    project, started, _ = unanswered
    started.process.wait(100)
    deserted.start_slurmctld()
    (run,) = project.runs()
    assert run["state"] == "NEVER_SENT"
    assert "was not queued within 60 s" in run["reason"]
    assert queue(deserted) == []
    project.ok("submit", str(Path(run["dir"], "spec.toml")), "--wait")
    assert project.run()["state"] == "COMPLETED"
