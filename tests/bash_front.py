"""A project with slurm/init.sh, whose `train` writes down what it got and leaves a checkpoint."""

from __future__ import annotations

import textwrap

from gangrun.recipes.bash import EXAMPLE, templates
from tests.gangrun_cli import Project

SCRIPTS = "slurm/experiments/001_example"

TRAIN = """
import os, sys
config = dict(token.split("=", 1) for token in os.environ["TRAINING_CONFIG"].split())
print("told", config)
out = config["logdir"]
with open(f"{out}/told.txt", "w") as file:
    file.writelines(f"{key}={value}\\n" for key, value in config.items())
with open(f"{out}/environment.txt", "w") as file:
    file.writelines(f"{name}={value}\\n" for name, value in os.environ.items())
with open(f"{out}/model_{int(os.environ['GANGRUN_ATTEMPT']):04}.pth", "w") as file:
    file.write("weights")
sys.exit(os.path.exists("broken"))
"""


def with_front(project: Project) -> None:
    """What `gangrun init --bash` writes, but for its example, and a program to train."""
    for name, text in templates().items():
        if name != EXAMPLE:
            project.write(name, text)
    project.write("train.py", TRAIN)


def script(project: Project, name: str, text: str, *, folder: str = SCRIPTS, source: str = "slurm/init.sh") -> None:
    """A script of an experiment."""
    project.write(f"{folder}/{name}.sh", f"#!/usr/bin/bash\n\nsource {source}\n\n{textwrap.dedent(text)}\n")
