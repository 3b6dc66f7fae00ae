"""The recorded answers of four Slurm versions."""

from __future__ import annotations

import ast
from pathlib import Path

DATA = Path(__file__).parents[2] / "data" / "slurm"
VERSIONS = ("20.11.4", "22.05.8", "24.11.5", "26.05.5")


def text(version: str, name: str) -> str:
    return (DATA / version / name).read_text()


def refusals(version: str) -> dict[str, tuple[int, str]]:
    """By name: exit code and stderr."""
    return _table(version, "refusals.tsv")


def forecasts(version: str) -> dict[str, tuple[int, str]]:
    """The same of `sbatch --test-only`."""
    return _table(version, "forecasts.tsv")


def _table(version: str, name: str) -> dict[str, tuple[int, str]]:
    lines = (line.split("\t") for line in text(version, name).splitlines())
    return {name: (int(code), ast.literal_eval(err)) for name, code, err in lines}
