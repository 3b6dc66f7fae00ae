"""Steps that build on others: in order, from checkpoints, and again after a failure, on this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chains import PRETRAIN, tree, two_steps, two_sweeps
from tests.gangrun_cli import Done, Project, sh, wait_for

Said = Callable[..., Done]


def test_a_folder_is_sent_in_order_and_what_succeeded_is_not_sent_again(project: Project) -> None:
    folder = two_steps(project)
    assert set(tree(project).values()) == {None}
    done = project.gangrun("submit", folder, "--wait")
    assert done.code == 0, done.err
    assert set(tree(project).values()) == {"COMPLETED"}
    first = project.run("000_pretrain_1")
    assert f"loads <{first['dir']}/model_1.pth>" in project.ok("logs", "010_posttrain_1").out
    events = (project.dir / "outputs/001_example/010_posttrain_1/latest/events.jsonl").read_text()
    assert f'"type":"Needs","run":"{first["run"]}"' in events
    again = project.ok("submit", folder)
    assert again.err.count("is COMPLETED: not sent again") == 4
    assert "all steps have succeeded" in again.out
    shown = project.ok("tree").out.splitlines()
    assert [line.split()[:4] for line in shown[1:]] == [
        ["000_pretrain", "seed", "0", "COMPLETED"],
        ["seed", "1", "COMPLETED", shown[2].split()[3]],
        ["010_posttrain", "seed", "0", "COMPLETED"],
        ["seed", "1", "COMPLETED", shown[4].split()[3]],
    ]


def test_a_failed_step_ends_what_needs_it_and_both_can_be_resumed(project: Project) -> None:
    folder = two_steps(project, broken=True)
    assert project.gangrun("submit", folder, "--wait").code == 1
    assert set(tree(project).values()) == {"FAILED"}
    why = project.ok("why", "010_posttrain_0").out
    assert "a run that it needs ended with exit code 1, so nothing was started" in why
    refused = project.gangrun("submit", f"{folder}/010_posttrain_0.toml")
    assert refused.code == 2
    assert "010_posttrain_0.toml:2: load.from: needs 001_example/000_pretrain_0, which is FAILED" in refused.err
    early = project.gangrun("resume", "010_posttrain_0")
    assert (early.code, "which is FAILED" in early.err) == (2, True)

    (project.dir / "broken").unlink()
    resumed = project.ok("resume", "000_pretrain_0", "--wait")
    first = project.run("000_pretrain_0")
    assert (first["state"], first["attempt"]) == ("COMPLETED", 2)
    assert "attempt 2, job local-" in resumed.out
    logs = project.ok("logs", "000_pretrain_0").out
    assert f"loads <{first['dir']}/model_1.pth> resumed true" in logs
    old = project.dir / "outputs/001_example/000_pretrain_0/latest/attempts/001/logs/main.0.log"
    assert old.read_text() == "loads <> resumed false\n"
    project.ok("resume", "010_posttrain_0", "--wait")
    assert f"loads <{first['dir']}/model_2.pth>" in project.ok("logs", "010_posttrain_0").out
    done = project.gangrun("resume", "000_pretrain_0")
    assert (done.code, "has succeeded: there is nothing to resume" in done.err) == (2, True)


def test_items_load_what_the_items_of_their_seed_have_left(project: Project) -> None:
    folder = two_sweeps(project)
    project.ok("submit", folder, "--wait")
    first = project.run("000_pretrain")["dir"]
    logs = project.ok("logs", "010_posttrain", "--item", "seed=1").out
    assert f"loads <{first}/items/seed=1/model_1.pth>" in logs
    one = project.write(
        f"{folder}/020_one_0.toml",
        'load.from = "001_example/000_pretrain/seed={seed}"\ncommand = ["echo", "loads <{load}>"]\n',
    )
    assert f"<{first}/items/seed=0/model_1.pth>" in project.ok("run", str(one)).out
    project.write(f"{folder}/020_one_0.toml", 'needs = "001_example/000_pretrain/seed=7"\ncommand = ["true"]\n')
    for files in ([str(one)], [f"{folder}/000_pretrain.toml", str(one)]):
        refused = project.gangrun("submit", *files)
        assert (refused.code, "seed=7, which is no item of it" in refused.err) == (2, True)


def test_cancelled_while_it_waits_for_another(project: Project) -> None:
    folder = two_steps(project)
    project.write(f"{folder}/000_pretrain_0.toml", sh("sleep 1000"))
    project.ok("submit", f"{folder}/000_pretrain_0.toml", f"{folder}/010_posttrain_0.toml")
    project.ok("cancel", "010_posttrain_0")
    project.ok("cancel", "000_pretrain_0")

    wait_for(lambda: set(tree(project).values()) == {"CANCELLED", None})


BAD = {
    "a step without a run": (
        'needs = "000_first_0"\n',
        "000_x_0.toml:2: needs: needs 001_a/000_first_0, which has no run yet (submit it first, or together)",
    ),
    "a seed where there is none": ('needs = "000_{seed}"\nstep = "none"\nseed = -1\n', "seed: should be greater"),
    "no step at all": ('needs = "a/b/c/d"\n', "'a/b/c/d' is no step: STEP, EXPERIMENT/STEP or EXPERIMENT/STEP/ITEM"),
    "itself": ('needs = "000_x_{seed}"\n', "'000_x_0' cannot need itself"),
    "a directory that is not there": ("load.path = 'nope'\n", "load.path: no checkpoint to load: there is no /"),
    "an empty directory": ("load.path = 'empty'\n", "experiments/001_a/empty is called model_*.pth"),
    "only a best model": (
        "load.path = 'best'\n",
        "none has a number for every * and something in it: model_best_1.pth",
    ),
    "both": ("load = { from = 'a', path = 'b' }\n", "load: needs exactly one of from and path, not both"),
    "a pattern that leads out": ("load = { path = '.', glob = '../*.pth' }\n", "load.glob: '../*.pth' leads out"),
    "nothing to load": ("env = { X = '{load}' }\n", "env.X: {load} and {resumed} mean something where"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_loaded_or_needed_is_told_before_anything_is_sent(
    project: Project, said: Said, name: str
) -> None:
    text, words = BAD[name]
    (project.dir / "experiments/001_a/empty").mkdir(parents=True)
    project.write("experiments/001_a/best/model_best_1.pth", "weights")
    project.write("experiments/001_a/000_x_0.toml", sh("true") + text)
    done = said("submit", "experiments/001_a/000_x_0.toml")
    assert done.code == 2, done.out
    assert words in done.err
    assert not (project.dir / "outputs").exists()
    if "load.path" in text:
        checked = said("check", "experiments/001_a/000_x_0.toml")
        assert (checked.code, words in checked.err) == (2, True)


def test_steps_that_need_each_other(project: Project, said: Said) -> None:
    project.write("experiments/001_a/000_x_0.toml", sh("true") + "needs = '010_y_0'\n")
    project.write("experiments/001_a/010_y_0.toml", sh("true") + "needs = '000_x_0'\n")
    done = said("submit", "experiments/001_a")
    assert done.code == 2
    assert "steps need each other in a circle: 001_a/000_x_0, 001_a/010_y_0" in done.err


def test_a_relative_path_starts_at_the_file_that_says_it(project: Project, said: Said) -> None:
    project.write("weights/model_3.pth", "weights")
    project.write("experiments/001_a/000_x_0.toml", "load.path = '../../weights'\ncommand = ['echo', '{load}']\n")
    (project.dir / "elsewhere").mkdir()
    done = project.spawn(
        "bash", "-c", "cd elsewhere && gangrun run ../experiments/001_a/000_x_0.toml && "
        "gangrun run ../experiments/001_a/000_x_0.toml --set load.path=../weights/model_3.pth"
    ).done()  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.count(f"main.0 | {project.dir}/weights/model_3.pth") == 2


def test_resume_without_a_checkpoint(project: Project, said: Said) -> None:
    project.write("experiments/001_a/000_x_0.toml", sh("exit 3") + "[resume]\nglob = 'c/m_*.pt'\n")
    assert project.gangrun("run", "experiments/001_a/000_x_0.toml").code == 3
    done = said("resume", "latest")
    assert done.code == 2
    assert "cannot be resumed: it has left no checkpoint" in done.err
    assert "is called c/m_*.pt" in done.err


def test_resume_of_what_runs(project: Project) -> None:
    project.write("experiments/001_a/000_x_0.toml", sh("sleep 1000"))
    project.ok("submit", "experiments/001_a/000_x_0.toml")
    done = project.gangrun("resume", "latest")
    assert (done.code, "is RUNNING" in done.err) == (2, True)
    project.ok("cancel", "latest")


def test_tree_says_what_is_wrong_with_it(project: Project, said: Said) -> None:
    folder = "experiments/001_a"
    project.write(f"{folder}/000_{'long' * 12}_0.toml", PRETRAIN)
    done = said("tree")
    assert (done.code, "too many" in done.err) == (2, True)
    project.write(f"{folder}/000_x_noseed.sh", "")
    assert "ends in 'noseed', which is no seed" in said("tree").err
    assert "ends in 'noseed', which is no seed" in said("submit", folder).err
    assert "there is no folder nope" in said("tree", "nope").err
