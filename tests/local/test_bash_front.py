"""Scripts that source slurm/init.sh, on a machine without Slurm."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_slurm import Foretelling, Installed

from tests.bash_front import SCRIPTS, script, with_front
from tests.gangrun_cli import Done, Project

Said = Callable[..., Done]
Fake = Callable[..., Installed]
START = (0, "sbatch: Job 7 to start at 2020-01-01T00:00:00 using 4 processors on nodes node1 in partition idle\n")
"""What Slurm says of a job that could start at once."""


def bash(project: Project, file: str, **env: str) -> Done:
    return project.spawn("bash", file, env=env).done()


def config(project: Project, run: str = "latest") -> dict[str, str]:
    """What the program got as its dotlist, the last of each key."""
    told = Path(project.run(run)["dir"], "told.txt").read_text(encoding="utf-8")
    return dict(line.split("=", 1) for line in told.splitlines())


def test_what_init_writes_works_as_it_is(project: Project) -> None:
    made = project.ok("init", "--bash").out
    assert "slurm/init.sh" in made
    project.write("train.py", "import os; print(os.environ['TRAINING_CONFIG'])")
    done = bash(project, f"{SCRIPTS}/000_pretrain1_0.sh")
    assert done.code == 0, done.err
    run = project.run()
    assert (run["run"][:-14], run["state"]) == ("001_example_000_pretrain1_0", "COMPLETED")
    told = f"main.0 | logdir={run['dir']} seed=0 id={run['run']} continue_failed_training=false lr=0.1 width=64"
    assert told in done.out
    assert (project.dir / "outputs/training/001_example/000_pretrain1_0" / run["run"][-13:]).samefile(run["dir"])
    assert "stays as it is" in project.ok("init", "--bash").out


def test_variables_of_the_script_and_of_its_job(project: Project) -> None:
    with_front(project)
    script(
        project,
        "000_pretrain1_3",
        """
        mkdir -p "$TRAINING_OUTPUT_DIR" && echo mine >"$TRAINING_OUTPUT_DIR/notes.txt"
        env | grep -E '^(EXPERIMENT|SCRIPT|TRAINING_OUT|EVALUATION_OUT)' | sort
        train
        """,
    )
    done = bash(project, f"{SCRIPTS}/000_pretrain1_3.sh")
    assert done.code == 0, done.err
    run = project.run()
    at = f"001_example/000_pretrain1_3/{run['run'][-13:]}"
    assert done.out.splitlines()[:7] == [
        f"EVALUATION_OUTPUT_DIR={project.dir}/outputs/evaluation/{at}",
        "EXPERIMENT_NAME=001_example",
        f"EXPERIMENT_RUN_DIR={at}",
        f"EXPERIMENT_RUN_ID={run['run']}",
        "EXPERIMENT_SEED=3",
        "SCRIPT_NAME=000_pretrain1_3",
        f"TRAINING_OUTPUT_DIR={project.dir}/outputs/training/{at}",
    ]
    # What the script had put where its run was to be is in the run.
    assert Path(run["dir"], "notes.txt").read_text() == "mine\n"
    inside = Path(run["dir"], "environment.txt").read_text().splitlines()
    assert f"TRAINING_OUTPUT_DIR={run['dir']}" in inside
    assert f"EXPERIMENT_RUN_ID={run['run']}" in inside
    assert {"EXPERIMENT_SEED=3", "EXPERIMENT_NAME=001_example"} <= {*inside}


def test_the_last_of_a_key_wins_and_quotes_are_kept(project: Project) -> None:
    with_front(project)
    script(
        project,
        "000_x_0",
        """
        export TRAINING_CONFIG="$TRAINING_CONFIG a=1 b='q' c=\\"d\\" e=\\$HOME,\\`id\\`"
        export TRAINING_CONFIG="$TRAINING_CONFIG a=2 seed=9 f={seed} g.h=[1,2] i=a=b j=\\\\n"
        train
        """,
    )
    done = bash(project, f"{SCRIPTS}/000_x_0.sh")
    assert done.code == 0, done.err
    told = config(project)
    run = project.run()
    assert told == {
        "a": "2", "b": "'q'", "c": '"d"', "e": "$HOME,`id`", "f": "{seed}", "g.h": "[1,2]", "i": "a=b", "j": "\\n",
        "seed": "0", "logdir": run["dir"], "id": run["run"], "continue_failed_training": "false",
    }  # fmt: skip
    # The record repeats the run, under its own name.
    again = project.ok("submit", f"{run['dir']}/spec.toml", "--wait")
    assert again.code == 0
    assert {**config(project), "logdir": "", "id": ""} == {**told, "logdir": "", "id": ""}


def test_from_any_folder_of_the_project(project: Project) -> None:
    with_front(project)
    script(project, "000_x_0", "train", source='"${BASH_SOURCE[0]%/*}/../../init.sh"')
    script(project, "000_x_1", "posttrain weights\ntrain")
    project.write("weights/model_0002.pth", "w")
    project.write("deep/below/file", "")
    done = project.spawn("bash", "-c", f"cd deep/below && bash ../../{SCRIPTS}/000_x_0.sh").done()
    assert done.code == 0, done.err
    assert project.run()["dir"] == f"{project.dir}/outputs/001_example/000_x_0/{project.run()['run'][-13:]}"
    done = project.spawn("bash", "-c", f"cd deep/below && gangrun submit ../../{SCRIPTS}/000_x_1.sh").done()
    assert done.code == 0, done.err
    assert config(project)["load_file"] == f"{project.dir}/weights/model_0002.pth"


def test_posttrain_takes_the_newest_by_its_number(project: Project) -> None:
    with_front(project)
    for name in ("model_9.pth", "model_10.pth", "model_best_99.pth"):
        project.write(f"weights/{name}", "w")
    project.write("weights/model_11.pth", "")  # never written
    script(project, "010_y_0", "posttrain weights/\ntrain")
    assert bash(project, f"{SCRIPTS}/010_y_0.sh").code == 0
    assert config(project)["load_file"] == f"{project.dir}/weights/model_10.pth"
    script(project, "010_y_0", "posttrain weights/model_9.pth\ntrain")
    assert bash(project, f"{SCRIPTS}/010_y_0.sh").code == 0
    assert config(project)["load_file"] == f"{project.dir}/weights/model_9.pth"


@pytest.mark.parametrize(
    "word",
    ["000_x_$EXPERIMENT_SEED", "001_example/000_x_0", "outputs/001_example/000_x_0/latest", '"$MADE"', '"${MADE%/*}"'],
)
def test_posttrain_takes_a_step_or_its_run(project: Project, word: str) -> None:
    with_front(project)
    script(project, "000_x_0", "train")
    assert bash(project, f"{SCRIPTS}/000_x_0.sh").code == 0
    run = project.run()
    script(project, "010_y_0", f"posttrain {word}\ntrain")
    made = f"outputs/training/001_example/000_x_0/{run['run'][-13:]}"
    done = bash(project, f"{SCRIPTS}/010_y_0.sh", MADE=made)
    assert done.code == 0, done.err
    assert config(project, "010_y_0")["load_file"] == f"{run['dir']}/model_0001.pth"


def test_resume_goes_on_as_the_same_run(project: Project) -> None:
    with_front(project)
    script(project, "000_x_0", "export TRAINING_CONFIG='lr=1'\ntrain")
    project.write("broken", "")
    assert bash(project, f"{SCRIPTS}/000_x_0.sh").code == 1
    first = project.run()
    (project.dir / "broken").unlink()
    script(
        project,
        "900_again_0",
        f"""
        posttrain elsewhere.pth
        resume outputs/training/001_example/000_x_0/{first["run"][-13:]}
        export TRAINING_CONFIG='lr=2'
        train --time=00:20:00
        """,
    )
    project.write("elsewhere.pth", "w")
    done = bash(project, f"{SCRIPTS}/900_again_0.sh")
    assert done.code == 0, done.err
    run = project.run()
    assert (run["run"], run["attempt"], run["state"]) == (first["run"], 2, "COMPLETED")
    told = config(project)
    assert (told["lr"], told["continue_failed_training"]) == ("2", "true")
    assert told["load_file"] == f"{first['dir']}/model_0001.pth"
    assert len(project.runs()) == 1
    logs = Path(run["dir"], "attempts")
    assert [one.name for one in sorted(logs.glob("0*/logs/main.0.log"))] == ["main.0.log"] * 2
    assert "'lr': '1'" in (logs / "001/logs/main.0.log").read_text()
    assert (Path(run["dir"]) / "spec.1.toml").exists()
    again = bash(project, f"{SCRIPTS}/900_again_0.sh")
    assert (again.code, "has succeeded: there is nothing to resume" in again.err) == (2, True)


def test_partition_auto_is_settled_before_the_job_is_sent(project: Project, fake_slurm: Fake) -> None:
    slurm = fake_slurm(Foretelling)
    told = {"busy": (1, "allocation failure: Requested node configuration is not available\n"), "idle": START}
    (slurm.folder / "forecasts.json").write_text(json.dumps(told))
    with_front(project)
    script(project, "000_x_0", "train --partition=auto --time=1:00:00")
    done = bash(project, f"{SCRIPTS}/000_x_0.sh", GANGRUN_CLUSTER="slurm")
    assert done.code == 0, done.err
    assert "partition idle, where it starts at once (busy: " in done.err
    (job,) = slurm.jobs()
    head = Path(project.run()["dir"], "script.sh").read_text()
    assert ("#SBATCH --partition=idle\n" in head, job["name"]) == (True, project.run()["run"])
    # Here, where nothing is queued, there is no partition to choose.
    done = bash(project, f"{SCRIPTS}/000_x_0.sh", GANGRUN_CLUSTER="local")
    assert (done.code, len(slurm.jobs())) == (0, 1), done.err
    assert project.run()["state"] == "COMPLETED"


def test_a_snapshot_is_of_the_code_that_the_script_found(project: Project) -> None:
    """An attempt that the script itself begins anew has the code as it is by then, and the record says so."""
    with_front(project)
    project.write(".gitignore", "outputs\n.config\nbroken\n")
    train = project.dir / "jobs/train.toml"
    train.write_text(train.read_text() + "\n[code]\nsnapshot = true\n")
    script(project, "000_x_0", "train")
    script(project, "900_again_0", 'resume 000_x_0\nexport TRAINING_CONFIG="lr=2"\ntrain')
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=first"]):
        argv = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *words]
        subprocess.run(argv, cwd=project.dir, check=True, capture_output=True)
    first = project.dir / "train.py"
    first.write_text(first.read_text().replace('os.path.exists("broken")', "True"))
    assert bash(project, f"{SCRIPTS}/000_x_0.sh").code == 1
    folder = Path(project.run()["dir"])
    old = (folder / "code").resolve()
    assert f"copied to {old}" in (folder / "job.log").read_text()
    assert "sys.exit(True)" in (old / "train.py").read_text()

    first.write_text(first.read_text().replace("sys.exit(True)", "print('mended', os.getcwd())"))
    done = bash(project, f"{SCRIPTS}/900_again_0.sh")
    assert done.code == 0, done.err
    run = project.run()
    new = (folder / "code").resolve()
    assert (run["dir"], run["attempt"], run["state"], new != old) == (str(folder), 2, "COMPLETED", True)
    assert f"main.0 | mended {new}" in project.ok("logs").out
    assert ["sys.exit(True)" in (folder / name).read_text() for name in ("diff.1.patch", "diff.patch")] == [True, False]
    assert "mended" in (folder / "diff.patch").read_text()
    assert (folder / "commit.1.txt").exists()


BAD = {
    "nothing to load": ("posttrain nope\ntrain", "there is no checkpoint 'nope'"),
    "an empty folder": ("mkdir -p empty\nposttrain empty\ntrain", "no checkpoint to load: nothing in"),
    "nothing named": ("posttrain\ntrain", "there is no checkpoint ''"),
    "no run to resume": ("resume outputs/training/001_example/000_x_0/261121_000000\ntrain", "there is no run yet"),
    "a blank in a value": ("export TRAINING_CONFIG=\"a='b c'\"\ntrain", 'holds "c\'", which is no KEY=VALUE'),
    "a key of posttrain": ("export TRAINING_CONFIG='load_file=x.pth'\ntrain", "way out: posttrain x.pth"),
    "no flag": ("train fast", "'fast' is no flag of sbatch"),
    "a flag of our own": ("train --job-name=x", "--job-name is gangrun's own"),
    "a flag without its value": ("train --time", "--time needs a value"),
    "a bad value": ("train --time=soon", "train in "),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_meant_ends_the_script_and_leaves_nothing(project: Project, name: str) -> None:
    with_front(project)
    text, words = BAD[name]
    script(project, "000_x_0", f"{text}\necho went on")
    done = bash(project, f"{SCRIPTS}/000_x_0.sh")
    assert (done.code, done.out) == (2, "")
    assert words in done.err, done.err
    assert not (project.dir / "outputs").exists()


def test_names_that_cannot_be(project: Project, said: Said) -> None:
    with_front(project)
    for name, words in {
        "000_x_noseed": "ends in 'noseed', which is no seed",
        "plain": "has no seed",
        f"000_{'long' * 14}_0": "characters",
    }.items():
        script(project, name, "train")
        done = said("bash", f"{SCRIPTS}/{name}.sh")
        assert (done.code, done.out) == (2, "")
        assert words in done.err
    assert "is no file" in said("bash", "--", "-bash").err
    project.write("spool/slurm_script", "")
    assert "was handed to sbatch" in said("bash", "spool/slurm_script").err
    project.write("jobs/posttrain.toml", "")
    script(project, "000_x_0", "train")
    assert "cannot be the name of a bash function" in said("bash", f"{SCRIPTS}/000_x_0.sh").err
    assert "is for scripts that source slurm/init.sh" in said("job", "train").err


def test_a_script_that_another_one_calls_begins_anew(project: Project) -> None:
    with_front(project)
    project.write("weights/model_1.pth", "w")
    script(project, "000_x_0", 'echo "<$GANGRUN_LOAD><$GANGRUN_RESUME> $EXPERIMENT_RUN_ID"')
    script(project, "900_all_0", f"posttrain weights\nbash {SCRIPTS}/000_x_0.sh")
    done = bash(project, f"{SCRIPTS}/900_all_0.sh")
    assert done.out.startswith("<><> 001_example_000_x_0_"), done.err


def test_a_folder_of_scripts_is_sent_in_order_and_what_succeeded_is_not_sent_again(project: Project) -> None:
    with_front(project)
    for seed in (0, 1):
        script(project, f"000_x_{seed}", "train", folder="slurm/experiments/002_seeds")
        script(
            project, f"010_y_{seed}", 'posttrain "000_x_$EXPERIMENT_SEED"\ntrain', folder="slurm/experiments/002_seeds"
        )
    done = project.ok("submit", "slurm/experiments/002_seeds", "--wait")
    states = {row["step"]: row["state"] for row in project.ok("tree", "--json").data}
    assert states == dict.fromkeys(("000_x_0", "000_x_1", "010_y_0", "010_y_1"), "COMPLETED")
    for seed in (0, 1):
        made = project.run(f"000_x_{seed}")["dir"]
        assert config(project, f"010_y_{seed}")["load_file"] == f"{made}/model_0001.pth"
    done = project.ok("submit", "slurm/experiments/002_seeds")
    assert done.err.count("is COMPLETED: not sent again") == 4
    refused = project.gangrun("submit", "slurm/experiments/002_seeds", "--set", "x=1")
    assert (refused.code, "mean nothing to a script" in refused.err) == (2, True)


def test_without_sbatch_the_same_script_trains_here(project: Project, tmp_path: Path) -> None:
    """Even where a cluster's profile says that jobs go to Slurm."""
    with_front(project)
    project.write("clusters/mine.toml", 'scheduler = "slurm"\n')
    script(project, "000_x_0", "train --cpus-per-task=32 --partition=a100 --time=3-00:00:00 --gres=gpu:4 --mem=256gb")
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in dict.fromkeys(Path(one).resolve() for one in ("/usr/bin", "/bin")):
        for one in folder.iterdir():
            if one.name not in ("sbatch", "scontrol", "sinfo", "srun") and not (programs / one.name).exists():
                (programs / one.name).symlink_to(one)
    here = f"{Path(project.environment()['PATH'].split(os.pathsep)[0])}{os.pathsep}{programs}"
    done = bash(project, f"{SCRIPTS}/000_x_0.sh", PATH=here, GANGRUN_CLUSTER="mine")
    assert done.code == 0, done.err
    run = project.run()
    assert (run["cluster"], run["state"]) == ("local", "COMPLETED")
    assert "told" in Path(run["dir"], "attempts/001/logs/main.0.log").read_text()
