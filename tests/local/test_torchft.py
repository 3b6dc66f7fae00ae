"""Replica groups on one machine whose environment is not what they need."""

from __future__ import annotations

import os
import venv
from pathlib import Path

from tests.gangrun_cli import PROGRAMS, Project, marked, sh, wait_for

FILE = "experiments/try/run.toml"
GROUPS = """
topology = { type = "torchft", lighthouse_within = 60 }
replicas = 2
monitor = false
command = ["bash", "-c", "echo trains"]
[allocation]
gpus = 2
"""


def refused(project: Project, path: Path, *words: str) -> str:
    """What `gangrun why` says of a job whose groups could not start; `path` is searched for programs first."""
    project.write(FILE, GROUPS)
    search = os.pathsep.join((str(path), str(PROGRAMS), os.environ["PATH"]))
    done = project.gangrun("run", FILE, *words, env={"PATH": search})
    run = project.run()
    assert done.code == run["exit_code"] != 0
    assert run["state"] == "FAILED"
    assert "Traceback" not in done.out + done.err
    assert "trains" not in done.out
    assert wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"))
    return project.ok("why").out


def test_an_environment_without_torchft_is_told_at_once(project: Project) -> None:
    venv.create(project.dir / "bare", symlinks=True)
    why = refused(project, project.dir / "bare" / "bin")
    assert project.run()["exit_code"] == 127
    assert "the service lighthouse.0 ended with exit code 127 before the mains were done" in why
    assert f"gangrun: {project.dir}/bare/bin/python3 has no torchft, which the lighthouse needs: install" in why
    assert Path(project.run()["dir"], "attempts/001/status/lighthouse.0.lives").read_text().count("start") == 1


def test_a_lighthouse_that_never_gets_ready(project: Project) -> None:
    slow = project.write("slow/python3", "#!/bin/bash\necho imports\nsleep 60\n")
    slow.chmod(0o755)
    why = refused(project, slow.parent, "--set", "topology.lighthouse_within=2")
    assert "lighthouse.0 was not ready within 2s" in why
    assert "| imports\n" in why


FEWER = """
cd {run.dir}/attempts/001/status
case {index} in
  0) trap 'echo saved; exit 0' TERM; while :; do sleep 0.1; done ;;
  3) until [[ -e main.1.exit && -e main.2.exit ]]; do sleep 0.1; done; exit 13 ;;
  *) exit 1{index} ;;
esac"""


def test_fewer_groups_than_are_needed_end_the_job(project: Project) -> None:
    """Two of four may be lost. The code of the third one is the job's, and the last one is asked to end."""
    project.write(FILE, "replicas = 4\nmin_replicas = 2\nmonitor = false\n" + sh(FEWER))
    assert project.gangrun("run", FILE).code == 13
    run = project.run()
    assert (run["state"], run["failed"]["replica"]) == ("FAILED", "main.3")
    assert {name: one["exit"] for name, one in run["replicas"].items()} == {
        "main.0": 0, "main.1": 11, "main.2": 12, "main.3": 13,
    }  # fmt: skip
    shown = project.ok("show").out
    for name, code in (("main.1", 11), ("main.2", 12)):
        assert f"{name} ended with exit code {code}, and was given up" in shown
    assert "main.3 ended with exit code 13" in project.ok("why").out
    assert "main.0 | saved" in project.ok("logs").out
