"""A tree of two steps over two seeds, whose first step fails where there is a file `broken`."""

from __future__ import annotations

from tests.gangrun_cli import Project

PRETRAIN = """
command = ["bash", "-c", '''
echo "loads <$1> resumed $2"
echo w > {run.dir}/model_$((10#$GANGRUN_ATTEMPT)).pth
echo w > {run.dir}/model_best_99.pth
[[ ! -e broken ]]''', "-", "{load}", "{resumed}"]
[resume]
"""
POSTTRAIN = """
load = { from = "000_pretrain_{seed}" }
command = ["echo", "loads <{load}>"]
"""


def two_steps(project: Project, *, broken: bool = False) -> str:
    """Writes the tree and returns its folder."""
    folder = "experiments/001_example"
    for seed in (0, 1):
        project.write(f"{folder}/000_pretrain_{seed}.toml", PRETRAIN)
        project.write(f"{folder}/010_posttrain_{seed}.toml", POSTTRAIN)
    if broken:
        project.write("broken", "")
    return folder


SWEEP = """
command = ["bash", "-c", '''
echo "loads <$1>"
echo w > {run.dir}/model_1.pth
[[ $2 != "$(cat broken)" ]]''', "-", "%s", "{seed}"]
[sweep]
seeds = "0-1"
mode = "MODE"
[resume]
"""


def two_sweeps(project: Project, broken: str = "", *, mode: str = "jobs") -> str:
    """Writes two sweeps, of which each item of the second loads what the item of its seed in the first has left, and
    returns their folder. The seed `broken` fails."""
    folder = "experiments/001_example"
    sweep = SWEEP.replace("MODE", mode)
    project.write(f"{folder}/000_pretrain.toml", sweep % "")
    load = 'load = { from = "001_example/000_pretrain/seed={seed}" }'
    project.write(f"{folder}/010_posttrain.toml", load + sweep % "{load}")
    project.write("broken", broken)
    return folder


def tree(project: Project) -> dict[str, str]:
    """The state of every step's newest run."""
    return {row["step"]: row["state"] for row in project.ok("tree", "--json").data}
