"""Sweeps on a real Slurm: items as jobs and as tasks of arrays, throttled, and cancelled in the middle."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Project, marked, wait_for

pytestmark = pytest.mark.slurm

LINE = 'echo {x}; echo "{{\\"loss\\": {x}}}" >{run.dir}/metrics.json; sleep {nap}; test {x} != 2'
SWEEP = f"""
command = {json.dumps(["bash", "-c", LINE])}
[allocation]
cpus = 1
mem = "100M"
[parameters]
nap = 0
[sweep]
x = [1, 2, 3, 4]
max_parallel = 2
"""
MODES = pytest.mark.parametrize("mode", ["jobs", "array"])


def listed(lab: Lab, job: str) -> str:
    """What a job waits for, as Slurm says."""
    words = ["squeue", "-h", "-j", job, "-O", "Dependency:200"]
    said = subprocess.run(words, env=lab.env(), capture_output=True, text=True, timeout=60, check=True).stdout
    return said.replace("(unfulfilled)", "").strip()


@MODES
def test_every_item_is_a_run_of_its_own(project: Project, lab: Lab, mode: str) -> None:
    project.write("experiments/sweep/four.toml", SWEEP)
    words = ("--set", f"sweep.mode={mode}", "--set", "parameters.nap=1", "--wait")
    done = project.gangrun("submit", "experiments/sweep/four.toml", *words)
    assert done.code == 3, "some of several failed"
    run = project.run()
    assert (run["state"], run["mode"]) == ("FAILED", mode)
    assert (run["progress"]["done"], run["progress"]["wrong"], run["progress"]["left"]) == (3, 1, 0)
    assert [(one["name"], one["state"], one["exit_code"]) for one in run["items"]] == [
        ("x=1", "COMPLETED", 0),
        ("x=2", "FAILED", 1),
        ("x=3", "COMPLETED", 0),
        ("x=4", "COMPLETED", 0),
    ]
    rows = project.ok("results", "latest", "--json").data
    assert [(row["parameters"]["x"], row["metrics"]["loss"]) for row in rows] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert "main.0 | 3" in project.ok("logs", "latest", "--item", "x=3").out
    assert "first to fail: main.0" in project.ok("show", f"{run['run']}/x=2").out
    assert "1 FAILED" in project.ok("why").out
    assert project.ok("check", f"{run['dir']}/items/x=4/spec.toml")
    assert "3/4 done, 1 failed" in project.ok("ls").out
    report = project.ok("report", "latest").out
    assert "#1  |" in report, f"two at once, drawn in two rows: {report}"
    assert re.search(rf"{mode} +pool\n", report)
    assert "pool is simulated" in report
    programs = [f"{run['dir']}/items/x={number}/node/monitor.py" for number in range(1, 5)]
    assert {Path(program).stat().st_nlink for program in programs} == {4}, "one copy for all"
    refused = project.gangrun("resume", "latest")
    assert (refused.code, "its items are" in refused.err) == (2, True)


@MODES
def test_throttled_and_cancelled_in_the_middle(project: Project, lab: Lab, mode: str) -> None:
    project.write("experiments/sweep/long.toml", SWEEP)
    project.ok("submit", "experiments/sweep/long.toml", "--set", f"sweep.mode={mode}", "--set", "parameters.nap=300")
    run = wait_for(lambda: (found := project.run())["progress"]["running"] == 2 and found, 60)
    assert "at most 3 items at once" in project.ok("throttle", "latest", "3").out
    wait_for(lambda: project.run()["progress"]["running"] == 3, 60)
    project.ok("cancel", "latest")
    wait_for(lambda: project.run()["state"] == "CANCELLED", 60)
    assert {one["state"] for one in project.run()["items"]} == {"CANCELLED"}
    wait_for(lambda: not marked(*(f"GANGRUN_RUN_DIR={run['dir']}/items/x={number}" for number in range(1, 5))), 30)


def test_a_throttle_keeps_what_items_wait_for(project: Project, lab: Lab) -> None:
    project.write("experiments/sweep/first.toml", 'command = ["sleep", "300"]\n[allocation]\ncpus = 1\nmem = "100M"\n')
    first = project.ok("submit", "experiments/sweep/first.toml").out.split()[0]
    project.write("experiments/sweep/later.toml", 'needs = "first"\n' + SWEEP)
    later = project.ok("submit", "experiments/sweep/later.toml", "--set", "sweep.max_parallel=1").out.split()[0]
    project.ok("throttle", later, "2")
    on = {job: listed(lab, job).split(",") for job in (one["job"] for one in project.run(later)["items"])}
    job = project.run(first)["job"]
    assert all(f"afterok:{job}" in waits for waits in on.values()), on
    assert sorted(len(waits) for waits in on.values()) == [1, 1, 2, 2], "two lanes"
    project.ok("cancel", later, first)
