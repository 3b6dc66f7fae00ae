"""Experiments from text: a project with `clusters/` in a temporary directory, and what becomes of its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from gangrun.errors import SpecError
from gangrun.plan.model import Plan
from gangrun.resolve import resolve
from gangrun.spec.load import load
from gangrun.spec.model import Profile
from gangrun.spec.profile import Cluster

# On a machine that others use, how long one example takes says nothing.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write(text, name)` puts a file into the project, which is the current directory, and gives its relative path."""
    (tmp_path / "clusters").mkdir()
    monkeypatch.chdir(tmp_path)

    def one(text: str, name: str = "exp/step.toml") -> Path:
        file = Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return one


@pytest.fixture
def resolved(write: Callable[..., Path]) -> Callable[..., Plan]:
    """`resolved(text, *overrides, profile={…})` is the plan of a file with this text."""

    def plan(text: str, *overrides: str, profile: dict[str, Any] | None = None, name: str = "exp/step.toml") -> Plan:
        cluster = Cluster("site", Profile.model_validate(profile or {}))
        return resolve(load(write(text, name), overrides), cluster)

    return plan


@pytest.fixture
def refused(resolved: Callable[..., Plan]) -> Callable[..., list[str]]:
    """`refused(text, …)` is the words of every problem that keeps the text from becoming a plan."""

    def words(*args: Any, **more: Any) -> list[str]:
        with pytest.raises(SpecError) as caught:
            resolved(*args, **more)
        return [str(problem) for problem in caught.value.problems]

    return words
