"""What a run does with a copy of the code: where it works, and from where its programs may import."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import PurePath

from gangrun.errors import Problem
from gangrun.plan.model import Code, Import, Replica, Word
from gangrun.spec.copy import Copy
from gangrun.spec.load import Experiment
from gangrun.spec.model import Role
from gangrun.spec.toml import Key

PROGRAM = "copied.py"


def workdir(experiment: Experiment, problems: list[Problem]) -> str:
    """Where commands start: the place in the copy that is the experiment's own, if that is in the repository."""
    live, copy = _live(experiment), experiment.copy
    if copy is None or not _inside(live, copy):
        return live
    if (place := copy.place(live)) is None:
        what = f"{live} is not in the copy of the code, as git tracks nothing in it"
        problems.append(experiment.problem(("workdir",), what, "git add what is in it, or name another one"))
    return place or live


def problems_of(experiment: Experiment, roles: Mapping[str, Role], setup: tuple[str, ...]) -> Iterator[Problem]:
    """Files that commands name from the working directory and that are there, but not in the copy."""
    live, copy = _live(experiment), experiment.copy
    if copy is None or not _inside(live, copy):
        return
    texts: list[tuple[Key, str]] = [
        (("roles", name, option, position), word)
        for name, role in roles.items()
        for option in ("command", "resume_command", "resume_flags")
        for position, word in enumerate(getattr(role, option) or ())
    ]
    for key, text in (*texts, *((("setup",), line) for line in setup)):
        if absent := copy.absent(text, live):
            what = f"{absent} is not in the copy of the code, as git does not track it"
            yield experiment.problem(key, what, "git add it, or name it by its whole path")


def _live(experiment: Experiment) -> str:
    """Where commands would start without a copy."""
    return experiment.spec.workdir or str(experiment.project)


def _inside(path: str, copy: Copy) -> bool:
    return f"{path}/".startswith(f"{copy.top}/")


def code(copy: Copy, start: str, roles: Mapping[str, Role], replicas: tuple[Replica, ...]) -> Code:
    """What the script is to say and to look at; `start` is where commands start.

    What runs in a container has an interpreter of its own there, of which nothing is known here.
    """
    outside = [replica for replica in replicas if not replica.parts and replica.role in roles]
    imports = (
        _import(tuple(map(copy.text, roles[replica.role].command or ())), replica, start, copy.path)
        for replica in outside
    )
    packages, modules = copy.importable
    return Code(
        words=copy.words,
        copy=copy.path,
        live=copy.top,
        project=copy.inside,
        packages=packages,
        modules=modules,
        imports=tuple(dict.fromkeys(imports)),
    )


def _import(command: tuple[str, ...], replica: Replica, start: str, copy: str) -> Import:
    """By what Python does: the folder of a script comes first, for anything else where it was started."""
    python = Word.of("python3")
    if command and PurePath(command[0]).name.rstrip("0123456789.") == "python":
        python = Word.of(command[0])
    first = start
    for word in command:
        if word in ("-m", "-c"):
            break
        if word.endswith(".py") and "{" not in word:
            first = os.path.normpath(PurePath(start, word).parent)
            break
    first = os.path.relpath(first, copy) if f"{first}/".startswith(f"{copy}/") else first
    return Import(python, first, dict(replica.env).get("PYTHONPATH"))
