"""From an experiment file to a trained model on a real Slurm, through the command line, and back."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Done, Project, Started, marked, sh, wait_for

pytestmark = pytest.mark.slurm


def told(project: Project, run: str) -> str:
    """What the run's replicas printed, without the names before each line."""
    lines = project.ok("logs", run).out.splitlines()
    return "\n".join(line.partition(" | ")[2] for line in lines)


def completed(project: Project, done: Done, experiment: str) -> dict[str, object]:
    """The one run of `submit --wait`, after a look at everything that can be asked about it."""
    assert done.code == 0, done.out + done.err
    (listed,) = project.runs()
    shown = project.run(listed["run"])
    assert {key: shown[key] for key in listed} == listed
    assert (listed["state"], listed["exit_code"], listed["cluster"]) == ("COMPLETED", 0, "mine")
    assert listed["run"].startswith(f"{experiment}_{experiment}_")
    assert f"{listed['run']}  job {listed['job']} on mine" in done.out
    assert listed["created"] <= listed["submitted"] <= listed["started"] + 1
    assert listed["started"] <= listed["ended"] <= time.time()
    assert all(replica["exit"] == 0 for replica in shown["replicas"].values())
    assert "all mains exited 0" in project.ok("why", listed["run"]).out
    assert "COMPLETED (exit code 0)" in project.ok("show").out
    return shown


def test_quickstart_under_two_seeds(project: Project) -> None:
    done = project.ok("submit", project.example("quickstart"), "--seeds", "0-1", "--wait", "--json")
    runs = project.runs()
    assert {run["run"]: run["exit_code"] for run in done.data} == {run["run"]: 0 for run in runs}
    assert {run["run"].split("_")[2] for run in runs} == {"0", "1"}
    for run in runs:
        seed = run["run"].split("_")[2]
        text = told(project, run["run"])
        assert f"seed {seed}, lr 0.3" in text
        accuracy = float(re.findall(r"epoch 20/20  loss \S+  accuracy (\S+)", text)[0])
        assert accuracy > 0.9
        metrics = json.loads(Path(run["dir"], "metrics.json").read_text())
        assert metrics["epoch"] == 20
        assert metrics["accuracy"] == pytest.approx(accuracy, abs=1e-3)
    assert len(project.ok("ls", "--state", "completed", "--json").data) == 2
    assert project.ok("ls", "--state", "failed", "--json").data == []
    # Each step has a newest run of its own.
    for seed in "01":
        latest = project.dir / f"outputs/quickstart/quickstart_{seed}/latest/metrics.json"
        assert latest.is_file()


def test_server_and_client(project: Project, lab: Lab) -> None:
    done = project.gangrun("submit", project.example("server-client"), "--wait")
    shown = completed(project, done, "server-client")
    assert "server.0" in done.out, "--wait follows the logs of a single run"
    text = told(project, str(shown["run"]))
    ready = text.index("the model is ready")
    assert text.index("listening on") < ready
    assert "1000 predictions in" in text
    assert "all equal to this side's model" in text
    only = project.ok("logs", "latest", "--role", "client").out
    assert "predictions" in only
    assert "server" not in {line.partition(".")[0] for line in only.splitlines()}
    assert wait_for(lambda: not left(lab, shown)), "the server is gone with the job"


@pytest.mark.torch
def test_ddp_over_two_hosts(project: Project) -> None:
    done = project.gangrun("submit", project.example("ddp"), "--wait", limit=200)
    shown = completed(project, done, "ddp")
    text = told(project, str(shown["run"]))
    hosts = shown["hosts"]
    assert isinstance(hosts, list)
    seen = dict(re.findall(r"rank (\d) of 4 on (node\d)", text))
    assert [seen[str(rank)] for rank in range(4)] == [hosts[0], hosts[0], hosts[1], hosts[1]]
    assert "all 4 ranks hold the same weights" in text
    assert (Path(str(shown["dir"])) / "checkpoints" / "epoch_0006.pt").is_file()


@pytest.mark.torch
def test_one_task_per_rank_over_two_hosts(project: Project) -> None:
    done = project.gangrun("submit", project.example("ranks"), "--wait", limit=200)
    shown = completed(project, done, "ranks")
    text = told(project, str(shown["run"]))
    hosts = shown["hosts"]
    assert isinstance(hosts, list)
    found = re.findall(r"RANK=(\d)  LOCAL_RANK=(\d)  WORLD_SIZE=8  NODE_RANK=(\d)  on (node\d)", text)
    expected = [(str(rank), str(rank % 4), str(rank // 4), hosts[rank // 4]) for rank in range(8)]
    assert sorted(found) == expected
    assert "8 ranks met at" in text
    assert "the all-reduce is right" in text


SLICES = """
[allocation]
nodes = 2
gpus = 4
cpus = 4

[roles.half]
replicas = 4
gpus = 2
launcher = "srun"
command = ["bash", "-c", "echo $GANGRUN_REPLICA $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $RANK/$WORLD_SIZE; sleep 1"]

[roles.watch]
kind = "sidecar"
nodes = 2
gpus = 0
launcher = "srun"
command = ["bash", "-c", "echo $SLURMD_NODENAME sees=$CUDA_VISIBLE_DEVICES.; sleep 60"]
"""


def test_replicas_share_nodes_and_no_gpu(project: Project, lab: Lab) -> None:
    project.write("experiments/slices/half.toml", SLICES)
    done = project.ok("submit", "experiments/slices/half.toml", "--wait")
    shown = project.run()
    found = set(re.findall(r"(half\.\d) (node\d) (\S+) (\d/\d)", done.out))
    first, second = shown["hosts"]
    placed = [(first, "0,1"), (first, "2,3"), (second, "0,1"), (second, "2,3")]
    assert found == {(f"half.{i}", *placed[i], f"{rank}/2") for i in range(4) for rank in range(2)}
    assert set(re.findall(r"(node\d) sees=(\S*)\.", done.out)) == {(first, ""), (second, "")}, "no GPU for the sidecar"
    assert shown["replicas"]["watch.0"]["exit"] != 0, "a sidecar is stopped at the end, and nobody minds"
    assert shown["exit_code"] == 0
    assert wait_for(lambda: not left(lab, shown))


def test_a_recorded_spec_runs_again_under_the_same_name(project: Project) -> None:
    project.write("base.toml", "grace = 5\n[env]\nGREETING = 'hello'\n[allocation]\ncpus = 2\n")
    body = 'extends = "../../base.toml"\n' + sh('echo "$GREETING {seed} $EXTRA in $PWD"') + "[env]\nEXTRA = 'a b'\n"
    project.write("experiments/again/000_try_7.toml", body)
    project.ok("submit", "experiments/again/000_try_7.toml", "--set", "env.GREETING=hi there", "--wait")
    first = project.run()
    assert told(project, first["run"]) == f"hi there 7 a b in {project.dir}"
    spec = Path(first["dir"], "spec.toml")
    # What it was made from may change or go; the record is whole.
    (project.dir / "base.toml").unlink()
    project.ok("submit", str(spec.relative_to(project.dir)), "--wait")
    second = project.run()
    assert second["run"] != first["run"]
    assert second["run"].rsplit("_", 2)[0] == first["run"].rsplit("_", 2)[0] == "again_000_try_7"
    assert told(project, second["run"]) == told(project, first["run"])
    again = Path(second["dir"])
    assert (again / "spec.toml").read_text().splitlines()[1:] == spec.read_text().splitlines()[1:]
    differing = [
        (one, two)
        for one, two in zip(
            Path(first["dir"], "script.sh").read_text().splitlines(),
            (again / "script.sh").read_text().splitlines(),
            strict=True,
        )
        if one != two
    ]
    assert all(first["run"][-13:] in one and second["run"][-13:] in two for one, two in differing), differing


def test_logs_are_followed_while_it_runs(project: Project) -> None:
    flag = project.dir / "go"
    body = sh(f"echo before; while [ ! -e {flag} ]; do sleep 0.1; done; echo after")
    project.write("experiments/follow/run.toml", body)
    project.ok("submit", "experiments/follow/run.toml")
    following = project.start("logs", "latest", "-f")
    heard = ""
    assert following.process.stdout
    while "before" not in heard:
        heard = following.process.stdout.readline()
        assert heard, "it ended early"
    assert project.runs()[0]["state"] == "RUNNING"
    flag.touch()
    done = following.done(30)
    assert done.code == 0
    assert "main.0 | after" in done.out


TWO_HOSTS = """
grace = 3
[allocation]
nodes = 2
gpus = 2
[roles.main]
nodes = 2
gpus = 2
launcher = "srun"
tasks = 1
command = ["bash", "-c", '''
trap 'echo "bye from $SLURMD_NODENAME"; exit 0' TERM
echo "$RANK/$WORLD_SIZE on $SLURMD_NODENAME in $SLURM_JOB_ID with $CUDA_VISIBLE_DEVICES"
for i in $(seq 300); do sleep 0.2; done
exit 6''']
"""


BOTH_SPEAK = TWO_HOSTS.replace(
    "for i in $(seq 300); do sleep 0.2; done",
    "cd {run.dir}; : >here.$RANK; until [[ -e here.0 && -e here.1 ]]; do sleep 0.1; done",
)
"""Its ranks end when both have."""


def in_allocation(project: Project, line: str) -> Started:
    """A line of shell inside an allocation of two hosts, as typed on the login machine."""
    return project.spawn("salloc", "-N2", "--gres=gpu:2", "--mem=1G", "bash", "-c", line)


def test_run_uses_the_allocation_held(project: Project) -> None:
    project.write("experiments/held/run.toml", BOTH_SPEAK)
    done = in_allocation(project, "echo job=$SLURM_JOB_ID; gangrun run experiments/held/run.toml").done(60)
    assert done.code == 6, done.out + done.err
    job = re.search(r"job=(\d+)", done.out)
    assert job
    found = re.findall(r"main\.0 +\| (\d/2) on (node\d) in (\d+) with (\S+)", done.out)
    assert sorted(rank for rank, _, _, _ in found) == ["0/2", "1/2"]
    assert len({host for _, host, _, _ in found}) == 2
    assert {(where, gpus) for _, _, where, gpus in found} == {(job[1], "0,1")}
    run = project.run()
    assert (run["state"], run["exit_code"], run["failed"]["replica"]) == ("FAILED", 6, "main.0")
    assert run["hosts"] == [host for _, host, _, _ in sorted(found)]


def test_an_allocation_that_is_too_small(project: Project) -> None:
    project.write("experiments/held/run.toml", TWO_HOSTS)
    done = in_allocation(project, "gangrun run experiments/held/run.toml --set allocation.nodes=3").done(60)
    assert done.code == 2
    assert "the plan needs 3 nodes, and the allocation held has 2" in done.err
    assert not (project.dir / "outputs").exists()


def test_interrupting_run_cleans_up_every_host_of_the_allocation(project: Project, lab: Lab) -> None:
    project.write("experiments/held/run.toml", TWO_HOSTS)
    started = in_allocation(project, "gangrun run experiments/held/run.toml; echo code=$?")
    logs = wait_for(lambda: list(project.dir.glob("outputs/*/*/*/attempts/001/logs/main.0.log")))
    wait_for(lambda: logs[0].read_text().count("/2 on node") == 2)
    run = project.runs()[0]
    assert run["state"] == "RUNNING"
    assert len(left(lab, run)) >= 2
    (gangrun,) = [
        line.split(":")[0] for line in marked(f"PWD={project.dir}") if "gangrun run" in line and "-c" not in line
    ]
    began = time.monotonic()
    os.kill(int(gangrun), signal.SIGINT)
    ended = started.done(30)
    assert time.monotonic() - began < 10
    assert "code=130" in ended.out
    assert sorted(re.findall(r"bye from (node\d)", logs[0].read_text())) == sorted(project.run()["hosts"])
    assert wait_for(lambda: not left(lab, run))
    run = project.run()
    assert (run["state"], run["exit_code"]) == ("CANCELLED", 130)
    assert not run["failed"], "nobody is to blame for a Ctrl-C"


def test_a_second_interrupt_ends_the_steps_of_the_allocation_at_once(project: Project, lab: Lab) -> None:
    deaf = "trap '' TERM; echo up; while :; do sleep 0.2; done"
    text = f'grace = 60\nlauncher = "srun"\ncommand = ["bash", "-c", """{deaf}"""]\n[allocation]\nnodes = 2\n'
    project.write("experiments/held/run.toml", text)
    started = in_allocation(
        project, "gangrun run experiments/held/run.toml; echo code=$?; until [ -e go ]; do sleep 0.1; done"
    )
    logs = wait_for(lambda: list(project.dir.glob("outputs/*/*/*/attempts/001/logs/main.0.log")))
    wait_for(lambda: logs[0].read_text().count("up") == 2)
    run = project.runs()[0]
    (gangrun,) = [
        int(line.split(":")[0]) for line in marked(f"PWD={project.dir}") if "gangrun run" in line and "-c" not in line
    ]
    os.kill(gangrun, signal.SIGINT)
    wait_for(lambda: project.run()["cancel_requested"])
    os.kill(gangrun, signal.SIGINT)
    assert wait_for(lambda: not left(lab, run), 20)  # while the allocation itself goes on
    (project.dir / "go").touch()
    assert "code=137" in started.done(30).out
    assert project.run()["state"] == "CANCELLED"


def test_run_in_an_interactive_step(project: Project) -> None:
    project.write("experiments/held/run.toml", BOTH_SPEAK)
    terminal = project.terminal("srun", "-N2", "--gres=gpu:2", "--mem=1G", "--pty", "bash", "--norc")
    terminal.type("gangrun run experiments/held/run.toml; exit $?\n")
    assert terminal.done() == 6, terminal.shown
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown)
    assert sorted(re.findall(r"main\.0 +\| (\d/2) on node\d in \d+ with 0,1", text)) == ["0/2", "1/2"]
    (run,) = project.runs()
    assert (run["state"], run["exit_code"]) == ("FAILED", 6)


def left(lab: Lab, run: dict[str, object]) -> list[str]:
    """What still runs of this run, on any host."""
    steps = [line for node in lab.nodes for _, line in lab.processes(node) if f"[{run['job']}." in line]
    return [*marked(f"GANGRUN_RUN_DIR={run['dir']}", f"SLURM_JOB_NAME={run['run']}"), *steps]


def test_what_is_found_on_the_cluster(project: Project) -> None:
    listed = {row["name"]: row["found"] for row in project.ok("cluster", "list", "--json").data}
    assert listed["mine"]
    assert sum(listed.values()) == 1
    grades = {finding["what"]: finding["grade"] for finding in project.ok("cluster", "check", "--json").data}
    assert grades["controller"] == grades["GPUs"] == "ok"
    project.ok("cluster", "discover", "written")
    project.write("experiments/x/run.toml", sh("exit 0"))
    project.ok("submit", "experiments/x/run.toml", "--cluster", "written", "--wait")
