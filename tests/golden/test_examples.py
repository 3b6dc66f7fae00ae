"""Every shipped experiment has its batch script beside it, as a file to read; `make bless` writes them anew."""

import subprocess
from pathlib import Path

import pytest

from gangrun import clusters
from gangrun.recipes import rl, sft
from gangrun.script.render import render
from gangrun.spec.load import load
from gangrun.sweeps import SweepPlan, plan_of

REPOSITORY = Path(__file__).parents[2]
EXPERIMENTS = sorted(REPOSITORY.glob("examples/*/*.toml"))
RECIPES = {"rl": rl.job, "sft": sft.job}
"""Folders of configurations that are no experiments themselves, and what makes one of them."""


def rendered(file: Path) -> str:
    recipe = RECIPES.get(file.parent.name)
    experiment = recipe(["@", str(file)]).experiment if recipe else load(file)
    planned = plan_of(experiment, clusters.named("slurm", experiment.project))
    plan = planned.shown if isinstance(planned, SweepPlan) else planned
    name = f"{plan.experiment}_{plan.step}_261121_090000"
    return render(plan, name, f"/project/outputs/{name}").replace(str(REPOSITORY), "/project")


def test_there_are_examples() -> None:
    assert len(EXPERIMENTS) >= 4


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_script_is_the_golden_one(file: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # With an environment active the project's own .venv, which a fresh clone lacks, is not taken up.
    monkeypatch.setenv("VIRTUAL_ENV", "/active")
    monkeypatch.chdir(file.parent)  # where one types is where the commands of a recipe start
    golden = file.with_suffix(".golden.sh")
    text = rendered(file)
    if request.config.getoption("--bless", default=False):
        golden.write_text(text, encoding="utf-8")
    assert golden.is_file(), f"no {golden}; look at the script, then make bless"
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_golden_script_is_clean(file: Path) -> None:
    golden = file.with_suffix(".golden.sh")
    subprocess.run(["bash", "-n", golden], check=True)
    found = subprocess.run(["shellcheck", golden], capture_output=True, text=True)
    assert not found.stdout, found.stdout
