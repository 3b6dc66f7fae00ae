"""examples/workflow on this machine: three steps over three seeds in TOML, and one seed in bash, which is the same."""

from __future__ import annotations

from pathlib import Path

from tests.gangrun_cli import Project
from tests.workflow import STEPS, accuracies, workflow


def test_both_forms_chain_and_come_to_the_same(tmp_path: Path) -> None:
    with workflow(tmp_path / "workflow", GANGRUN_CLUSTER="local") as project:
        project.ok("submit", "experiments/002_toml", "--seeds", "0-2", "--wait", limit=300)
        in_toml = accuracies(project, "002_toml", (0, 1, 2))
        assert len(set(in_toml)) == 3, "seeds differ"
        assert min(in_toml) > 0.6
        tree = project.ok("tree", "experiments/002_toml", "--json").data
        assert [row["state"] for row in tree] == ["COMPLETED"] * 9
        scripts = [f"slurm/experiments/001_bash/{step}_0.sh" for step in STEPS]
        project.ok("submit", *scripts, limit=300)
        assert accuracies(project, "001_bash", (0,)) == in_toml[:1]
        _seeds_are_their_own(project)


def _seeds_are_their_own(project: Project) -> None:
    for seed in (0, 1, 2):
        made = project.run(f"002_toml/000_pretrain_{seed}")["dir"]
        assert f"{made}/model_0010.npz, seed {seed}," in project.ok("logs", f"002_toml/010_posttrain_{seed}").out
