"""What a run builds on: the steps that it needs, and the checkpoint that it loads."""

from __future__ import annotations

from gangrun.errors import Problem
from gangrun.plan.model import Checkpoint, Need
from gangrun.project import OUTPUTS
from gangrun.spec.load import Experiment
from gangrun.spec.toml import Key

LATEST = "latest"


def needs(experiment: Experiment, problems: list[Problem]) -> tuple[Need, ...]:
    """The steps that must have succeeded, each once, the one whose checkpoint is loaded included."""
    spec = experiment.spec
    written: list[tuple[str, Key]] = [(text, ("needs", index)) for index, text in enumerate(spec.needs)]
    if spec.load and spec.load.from_:
        written.append((spec.load.from_, ("load", "from")))
    found = [_need(experiment, text, key, problems) for text, key in written]
    return tuple(dict.fromkeys(need for need in found if need))


def checkpoint(experiment: Experiment) -> Checkpoint | None:
    """Where the checkpoint is looked for when the job starts; None where nothing is loaded."""
    spec = experiment.spec
    if spec.load is None and spec.resume is None:
        return None
    need, path, glob = None, "", ""
    if spec.load:
        glob = spec.load.glob
        path = spec.load.path or ""
        if spec.load.from_ and (need := _need(experiment, spec.load.from_, ("load", "from"), [])):
            path = str(experiment.project.joinpath(OUTPUTS, need.experiment, need.step, LATEST))
    return Checkpoint(path, glob, need, spec.resume.glob if spec.resume else "")


def _need(experiment: Experiment, text: str, key: Key, problems: list[Problem]) -> Need | None:
    seed = experiment.seed
    if "{seed}" in text and seed is None:
        problems.append(experiment.problem(key, "{seed}, but the run has no seed"))
        return None
    name, _, step = text.replace("{seed}", str(seed)).rpartition("/")
    need = Need(name or experiment.experiment, step)
    if not step or "/" in name or "{" in name + step:
        what = f"{text!r} is no step: STEP, or EXPERIMENT/STEP, with {{seed}} for this run's seed"
        problems.append(experiment.problem(key, what, "for a file or a directory say load.path"))
        return None
    if (need.experiment, need.step) == (experiment.experiment, experiment.step):
        problems.append(experiment.problem(key, f"{step!r} cannot need itself"))
        return None
    return need
