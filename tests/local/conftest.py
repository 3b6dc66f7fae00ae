"""Projects on this machine alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gangrun.cli import main
from tests.gangrun_cli import Done, Project, project_in


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project whose runs stay on this machine, whatever cluster it belongs to."""
    with project_in(tmp_path / "project", GANGRUN_CLUSTER="local") as project:
        yield project


@pytest.fixture
def said(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`said("run", FILE, NAME=VALUE)`: the same as `project.gangrun`, in this process, which is a hundred times as
    fast and does for commands that end before anything is started."""

    def call(*words: str, **env: str) -> Done:
        wanted = project.environment(**env)
        for name in os.environ.keys() - wanted.keys():
            monkeypatch.delenv(name)
        for name, value in wanted.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(project.dir)
        try:
            code = main(list(words))
        except SystemExit as end:  # argparse's way
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return call
