"""One name everywhere, as the real wandb understands it, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gangrun_cli import Project, sh

pytest.importorskip("wandb")

TRAIN = """
import json, os, sys, wandb
run = wandb.init()
for step in range(3):
    run.log({"loss": 1 / (step + 1)})
told = {name: getattr(run, name) for name in ("id", "name", "project", "group", "notes", "tags", "entity")}
json.dump({**told, "resume": run.settings.resume, "offline": run.offline, "dir": run.dir}, open(sys.argv[1], "w"))
run.finish()
sys.exit(int(os.environ["GANGRUN_ATTEMPT"] == "001"))
"""


def told(run: dict[str, Any], attempt: str) -> dict[str, Any]:
    data = json.loads(Path(run["dir"], f"told.{attempt}.json").read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


def test_a_run_and_its_later_attempts_are_one_run_there(project: Project) -> None:
    project.write("clusters/local.toml", 'scheduler = "local"\ninternet = false\n')
    project.write("train.py", TRAIN)
    project.write(
        "experiments/001_digits/000_pretrain_7.toml",
        sh("python train.py {run.dir}/told.$GANGRUN_ATTEMPT.json") + "[wandb]\ntags = ['a', 'b']\n",
    )
    assert project.gangrun("run", "experiments/001_digits/000_pretrain_7.toml").code == 1
    run = project.run()
    first = told(run, "001")
    assert (first["id"], first["name"]) == (run["run"], run["run"])
    assert (first["project"], first["group"]) == ("001_digits", "001_digits_000_pretrain")
    assert (first["notes"], first["tags"]) == (run["dir"], ["a", "b"])
    assert (first["resume"], first["offline"]) == ("allow", True)
    assert first["dir"].startswith(f"{run['dir']}/wandb/offline-run-")
    assert f"gangrun wandb sync {run['run']}" in project.ok("show").out

    project.ok("resume", "latest", "--wait")
    assert told(run, "002")["id"] == run["run"]


def test_what_was_kept_is_handed_to_wandb_sync(project: Project) -> None:
    project.write(
        "experiments/001_digits/000_x_0.toml", 'command = ["mkdir", "-p", "{run.dir}/wandb/offline-run-1-x"]\n'
    )
    project.ok("run", "experiments/001_digits/000_x_0.toml")
    fake = project.write("bin/wandb", '#!/bin/sh\necho "$@"; exit 4\n')
    fake.chmod(0o755)
    done = project.gangrun("wandb", "sync", env={"PATH": f"{fake.parent}:{project.environment()['PATH']}"})
    assert (done.code, done.out) == (4, f"sync {project.run()['dir']}/wandb/offline-run-1-x\n")
    project.write("experiments/001_digits/010_y_0.toml", 'command = ["true"]\n')
    project.ok("run", "experiments/001_digits/010_y_0.toml")
    assert project.ok("wandb", "sync", "010_y_0").out == "010_y_0: nothing is kept for wandb\n"
