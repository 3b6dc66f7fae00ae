"""Launchers, topologies and container runtimes by name: built in, or from an installed package's entry points.

A package adds one with `[project.entry-points."gangrun.launchers"]` (`gangrun.topologies`, `gangrun.containers`):
`name = "package.module:function"`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, TypeAlias

Group: TypeAlias = Literal["launchers", "topologies", "containers"]
BUILT_IN: dict[Group, tuple[str, ...]] = {
    "launchers": ("exec", "torchrun", "srun"),
    "topologies": ("torchft",),
    "containers": ("pyxis", "charliecloud", "apptainer", "podman"),
}
_FUNCTION: dict[Group, str] = {"launchers": "launch", "topologies": "expand", "containers": "contain"}


def names(group: Group) -> list[str]:
    """Every name of the group."""
    return sorted({*BUILT_IN[group], *(point.name for point in entry_points(group=f"gangrun.{group}"))})


@cache
def find(group: Group, name: str) -> Any:
    """The extension's function. Raises KeyError when there is none of that name."""
    # Cached as it is asked for each replica, and a search through the installed packages takes a millisecond.
    if name in BUILT_IN[group]:
        module = import_module(f"gangrun.{group}.{name}")
        return getattr(module, _FUNCTION[group])
    for point in entry_points(group=f"gangrun.{group}", name=name):
        return point.load()
    raise KeyError(name)


def exists(group: Group, name: str) -> bool:
    """Whether the group has an extension of this name."""
    try:
        find(group, name)
    except KeyError:
        return False
    return True
