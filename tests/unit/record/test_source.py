from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gangrun.record import source
from gangrun.record.events import Created
from gangrun.record.source import MOST_DIFF, read_source
from gangrun.record.store import Store


def git(project: Path, *words: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(project), *settings, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one commit."""
    place = tmp_path / "project"
    place.mkdir()
    git(place, "init", "-q", "-b", "trunk")
    (place / "train.py").write_text("print(1)\n")
    (place / "old name.py").write_text("print('a file that is long enough to be known again')\n" * 5)
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "first")
    return place


def look(project: Path) -> source.Source:
    return read_source(str(project), str(project / "outputs"))


def test_a_clean_project(project: Path) -> None:
    got = look(project)
    head = git(project, "rev-parse", "HEAD")
    assert got == source.Source(commit=head, branch="trunk")
    assert got.describe() == f"commit: {head}\nbranch: trunk\ndirty: no\n"


def test_a_changed_project_is_kept_as_a_patch(project: Path, tmp_path: Path) -> None:
    head = git(project, "rev-parse", "HEAD")
    git(project, "mv", "old name.py", "new näme.py")
    (project / "train.py").write_text("print(2)\n")
    (project / "weights.bin").write_bytes(bytes(range(256)) * 4)
    git(project, "add", "weights.bin")
    (project / "secret.env").write_text("TOKEN=hunter2\n")
    (project / "outputs" / "e").mkdir(parents=True)
    (project / "outputs" / "e" / "x").write_text("x")
    git(project, "config", "color.ui", "always")
    git(project, "config", "diff.noprefix", "true")
    got = look(project)
    assert (got.commit, got.dirty, got.untracked, got.notes) == (head, True, ("secret.env",), ())
    assert "secret.env" in got.describe()
    assert b"hunter2" not in got.diff
    assert "hunter2" not in got.describe()
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(project), str(copy))
    subprocess.run(["git", "-C", str(copy), "apply", "-"], input=got.diff, check=True)
    assert (copy / "train.py").read_text() == "print(2)\n"
    assert (copy / "new näme.py").exists()
    assert (copy / "weights.bin").read_bytes() == (project / "weights.bin").read_bytes()


def test_a_project_below_the_top_of_its_repository(project: Path) -> None:
    below = project / "research"
    (below / "outputs").mkdir(parents=True)
    (below / "outputs" / "x").write_text("")
    (below / "run.py").write_text("")
    git(project, "add", "research/run.py")
    (below / "notes.txt").write_text("")
    got = look(below)
    assert got.untracked == ("research/notes.txt",)
    assert got.dirty
    assert b"research/run.py" in got.diff


def test_a_detached_head_has_no_branch(project: Path) -> None:
    git(project, "checkout", "-q", "--detach")
    assert look(project).branch == ""
    assert look(project).commit


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "train.py").write_text("")
    git(tmp_path, "add", "train.py")
    got = look(tmp_path)
    assert (got.commit, got.branch, got.diff) == ("", "trunk", b"")
    assert got.notes == ("the repository has no commit yet",)


def test_no_repository_and_no_git_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not a git repository" in look(tmp_path).notes[0]
    assert "cannot change to" in look(tmp_path / "gone").notes[0]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look(tmp_path) == source.Source(notes=("git is not installed",))
    assert look(tmp_path).describe() == "commit: none\nnote: git is not installed\n"


def test_the_repository_of_a_hook_is_not_the_projects(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert look(project).branch == "trunk"


def test_a_huge_diff_is_cut(project: Path) -> None:
    (project / "train.py").write_text("".join(f"{number:099}\n" for number in range(MOST_DIFF // 100 + 5000)))
    got = look(project)
    assert len(got.diff) == MOST_DIFF
    assert got.notes == (f"diff.patch is cut after {MOST_DIFF} bytes and cannot be applied",)
    assert "dirty: yes, see diff.patch" in got.describe()


def test_many_untracked_names_are_cut(project: Path) -> None:
    for number in range(1005):
        (project / f"{number:04}.txt").write_text("")
    got = look(project)
    assert len(got.untracked) == 1000
    assert got.notes == ("1005 untracked names; the first 1000 are listed",)


def test_a_git_that_hangs_is_left(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(source, "_PATIENCE", 0.2)
    assert look(project).notes[0].startswith("git ")


def test_git_is_asked_once_for_many_runs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "train.py").write_text("print(2)\n")
    counting = tmp_path / "bin" / "git"
    counting.parent.mkdir()
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    counting.write_text(f'#!/bin/sh\necho "$*" >>\'{tmp_path}/calls\'\nexec {real} "$@"\n')
    counting.chmod(0o755)
    monkeypatch.setenv("PATH", f"{counting.parent}:{os.environ['PATH']}")
    store = Store(project / "outputs")
    runs = [
        store.create("e", "s", spec="", script=lambda run: "", project=project, created=Created()) for _ in range(20)
    ]
    assert len((tmp_path / "calls").read_text().splitlines()) == 3
    for run in (runs[0], runs[-1]):
        event = run.read_events()[0]
        assert isinstance(event, Created)
        assert (event.commit, event.dirty) == (git(project, "rev-parse", "HEAD"), True)
        assert b"+print(2)" in run.diff.read_bytes()
        assert "untracked" not in run.commit.read_text()
