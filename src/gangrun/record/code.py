"""Copies of the code: what git tracks, with its changes, as it is at submission.

::

    <outputs>/.code/<tree>/      read-only, one for each state of the files, shared by all runs of that state
    <outputs>/<experiment>/<step>/260131_154500/code -> ../../../.code/<tree>

git makes the copy from an index and an object store of its own, so nothing in the repository is written.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gangrun.errors import InputError, RecordError
from gangrun.record.links import point
from gangrun.record.rundir import RunDir
from gangrun.record.source import git_environment
from gangrun.record.words import refusal
from gangrun.spec.copy import Copy

CODE = ".code"
"""Directory of the copies below `outputs`; hidden, so that no experiment can have its name."""
IN_USE = 120.0
"""Seconds for which a copy is left alone that was just made, or taken for a run that is not there yet."""
_ABANDONED = 3600.0
"""Seconds after which a copy that is half made belongs to a process that was killed."""
_PATIENCE = 600
"""Seconds for one git call: a copy of large files from a network file system takes minutes."""
_TREE = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHOWN = 5


def look(project: str, outputs: str) -> Copy:
    """The copy that a run would get now; `make` makes it.

    Raises InputError where the project is in no git repository, or git cannot say what is in it.
    """
    store = tempfile.TemporaryDirectory(prefix="gangrun-code-")
    _STORES.append(store)
    env = git_environment()
    prefix = _git(env, project, "rev-parse", "--show-prefix").strip("\n").rstrip("/")
    top = project.removesuffix(f"/{prefix}") if prefix else project
    if prefix and top == project:  # it is reached by a symbolic link
        top = _git(env, project, "rev-parse", "--show-toplevel").rstrip("\n")
    index = Path(project, _git(env, project, "rev-parse", "--git-path", "index").rstrip("\n"))
    objects = Path(project, _git(env, project, "rev-parse", "--git-path", "objects").rstrip("\n"))
    if index.exists():
        # What git knows of the files' times spares it reading them all. The index's own time goes with it: a file that
        # changed in the second in which the index was written is one that git looks into.
        shutil.copy2(index, f"{store.name}/index")
    Path(store.name, "objects").mkdir()
    env = _with_store(store.name, str(objects))
    _git(env, top, "add", "--update", "--", ".")
    tree = _git(env, top, "write-tree").strip()
    files = [name for name in _git(env, top, "ls-files", "-z").split("\0") if name]
    if not files:
        raise InputError("[code] snapshot: git tracks no file here", where=top, way_out="git add what the run needs")
    commit = _git(env, project, "rev-parse", "--verify", "--quiet", "HEAD", failing=True).strip()
    parents = {str(parent) for name in files for parent in Path(name).parents}
    return Copy(
        top=top,
        project=project,
        path=f"{outputs}/{CODE}/{tree}",
        tree=tree,
        commit=commit,
        dirty=not commit or _git(env, project, "rev-parse", "HEAD^{tree}").strip() != tree,
        tracked=frozenset(files) | parents,
        store=store.name,
        objects=str(objects),
        notes=tuple(_notes(env, top, outputs)),
    )


_STORES: list[tempfile.TemporaryDirectory[str]] = []
"""Of the copies that were looked for, as each is made later; they go with the process."""


def make(copy: Copy) -> None:
    """Makes the copy, unless it is there. Raises RecordError where it cannot be written."""
    path = Path(copy.path)
    try:
        # Not a look whether it is there before: `Kept.delete` may come between.
        with suppress(FileNotFoundError):
            with suppress(PermissionError):  # it may be a colleague's
                os.utime(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
    except OSError as error:
        raise refusal("cannot make a copy of the code", error.filename or str(path), error) from error
    try:
        env = _with_store(copy.store, copy.objects)
        _git(env, copy.top, "checkout-index", "--all", "--quiet", f"--prefix={draft}/{path.name}/")
        (draft / path.name).mkdir(exist_ok=True)
        _protect(draft / path.name)
        (draft / path.name).rename(path)
        path.chmod(0o555)
    except OSError as error:
        if not path.is_dir():  # another process was quicker
            raise refusal("cannot make a copy of the code", error.filename or str(draft), error) from error
    except InputError as error:
        raise RecordError("git cannot make a copy of the code", where=str(path), why=error.why) from error
    finally:
        _delete(draft)


def _notes(env: Mapping[str, str], top: str, outputs: str) -> Iterator[str]:
    staged = _git(env, top, "ls-files", "--stage", "-z").split("\0")
    modules = [entry.partition("\t")[2] for entry in staged if entry.startswith("160000 ")]
    if modules:
        yield f"the copy of the code has nothing of the submodule {_list(modules)}"
    large = _git(env, top, "ls-files", "-z", "--", ":(attr:filter=lfs)", failing=True).split("\0")
    if large := [name for name in large if name]:
        what = "is in the copy of the code as Git LFS gives it out here, a pointer where it has no more"
        yield f"{_list(large)} {what}"
    words = ("ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory", "-z")
    own = os.path.relpath(outputs, top)
    others = [name for name in _git(env, top, *words).split("\0") if name]
    if others := [name for name in others if not f"{name.rstrip('/')}/".startswith(f"{own}/")]:
        yield f"not in the copy of the code, as git does not track it: {_list(others)}"


def _with_store(store: str, objects: str) -> dict[str, str]:
    """The environment in which git reads and writes this index, and writes objects only here."""
    own = {"GIT_INDEX_FILE": f"{store}/index", "GIT_OBJECT_DIRECTORY": f"{store}/objects"}
    return {**git_environment(), **own, "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects}


def _git(env: Mapping[str, str], where: str, *words: str, failing: bool = False) -> str:
    """What git prints; empty where it fails and may. Raises InputError."""
    argv = ["git", "--no-pager", "-C", where, *words]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=_PATIENCE)
    except FileNotFoundError:
        why = "git is not installed"
    except subprocess.TimeoutExpired:
        why = f"git {words[0]} gave no answer within {_PATIENCE} s"
    else:
        if not done.returncode or failing:
            return "" if done.returncode else done.stdout.decode("utf-8", "surrogateescape")
        said = done.stderr.decode("utf-8", "replace").strip().removeprefix("fatal: ")
        why = said or f"git {words[0]} ended with {done.returncode}"
    raise InputError(
        "[code] snapshot = true takes what git tracks, and git cannot say what that is",
        where=where,
        why=why,
        way_out="git init and git add what the run needs, or leave snapshot out",
    )


def link(run: RunDir, copy: Copy) -> None:
    """Points from the run to the copy, which is kept as long as the run may need it, and no longer to an earlier one.
    Raises RecordError."""
    try:
        point(run.code, f"../../../{CODE}/{copy.tree}")
    except OSError as error:
        raise refusal("cannot link the copy of the code", str(run.code), error) from error


def missing(run: RunDir) -> str:
    """The copy that a run was given and that is gone; empty where it has its code."""
    try:
        target = run.code.readlink()
    except OSError:
        return ""
    return "" if run.code.is_dir() else target.name


@dataclass(frozen=True, slots=True)
class Kept:
    """One copy, and the runs that have it."""

    path: Path
    runs: tuple[RunDir, ...]
    used: float
    """When a run was last given it, in seconds since the epoch."""

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in _walk(self.path))

    def delete(self) -> bool:
        """Deletes it, in one step as far as others see; not, and False, where a run was given it since it was looked
        at. Raises RecordError."""
        gone = self.path.with_name(f".gone-{self.path.name}")
        try:
            self.path.rename(gone)  # first, as nobody is given it from now on
            if gone.stat().st_mtime > self.used:
                gone.rename(self.path)
                return False
        except OSError as error:
            raise refusal("cannot delete a copy of the code", str(self.path), error) from error
        _delete(gone)
        return True


def kept(outputs: Path, runs: Mapping[str, tuple[RunDir, ...]]) -> list[Kept]:
    """The copies that there are. `runs` are those of each tree, as `users` finds them."""
    folder = outputs / CODE
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [
        Kept(Path(entry.path), runs.get(entry.name, ()), entry.stat(follow_symlinks=False).st_mtime)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
        if _TREE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
    ]


def users(runs: Iterator[RunDir]) -> dict[str, tuple[RunDir, ...]]:
    """The runs that have a copy, by its tree."""
    found: dict[str, tuple[RunDir, ...]] = {}
    for run in runs:
        try:
            tree = os.path.basename(os.readlink(f"{run.dir}/code"))  # noqa: PTH115, PTH119 - thousands of runs
        except OSError:
            continue
        found[tree] = (*found.get(tree, ()), run)
    return found


def clear(outputs: Path) -> None:
    """Deletes what processes that were killed have left of copies half made or half deleted."""
    folder = outputs / CODE
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in os.scandir(folder):
        ours = entry.name.startswith((".new-", ".gone-")) and entry.is_dir(follow_symlinks=False)
        if ours and time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
            _delete(Path(entry.path))


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(folder):
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


def _protect(folder: Path) -> None:
    """Takes the right to write from all that is in it; the directory itself must still be moved."""
    for entry in list(_walk(folder)):
        if not entry.is_symlink():
            os.chmod(entry.path, entry.stat().st_mode & 0o555)  # noqa: PTH101


def _delete(folder: Path) -> None:
    """Deletes a directory of ours, read-only as its own are."""
    if not folder.is_dir():
        return
    for entry in (entry for entry in list(_walk(folder)) if entry.is_dir(follow_symlinks=False)):
        os.chmod(entry.path, 0o700)  # noqa: PTH101
    folder.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
