"""One project on two clusters of different layout, whose partitions, and jobs, have the same names."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Project, project_in, sh, wait_for
from tests.slurm.conftest import a_lab

pytestmark = pytest.mark.slurm

FILE = "experiments/both/run.toml"


@pytest.fixture(scope="module")
def large() -> Iterator[Lab]:
    yield from a_lab("v", nodes=2, gpus=4)


@pytest.fixture(scope="module")
def small() -> Iterator[Lab]:
    yield from a_lab("w", nodes=1, gpus=2)


def profile(lab: Lab, tables: str, *, conf: bool = True) -> str:
    where = f"slurm_conf = {json.dumps(str(lab.slurm_conf))}\n" if conf else ""
    return f'cluster_name = "gangrun_{lab.name}"\n{where}defaults = {{ mem = "1G", time = "5m" }}\n{tables}'


@pytest.fixture
def project(large: Lab, small: Lab, tmp_path: Path) -> Iterator[Project]:
    """A project on a machine of the large cluster, from which the small one can be reached."""
    with project_in(tmp_path / "project", SLURM_CONF=str(large.slurm_conf)) as project:
        ours = "[partitions]\nbatch = 'gpu'\nquick = 'debug'\n[accounts]\nteam = 'vision'\n"
        project.write("clusters/large.toml", profile(large, ours, conf=False))
        theirs = "[partitions]\nbatch = 'debug'\n[accounts]\nteam = 'ml-17'\n"
        project.write("clusters/small.toml", profile(small, theirs))
        yield project
        for run in project.runs():
            if run["state"] in ("RUNNING", "PENDING"):
                project.gangrun("cancel", run["run"])


def job(lab: Lab, number: str, field: str) -> str:
    argv = ["squeue", "--noheader", "--states=all", f"--jobs={number}", f"--Format={field}:60"]
    return subprocess.run(argv, env=lab.env(), capture_output=True, text=True, check=True).stdout.strip()


def asked(project: Project, small: Lab) -> None:
    """Uses up job ids of the small cluster until it stands where the large one does."""

    def last(env: dict[str, str]) -> int:
        argv = ["sbatch", "--test-only", "--wrap=:"]
        words = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stderr.split()
        return int(words[words.index("Job") + 1])

    ours, theirs = last(project.environment()), last(small.env())
    while ours != theirs:
        if ours < theirs:
            ours = last(project.environment())
        else:
            theirs = last(small.env())


def test_one_file_runs_on_both(project: Project, large: Lab, small: Lab) -> None:
    text = sh('echo "$SLURM_JOB_PARTITION $CUDA_VISIBLE_DEVICES"; touch {run.dir}/up; sleep 600')
    project.write(FILE, text + "[allocation]\ngpus = 2\npartition = 'batch'\naccount = 'team'\n")
    asked(project, small)
    project.ok("submit", FILE)
    project.ok("submit", FILE, "--cluster", "small")
    there, here = project.runs()
    wait_for(lambda: Path(here["dir"], "up").exists() and Path(there["dir"], "up").exists())
    there, here = project.runs()
    assert [(run["cluster"], run["state"]) for run in (here, there)] == [("large", "RUNNING"), ("small", "RUNNING")]
    assert here["job"] == there["job"], "the jobs of this test have the same number"
    assert (job(large, here["job"], "Partition"), job(large, here["job"], "Account")) == ("gpu", "vision")
    assert (job(small, there["job"], "Partition"), job(small, there["job"], "Account")) == ("debug", "ml-17")
    assert project.ok("logs", here["run"]).out.split()[-2:] == ["gpu", "0,1"]
    assert project.ok("logs", there["run"]).out.split()[-2:] == ["debug", "0,1"]

    # A number that two clusters have given is nobody's name.
    refused = project.gangrun("cancel", here["job"])
    assert refused.code == 2
    assert f"there is a job {here['job']} on small and large" in refused.err
    assert "name the run" in refused.err

    # A job cannot wait for one of another cluster.
    project.write("experiments/both/next_0.toml", sh("true") + "needs = ['run']\n")
    refused = project.gangrun("submit", "experiments/both/next_0.toml")
    assert refused.code == 2
    assert "is RUNNING on small, for which a job on large cannot wait" in refused.err

    # From where the other cluster cannot be asked, its job is not taken for ours of the same number.
    reachable = (project.dir / "clusters/small.toml").read_text()
    project.write("clusters/small.toml", profile(small, "", conf=False))
    there, here = project.runs()
    assert (here["state"], here["stale"], there["stale"]) == ("RUNNING", False, True)
    assert f"gangrun_{large.name}, and gangrun_{small.name} is meant" in there["note"]
    refused = project.gangrun("cancel", there["run"])
    assert refused.code == 1
    assert f"log in to a machine of gangrun_{small.name}" in refused.err
    assert job(large, here["job"], "State") == "RUNNING"
    refused = project.gangrun("submit", FILE, "--cluster", "small")
    assert refused.code == 1
    assert f"gangrun_{small.name} is meant" in refused.err
    project.write("clusters/small.toml", reachable)

    project.ok("cancel", there["run"])
    wait_for(lambda: project.run(there["run"])["state"] == "CANCELLED")
    assert project.run(here["run"])["state"] == "RUNNING"
    project.ok("cancel", here["run"])
    wait_for(lambda: project.run(here["run"])["state"] == "CANCELLED")


def test_the_profile_is_found_by_the_clusters_own_name(project: Project, large: Lab, small: Lab) -> None:
    def found(**env: str) -> list[str]:
        rows = project.gangrun("cluster", "list", "--json", env=env).data
        return [row["name"] for row in rows if row["found"]]

    assert found() == ["large"]
    assert found(SLURM_CONF=str(small.slurm_conf)) == ["small"]
    project.write("clusters/small.toml", profile(small, "", conf=False))
    assert found(SLURM_CONF=str(small.slurm_conf)) == ["small"]
    project.write(FILE, sh("true"))

    (project.dir / "clusters/large.toml").rename(project.dir / f"clusters/gangrun_{large.name}.toml")
    assert found() == [f"gangrun_{large.name}"]

    (project.dir / f"clusters/gangrun_{large.name}.toml").unlink()
    assert found() == ["slurm"]
    refused = project.gangrun("submit", FILE)
    assert refused.code == 2
    assert f"no profile is for the Slurm of this machine, gangrun_{large.name}" in refused.err
    assert "there are small" in refused.err
    assert not (project.dir / "outputs").exists()
    project.ok("cluster", "discover")
    assert found() == [f"gangrun_{large.name}"]
    project.write("clusters/again.toml", profile(large, "", conf=False))
    refused = project.gangrun("submit", FILE)
    assert refused.code == 2
    assert "2 profiles are for the Slurm of this machine" in refused.err


def test_auto_is_the_partition_that_starts_the_job_soonest(project: Project, large: Lab) -> None:
    project.write(FILE, sh("true") + "[allocation]\nnodes = 2\npartition = 'auto'\n")
    planned = project.ok("plan", FILE)
    assert "the partition is chosen at submission" in planned.out
    idle = project.ok("submit", FILE)
    assert "partition gpu, where it starts at once (debug: starts at once)" in idle.err
    run = project.runs()[0]
    assert job(large, run["job"], "Partition") == "gpu"
    assert 'partition = "batch"' in Path(run["dir"], "spec.toml").read_text()
    assert "partition gpu, where it starts at once" in Path(run["dir"], "events.jsonl").read_text()
    wait_for(lambda: project.run(run["run"])["state"] == "COMPLETED")

    project.write("experiments/both/full.toml", sh("sleep 600") + "[allocation]\nnodes = 2\ntime = '2:00:00'\n")
    project.ok("submit", "experiments/both/full.toml", "--partition", "gpu", "--", "--exclusive")
    full = project.runs()[0]
    wait_for(lambda: project.run(full["run"])["state"] == "RUNNING")
    # `debug` may end what runs in `gpu`.
    shown = project.ok("submit", FILE, "--set", "allocation.cpus=32", "--dry-run")
    assert "partition debug, where it starts at once (gpu: starts in 0" in shown.err
    assert "#SBATCH --partition=debug" in shown.out
    assert len(project.runs()) == 2
    project.ok("cancel", full["run"])

    # Without a table of the profile's all partitions are asked, the default one first.
    project.write("clusters/large.toml", profile(large, "", conf=False))
    told = project.ok("submit", FILE, "--dry-run", "--set", "allocation.nodes=1", "--set", "allocation.time=30m").err
    for words in ("partition ", "short: at most 00:10:00", "off: it is not up"):
        assert words in told
    told = project.ok("submit", FILE, "--dry-run").err
    assert "short: at most 1 nodes a job" in told
    refused = project.gangrun("submit", FILE, "--set", "allocation.gpus=9")
    assert refused.code == 1
    assert "no partition of large takes the job" in refused.err
    assert "gpu: Requested node configuration is not available" in refused.err
    assert len(project.runs()) == 2


def test_a_partition_that_is_not_there(project: Project) -> None:
    project.write(FILE, sh("true"))
    refused = project.gangrun("submit", FILE, "--partition", "nope")
    assert refused.code == 1
    assert "invalid partition specified: nope" in refused.err
    assert "there is no such partition" in refused.err
    gone = "[partitions]\nold = 'gone'\n"
    project.write(
        "clusters/large.toml", (project.dir / "clusters/large.toml").read_text().split("[partitions]")[0] + gone
    )
    refused = project.gangrun("submit", FILE, "--partition", "auto")
    assert refused.code == 1
    assert "gone: there is no such partition, or it is hidden from you" in refused.err


def test_auto_for_a_sweep(project: Project, large: Lab) -> None:
    project.write(FILE, sh("true {lr}") + "[allocation]\npartition = 'auto'\n[sweep]\nlr = [1, 2]\n")
    sent = project.ok("submit", FILE)
    assert sent.err.count("partition gpu, where") == 1
    run = project.runs()[0]
    wait_for(lambda: project.run(run["run"])["state"] == "COMPLETED")
    project.write(FILE, sh("true") + "[sweep]\n'allocation.partition' = ['auto', 'gpu']\n")
    refused = project.gangrun("submit", FILE)
    assert refused.code == 2
    assert "auto is chosen for a sweep as a whole" in refused.err


def test_a_run_in_an_allocation_that_is_held_is_on_its_cluster(project: Project, large: Lab) -> None:
    project.write(FILE, sh('echo "on $SLURM_JOB_PARTITION"'))
    done = project.spawn("salloc", "--quiet", "--nodes=1", "gangrun", "run", FILE).done()
    assert done.code == 0, done.err
    run = project.runs()[0]
    assert (run["cluster"], run["state"], run["job"][:6]) == ("large", "COMPLETED", "local-")
    assert f"job {run['job']} on large" in " ".join(project.ok("show").out.split())
