"""Batch scripts among experiments, on fake Slurm programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

from fake_slurm import Installed

from tests.chains import tree
from tests.gangrun_cli import Project

FOLDER = "experiments/001_x"
SCRIPT = "#!/bin/bash\n#SBATCH --nodes=1\n#SBATCH --gres=gpu:1\nsrun echo hi\n"
Fake = Callable[..., Installed]


@pytest.fixture
def mixed(project: Project) -> Project:
    """Two steps in TOML, two batch scripts that are steps, and one that is none."""
    project.env["GANGRUN_CLUSTER"] = "site"
    project.write("clusters/site.toml", 'scheduler = "slurm"\n')
    for name in ("000_train_0.toml", "030_after_0.toml"):
        project.write(f"{FOLDER}/{name}", 'command = ["echo", "hi"]\n')
    for name in ("010_eval_0.sbatch", "020_more_0.sh", "job.sbatch"):
        project.write(f"{FOLDER}/{name}", SCRIPT)
    return project


def test_a_folder_sends_its_batch_scripts_as_they_are_and_in_order(mixed: Project, fake_slurm: Fake) -> None:
    fake = fake_slurm()
    steps = ["000_train_0", "010_eval_0", "020_more_0", "030_after_0"]
    assert list(tree(mixed)) == steps
    assert f"{FOLDER}/010_eval_0.sbatch" in mixed.ok("tree", "--json").out
    dry = mixed.ok("submit", FOLDER, "--dry-run").out
    assert (dry.count("#SBATCH --gres=gpu:1\n"), fake.jobs()) == (2, [])
    sent = mixed.ok("submit", FOLDER).out.splitlines()
    assert [line.rpartition(f"{FOLDER.split('/')[1]}/")[2].partition("/")[0] for line in sent] == steps
    assert tree(mixed) == dict.fromkeys(steps, "PENDING")
    copy = mixed.dir / "outputs" / "001_x" / "020_more_0" / "latest" / "job.sh"
    assert copy.read_text() == SCRIPT
    again = mixed.ok("submit", FOLDER)
    assert (again.err.count("is PENDING: not sent again"), len(fake.jobs())) == (4, 4)


def test_what_is_refused_leaves_nothing(mixed: Project, fake_slurm: Fake) -> None:
    fake = fake_slurm()
    step = f"{FOLDER}/020_more_0.sh"
    for words, told in (
        (("submit", FOLDER, "--cluster", "local"), "010_eval_0.sbatch is a batch script, and local has no sbatch"),
        (("submit", FOLDER, "--set", "seed=1"), "--set, --seeds and --partition change experiments"),
        (("submit", step, "--partition", "day"), "flags for sbatch stand after --"),
        (("submit", FOLDER, "--json"), "--json is for files of one kind"),
        *(((word, step), f"{step} is a script, and no experiment file") for word in ("plan", "script", "run")),
    ):
        done = mixed.gangrun(*words)
        assert (done.code, told in done.err) == (2, True), done.err
    mixed.write(f"{FOLDER}/015_array_0.sbatch", SCRIPT.replace("srun", "#SBATCH --array=1-3\nsrun"))
    done = mixed.gangrun("submit", FOLDER)
    assert (done.code, "015_array_0.sbatch is a job array" in done.err) == (2, True), done.err
    assert (mixed.runs(), fake.jobs()) == ([], [])


def test_a_folder_with_nothing_but_a_batch_script_says_what_is_a_step(mixed: Project) -> None:
    mixed.write("experiments/002_y/job.sbatch", SCRIPT)
    done = mixed.gangrun("submit", "experiments/002_y")
    assert (done.code, "a step is called <step id>_<step name>_<seed>.toml" in done.err) == (2, True)
    assert "or gangrun submit experiments/002_y/job.sbatch" in done.err
