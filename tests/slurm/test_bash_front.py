"""Scripts that source slurm/init.sh, on a real Slurm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.bash_front import SCRIPTS, script, with_front
from tests.gangrun_cli import Done, Project, wait_for

pytestmark = pytest.mark.slurm


def bash(project: Project, name: str) -> Done:
    done = project.spawn("bash", f"{SCRIPTS}/{name}.sh").done()
    assert done.code == 0, done.err
    return done


def shown(lab: Lab, job: str) -> str:
    return subprocess.run(["scontrol", "show", "job", job], env=lab.env(), capture_output=True, text=True).stdout


def loaded(project: Project, step: str) -> str:
    told = Path(project.run(step)["dir"], "told.txt").read_text().splitlines()
    return next((line.partition("=")[2] for line in told if line.startswith("load_file=")), "")


def ended(project: Project, *steps: str) -> None:
    wait_for(lambda: {project.run(step)["state"] for step in steps} == {"COMPLETED"}, 60)


def test_flags_steps_and_attempts(project: Project, lab: Lab) -> None:
    with_front(project)
    export = "export TRAINING_CONFIG=\"$TRAINING_CONFIG image_architecture='regnety_032' lr=1\"\n"
    flags = "--cpus-per-task=16 --partition=gpu --time=0-03:00:00 --gres=gpu:4 --mem=2G --comment='a b'"
    script(project, "000_pretrain1_0", f"{export}train {flags} --hold --mail-type=FAIL,END")
    script(project, "010_posttrain_0", 'posttrain "000_pretrain1_$EXPERIMENT_SEED"\ntrain --mem=1G')
    out = bash(project, "000_pretrain1_0").out
    bash(project, "010_posttrain_0")
    first, second = project.run("000_pretrain1_0"), project.run("010_posttrain_0")
    assert f"job {first['job']} on mine" in out
    sent = shown(lab, first["job"])
    for words in ("Partition=gpu", "TimeLimit=03:00:00", "CPUs/Task=16", "gpu:4", f"JobName={first['run']}", "a b"):
        assert words in sent, sent
    assert f"Dependency=afterok:{first['job']}" in shown(lab, second["job"])
    project.write("broken", "")
    subprocess.run(["scontrol", "release", first["job"]], env=lab.env(), check=True)
    wait_for(lambda: project.run("000_pretrain1_0")["state"] == "FAILED", 60)
    wait_for(lambda: project.run("010_posttrain_0")["state"] == "CANCELLED", 60)
    assert f"it needs {first['run']}, which is FAILED" in project.ok("why", "010_posttrain_0").out

    (project.dir / "broken").unlink()
    stamp = first["run"][-13:]
    script(project, "001_again_0", f"resume outputs/training/001_example/000_pretrain1_0/{stamp}\ntrain --mem=1G")
    assert f"{first['run']}  job" in bash(project, "001_again_0").out
    bash(project, "010_posttrain_0")
    ended(project, "000_pretrain1_0", "010_posttrain_0")
    again = project.run("000_pretrain1_0")
    assert (again["run"], again["attempt"]) == (first["run"], 2)
    assert loaded(project, "000_pretrain1_0") == f"{first['dir']}/model_0001.pth"
    assert loaded(project, "010_posttrain_0") == f"{first['dir']}/model_0002.pth"
    environment = Path(again["dir"], "environment.txt").read_text().splitlines()
    assert f"EXPERIMENT_RUN_ID={first['run']}" in environment
    assert "EXPERIMENT_SEED=0" in environment


def test_in_a_job_it_trains_there_and_can_submit_others(project: Project, lab: Lab) -> None:
    with_front(project)
    script(project, "000_x_0", "train --time=00:05:00 --mem=500M")
    project.write("experiments/002_b/000_y_0.toml", 'command = ["env"]\n[allocation]\nmem = "500M"\n')
    job = f"""#!/bin/bash
#SBATCH --output=outer.log --mem=1G --cpus-per-task=4 --exclusive
bash {SCRIPTS}/000_x_0.sh && gangrun submit experiments/002_b/000_y_0.toml
"""
    project.write("job.sh", job)
    done = project.spawn("sbatch", "--wait", "--parsable", "job.sh", env=lab.env()).done()
    said = (project.dir / "outer.log").read_text()
    assert done.code == 0, said
    inner = project.run("000_x_0")
    assert inner["state"] == "COMPLETED"
    assert f"SLURM_JOB_ID={done.out.strip()}" in Path(inner["dir"], "environment.txt").read_text().splitlines()
    ended(project, "000_y_0")
    assert project.run("000_y_0")["job"] != done.out.strip()
    assert f"SLURM_JOB_ID={project.run('000_y_0')['job']}" in project.ok("logs", "000_y_0").out
