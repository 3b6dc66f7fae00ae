"""Scripts that `gangrun generate` printed, handed to sbatch as they are."""

from __future__ import annotations

import json

import pytest

from tests.gangrun_cli import Project, wait_for

pytestmark = pytest.mark.slurm

TRAIN = """\
import json, os, pathlib, sys
group = os.environ.get("REPLICA_GROUP_ID", "ddp")
told = {"argv": sys.argv[1:], "rank": os.environ["RANK"], "world": os.environ["WORLD_SIZE"]}
pathlib.Path(f"{group}.{told['rank']}.json").write_text(json.dumps(told))
print("trained", group)
"""
EXTRA = """reshard='never' note="two words" $HOME `id` it's {lr} a\\ *"""
WORDS = ["reshard='never'", 'note="two words"', "$HOME", "`id`", "it's", "{lr}", "a\\", "*"]


def test_a_printed_script_runs_and_is_on_record(project: Project) -> None:
    project.write("torchtitan/__init__.py", "")
    project.write("torchtitan/train.py", TRAIN)
    project.write("config/muloco.py", "")
    small = ["--config-file", "config/muloco.py", "--gpus-per-node", "2", "--cpus-per-node", "8", "--time", "9m"]
    groups = project.ok(
        *("generate", *small, "--job-name", "k4", "--num-ft-replicas-per-node", "2", "--extra-args", EXTRA),
        *("--output", "logs/%j.out"),
    )
    project.write("jobs/k4.sh", groups.out)
    project.ok("generate", *small, "--job-name", "ddp", "--use-ddp", "--extra-args", "", "--output-file", "jobs/ddp.sh")
    assert {run["state"] for run in project.runs()} == {"CREATED"}

    # One from the project, one from elsewhere.
    first = project.spawn("sbatch", "--parsable", "jobs/k4.sh").done().out.strip()
    second = project.spawn("bash", "-c", f"cd / && sbatch --parsable '{project.dir}/jobs/ddp.sh'").done().out.strip()
    assert (first + second).isdecimal()
    wait_for(lambda: {run["state"] for run in project.runs()} == {"COMPLETED"}, 240, every=1)

    assert {run["job"] for run in project.runs()} == {first, second}
    for group in range(4):
        told = json.loads((project.dir / f"{group}.0.json").read_text())
        assert told["world"] == "1"
        assert told["argv"][-len(WORDS) - 1 :] == ["fault_tolerance.group_size=4", *WORDS]
    ddp = [json.loads((project.dir / f"ddp.{rank}.json").read_text()) for rank in range(4)]
    assert ddp[0] == {"argv": ["--job.config_file", "config/muloco.py"], "rank": "0", "world": "4"}
    assert (project.dir / "logs" / f"{first}.out").exists()
    assert "trained 3" in project.ok("logs", "config/k4", "--role", "main").out


def test_without_a_config_file_nothing_is_made(project: Project) -> None:
    done = project.gangrun("generate", "--nodes", "2")
    assert done.code == 2
    assert "--config-file" in done.err
    done = project.gangrun("generate", "--config-file", "nope.py", "--output-file", "jobs/x.sh")
    assert (done.code, done.out) == (2, "")
    assert "nope.py" in done.err
    assert not (project.dir / "jobs").exists()
    assert not (project.dir / "outputs").exists()


SWEEP = """\
command = ["sleep", "1"]
[allocation]
time = "5m"
mem = "100M"
[sweep]
max_nodes = 3
"""
JOBS = """\
from gangrun import load


def experiments():
    base = load("base.toml")
    for nodes in (1, 2, 1, 2, 1):
        for lr in (0.1,):
            yield base.vary({"allocation.nodes": nodes}, name=f"n{nodes}_{count(nodes)}", lr=lr)


seen = []


def count(nodes):
    seen.append(nodes)
    return len(seen)
"""


def test_a_job_script_keeps_to_its_node_limit(project: Project) -> None:
    project.write("experiments/001_jobs/base.toml", SWEEP)
    project.write("experiments/001_jobs/jobs.py", JOBS)
    project.ok("submit", "experiments/001_jobs/jobs.py", "--wait")
    items = project.run()["items"]
    nodes = {item["name"]: item["parameters"]["allocation.nodes"] for item in items}
    assert list(nodes.values()) == [1, 2, 1, 2, 1]
    ends = sorted({item["started"] for item in items})
    for moment in ends:
        held = sum(nodes[item["name"]] for item in items if item["started"] <= moment < item["ended"])
        assert held <= 3
