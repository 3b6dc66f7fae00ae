"""All runs of a project: makes their directories and finds them again."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from gangrun.errors import RecordError, RunNotFound
from gangrun.project import ITEMS, LATEST
from gangrun.record import items
from gangrun.record.events import Created, Found, Note, Submitted, decode_all, encode
from gangrun.record.links import point
from gangrun.record.naming import readings, run_id, sanitise, stamp_key, stamps
from gangrun.record.rundir import EVENTS, NODE, RunDir
from gangrun.record.words import refusal
from gangrun.scheduler.model import is_job

if TYPE_CHECKING:
    from gangrun.record.source import Source

_SECOND = len("YYMMDD_HHMMSS")
_SPREAD = re.compile(rb'"mode":"(?:jobs|array)"')
"""In the events of a sweep whose items are jobs, or tasks of arrays."""
_NEAR = 5
"""Names shown where a name is ambiguous or unknown."""
_ABANDONED = 3600.0
"""Seconds after which a run directory that is not complete belongs to a process that was killed: making one takes
milliseconds."""


class Store:
    """The runs below one `outputs` directory."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()
        self._sources: dict[str, Source] = {}
        self._used: set[Path] = set()
        """Runs made here, so that the 200th of a second does not ask the file server for 199 names."""

    def create(
        self,
        experiment: str,
        step: str,
        *,
        spec: str,
        script: Callable[[RunDir], str] | None,
        project: str | os.PathLike[str],
        created: Created,
        files: Mapping[str, bytes | Callable[[RunDir], bytes]] = {},
        when: float | None = None,
    ) -> RunDir:
        """Makes a run directory with all that is known before anything is sent.

        `script` gives the batch script's text once the run's id and paths are known, if the run itself is a job;
        `project` is the directory whose git state is kept, asked once per Store; `created` becomes the first event,
        with commit and time added here; `files` are any others by their path in the run directory, their content or
        what gives it as `script` does; `when` is the moment that names the run, in place of now.
        The directory shows under its name when it is complete and not before. Raises InputError where the names make
        no run id, RecordError where the directory cannot be written; then nothing of it is left.
        """
        now = time.time()
        experiment, step = sanitise(experiment, "experiment"), sanitise(step, "step")
        run_id(experiment, step, now)  # a name that is too long is refused before anything is made
        source = self._source(project)
        event = replace(created, commit=source.commit, dirty=source.dirty, t=now)
        folder = self.root / experiment / step
        made: list[Path] = []
        draft: Path | None = None
        try:
            _make(folder, made)
            if not made:
                _clear(folder, now)
            stamp, draft = self._reserve(folder, now if when is None else when, made)
            run, new = RunDir(folder / stamp), RunDir(draft)
            _write(new.spec, _bytes(spec), 0o600)
            if script is not None:
                _write(new.script, _bytes(script(run)), 0o700)
            _write(new.commit, _bytes(source.describe()), 0o600)
            if source.diff:
                _write(new.diff, source.diff, 0o600)
            programs: dict[bytes, Path] = {}
            for name, data in files.items():
                path, content = draft / name, data if isinstance(data, bytes) else data(run)
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.parent.name == NODE and programs.setdefault(content, path) != path:
                    _share(programs[content], path, content)
                else:
                    _write(path, content, 0o600)
            _write(new.events, encode(event), 0o600)
            draft.rename(run.path)
            self._used.add(run.path)
        except BaseException as error:
            _remove(draft, made)
            if isinstance(error, OSError):
                raise refusal("cannot make the run directory", error.filename or str(folder), error) from error
            raise
        try:
            point(run.latest, run.stamp)
        except OSError as error:
            # The run is complete without it, and whoever looks for the newest run reads the names instead.
            run.append(Note(f"no link `latest`: {error.strerror}"))
        return run

    def link(self, run: RunDir, folder: str) -> None:
        """Lets `<outputs>/<folder>/<experiment>/<step>/<stamp>` lead to the run as well. Raises RecordError.

        What a script has already put there, at the name that its run was to have, moves into the run.
        """
        place = self.root / folder / run.experiment / run.step / run.stamp
        try:
            if place.is_dir() and not place.is_symlink():
                for entry in place.iterdir():
                    entry.rename(run.path / entry.name)
                place.rmdir()
            place.parent.mkdir(parents=True, exist_ok=True)
            point(place, os.path.relpath(run.dir, place.parent))
        except OSError as error:
            raise refusal("cannot link the run", str(place), error) from error

    def runs(self) -> Iterator[RunDir]:
        """All runs, newest first. Reads directories only, whatever the runs hold. Raises RecordError."""
        root = str(self.root)
        found: list[tuple[tuple[str, int], str]] = []
        for experiment in _folders(root, needed=True):
            for step in _folders(f"{root}/{experiment}"):
                found += _runs_in(f"{root}/{experiment}/{step}")
        found.sort(reverse=True)
        return (RunDir(path) for _, path in found)

    def steps(self, experiment: str) -> list[str]:
        """The names of an experiment's steps that have runs. Raises InputError."""
        return _folders(f"{self.root}/{sanitise(experiment, 'experiment')}")

    def newest(self, experiment: str, step: str) -> RunDir | None:
        """The newest run of a step, by the names as they are written; None where it has none. Raises InputError."""
        found = _runs_in(f"{self.root}/{sanitise(experiment, 'experiment')}/{sanitise(step, 'step')}")
        return RunDir(max(found)[1]) if found else None

    def find(self, text: str) -> RunDir:
        """The run that `text` names.

        That is a run id, the beginning of one if no other begins so, the path of a run or of something in it,
        `experiment/step` for its newest run, one of these names alone if it can mean only one step, a job id, or
        `latest`; behind any of them `/` and the name of an item of that sweep. Raises RunNotFound, RecordError.
        """
        if "/" in text or text in {".", ".."} or (stamp_key(text) and Path(text).is_dir()):
            name, _, item = text.rpartition("/")
            sweep = self._sweep(name)
            if sweep and any(line.name == item for line in items.read(sweep)):
                return sweep.item(item)
            if found := self._by_path(text):
                return found
            raise _no_item(text, sweep, item) if sweep else self._unknown(text, list(self.runs()))
        runs = list(self.runs())
        if text == LATEST and runs:
            # Stamps order the runs of one step; those that several steps got in the same second their events order.
            return max(takewhile(lambda run: run.stamp[:_SECOND] == runs[0].stamp[:_SECOND], runs), key=_created)
        same = [run for run in runs if run.run_id == text]
        if not same and is_job(text):
            # The newest of each cluster: each counts for itself, and anew when its state is lost.
            had: dict[str, RunDir] = {}
            for run in runs:
                for one, cluster in _with_job(run, text):
                    had.setdefault(cluster, one)
            if len(had) > 1:
                raise RunNotFound(
                    f"there is a job {text} on {' and '.join(had)}",
                    why=", ".join(f"{run.run_id} on {cluster}" for cluster, run in had.items()),
                    way_out="name the run",
                )
            same = list(had.values())
        if not same:
            named = [run for run in runs if text in {run.experiment, run.step, f"{run.experiment}_{run.step}"}]
            if len({(run.experiment, run.step) for run in named}) == 1:
                same = named[:1]
        if not same and text:
            same = [run for run in runs if run.run_id.startswith(text)]
        if len(same) == 1:
            return same[0]
        if not same:
            raise self._unknown(text, runs)
        names = [run.run_id for run in same]
        if len(set(names)) < len(names):
            names = [run.dir for run in same]
        more = f" and {len(names) - _NEAR} more" if len(names) > _NEAR else ""
        raise RunNotFound(
            f"{text!r} could be any of {len(names)} runs",
            why=", ".join(names[:_NEAR]) + more,
            way_out=f"write more of the name, or {same[0].experiment}/{same[0].step} for its newest run",
        )

    def _by_path(self, text: str) -> RunDir | None:
        for base in (Path.cwd(), self.root):
            # Not Path.resolve(): it would turn the links that lead to the project into other names for it.
            path = Path(os.path.normpath(base / text))
            try:
                if path.name == LATEST and path.is_symlink():
                    path = path.parent / path.readlink()
                for place in (path, *path.parents) if path.exists() else ():
                    if (item := RunDir(place)).is_item:
                        return item
                    if stamp_key(place.name) and (place / EVENTS).exists():
                        return RunDir(place)
                found = _runs_in(str(path))
            except (OSError, ValueError):  # too long or too odd for a path, or a directory closed to us
                continue
            if found:
                return RunDir(max(found)[1])
        return None

    def _sweep(self, name: str) -> RunDir | None:
        """The sweep of that name, if there is one."""
        try:
            run = self.find(name)
        except RunNotFound:
            return None
        return run if run.items_file.exists() else None

    def _unknown(self, text: str, runs: list[RunDir]) -> RunNotFound:
        if not runs:
            return RunNotFound(f"no run {text!r}: there is no run yet", where=str(self.root))
        import difflib

        # Runs of one step differ in their stamps only, and comparing 10,000 names takes seconds.
        names = [*dict.fromkeys(f"{run.experiment}/{run.step}" for run in runs), *(run.run_id for run in runs[:200])]
        near = [name for name in names if text and text.lower() in name.lower()][:_NEAR]
        near = near or difflib.get_close_matches(text, names, _NEAR, cutoff=0.5)
        return RunNotFound(
            f"no run {text!r}",
            where=str(self.root),
            why=f"near it: {', '.join(near)}" if near else "",
            way_out="give a run id or its beginning, experiment/step, a path, a job id or latest; see `gangrun ls`",
        )

    def _source(self, project: str | os.PathLike[str]) -> Source:
        key = str(Path(project).absolute())
        if key not in self._sources:
            from gangrun.record.source import read_source

            self._sources[key] = read_source(key, str(self.root))
        return self._sources[key]

    def _reserve(self, folder: Path, when: float, made: list[Path]) -> tuple[str, Path]:
        """The first free stamp in `folder`, and the hidden directory to fill for it.

        Making that directory is the lock: who has made it, and then finds no run of the stamp, owns the stamp.
        """
        experiment, step = folder.parent.name, folder.name
        # `a_b` + `c` and `a` + `b_c` are different directories with the same run ids.
        others = [self.root / one / other for one, other in readings(experiment, step)]
        for stamp in stamps(experiment, step, when):
            if folder / stamp in self._used:
                continue
            draft = _draft(folder, stamp)
            try:
                try:
                    draft.mkdir(0o700)
                except FileNotFoundError:  # a process that failed has taken the empty folder away with it
                    _make(folder, made)
                    draft.mkdir(0o700)
            except FileExistsError:
                continue
            # First the hidden name, then the name it gets: in the other order one could slip from the second to the
            # first place between the two looks.
            taken = (folder / stamp, *(each for place in others for each in (_draft(place, stamp), place / stamp)))
            if not any(each.exists() for each in taken):
                return stamp, draft
            draft.rmdir()
        raise RecordError("cannot make the run directory: every name for this second is taken", where=str(folder))


def _draft(folder: Path, stamp: str) -> Path:
    return folder / f".{stamp}.new"


def _clear(folder: Path, now: float) -> None:
    """Removes the drafts of processes that were killed long ago."""
    try:
        drafts = [entry for entry in os.scandir(folder) if entry.name[0] == "." and entry.name.endswith(".new")]
        old = [entry.path for entry in drafts if now - entry.stat().st_mtime > _ABANDONED]
    except OSError:
        return  # somebody else is removing them just now
    if old:
        import shutil

        for path in old:
            shutil.rmtree(path, ignore_errors=True)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _make(folder: Path, made: list[Path]) -> None:
    """Makes `folder` and what is missing above it, and adds what it made to `made`, outermost first."""
    try:
        folder.mkdir()
    except (FileNotFoundError, NotADirectoryError):
        _make(folder.parent, made)
        _make(folder, made)
    except FileExistsError:
        if not folder.is_dir():  # otherwise it was there, or another process was quicker
            raise
    else:
        made.append(folder)


def _share(first: Path, path: Path, data: bytes) -> None:
    """The same program under another name: items of a sweep have one each, and nobody writes to it."""
    try:
        path.hardlink_to(first)
    except OSError:  # a file system without hard links
        _write(path, data, 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(handle)  # a quota on a network file system speaks up only here


def _remove(draft: Path | None, made: list[Path]) -> None:
    """Takes back what was begun; what cannot be removed stays hidden."""
    import shutil

    if draft is not None:
        shutil.rmtree(draft, ignore_errors=True)
    for place in reversed(made):
        try:
            place.rmdir()
        except OSError:
            return  # another process has put something into it


def _folders(path: str, *, needed: bool = False) -> list[str]:
    """Names of the directories in `path` that are not hidden."""
    try:
        with os.scandir(path) as entries:
            # The kind of an entry comes with the listing, so this asks nothing more of a file server but for links.
            return [entry.name for entry in entries if entry.name[0] != "." and entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        # A colleague's directory among ours may be closed to us; without the topmost there is nothing to show at all.
        if needed:
            raise refusal("cannot list the runs", path, error) from error
        return []


def _runs_in(folder: str) -> list[tuple[tuple[str, int], str]]:
    return [(key, f"{folder}/{name}") for name in _folders(folder) if (key := stamp_key(name))]


def _created(run: RunDir) -> tuple[float, tuple[str, int] | None]:
    try:
        when = next((event.t for event in run.read_events() if isinstance(event, Created)), 0.0)
    except RecordError:
        when = 0.0
    return when, stamp_key(run.stamp)


def _with_job(run: RunDir, job: str) -> list[tuple[RunDir, str]]:
    """The run if it had a job of this id, or else its item whose job or task of an array that was; with the cluster."""
    try:
        data = run.read_events_bytes()
        found = [(run, cluster) for cluster in _clusters_of_job(data, job)]
        return found or list(_with_job_in_sweep(run, job) if _SPREAD.search(data) else ())
    except RecordError:
        return []  # one damaged run does not keep the others from being found


def _with_job_in_sweep(sweep: RunDir, job: str) -> Iterator[tuple[RunDir, str]]:
    """The item of that job or task; of an array as a whole the sweep."""
    number, _, task = job.partition("_")
    for array in sweep.arrays():
        for cluster in _clusters_of_job(array.read_events_bytes(), number):
            lines = items.read(sweep) if task else ()
            named = (line.name for line in lines if sweep.array(line.array or 0) == array and str(line.task) == task)
            yield from ((sweep.item(name), cluster) for name in named)
            if not task:
                yield sweep, cluster
    for name in _folders(f"{sweep.dir}/{ITEMS}"):
        item = sweep.item(name)
        yield from ((item, cluster) for cluster in _clusters_of_job(item.read_events_bytes(), job))


def _clusters_of_job(data: bytes, job: str) -> set[str]:
    """The clusters on which a job of this id was sent, by the events of a run."""
    if job.encode("ascii") not in data:  # decoding 10,000 runs takes a second
        return set()
    sent = (event for event in decode_all(data) if isinstance(event, (Submitted, Found)))
    return {event.cluster for event in sent if event.job == job}


def _no_item(text: str, sweep: RunDir, item: str) -> RunNotFound:
    """That this is no run, nor an item of the sweep that its beginning names."""
    import difflib

    near = difflib.get_close_matches(item, [line.name for line in items.read(sweep)], _NEAR, cutoff=0.5)
    return RunNotFound(
        f"no run {text!r}, and the sweep {sweep.run_id} has no item {item!r}",
        why=f"near it: {', '.join(near)}" if near else "",
        way_out=f"gangrun show {sweep.run_id} lists its items",
    )
