"""examples/workflow as a project of its own, and what came of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.gangrun_cli import REPOSITORY, Project

STEPS = ("000_pretrain", "010_posttrain", "020_evaluate")


def workflow(folder: Path, **env: str) -> Project:
    """A copy of the example."""
    left_out = shutil.ignore_patterns("__pycache__", "outputs")
    shutil.copytree(REPOSITORY / "examples" / "workflow", folder, symlinks=True, ignore=left_out)
    return Project(folder, env)


def accuracies(project: Project, experiment: str, seeds: Sequence[int]) -> list[float]:
    """What each seed's evaluation says, found where the job's `output` leads."""
    found = []
    for seed in seeds:
        (metrics,) = (project.dir / "outputs/evaluation" / experiment / f"020_evaluate_{seed}").glob("*/metrics.json")
        found.append(float(json.loads(metrics.read_text(encoding="utf-8"))["accuracy"]))
    return found
