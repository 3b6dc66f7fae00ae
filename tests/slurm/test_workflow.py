"""examples/workflow on a real Slurm: nine scripts queued at once, each job after the one that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import wait_for
from tests.slurm.conftest import profile_of
from tests.workflow import accuracies, workflow

pytestmark = pytest.mark.slurm


def test_nine_scripts_in_three_chains(lab: Lab, tmp_path: Path) -> None:
    with workflow(tmp_path / "workflow", SLURM_CONF=str(lab.slurm_conf)) as project:
        project.write("clusters/mine.toml", profile_of(lab))
        sent = project.ok("submit", "slurm/experiments/001_bash", limit=300)
        assert sent.out.count(" on mine ") == 9
        states = {row["step"]: row["state"] for row in project.ok("tree", "--json").data if row["run"]}
        assert len(states) == 9
        wait_for(lambda: [run["state"] for run in project.runs()] == ["COMPLETED"] * 9, 120, every=1)
        assert min(accuracies(project, "001_bash", (0, 1, 2))) > 0.6
        for seed in (0, 1, 2):
            made = project.run(f"010_posttrain_{seed}")["dir"]
            assert f"loads {made}/model_0010.npz" in project.ok("logs", f"020_evaluate_{seed}").out
        again = project.ok("submit", "slurm/experiments/001_bash")
        assert again.err.count("is COMPLETED: not sent again") == 9
