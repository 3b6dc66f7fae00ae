"""The project: the folder that holds the experiments, `clusters/` and `outputs/`."""

from __future__ import annotations

from pathlib import Path

OUTPUTS = "outputs"
_MARKS = (".git", "clusters", "pyproject.toml")


def project_root(start: Path) -> Path:
    """The nearest folder from `start` upwards with a `.git`, `clusters/` or pyproject.toml, else the current one."""
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in _MARKS):
            return folder
    return Path.cwd()
