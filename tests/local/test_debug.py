"""`debug = true` and a seed that is drawn, as a user meets them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gangrun_cli import Done, Project, sh

Said = Callable[..., Done]


def test_a_job_tells_more_about_itself(project: Project) -> None:
    wait = "until [[ -e {run.dir}/attempts/001/nodes/0.txt ]]; do sleep 0.1; done"
    text = sh(f'echo "it says $PYTHONFAULTHANDLER $NCCL_DEBUG"; {wait}') + "env = { NCCL_DEBUG = 'TRACE' }\n"
    text += "debug = true\nlauncher = 'srun'\ntasks = 2\nsetup = ['echo ready']\n"
    project.write("experiments/a/b.toml", text)
    done = project.gangrun("run", "experiments/a/b.toml", "--quiet")
    assert done.code == 0, done.out + done.err
    run = Path(project.run()["dir"])
    log = (run / "attempts/001/logs/main.0.log").read_text()
    assert log.count("it says 1 TRACE") == 2, "what the experiment says wins"
    banner = r"gangrun: main\.0 rank {0} of 2 \(local rank {0}\) on \S+, GPUs none, CPUs \S+, pid \d+\n"
    assert all(re.search(banner.format(rank), log) for rank in (0, 1))
    assert re.search(r"^\+ \d\d:\d\d:\d\d echo ready$", (run / "job.log").read_text(), re.MULTILINE)
    assert "PYTHONFAULTHANDLER='1'" in (run / "attempts/001/nodes/0.txt").read_text()
    assert "_trace" not in project.ok("show", "latest").out


@pytest.mark.parametrize("word", ["'nothing'", "'party'", "21", "'y'", "1.0", "[]", "''"])
def test_debug_is_yes_or_no_and_nothing_else(project: Project, said: Said, word: str) -> None:
    project.write("a/b.toml", sh("true") + f"debug = {word}\n")
    done = said("check", "a/b.toml")
    assert done.code == 2
    assert "a/b.toml:2: debug: " in done.err + done.out
    assert "is neither yes nor no" in done.err + done.out


@pytest.mark.parametrize("word", ["true", "'yes'", "'ON'", "1", "'1'"])
def test_debug_can_be_said_in_several_ways(project: Project, said: Said, word: str) -> None:
    project.write("a/b.toml", sh("true") + f"debug = {word}\n")
    assert "set -x" in said("script", "a/b.toml").out
    assert "set -x" not in said("script", "a/b.toml", "--set", "debug=off").out


def test_a_random_seed_is_drawn_once_and_recorded(project: Project, said: Said) -> None:
    project.write("a/b.toml", "seed = 'random'\ncommand = ['echo', 'seed {seed}']\n")
    seeds = set()
    for _ in range(2):
        project.ok("run", "a/b.toml", "--quiet")
        run = Path(project.run()["dir"])
        (drawn,) = re.findall(r"seed (\d+)", (run / "attempts/001/logs/main.0.log").read_text())
        assert f"seed = {drawn}\n" in (run / "spec.toml").read_text()
        assert int(drawn) < 2**31
        seeds.add(drawn)
    assert len(seeds) == 2
    assert said("check", "a/b.toml", "--set", "seed=rnd").code == 2
