"""Sweeps on this machine: progress while items run, what the report says afterwards, and files in Python."""

from __future__ import annotations

import re
from pathlib import Path

from tests.gangrun_cli import Project, wait_for

FILE = "experiments/sweep/naps.toml"
NAPS = """\
command = ["bash", "-c", "sleep {nap}; test {nap} != 1.5"]
[allocation]
gpus = 2
[pool]
estimate = "{nap}"
[sweep]
nap = [1, 1.5, 2.2, 3]
"""


def test_a_terminal_shows_how_far_it_is_and_the_report_what_it_came_to(project: Project) -> None:
    project.write(FILE, NAPS)
    terminal = project.terminal("gangrun", "run", FILE)
    assert terminal.done(120) == 1, "an item failed"
    drawn = terminal.shown
    lines = re.findall(r"[0-4]/4 done[^\x1b]*", drawn)
    assert any(re.search(r"2 running, \d left, ends in \ds, GPUs used", line) for line in lines), drawn
    assert lines[-1].startswith("3/4 done, 1 failed")
    assert "items     3/4 done, 1 failed" in project.ok("show").out

    said = project.ok("report").out.partition("ITEMS\n")[2].splitlines()
    first, second = said[0].split("|")[1:], said[1].split("|")[1:]
    assert [one[0] for one in (*first, *second)] == ["3", "0", "2", "1"], "longest first"
    assert second[1].startswith("1x"), "the one that failed"
    assert "numbers are items: 0 nap=1, 1 nap=1.5, 2 nap=2.2, 3 nap=3" in said
    assert any(re.fullmatch(r"  computing +6\.\d+ +6\.\d+", line) for line in said), said
    assert "array is simulated, without what a scheduler takes to start each job" in said
    page = (project.dir / project.run()["dir"] / "report.html").read_text()
    assert 'title="nap=3: 3' in page
    assert "<td>  wasted: held, but idle</td>" in page


def test_a_terminal_shows_how_far_a_sweep_is_that_was_sent(project: Project) -> None:
    project.write(FILE, NAPS.replace("[1, 1.5, 2.2, 3]", "[1, 1.2, 2.2]"))
    terminal = project.terminal("gangrun", "submit", FILE, "--wait")
    assert terminal.done(120) == 0
    drawn = terminal.shown
    lines = re.findall(r"[0-3]/3 done[^\x1b]*", drawn)
    assert any(re.match(r"[01]/3 done, 2 running, \d left", line) for line in lines), drawn
    assert lines[-1].startswith("3/3 done")


def test_steps_of_their_own_are_processes_on_this_machine(project: Project) -> None:
    pool = "[allocation]\ngpus = 1\ncpus = 1\n[pool]\nown_step = true\n"
    project.write(FILE, 'command = ["echo", "{n}"]\n' + pool + "[sweep]\nn = [1, 2]\n")
    project.ok("run", FILE)
    assert {item["state"] for item in project.run()["items"]} == {"COMPLETED"}


def test_a_file_in_python_is_planned_and_run(project: Project) -> None:
    project.write("experiments/base.toml", 'command = ["echo", "{greeting}", "{seed}"]\n')
    file = "experiments/sweep/000_greet_0.py"
    code = "from gangrun import load\ndef experiments():\n for n in 1, 2:\n  yield load('../base.toml').vary({})\n"
    project.write(file, code.format("greeting='hi ' * n, seed=n"))
    assert "greeting=hi-hi" in project.ok("plan", file).out
    project.ok("run", file)
    rows = project.ok("results", "latest", "--json").data
    assert [(row["parameters"]["seed"], row["state"]) for row in rows] == [(1, "COMPLETED"), (2, "COMPLETED")]
    assert "main.0 | hi hi  2" in project.ok("logs", "latest", "--item", "1").out
    assert project.ok("check", project.run()["dir"] + "/spec.toml")

    project.write(file, code.format("n=1 / (n - 1)"))
    for command in ("plan", "check", "script", "run", "submit"):
        done = project.gangrun(command, file)
        assert done.code == 2
        assert f"{file}:4: experiments: ZeroDivisionError: division by zero" in done.err + done.out
        assert "Traceback" not in done.err
    assert len(project.runs()) == 1


def test_one_run_that_cannot_be_ended_leaves_the_others_alone(project: Project) -> None:
    project.write(FILE, NAPS.replace("[1, 1.5, 2.2, 3]", "[600, 601]"))
    project.write("experiments/alone/nap.toml", 'command = ["sleep", "600"]\n')
    for file in ("experiments/alone/nap.toml", FILE):
        project.ok("submit", file)
    refused = project.gangrun("cancel", "alone/nap", "sweep/naps/nap=600")
    assert (refused.code, "is an item of a pool, and cannot be ended alone" in refused.err) == (2, True)
    assert refused.out == ""
    for run in project.runs():
        assert "CancelRequested" not in (Path(run["dir"]) / "events.jsonl").read_text()
    project.ok("cancel", "alone/nap", "sweep/naps")
    wait_for(lambda: {run["state"] for run in project.runs()} == {"CANCELLED"})
    refused = project.gangrun("resume", "sweep/naps/nap=600")
    assert (refused.code, "is an item of a pool, and cannot be resumed alone" in refused.err) == (2, True)
