"""The copy of the code that a run uses, as the project itself changes while the job waits."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

_NO_PACKAGES = frozenset({"tests", "test", "docs", "doc", "examples", "scripts", "benchmarks", "tools", "experiments"})
"""Folders whose names others install as well."""
_NO_MODULES = frozenset({"setup", "conftest", "noxfile"})


@dataclass(frozen=True)
class Copy:
    """What git tracks of a repository, with its changes, as it was at one moment."""

    top: str
    """The repository's root."""
    project: str
    """The project's root, which is that or below it."""
    path: str
    """Where the copy of `top` is, or will be."""
    tree: str
    """Git's id of the content."""
    commit: str
    """Empty where there is none yet."""
    dirty: bool
    """Whether tracked files differ from that commit."""
    tracked: frozenset[str] = field(repr=False)
    """The files in it, from the top, and all directories that they are in; `.` is the top."""
    store: str = ""
    """Directory of the index, and of the objects that it needs besides those of the repository, from which git makes
    the copy."""
    objects: str = ""
    """Directory of the repository's objects."""
    notes: tuple[str, ...] = ()
    """What a user should know to be in it, or not."""

    def place(self, path: str) -> str | None:
        """Where a path of the repository is in the copy; None where it is not in it."""
        inside = os.path.relpath(path, self.top)
        return os.path.normpath(f"{self.path}/{inside}") if inside in self.tracked else None

    def text(self, text: str) -> str:
        """The text with every path of the repository that is in the copy as the path there."""
        if self.top not in text:
            return text
        if text.startswith(f"{self.top}/") and (whole := self.place(text)):
            return whole
        end = r"[\s:;,'\"]"
        paths = rf"(?<![\w./-]){re.escape(self.top)}(?:/(?:(?!{end}).)*|(?={end})|$)"
        return re.sub(paths, lambda found: self.place(found[0]) or found[0], text)

    def absent(self, text: str, workdir: str) -> str:
        """A relative path in a word, or a line of bash, that the live directory has and the copy has not."""
        for word in re.split(r"[\s=:;]", text):
            named = word.strip("'\"")
            # A bare word may be the name of a directory by chance.
            if not named or named.startswith(("/", "-")) or not ("/" in named or PurePosixPath(named).suffix):
                continue
            live = f"{workdir}/{named}"
            if os.path.exists(live) and os.path.relpath(live, self.top) not in self.tracked:  # noqa: PTH110
                return named
        return ""

    @property
    def inside(self) -> str:
        """The project's root, from that of the repository."""
        return os.path.relpath(self.project, self.top)

    @property
    def words(self) -> str:
        """What it is, for the job's log."""
        changes = ", and the changes in diff.patch" if self.dirty else ""
        return f"{f'commit {self.commit}{changes}' if self.commit else 'no commit'}; tree {self.tree}"

    @cached_property
    def importable(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Packages and single modules that Python can import from the project, from the repository's root."""
        packages, modules = set(), set()
        files = [PurePosixPath(name) for name in self.tracked if name.endswith(".py")]
        for root in (self.project, f"{self.project}/src"):
            start = PurePosixPath(os.path.relpath(root, self.top))
            for parts in (file.relative_to(start).parts for file in files if file.is_relative_to(start)):
                path, name = str(start / parts[0]), parts[0].removesuffix(".py")
                if len(parts) == 1 and name not in _NO_MODULES:
                    modules.add(path)
                elif name not in _NO_PACKAGES and (root.endswith("/src") or parts[1:] == ("__init__.py",)):
                    packages.add(path)
        return tuple(sorted(packages)), tuple(sorted(modules))
