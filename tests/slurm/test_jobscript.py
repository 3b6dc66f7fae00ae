"""Batch scripts that somebody wrote, sent as they are to a real Slurm, with a record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import Project, marked, wait_for

pytestmark = pytest.mark.slurm

SCRIPT = """#!/bin/bash -e
#SBATCH --job-name=old-name
#SBATCH -N2 --ntasks-per-node=1 -c 4
#SBATCH --gres=gpu:2 --mem=1G
#SBATCH --signal=B:USR1@30
# What follows is the job.
#SBATCH --comment=mine
echo "$SLURM_JOB_NAME $SLURM_NNODES $SLURM_NTASKS $SLURM_CPUS_PER_TASK $SLURM_GPUS_ON_NODE in $PWD"
trap 'echo usr1' USR1
srun bash -c 'echo "rank $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME with $CUDA_VISIBLE_DEVICES"
until [[ -e go ]]; do sleep 0.1; done'
echo to stderr >&2
exit ${CODE:-0}
"""


def test_a_script_runs_as_it_is_and_is_recorded(project: Project, lab: Lab) -> None:
    project.write("old/train.sh", SCRIPT)
    project.env["PATH"] = f"{lab.directory}/bin:{project.environment()['PATH']}"  # for nvidia-smi
    sent = project.ok("submit", "old/train.sh", "--", "--export=ALL,CODE=7")
    job = re.search(r"job (\d+) on mine", sent.out)
    assert job
    assert sent.out.startswith("old_train_")
    wait_for(lambda: project.run().get("hosts"), 60)
    # Beside steps that hold all CPUs there is room for the monitor, and for a look.
    wait_for(lambda: [len(node["gpus"]) for node in project.ok("gpus", "--json").data["nodes"]] == [2, 2], 30)
    told = wait_for(lambda: project.gangrun("exec", "--", "printenv", "SLURM_JOB_NAME").out)
    assert told == "old-name\n"
    project.write("go", "")
    run = wait_for(lambda: (one := project.run())["state"] == "FAILED" and one, 90)
    assert (run["exit_code"], run["failed"]["replica"], run["job"]) == (7, "main.0", job[1])
    lines = project.ok("logs").out.splitlines()
    assert f"main.0 | old-name 2 2 4 2 in {project.dir}" in lines
    for rank, host in enumerate(run["hosts"]):
        assert f"main.0 | rank {rank} of 2 on {host} with 0,1" in lines
    assert "main.0 | to stderr" in lines
    assert "main.0 ended with exit code 7" in project.ok("why").out
    assert "ATTEMPTS AND REPLICAS" in project.ok("report").out
    nodes = project.ok("gpus", "--json").data["nodes"]
    assert [len(node["gpus"]) for node in nodes] == [2, 2]
    assert all("main.0" in node["replicas"] for node in nodes), "its steps on other nodes are its own, too"
    folder = Path(run["dir"])
    assert (folder / "job.sh").read_text() == SCRIPT
    wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={folder}"))
    assert project.gangrun("resume", "latest").code == 0
    assert wait_for(lambda: (one := project.run())["attempt"] == 2 and one["state"] == "COMPLETED", 90)


def test_its_own_output_file_and_signals(project: Project) -> None:
    text = (
        "#!/bin/bash\n#SBATCH --output=out-%x-%j.txt --mem=1G -J mine\n"
        "trap 'echo got usr1; exit 5' USR1\ntrap 'echo got term; exit 6' TERM\necho up\nwhile :; do sleep 0.1; done\n"
    )
    project.write("old/signals.sbatch", text)
    project.ok("submit", "old/signals.sbatch")
    [file] = wait_for(lambda: [one for one in project.dir.glob("out-mine-*.txt") if "up" in one.read_text()], 60)
    assert "main.0 | up" in project.ok("logs").out
    project.ok("exec", "--", "bash", "-c", 'kill -USR1 "$(pgrep -fo slurm_script)"')
    run = wait_for(lambda: (one := project.run())["state"] == "FAILED" and one, 60)
    assert (run["exit_code"], "got usr1" in file.read_text()) == (5, True)
    project.ok("submit", "old/signals.sbatch")
    wait_for(lambda: "main.0 | up" in project.gangrun("logs").out, 60)
    project.ok("cancel", "latest")
    run = wait_for(lambda: (one := project.run())["state"] == "CANCELLED" and one, 60)
    assert "got term" in Path(run["dir"]).joinpath("job.log").read_text()
    wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"))


def test_what_cannot_be_sent(project: Project) -> None:
    project.write("a/array.sh", "#!/bin/bash\n#SBATCH --array=1-3\ntrue\n")
    project.write("a/het.sh", "#!/bin/bash\n#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n1\ntrue\n")
    project.write("a/bare.sh", "echo no first line\n")
    project.write("a/fine.sh", "#!/bin/bash\ntrue\n")
    for words, told in (
        (["a/array.sh"], "a/array.sh is a job array"),
        (["a/fine.sh", "--", "-a", "1-3"], "a/fine.sh is a job array"),
        (["a/het.sh"], "a/het.sh:3: gangrun has no jobs of several components"),
        (["a/bare.sh"], "a/bare.sh:1: a batch script begins with #!"),
        (["a/absent.sh"], "a/absent.sh: cannot be read: No such file or directory"),
        (["a/fine.sh", "--set", "seed=1"], "--set, --seeds and --partition change experiments"),
        (["a/fine.sh", "--cluster", "local"], "local has no sbatch"),
    ):
        done = project.gangrun("submit", *words)
        assert (done.code, told in done.err) == (2, True), done.err
    assert not (project.dir / "outputs").exists()
    assert "#SBATCH --job-name=fine_YYMMDD_HHMMSS" in project.ok("submit", "a/fine.sh", "--dry-run").out
