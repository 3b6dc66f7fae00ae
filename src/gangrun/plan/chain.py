"""What a run builds on: the steps that it needs, and the checkpoint that it loads."""

from __future__ import annotations

import re

from gangrun.errors import Problem
from gangrun.plan.model import Checkpoint, Need
from gangrun.project import ITEMS, LATEST, OUTPUTS
from gangrun.spec.load import Experiment
from gangrun.spec.model import text as words
from gangrun.spec.toml import Key

_REFERENCE = re.compile(r"\{(\w+)\}")


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
            path = f"{path}/{ITEMS}/{need.item}" if need.item else path
    return Checkpoint(path, glob, need, spec.resume.glob if spec.resume else "")


def _need(experiment: Experiment, text: str, key: Key, problems: list[Problem]) -> Need | None:
    if "{seed}" in text and experiment.seed is None:
        problems.append(experiment.problem(key, "{seed}, but the run has no seed"))
        return None
    facts = {"seed": experiment.seed, **experiment.spec.parameters}
    names = _REFERENCE.sub(lambda found: words(facts[found[1]]) if found[1] in facts else found[0], text).split("/")
    if len(names) == 1:
        names.insert(0, experiment.experiment)
    if not all(names) or len(names) > 3 or any("{" in name for name in names):
        what = f"{text!r} is no step: STEP, EXPERIMENT/STEP or EXPERIMENT/STEP/ITEM, with {{seed}} for this run's seed"
        problems.append(experiment.problem(key, what, "for a file or a directory say load.path"))
        return None
    need = Need(*names)
    if need.whole == Need(experiment.experiment, experiment.step):
        problems.append(experiment.problem(key, f"{need.step!r} cannot need itself"))
        return None
    return need
