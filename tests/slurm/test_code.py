"""A job that waits on a real Slurm runs the code that was submitted, whatever becomes of the project meanwhile."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Project, wait_for

pytestmark = pytest.mark.slurm

FILE = "experiments/x/run.toml"


def test_the_code_of_a_queued_sweep(project: Project, lab: Lab) -> None:
    project.write("mine.py", "WORDS = 'as submitted'\n")
    project.write("train.py", "import mine, os, sys\nprint(mine.WORDS, os.getcwd(), *sys.argv[1:])\n")
    project.write(".gitignore", "outputs\n.config\n")
    project.write(
        FILE,
        "command = ['python3', 'train.py', '{n}']\n[code]\nsnapshot = true\n[sweep]\nmode = 'jobs'\nn = [1, 2, 3]\n",
    )
    for words in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *words], cwd=project.dir, check=True)
    project.ok("submit", FILE, "--", "--hold")
    project.write("mine.py", "raise SystemExit('changed')\n")
    (project.dir / "train.py").unlink()
    run = project.run()
    queued = subprocess.run(
        ["squeue", "--noheader", "--format=%i", "--states=PD"],
        env=lab.env(),
        capture_output=True,
        text=True,
        check=True,
    )
    subprocess.run(["scontrol", "release", *queued.stdout.split()], env=lab.env(), check=True)
    wait_for(lambda: project.run(run["run"])["state"] == "COMPLETED", 60)
    (copy,) = (project.dir / "outputs/.code").iterdir()
    for number in (1, 2, 3):
        (item,) = Path(run["dir"], "items").glob(f"*{number}*")
        log = (item / "attempts/001/logs/main.0.log").read_text()
        assert log == f"as submitted {copy} {number}\n"
        assert (item / "job.log").read_text().startswith("gangrun: code: no commit; tree")
