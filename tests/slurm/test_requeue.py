"""Runs that go on by themselves: after their time limit, a preemption and the loss of a node, and when they stop.

All runs begin before the first test, side by side: most of the time they wait for Slurm, which holds back what is
queued again (21 s here, 121 s by default).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Project, marked, wait_for
from tests.slurm.conftest import project_on

pytestmark = pytest.mark.slurm

DOOMED = "node4"
"""The node that loses its power."""
WANTED = "node3"
"""The node that a more urgent job takes."""

SAVE = "echo weights >{run.dir}/model_$((10#$GANGRUN_ATTEMPT)).pth"
WORK = "for i in $(seq 900); do sleep 0.2; done"
WARNED = 'until [[ -e $GANGRUN_WARNING ]]; do sleep 0.2; done; echo "warned: $(cat "$GANGRUN_WARNING") s"'
LIMIT = "signal_before = '50s'"
"""10 s of work in a minute: 50 s before the limit it is warned."""


def experiment(
    work: str, requeue: str, *, where: str = "exclude = 'node3,node4'", nodes: int = 1, time: str = "1m"
) -> str:
    """A program that says how it begins, and then works; in an attempt that goes on it is done at once if it has
    `--done` among its `resume_flags`."""
    body = f'echo "begins $*"; [[ $* != *--done* ]] || exit 0; {work}'
    return f"""
grace = 1
launcher = "srun"
tasks = 1
command = ["bash", "-c", {json.dumps(body)}, "-"]
resume_flags = ["--resume", "{{load}}", "--done"]
resume = {{}}
[allocation]
nodes = {nodes}
cpus = 1
time = "{time}"
sbatch = {{ {where} }}
[requeue]
{requeue}
"""


EXPERIMENTS = {
    "file": experiment(f"{WARNED}; {SAVE}; exit 75", LIMIT),
    "signal": experiment(f"trap '{SAVE}; exit 75' USR1; {WORK}", f"{LIMIT}\nsignal = 'USR1'"),
    "spent": experiment(f"{SAVE}; {WORK}", f"{LIMIT}\nlimit = 1").replace(', "--done"', ""),
    "fruitless": experiment(WORK, LIMIT),
    "preempted": experiment(f"{SAVE}; {WORK}", "limit = 0", where=f"nodelist = '{WANTED}'", time="9m"),
    "lost": experiment(f"{SAVE}; {WORK}", "limit = 0", where=f"nodelist = 'node2,{DOOMED}'", nodes=2, time="9m"),
    "array": experiment(f"(({{number}})) || exit 0; {WARNED}; {SAVE}; exit 75", LIMIT)
    + "[sweep]\nmode = 'array'\nnumber = [0, 1]\n",
    "pool": f"""
command = ["bash", "-c", "[[ {{number}} == 0 || -e go ]] || {WORK}"]
requeue = {{ preemption = 3 }}
[allocation]
cpus = 2
sbatch = {{ nodelist = '{WANTED}' }}
[sweep]
number = [0, 1]
[pool]
cpus = 1
""",
}


@pytest.fixture(scope="module")
def project(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_on(lab, tmp_path_factory.mktemp("requeue") / "project") as project:
        yield project


def slurm(lab: Lab, *argv: str) -> str:
    done = subprocess.run(argv, env=lab.env(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


def folder(project: Project, name: str) -> Path:
    return project.dir / "outputs" / name / "run" / "latest"


def log(project: Project, name: str, attempt: int) -> str:
    file = folder(project, name) / f"attempts/{attempt:03d}/logs/main.0.log"
    return file.read_text() if file.is_file() else ""


@pytest.fixture(scope="module", autouse=True)
def begun(project: Project, lab: Lab) -> Iterator[None]:
    """Sends all, lets a node die under one, and a more urgent job come for the node of two."""
    for name, text in EXPERIMENTS.items():
        project.write(f"experiments/{name}/run.toml", text)
    project.ok("submit", *(f"experiments/{name}/run.toml" for name in EXPERIMENTS))
    wait_for(lambda: log(project, "lost", 1).count("begins") == 2 and log(project, "preempted", 1))
    lab.kill(DOOMED)
    wait_for(lambda: project.run("pool")["progress"]["done"] == 1)
    project.write("go", "")
    slurm(
        lab, "sbatch", "--partition=debug", "--exclusive", f"--nodelist={WANTED}", "--output=/dev/null", "--wrap=true"
    )
    yield
    project.ok("cancel", *EXPERIMENTS)
    if DOOMED in (node.name for node in lab.status().nodes if not node.power):
        lab.start(DOOMED)
    wait_for(lambda: {node.slurm for node in lab.status().nodes} == {"idle"}, 60)


def ended(project: Project, name: str) -> dict[str, Any]:
    wait_for(lambda: project.run(name)["exit_code"] is not None, 150, every=0.5)
    return project.run(name)


def test_a_warning_reaches_the_program_as_a_file_and_as_a_signal(project: Project) -> None:
    wait_for(lambda: "warned: " in log(project, "file", 1), 60)
    wait_for(lambda: (folder(project, "signal") / "model_1.pth").is_file(), 60)


def test_what_waits_to_go_on_says_so(project: Project) -> None:
    def told(words: str) -> bool:
        return any(words in project.ok("why", name).out for name in ("signal", "file", "spent"))

    assert wait_for(lambda: told("121 s"), 60)
    assert told("attempt 1 ended with the time limit, and the job was queued again for the next one")


def test_a_node_is_lost_and_the_next_attempt_keeps_off_it(project: Project, lab: Lab) -> None:
    onward = folder(project, "lost") / "attempts/001/status/run.requeue"
    wait_for(onward.is_file, 90)
    assert onward.read_text() == "again node\n"
    job = project.run("lost")["job"]
    wait_for(lambda: f"ExcNodeList={DOOMED}" in slurm(lab, "scontrol", "show", "job", job))
    slurm(lab, "scontrol", "update", f"JobId={job}", "ReqNodeList=")  # nothing else would do, on purpose
    lab.start(DOOMED)


def test_after_the_limit_it_goes_on_from_its_checkpoint(project: Project) -> None:
    for name in ("file", "signal"):
        run = ended(project, name)
        assert (run["state"], run["attempt"], run["exit_code"]) == ("COMPLETED", 2, 0)
        assert log(project, name, 1).splitlines()[0] == "begins "
        assert f"begins --resume {run['dir']}/model_1.pth --done" in log(project, name, 2)
        assert not marked(f"GANGRUN_RUN_DIR={run['dir']}")


def test_a_task_of_an_array_goes_on_alone(project: Project) -> None:
    assert ended(project, "array")["state"] == "COMPLETED"
    attempts = [
        sorted(path.name for path in item.glob("attempts/0*")) for item in folder(project, "array").glob("items/*")
    ]
    assert sorted(attempts) == [["001"], ["001", "002"]]


def test_it_stops_where_the_budget_is_spent(project: Project) -> None:
    run = ended(project, "spent")
    assert (run["state"], run["attempt"]) == ("TIMEOUT", 2)
    why = project.ok("why", "spent").out
    assert "not queued again after the time limit: it has gone on after the time limit 1 times" in why


def test_it_stops_where_an_attempt_came_no_further(project: Project) -> None:
    run = ended(project, "fruitless")
    assert (run["state"], run["attempt"]) == ("TIMEOUT", 1)
    why = project.ok("why", "fruitless").out
    assert "not queued again after the time limit: no new checkpoint was left in attempt 1" in why


def test_after_a_preemption_it_goes_on(project: Project) -> None:
    run = ended(project, "preempted")
    assert (run["state"], run["attempt"]) == ("COMPLETED", 2)
    assert (folder(project, "preempted") / "attempts/002/status/run.reason").read_text() == "preemption\n"
    assert f"begins --resume {run['dir']}/model_1.pth" in log(project, "preempted", 2)


def test_a_pool_goes_on_with_the_items_that_are_left(project: Project) -> None:
    run = ended(project, "pool")
    assert (run["state"], run["progress"]["done"]) == ("COMPLETED", 2)
    assert (folder(project, "pool") / "attempts/002/status/run.reason").read_text() == "preemption\n"
    journal = (folder(project, "pool") / "pool/journal.jsonl").read_text()
    started = [json.loads(line)["item"] for line in journal.splitlines() if '"Started"' in line]
    assert started.count(0) == 1


def test_after_a_lost_node_it_goes_on_elsewhere(project: Project) -> None:
    run = ended(project, "lost")
    assert (run["state"], run["attempt"]) == ("COMPLETED", 2)
    assert DOOMED not in run["hosts"]
