"""Scripts that source `slurm/init.sh`: their names, the functions that they get, and the experiments these end in.

Each `jobs/NAME.toml` is an experiment file without a name of its own and becomes the function NAME, whose arguments are
flags of sbatch. The script's path names experiment, step and seed.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from gangrun.errors import InputError, Problem, SpecError, UsageError
from gangrun.project import OUTPUTS, project_root
from gangrun.record.naming import run_id, sanitise, stamp
from gangrun.record.rundir import RunDir
from gangrun.record.store import Store
from gangrun.spec import flags, tree
from gangrun.spec.load import Experiment, Source, experiment_of
from gangrun.spec.model import verbatim
from gangrun.spec.toml import Key, Table

JOBS = "jobs"
KINDS = ("training", "evaluation")
"""Folders of `outputs` that a script knows by a variable, such as TRAINING_OUTPUT_DIR."""
SCRIPT, STAMP, LOAD, RESUME = "GANGRUN_SCRIPT", "SLURM_JOB_DATE", "GANGRUN_LOAD", "GANGRUN_RESUME"
EXAMPLE = "slurm/experiments/001_example/000_pretrain1_0.sh"
_SHIPPED = ("train", "evaluate", "collect")
_STAMPED = "%y%m%d_%H%M%S"
_SOURCES = re.compile(r"^[ \t]*(?:source|\.)[ \t][^\n]*\binit\.sh", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TAKEN = frozenset({
    "case", "cd", "do", "done", "echo", "elif", "else", "esac", "eval", "exec", "exit", "export", "fi", "for",
    "function", "if", "in", "load", "local", "posttrain", "printf", "read", "resume", "return", "select", "set",
    "shift", "source", "test", "then", "time", "trap", "type", "unset", "until", "wait", "while",
})  # fmt: skip
"""What bash keeps for itself, what the functions need, and the functions that every script has."""
_VERBS = """\
load() { gangrun_lines=$(gangrun bash --load "${1:-}") && eval "$gangrun_lines"; }
posttrain() { load "$@"; }
resume() { gangrun_lines=$(gangrun bash --resume "${1:-}") && eval "$gangrun_lines"; }"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script of the experiment tree, and the moment that names its run."""

    file: Path
    project: Path
    experiment: str
    step: str
    stamp: str

    @classmethod
    def at(cls, file: Path, project: Path, when: float) -> Script:
        """The script in this file. Raises UsageError where it is none that gangrun can name, SpecError for a name
        without a seed, InputError for one that is too long."""
        if not file.is_file():
            what = f"slurm/init.sh is sourced by {str(file)!r}, which is no file"
            raise UsageError(what, way_out=f"source it in a script such as {EXAMPLE}")
        if file.name == "slurm_script":
            what = "this script was handed to sbatch, which copies it to where it has neither experiment nor seed"
            raise UsageError(what, way_out="bash SCRIPT: its functions queue their jobs themselves")
        experiment, step = file.resolve().parent.name, file.stem
        if words := tree.seed_problem(step) or ("" if tree.split(step)[1] is not None else "has no seed"):
            raise SpecError([Problem("", words, str(file), 0, "<step id>_<step name>_<seed>.sh")])
        experiment, step = sanitise(experiment, "experiment"), sanitise(step, "step")
        run_id(experiment, step, when)
        # So that what the script does with its directories before it starts a run does not end up in another one's.
        while (project / OUTPUTS / experiment / step / stamp(when)).exists():
            when += 1
        return cls(_absolute(file), project, experiment, step, stamp(when))

    def variables(self) -> dict[str, str]:
        """What the script and its jobs may use."""
        folders = f"{self.experiment}/{self.step}/{self.stamp}"
        return {
            SCRIPT: str(self.file),
            "PROJECT_ROOT": str(self.project),
            "EXPERIMENT_NAME": self.experiment,
            "SCRIPT_NAME": self.step,
            STAMP: self.stamp,
            "EXPERIMENT_RUN_ID": run_id(self.experiment, self.step, self.stamp),
            "EXPERIMENT_RUN_DIR": folders,
            "EXPERIMENT_SEED": str(tree.split(self.step)[1]),
            **{f"{kind.upper()}_OUTPUT_DIR": f"{self.project}/{OUTPUTS}/{kind}/{folders}" for kind in KINDS},
        }

    @property
    def when(self) -> float:
        """The moment in seconds since the epoch."""
        return time.mktime(time.strptime(self.stamp, _STAMPED))


def sources_init(file: Path) -> bool:
    """Whether it is a script that sources `slurm/init.sh`, be it by another path."""
    try:
        return bool(_SOURCES.search(file.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False


def prelude(file: Path, project: Path, when: float) -> str:
    """What a script evaluates when it sources `slurm/init.sh`: its variables and functions, and the project's root as
    its folder, so that relative paths in it mean the same wherever it is called. Raises InputError."""
    jobs = [f'{job}() {{ gangrun job {job} "$@"; }}' for job in (one.stem for one in _jobs(project))]
    # What another script, by which this one is called, has said is meant for its own jobs.
    lines = [f"unset {LOAD} {RESUME}", *_exports(Script.at(file, project, when).variables())]
    return "\n".join([*lines, f"cd -- {shlex.quote(str(project))}", _VERBS, *jobs])


def resuming(word: str, store: Store, file: str) -> str:
    """What a script evaluates to go on with the run that this word names: the variables of that run's script."""
    run = store.find(os.path.realpath(word) if word and Path(word).exists() else word)
    old = Script(Path(file), store.root.parent, run.experiment, run.step, run.stamp)
    return "\n".join(_exports({**old.variables(), RESUME: run.dir}))


def loading(word: str, store: Store, ended: Callable[[RunDir], bool], here: str) -> str:
    """What a script evaluates to begin with the checkpoint that this word names.

    A file, or a folder in which the newest is looked for; a run that has not `ended`, or a step by its name or its
    folder, is one that the job waits for. `here` is the script's experiment. Raises InputError where there is nothing
    of the kind.
    """
    path = Path(word)
    if not word or not path.exists():
        name, _, step = word.rpartition("/")
        if step and "/" not in name and store.newest(name or here, step):
            return _export(LOAD, f"from:{word}")
        way_out = "a file, a folder, or a step that has a run: posttrain 000_pretrain_0"
        raise InputError(f"there is no checkpoint {word!r}", where=str(Path.cwd()), way_out=way_out)
    path = path.resolve()
    run = None if path.is_file() else _run_at(path, store)
    # Of a run that has ended what is there counts, whatever came of it.
    if run and run == store.newest(run.experiment, run.step) and (path != run.path or not ended(run)):
        return _export(LOAD, f"from:{run.experiment}/{run.step}")
    return _export(LOAD, f"path:{run.dir if run else path}")


def _run_at(path: Path, store: Store) -> RunDir | None:
    """The run whose directory this is, or the newest of the step whose folder it is; None for any other path."""
    root = store.root.resolve()
    if not path.is_relative_to(root):
        return None
    names = path.relative_to(root).parts
    names = names[1:] if names and names[0] in KINDS else names
    if len(names) == 2:
        return store.newest(*names)
    run = RunDir(store.root.joinpath(*names))
    return run if len(names) == 3 and run.events.exists() else None


def experiment(job: str, words: Sequence[str], env: Mapping[str, str]) -> tuple[Experiment, Script]:
    """The experiment of `jobs/JOB.toml` in the script around it, with sbatch's flags over the file.

    Raises UsageError outside of a script, SpecError and InputError for what is wrong with the file or the flags.
    """
    file = script_around(env)
    project = Path(env["PROJECT_ROOT"])
    script = Script(file, project, env["EXPERIMENT_NAME"], env["SCRIPT_NAME"], env[STAMP])
    base = project / JOBS / f"{job}.toml"
    if not base.is_file():
        known = ", ".join(one.stem for one in _jobs(project)) or "none"
        raise InputError(f"there is no job {job!r}: {base}", why=f"jobs here: {known}")
    first = experiment_of({"extends": str(base)}, file, project=project)
    values: Table = {"extends": str(base), "experiment": script.experiment, "step": script.step}
    values["seed"] = tree.split(script.step)[1]
    sources: dict[Key, Source] = {("experiment",): Source(str(file)), ("extends",): Source(str(file))}
    if allocation := flags.allocation(words):
        values["allocation"] = allocation
        sources |= {("allocation", key): Source(f"{job} in {file}") for key in allocation}
    dotlist = {name: _tokens(name, env, own) for name, own in first.spec.dotlist.items()}
    if any(dotlist.values()):
        values["dotlist"] = dotlist
    values["env"] = _environment(script, first.spec.output, first.values.get("env", {}))
    if env.get(LOAD):
        how, _, what = env[LOAD].partition(":")
        values["load"] = {how: what, **({"glob": first.spec.resume.glob} if first.spec.resume else {})}
        sources |= {("load",): Source(f"posttrain in {file}"), ("load", how): Source(f"posttrain in {file}")}
    return experiment_of(values, file, sources, project=project), script


def script_around(env: Mapping[str, str]) -> Path:
    """The script whose variables these are. Raises UsageError where there is none."""
    if not env.get(SCRIPT):
        raise UsageError("this is for scripts that source slurm/init.sh", way_out="gangrun init --bash writes one")
    return Path(env[SCRIPT])


def fitted(experiment: Experiment) -> Experiment:
    """The experiment with what this machine has of the GPUs that it asks for, as one node."""
    have = _gpus_here()
    asked = experiment.spec.allocation
    kept = {name: value for name, value in asked.sbatch.items() if name not in ("gres", "gpus", "gpus-per-node")}
    update = {"nodes": 1, "gpus": min(asked.gpus, have), "cpus": None, "sbatch": kept}
    return replace(experiment, spec=experiment.spec.model_copy(update={"allocation": asked.model_copy(update=update)}))


def _gpus_here() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def templates() -> dict[str, str]:
    """The files that `gangrun init --bash` writes, by their path in the project."""
    folder = files("gangrun.recipes") / "bash_files"
    return {
        "slurm/init.sh": (folder / "init.sh").read_text(encoding="utf-8"),
        EXAMPLE: (folder / "example.sh").read_text(encoding="utf-8"),
        **{f"{JOBS}/{name}.toml": (folder / f"{name}.toml").read_text(encoding="utf-8") for name in _SHIPPED},
    }


def resumed(env: Mapping[str, str]) -> RunDir | None:
    """The run that the script goes on with."""
    return RunDir(env[RESUME]) if env.get(RESUME) else None


def project_of(file: Path) -> Path:
    """The project of a script; the `slurm/` of a tree below it is none."""
    return project_root(_absolute(file).parent)


def _absolute(file: Path) -> Path:
    """Not Path.resolve(): it would turn the links that lead to the project into other names for it."""
    return Path(os.path.normpath(Path.cwd() / file))


def _jobs(project: Path) -> Iterator[Path]:
    """The files of jobs. Raises InputError for one that cannot be a function."""
    for file in sorted((project / JOBS).glob("*.toml")):
        if not _NAME.fullmatch(file.stem) or file.stem in _TAKEN:
            raise InputError(f"{file}: {file.stem!r} cannot be the name of a bash function here")
        yield file


def _exports(variables: Mapping[str, str]) -> list[str]:
    return [_export(name, value) for name, value in variables.items()]


def _export(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"


def _tokens(name: str, env: Mapping[str, str], own: Mapping[str, str]) -> Table:
    """What the script has put into a dotlist, the last of each key, without those that the job sets itself.

    A value may hold any quote; nothing splits it but blanks, as nothing else will in the program.
    """
    found: Table = {}
    for token in env.get(name, "").split():
        key, equals, value = token.partition("=")
        if not key or not equals:
            raise InputError(
                f"{name} holds {token!r}, which is no KEY=VALUE",
                why="programs split it at blanks, whatever quotes stand around them, so a value cannot hold one",
            )
        if "{load}" in own.get(key, ""):
            what = f"{name} says {token}, which load, posttrain and resume decide"
            raise InputError(what, way_out=f"posttrain {value}")
        found.pop(key, None)
        if key not in own:
            # In braces of our own nothing is a reference.
            found[key] = verbatim(value)
    return found


def _environment(script: Script, output: str | None, given: Mapping[str, str]) -> Table:
    """The script's variables for the job, where they outlive this shell: by references, so that a repeated run has
    its own."""
    names = script.variables()
    values = {name: verbatim(text) for name, text in names.items()}
    values["EXPERIMENT_RUN_ID"] = "{run.name}"
    if output in KINDS:
        values[f"{output.upper()}_OUTPUT_DIR"] = "{run.dir}"
    return {name: text for name, text in values.items() if name not in (SCRIPT, STAMP) and name not in given}
