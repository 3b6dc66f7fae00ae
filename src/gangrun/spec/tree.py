"""The experiment tree: `experiments/<exp id>_<exp name>/<step id>_<step name>_<seed>.{toml,sh,py}`.

Names and seeds come from the path. A batch script is a step as well, under any of the suffixes that these have. A file
whose name does not begin with a number and `_`, such as a `base.toml` that others extend, is no step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gangrun.errors import InputError, Problem, SpecError

FOLDERS = ("experiments", "slurm/experiments")
SUFFIXES = (".toml", ".py", ".sh", ".bash", ".sbatch", ".slurm", ".job")
_STEP = re.compile(r"(?P<id>\d+)_[^.]+")
_SEEDED = re.compile(r"(?P<name>.+)_(?P<seed>\d+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One file of the tree."""

    file: Path
    experiment: str
    """Name of the folder."""
    step: str
    """Name of the file without its suffix, seed included."""
    seed: int | None

    @property
    def name(self) -> str:
        """The step's name without the seed: what its seeds have in common."""
        return self.step if self.seed is None else self.step.rpartition("_")[0]


def split(stem: str) -> tuple[str, int | None]:
    """A file's name without and with the seed that ends it: `000_pretrain_0` is (`000_pretrain`, 0)."""
    match = _SEEDED.fullmatch(stem)
    return (match["name"], int(match["seed"])) if match else (stem, None)


def seed_problem(stem: str) -> str:
    """What is wrong with the seed in the name of a step; nothing for a name without a step id or without a seed."""
    if not _STEP.fullmatch(stem) or stem.count("_") < 2 or _SEEDED.fullmatch(stem):
        return ""
    return f"the file's name ends in {stem.rpartition('_')[2]!r}, which is no seed: <step id>_<step name>_<seed>"


def is_step(file: Path) -> bool:
    """Whether the file's name is that of a step."""
    return file.suffix in SUFFIXES and bool(_STEP.fullmatch(file.stem))


def read(folders: list[Path]) -> list[Step]:
    """The steps in these folders of experiments, in the order of their ids and seeds.

    Raises SpecError for every file without a seed or without an identity of its own.
    """
    steps = [step for folder in folders for step in _steps(folder)]
    problems = [
        Problem("", words, str(step.file), 0, f"{step.step}_0{step.file.suffix}, or join the name by dashes")
        for step in steps
        if (words := seed_problem(step.step))
    ]
    known: dict[tuple[str, str, int | None], Step] = {}
    for step in steps:
        first = known.setdefault((step.experiment, step.name, step.seed), step)
        if first is not step:
            what = f"is the same step as {first.file}: {step.experiment}/{step.step}"
            problems.append(Problem("", what, str(step.file), 0, "give one of them another name or seed"))
    if problems:
        raise SpecError(problems)
    return sorted(steps, key=_order)


def with_other_seeds(steps: Sequence[Step], made: Callable[[str], Iterable[str]]) -> list[Step]:
    """The steps, and each under the seeds that it has runs of and no file: those of `--seeds`.

    `made` names the steps of an experiment that have runs.
    """
    first = {(step.experiment, step.name): step for step in reversed(steps)}
    known = {(step.experiment, step.step) for step in steps}
    others = []
    for experiment in dict.fromkeys(step.experiment for step in steps):
        for name in made(experiment):
            step = first.get((experiment, split(name)[0]))
            if step and (experiment, name) not in known:
                others.append(Step(step.file, experiment, name, split(name)[1]))
    return sorted([*steps, *others], key=_order)


def places(project: Path) -> list[Path]:
    """Where a project has experiments."""
    return [project / name for name in FOLDERS if (project / name).is_dir()]


def spread(folders: list[Path]) -> list[Path]:
    """Folders of experiments: those that hold steps as they are, and the folders in the others."""
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}")
        inside = sorted(folder.iterdir())
        inner = [one for one in inside if one.is_dir() and not one.name.startswith((".", "_"))]
        found += [folder] if any(map(is_step, inside)) else inner
    return found


def _steps(folder: Path) -> Iterator[Step]:
    for file in sorted(folder.iterdir()):
        if is_step(file) and file.is_file():
            yield Step(file, folder.absolute().name, file.stem, split(file.stem)[1])


def _order(step: Step) -> tuple[int, str, int, str, int]:
    return (_number(step.experiment), step.experiment, _number(step.step), step.name, step.seed or 0)


def _number(name: str) -> int:
    digits = name.partition("_")[0]
    return int(digits) if digits.isdecimal() else -1
