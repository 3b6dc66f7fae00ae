"""Steps that build on others on a real Slurm: dependencies, a failed step, and attempts."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from gangrun.lab import Lab
from tests.chains import tree, two_steps, two_sweeps
from tests.gangrun_cli import Project, sh, wait_for

pytestmark = pytest.mark.slurm


def dependency(lab: Lab, job: str) -> str:
    return next(word for word in scontrol(lab, "show", "job", job).split() if word.startswith("Dependency="))


def items(project: Project, step: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in project.run(step)["items"]}


def scontrol(lab: Lab, *words: str) -> str:
    return subprocess.run(["scontrol", *words], env=lab.env(), capture_output=True, text=True, check=True).stdout


def test_a_step_waits_for_its_checkpoint(project: Project, lab: Lab) -> None:
    folder = two_steps(project)
    project.write(f"{folder}/020_both_0.toml", sh("true") + "needs = ['000_pretrain_0', '000_pretrain_1']\n")
    project.ok("submit", folder, "--", "--hold")
    jobs = {run["run"].rsplit("_", 2)[0].removeprefix("001_example_"): run["job"] for run in project.runs()}
    assert dependency(lab, jobs["010_posttrain_1"]) == f"Dependency=afterok:{jobs['000_pretrain_1']}(unfulfilled)"
    first, second = jobs["000_pretrain_0"], jobs["000_pretrain_1"]
    both = f"Dependency=afterok:{first}(unfulfilled),afterok:{second}(unfulfilled)"
    assert dependency(lab, jobs["020_both_0"]) == both
    scontrol(lab, "release", *(job for step, job in jobs.items() if "pretrain" not in step))
    wait_for(lambda: "it waits for the end of another run" in project.ok("why", "010_posttrain_0").out)
    scontrol(lab, "release", first, second)
    wait_for(lambda: set(tree(project).values()) == {"COMPLETED"}, 60)
    made = project.run("000_pretrain_1")["dir"]
    assert f"loads <{made}/model_1.pth>" in project.ok("logs", "010_posttrain_1").out


def test_a_failed_step_cancels_what_needs_it_and_all_goes_on(project: Project) -> None:
    folder = two_steps(project, broken=True)
    project.gangrun("submit", folder, "--wait")
    states = tree(project)
    assert states == {
        "000_pretrain_0": "FAILED",
        "000_pretrain_1": "FAILED",
        "010_posttrain_0": "CANCELLED",
        "010_posttrain_1": "CANCELLED",
    }
    first = project.run("000_pretrain_0")
    assert f"it needs {first['run']}, which is FAILED" in project.ok("why", "010_posttrain_0").out
    assert project.ok("ls", "--state", "cancelled").out.count("what it needs did not succeed") == 2

    (project.dir / "broken").unlink()
    # In the other order, and with a flag of their own.
    project.ok("resume", "010_posttrain_0", "000_pretrain_0", "--wait", "--", "--nice=5")
    resumed = project.run("000_pretrain_0")
    assert (resumed["state"], resumed["attempt"], resumed["dir"]) == ("COMPLETED", 2, first["dir"])
    assert resumed["job"] != first["job"]
    assert f"loads <{first['dir']}/model_1.pth> resumed true" in project.ok("logs", "000_pretrain_0").out
    assert f"loads <{first['dir']}/model_2.pth>" in project.ok("logs", "010_posttrain_0").out
    assert project.run("010_posttrain_0")["state"] == "COMPLETED"


def test_items_wait_for_the_items_of_their_seed(project: Project, lab: Lab) -> None:
    folder = two_sweeps(project, broken="1")
    project.ok("submit", folder, "--", "--hold")
    first, second = (items(project, step) for step in ("000_pretrain", "010_posttrain"))
    for seed in ("seed=0", "seed=1"):
        assert dependency(lab, second[seed]["job"]) == f"Dependency=afterok:{first[seed]['job']}(unfulfilled)"
    # A step that needs the whole sweep, sent while that is still held.
    project.write(f"{folder}/020_all_0.toml", sh("true") + "needs = '000_pretrain'\n")
    project.ok("submit", f"{folder}/020_all_0.toml")
    both = ",".join(f"afterok:{first[seed]['job']}(unfulfilled)" for seed in ("seed=0", "seed=1"))
    assert dependency(lab, project.run("020_all_0")["job"]) == f"Dependency={both}"
    scontrol(lab, "release", *(one["job"] for one in (*first.values(), *second.values())))
    wait_for(lambda: project.run("020_all_0")["state"] == "CANCELLED", 60)
    wait_for(lambda: [one["state"] for one in items(project, "010_posttrain").values()] == ["COMPLETED", "CANCELLED"])
    made = f"{project.run('000_pretrain')['dir']}/items/seed=0/model_1.pth"
    assert f"loads <{made}>" in project.ok("logs", "010_posttrain", "--item", "seed=0").out


def test_tasks_of_an_array_wait_for_those_of_their_number(project: Project, lab: Lab) -> None:
    folder = two_sweeps(project, broken="1", mode="array")
    project.ok("submit", folder, "--", "--hold")
    first, second = (
        items(project, step)["seed=0"]["job"].partition("_")[0] for step in ("000_pretrain", "010_posttrain")
    )
    assert dependency(lab, second).startswith(f"Dependency=aftercorr:{first}_*")
    # Sent later, while the first still waits; and one that needs a single item.
    project.ok("submit", f"{folder}/010_posttrain.toml")
    later = items(project, "010_posttrain")["seed=0"]["job"].partition("_")[0]
    assert dependency(lab, later).startswith(f"Dependency=aftercorr:{first}_*")
    project.write(f"{folder}/020_one_0.toml", sh("true") + "needs = '001_example/000_pretrain/seed=0'\n")
    project.ok("submit", f"{folder}/020_one_0.toml")
    scontrol(lab, "release", first, second)
    wait_for(
        lambda: [one["state"] for one in items(project, "010_posttrain").values()] == ["COMPLETED", "CANCELLED"], 60
    )
    wait_for(lambda: project.run("020_one_0")["state"] == "COMPLETED", 60)
    assert [one["state"] for one in items(project, "000_pretrain").values()] == ["COMPLETED", "FAILED"]
    made = f"{project.run('000_pretrain')['dir']}/items/seed=0/model_1.pth"
    assert f"loads <{made}>" in project.ok("logs", "010_posttrain", "--item", "seed=0").out


def test_a_checkpoint_that_is_not_there_fails_before_anything_starts(project: Project) -> None:
    project.write("experiments/001_a/000_x_0.toml", sh("true"))
    project.write("experiments/001_a/010_y_0.toml", "load.from = '000_x_0'\ncommand = ['echo', '{load}']\n")
    assert project.gangrun("submit", "experiments/001_a", "--wait").code == 3
    run = project.run("010_y_0")
    assert (run["state"], run["cause"], run["replicas"]) == ("FAILED", "setup", {})
    assert "no checkpoint to load: nothing in" in project.ok("why", "010_y_0").out


def test_what_is_refused_holds_back_what_needs_it(project: Project) -> None:
    project.write("experiments/001_a/000_x_0.toml", sh("true") + "[allocation]\npartition = 'nope'\n")
    project.write("experiments/001_a/010_y_0.toml", sh("true") + "needs = '000_x_0'\n")
    done = project.gangrun("submit", "experiments/001_a")
    assert done.code == 1
    assert "was not sent, as 001_a_000_x_0_" in done.err
    assert set(tree(project).values()) == {"REJECTED"}
