"""The tables of components, and shared keys that reach them: one value for all who have the key, or a conflict."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import tomli_w

from gangrun.errors import Problem
from gangrun.recipes.given import Given
from gangrun.spec.load import Source, dotted, locate, nearest_source
from gangrun.spec.model import verbatim
from gangrun.spec.toml import Key, Table

RUN_DIR = "{run.dir}"
"""Stands for the run's directory, which is not known before the run is made."""


@dataclass
class Components:
    """The components' own tables as they were given, to be filled in."""

    given: Given
    names: tuple[str, ...]
    tables: Table = field(init=False)
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tables = {name: deepcopy(self.given.values.get(name, {})) for name in self.names}

    def get(self, *key: str) -> Any:
        """The value at this key, None where there is none."""
        here: Any = self.tables
        for part in key:
            here = here.get(part) if isinstance(here, dict) else None
        return here

    def set(self, key: tuple[str, ...], value: Any, why: str, way_out: str = "keep one of the two") -> None:
        """Puts the value at this key; another one that is there is a problem, told with `why`."""
        here = self.tables
        for end, part in enumerate(key[:-1], 1):
            inner = here.setdefault(part, {})
            if not isinstance(inner, dict):
                self.problem(key[:end], f"{inner!r} leaves no room for {dotted(key)}: {why}", way_out)
                return
            here = inner
        old = here.setdefault(key[-1], deepcopy(value))
        if old != value:
            self.problem(key, f"{old!r} conflicts with {why}", way_out)

    def share(self, key: tuple[str, ...], *targets: tuple[str, ...], agree: bool = True) -> None:
        """Takes a shared key to these keys of components.

        Where it is not given, components that have it themselves must `agree`.
        """
        targets = tuple(target for target in targets if target[0] in self.tables)
        value = self.given.at(*key)
        if value is not None:
            for target in targets:
                self.set(target, value, self.said(key, value))
        elif agree:
            there = [target for target in targets if self.get(*target) is not None]
            for one, other in pairwise(there):
                if self.get(*one) != self.get(*other):
                    what = f"{self.get(*other)!r} conflicts with {self.said(one, self.get(*one))}"
                    self.problem(other, what, f"give both by {dotted(key)} at the top")

    def groups(self, nodes: int, group: int | None, noun: str, target: tuple[str, ...]) -> None:
        """Derives how many FSDP groups the training nodes form."""
        if group is None:
            return
        groups, rest = divmod(nodes, group)
        if rest:
            what = f"{nodes} nodes do not divide into groups of {group}"
            self.problem(("nodes_per_fsdp_group",), what, f"choose a divisor of {noun}")
        else:
            self.set(target, groups, f"{noun} / nodes_per_fsdp_group = {groups}", "leave it out")

    def said(self, key: Key, value: Any) -> str:
        """`max_steps = 5 (a.toml:3)`."""
        source = nearest_source(self.given.sources, key) or Source()
        place = f" ({source})" if str(source) else ""
        return f"{dotted(key)} = {value!r}{place}"

    def problem(self, key: Key, what: str, way_out: str = "") -> None:
        """Notes a problem at the place of this key."""
        self.problems.append(locate(self.given.sources, self.given.file, key, what, way_out))


def as_text(table: Table) -> str:
    """A component's table as the text of a file for the run's directory, in which braces are doubled but RUN_DIR's."""
    text = verbatim(tomli_w.dumps(table))
    return text.replace("{" + RUN_DIR + "}", RUN_DIR)
