"""Quoting as a type: a `Word` becomes exactly one bash word, whatever is in it."""

from __future__ import annotations

import re

from gangrun.errors import InputError
from gangrun.plan.model import Addresses, Host, Option, Part, Port, Var, Word

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ACTIVE = re.compile(r'([\\"$`])')


def bash(word: Word) -> str:
    """The word as bash source. References become array elements and variables of the script."""
    if all(isinstance(part, str) for part in word.parts):
        return literal("".join(str(part) for part in word.parts))
    return '"' + "".join(_active(part) for part in word.parts) + '"'


def literal(text: str) -> str:
    """Text that means itself, bare where bash would not touch it anyway."""
    # A word such as a=b is an assignment only as a command's first word, and those follow `--` here.
    if _PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def shown(word: Word) -> str:
    """The word for a person or as data: without quotes, references as they stand in the script."""
    return "".join(map(_shown, word.parts))


def known_text(word: Word, run_name: str, run_dir: str) -> str:
    """The word as it reads once the run has its name and directory, before there is a job."""
    known = {"run_name": run_name, "run_dir": run_dir}
    return "".join(known[part.name] if isinstance(part, Var) else str(part) for part in word.parts)


def directive(name: str, value: str | None) -> str:
    """One `#SBATCH` flag. Slurm splits these lines itself: double quotes group, a backslash escapes.

    Raises InputError for a line break, which ends such a line whatever stands around it.
    """
    if value is None:
        return f"--{name}"
    if _CONTROL.search(value):
        raise InputError(
            f"--{name}={value!r} cannot stand in a batch script, as it holds a control character",
            way_out="give the project's directory another name" if name == "output" else "",
        )
    if _PLAIN.fullmatch(value):
        return f"--{name}={value}"
    escaped = re.sub(r'(["\\])', r"\\\1", value)
    return f'--{name}="{escaped}"'


def _shown(part: Part) -> str:
    if isinstance(part, Option):
        return f"${{{part.given.name.upper()}:+{''.join(map(_shown, part.parts))}}}"
    return part if isinstance(part, str) else _active(part)


def _active(part: Part) -> str:
    if isinstance(part, str):
        return _ACTIVE.sub(r"\\\1", part)
    if isinstance(part, Host):
        return f"${{HOSTS[{part.node}]}}"
    if isinstance(part, Port):
        return f"${{PORTS[{part.offset}]}}"
    if isinstance(part, Addresses):
        return f"${{ADDRESSES[{part.role}.{part.port}]}}"
    if isinstance(part, Option):
        # With quotes of its own between those around it: bash takes ' and } in "${x:+…}" for more than themselves.
        return f'"${{{part.given.name.upper()}:+"{"".join(map(_active, part.parts))}"}}"'
    return f"${{{part.name.upper()}}}"
