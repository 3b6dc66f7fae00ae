"""The preludes: real bash files, of which a script is put together."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def part(name: str) -> str:
    """One file of them."""
    return (files("gangrun.script") / "preludes" / f"{name}.sh").read_text(encoding="utf-8")


def prelude(scheduler: str) -> str:
    """The verbs of a script for a scheduler: what is common, then how it starts and stops a step."""
    return f"{part('common')}\n{part(scheduler)}"
