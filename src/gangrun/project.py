"""The project: the folder that holds the experiments, `clusters/` and `outputs/`."""

from __future__ import annotations

from pathlib import Path

OUTPUTS = "outputs"
LATEST = "latest"
"""The link to the newest: of a step's runs, of a run's attempts."""
ITEMS = "items"
"""Directory of the items in the run of a sweep."""
_MARKS = (".git", "clusters", "pyproject.toml", "slurm/init.sh")


def project_root(start: Path) -> Path:
    """The nearest folder from `start` upwards with a `.git`, `clusters/`, pyproject.toml or slurm/init.sh, else
    the current one."""
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in _MARKS):
            return folder
    return Path.cwd()
