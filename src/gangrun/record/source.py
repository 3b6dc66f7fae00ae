"""Which code a run was made from: the project's git commit, and what differed from it."""

from __future__ import annotations

import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

MOST_DIFF = 10_000_000
"""Bytes of diff kept. A larger one is generated data that was committed, not code."""
_MOST_NAMES = 1000
_PATIENCE = 60
"""Seconds for one git call; `git status` on a cold network file system takes several."""


@dataclass(frozen=True, slots=True)
class Source:
    """The state of the code. Contents of untracked files are never in it; their names are."""

    commit: str = ""
    """Full id, empty where there is none."""
    branch: str = ""
    dirty: bool = False
    """Whether tracked files differ from the commit."""
    untracked: tuple[str, ...] = ()
    """From the top of the repository; a directory with nothing tracked in it is one name that ends in `/`."""
    diff: bytes = b""
    """A patch against the commit, binary files included, cut at 10 MB."""
    notes: tuple[str, ...] = ()
    """What could not be told, and why."""

    def describe(self) -> str:
        """The text of `commit.txt`."""
        lines = [f"commit: {self.commit or 'none'}"]
        if self.branch:
            lines.append(f"branch: {self.branch}")
        if self.commit:
            lines.append(f"dirty: {'yes, see diff.patch' if self.dirty else 'no'}")
        lines += [f"note: {note}" for note in self.notes]
        if self.untracked:
            lines.append("untracked, not kept:")
            lines += [f"  {name}" for name in self.untracked]
        return "\n".join(lines) + "\n"


def read_source(project: str, outputs: str) -> Source:
    """Asks git about the repository that holds the directory `project`, leaving out what lies in `outputs`.

    Never raises: a project without git is recorded as such. Only options that git 1.8.3 of CentOS 7 has.
    """
    where = _ask(project, ("rev-parse", "--show-prefix", "HEAD"))
    if not where.out:
        return Source(notes=(where.why,))
    prefix, _, commit = where.out.decode("utf-8", "surrogateescape").rstrip("\n").partition("\n")
    if where.why:
        commit = ""  # git repeats the word HEAD where it means nothing yet
    notes = [] if commit else ["the repository has no commit yet"]
    status = _ask(project, ("status", "--porcelain", "--branch", "-z", "--untracked-files=normal"))
    if status.why:
        notes.append(f"no status: {status.why}")
    branch = ""
    dirty = False
    untracked = []
    entries = iter(status.out.decode("utf-8", "surrogateescape").split("\0"))
    own = _below(outputs, project, prefix)
    for entry in entries:
        kind, name = entry[:2], entry[3:]
        if kind == "##":
            branch = name.split("...")[0].rpartition(" on ")[2].removesuffix("HEAD (no branch)")
        elif kind == "??":
            if own is None or not name.startswith(own):
                untracked.append(name)
        elif kind:
            dirty = True
            if "R" in kind or "C" in kind:  # the old name follows as an entry of its own
                next(entries, None)
    if len(untracked) > _MOST_NAMES:
        notes.append(f"{len(untracked)} untracked names; the first {_MOST_NAMES} are listed")
        del untracked[_MOST_NAMES:]
    diff = b""
    if commit and dirty:
        flags = ("--no-color", "--no-ext-diff", "--no-textconv", "--binary", "--src-prefix=a/", "--dst-prefix=b/")
        patch = _ask(project, ("diff", *flags, "HEAD"), MOST_DIFF + 1)
        diff = patch.out[:MOST_DIFF]
        if len(patch.out) > MOST_DIFF:
            notes.append(f"diff.patch is cut after {MOST_DIFF} bytes and cannot be applied")
        elif patch.why:
            notes.append(f"no diff: {patch.why}")
    return Source(commit, branch, dirty, tuple(untracked), diff, tuple(notes))


def _below(outputs: str, project: str, prefix: str) -> str | None:
    """How git names the directory `outputs`, from the top of the repository; None where it lies elsewhere."""
    try:
        return f"{prefix}{Path(outputs).relative_to(project)}/"
    except ValueError:
        return None


def git_environment() -> dict[str, str]:
    """The environment for git: no lock in a repository that the user may be working in, and no other repository than
    the project's, which git would take if this ran inside one of its hooks."""
    hidden = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class _Answer:
    out: bytes
    why: str = ""
    """Why there is no answer, or no whole one, in git's words where it spoke."""


def _ask(project: str, words: tuple[str, ...], most: int = -1) -> _Answer:
    """What git prints, up to `most` bytes."""
    try:
        child = subprocess.Popen(
            ["git", "--no-pager", "-C", project, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=git_environment(),
        )
    except FileNotFoundError:
        return _Answer(b"", "git is not installed")
    except OSError as error:
        return _Answer(b"", f"git cannot be run: {error.strerror}")
    assert child.stdout is not None  # noqa: S101 - for the type checker
    assert child.stderr is not None  # noqa: S101
    complaints: list[bytes] = []
    listener = threading.Thread(target=lambda stream: complaints.append(stream.read()), args=(child.stderr,))
    timer = threading.Timer(_PATIENCE, child.kill)
    with child:
        listener.start()
        timer.start()
        try:
            out = child.stdout.read(most)
            if len(out) == most:
                child.kill()
            code = child.wait()
        finally:
            late = timer.finished.is_set()
            timer.cancel()
            listener.join()
    if late:
        return _Answer(out, f"git gave no answer within {_PATIENCE} s")
    if code and len(out) != most:
        said = b"".join(complaints).decode("utf-8", "replace").strip().split("\n")[0]
        return _Answer(out, said.removeprefix("fatal: ") or f"git ended with {code}")
    return _Answer(out)
