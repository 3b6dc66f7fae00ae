"""The run directory: every path in it, and what the job left there.

::

    <outputs>/<experiment>/<step>/latest -> 260131_154500
    <outputs>/<experiment>/<step>/260131_154500/
        spec.toml  script.sh  commit.txt  diff.patch  events.jsonl  job.log  node/  code -> ../../../.code/TREE
        attempts/latest -> 001
        attempts/001/logs/trainer.0.log  trainer.0.step.log
        attempts/001/status/trainer.0.exit  .lives  .first  .step  .0.beat   run.start  .exit  .cause  .requeue
        attempts/001/usage/0.jsonl
        items.jsonl  pool.json  throttle  items/NAME/  arrays/0/    (a sweep's; what is below is laid out as a run)
        pool/status.json  journal.jsonl  again

Every file has one writer: the client writes `events.jsonl` and what lies beside it, the job writes `job.log` and all
below `attempts` and `pool`, but for `again`. Nobody else joins strings into these paths.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gangrun.project import ITEMS, LATEST
from gangrun.record import events as _events
from gangrun.record.facts import (
    AttemptFacts,
    Beat,
    ReplicaFacts,
    parse_beat,
    parse_cause,
    parse_code,
    parse_first,
    parse_lives,
    parse_requeue,
    parse_start,
)
from gangrun.record.naming import item_id, stamp_key
from gangrun.record.words import refusal
from gangrun.scheduler.stepd import ended_as

EVENTS = "events.jsonl"
NODE = "node"
"""Directory of the Python programs that the job runs."""
ARRAYS = "arrays"
ITEMS_FILE = "items.jsonl"
POOL_FILE = "pool.json"

_LARGEST = 1 << 20
"""Bytes read of one small file of the job. None of them is near it unless something wrote garbage."""
_PER_REPLICA = re.compile(r"(.+\.[0-9]{1,6})\.(exit|lives|first|step)\Z")
_NODE = re.compile(r"([0-9]{1,6})\.jsonl\Z")
_PER_NODE = re.compile(r"(.+\.[0-9]{1,6})\.([0-9]{1,6})\.beat\Z")


class AttemptDir:
    """The paths of one attempt. The job makes them; any may be missing."""

    __slots__ = ("number", "path")

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number

    @property
    def logs(self) -> Path:
        """Directory of the replicas' output."""
        return self.path / "logs"

    @property
    def status(self) -> Path:
        """Directory of the job's status files."""
        return self.path / "status"

    def log(self, replica: str) -> Path:
        """What the replica `ROLE.INDEX` printed, appended over its restarts."""
        return self.logs / f"{replica}.log"

    def step_log(self, replica: str) -> Path:
        """What srun itself said about the replica's step."""
        return self.logs / f"{replica}.step.log"

    def replica_logs(self) -> list[str]:
        """Names of the replicas that have a log, sorted by role, then index."""
        names = [name[:-4] for name in _names(str(self.logs)) if name.endswith(".log")]
        return sorted((name for name in names if not name.endswith(".step")), key=_replica_key)

    def exit(self, replica: str) -> Path:
        """Final exit code of the replica."""
        return self.status / f"{replica}.exit"

    def lives(self, replica: str) -> Path:
        """Starts, readiness and ends of the replica."""
        return self.status / f"{replica}.lives"

    def first(self, replica: str) -> Path:
        """The first task of the replica that failed."""
        return self.status / f"{replica}.first"

    def step(self, replica: str) -> Path:
        """Slurm's id of the replica's current step."""
        return self.status / f"{replica}.step"

    def beat(self, replica: str, node: int) -> Path:
        """Heartbeat of the replica's `node`-th node."""
        return self.status / f"{replica}.{node}.beat"

    def usage(self) -> dict[int, Path]:
        """What each node's monitor wrote, by the node's position in the allocation."""
        folder = self.path / "usage"
        found = (_NODE.match(name) for name in _names(str(folder)))
        return {int(each[1]): folder / each[0] for each in sorted(filter(None, found), key=lambda each: int(each[1]))}

    @property
    def run_start(self) -> Path:
        """When the attempt began, as which job, where, with which ports."""
        return self.status / "run.start"

    @property
    def run_exit(self) -> Path:
        """The attempt's exit code."""
        return self.status / "run.exit"

    @property
    def run_cause(self) -> Path:
        """Why the attempt ended so."""
        return self.status / "run.cause"

    @property
    def run_requeue(self) -> Path:
        """How it goes on."""
        return self.status / "run.requeue"


class RunDir:
    """One run: its identity and its paths. Two are equal where their paths are."""

    __slots__ = ("dir",)

    dir: str
    """The absolute path as text; listing thousands of runs goes without `Path`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        text = os.fspath(path)
        if not text.startswith("/") or text.endswith("/"):
            text = str(Path(text).absolute())
        object.__setattr__(self, "dir", text)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a RunDir does not change: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunDir) and other.dir == self.dir

    def __hash__(self) -> int:
        return hash(self.dir)

    def __repr__(self) -> str:
        return f"RunDir({self.dir!r})"

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self.dir)

    @property
    def run_id(self) -> str:
        """`<experiment>_<step>_<stamp>`, the run's one name everywhere; an item's has its own name behind a dot."""
        if sweep := self.sweep:
            return item_id(sweep.run_id, self.item_name)
        return "_".join(self.dir.rsplit("/", 3)[-3:])

    @property
    def sweep(self) -> RunDir | None:
        """The sweep that this is an item, or an array, of."""
        above, kind = self.dir.rsplit("/", 2)[:2]
        return RunDir(above) if kind in (ITEMS, ARRAYS) and stamp_key(above.rpartition("/")[2]) else None

    @property
    def is_item(self) -> bool:
        """Whether it is the directory of an item."""
        return f"/{ITEMS}/" in self.dir and self.sweep is not None and self.dir.rsplit("/", 2)[1] == ITEMS

    @property
    def pool_around(self) -> RunDir | None:
        """The pool that this is an item of; None for a run, and for an item that is a job itself."""
        sweep = self.sweep
        return sweep if sweep and sweep.pool_file.exists() else None

    @property
    def item_name(self) -> str:
        """The name of an item in its sweep."""
        _, kind, name = self.dir.rsplit("/", 2)
        return name if kind == ITEMS else f"array-{name}"

    def array(self, number: int) -> RunDir:
        """The directory of one of its Slurm arrays, which is recorded as a run is."""
        return RunDir(f"{self.dir}/{ARRAYS}/{number}")

    def arrays(self) -> list[RunDir]:
        """All of them, in order; none for what is no sweep in arrays."""
        return [self.array(number) for number in sorted(int(name) for name in _names(f"{self.dir}/{ARRAYS}"))]

    def item(self, name: str) -> RunDir:
        """The directory of one of its items."""
        return RunDir(f"{self.dir}/{ITEMS}/{name}")

    @property
    def items_file(self) -> Path:
        """The items of a sweep, one a line; absent for any other run."""
        return self.path / ITEMS_FILE

    @property
    def pool_file(self) -> Path:
        """What is the same for all items of a pool; absent for any other run."""
        return self.path / POOL_FILE

    @property
    def pool(self) -> Path:
        """What the driver of a pool writes."""
        return self.path / "pool"

    @property
    def pool_status(self) -> Path:
        """How the pool is doing."""
        return self.pool / "status.json"

    @property
    def pool_journal(self) -> Path:
        """What became of each of its items."""
        return self.pool / "journal.jsonl"

    @property
    def throttle(self) -> Path:
        """How many items may run at once by now, where that was changed."""
        return self.path / "throttle"

    @property
    def experiment(self) -> str:
        """The experiment's name as it stands in paths."""
        return self.dir.rsplit("/", 3)[-3]

    @property
    def step(self) -> str:
        """The step's name as it stands in paths."""
        return self.dir.rsplit("/", 2)[-2]

    @property
    def stamp(self) -> str:
        """When it was made, local time, with `-2` and so on where several were made in that second."""
        return self.dir.rsplit("/", 1)[-1]

    @property
    def spec(self) -> Path:
        """The resolved experiment, valid input again."""
        return self.path / "spec.toml"

    @property
    def script(self) -> Path:
        """The batch script."""
        return self.path / "script.sh"

    @property
    def commit(self) -> Path:
        """The project's git commit and what differed from it, for a person to read."""
        return self.path / "commit.txt"

    @property
    def diff(self) -> Path:
        """What differed from that commit; absent where nothing did."""
        return self.path / "diff.patch"

    @property
    def code(self) -> Path:
        """The link to the copy of the code that the run uses; absent where it uses the project itself."""
        return self.path / "code"

    @property
    def events(self) -> Path:
        """The client's events."""
        return self.path / EVENTS

    @property
    def job_log(self) -> Path:
        """What the batch script itself printed."""
        return self.path / "job.log"

    @property
    def metrics(self) -> Path:
        """What the program itself wrote of its results; absent where it does not."""
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        """The page that `gangrun report` writes."""
        return self.path / "report.html"

    @property
    def latest(self) -> Path:
        """The link beside the run that names the newest run of its step."""
        return self.path.parent / LATEST

    @property
    def latest_attempt(self) -> Path:
        """The link that names the newest attempt."""
        return self.path / "attempts" / LATEST

    def offline_wandb(self) -> list[Path]:
        """What Weights & Biases keeps in the run's directory where it could not send it, oldest first."""
        return sorted(path for path in (self.path / "wandb").glob("offline-run-*") if path.is_dir())

    def attempts(self) -> list[int]:
        """Numbers of the attempts that began, ascending."""
        return sorted(int(name) for name in _names(self.dir + "/attempts") if name.isascii() and name.isdigit())

    def attempt(self, number: int) -> AttemptDir:
        """The paths of attempt `number`, from 1."""
        return AttemptDir(Path(f"{self.dir}/attempts/{number:03d}"), number)

    def append(self, event: _events.Event) -> None:
        """Records `event`. Raises RecordError."""
        _events.append(f"{self.dir}/{EVENTS}", event)

    def write_report(self, page: str) -> None:
        """Writes the page whole, in the place of an earlier one. Raises RecordError."""
        _put(self.report, page, "cannot write the report of the run")

    def write_throttle(self, text: str) -> None:
        """Writes down how many items may run at once, as `gangrun.throttling` has it. Raises RecordError."""
        _put(self.throttle, text, "cannot change the throttle")

    def reopen_pool(self) -> None:
        """Asks the driver of a pool to try again what has failed, in the attempt that comes; nothing where there was
        no driver. Raises RecordError."""
        if not self.pool.is_dir():
            return
        try:
            (self.pool / "again").touch()
        except OSError as error:
            raise refusal("cannot ask for another attempt", str(self.pool), error) from error

    def replace(self, path: Path, text: str, number: int) -> None:
        """Puts `text` in the place of a file of the run, whose content so far stays under `number`: `script.1.sh`.
        There is no file where it would be empty.

        Raises RecordError.
        """
        fresh = path.with_name(f".{path.name}.new")
        try:
            if text:
                fresh.touch(0o600)
                fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
            if path.exists():
                if text:
                    fresh.chmod(path.stat().st_mode)
                path.rename(path.with_name(f"{path.stem}.{number}{path.suffix}"))
            if text:
                fresh.rename(path)
        except OSError as error:
            raise refusal("cannot write the next attempt", str(path), error) from error

    def read_events(self) -> list[_events.Event]:
        """All events in order; what is torn is left out. Raises RecordError where the file cannot be read."""
        return _events.decode_all(self.read_events_bytes())

    def read_events_bytes(self) -> bytes:
        """The event file as it is. Raises RecordError."""
        path = f"{self.dir}/{EVENTS}"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.read(handle, 65536)
                if len(data) == 65536:
                    while more := os.read(handle, 1 << 20):
                        data += more
                return data
            finally:
                os.close(handle)
        except OSError as error:
            raise refusal("cannot read the events of the run", path, error) from error

    def facts(self, number: int | None = None, *, replicas: bool = True) -> AttemptFacts | None:
        """What attempt `number` (the last by default) left behind; None if it has not begun.

        `replicas=False` reads four files whatever the size of the job. Never raises for what the job wrote.
        """
        if number is None:
            numbers = self.attempts()
            if not numbers:
                return None
            number = numbers[-1]
        attempt = self.attempt(number)
        begin, _ = _read(attempt.run_start)
        code, ended = _read(attempt.run_exit)
        cause, _ = _read(attempt.run_cause)
        onward, _ = _read(attempt.run_requeue)
        started, job, hosts, port_base = parse_start(begin)
        known = _replicas(attempt) if replicas else None
        if not begin and not code and not known and not attempt.path.is_dir():
            return None
        code_value, reason = parse_code(code), parse_cause(cause)
        # Only of an end that the script did not choose can Slurm know more.
        unsure = code_value is None or (reason is not None and reason.kind == "signal")
        return AttemptFacts(
            number,
            started=started,
            job=job,
            hosts=hosts,
            port_base=port_base,
            exit=code_value,
            ended=ended if code_value is not None else None,
            cause=reason,
            requeue=parse_requeue(onward),
            ended_as=ended_as(_end_of(self.job_log), started) if unsure else "",
            replicas=known,
        )


def _put(path: Path, text: str, what: str) -> None:
    """Writes a file whole, in the place of an earlier one. Raises RecordError, which says `what` could not be done."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise refusal(what, str(path), error) from error


def _replica_key(name: str) -> tuple[str, int, str]:
    role, _, index = name.rpartition(".")
    return (role, int(index), "") if index.isascii() and index.isdigit() else (name, 0, "")


def _names(folder: str) -> Sequence[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError:
        return ()


def _read(path: Path) -> tuple[str, float | None]:
    """The text of a small file of the job and when it last changed; empty where it is absent or no plain file."""
    try:
        # Without O_NONBLOCK a named pipe of this name would hang every `ls`.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return "", None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            return "", None
        data = os.read(handle, _LARGEST)
    except OSError:
        return "", None
    finally:
        os.close(handle)
    # What the job wrote ends up on a terminal: no control characters but the line's end.
    text = data.decode("utf-8", "replace")
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
    return text, facts.st_mtime


def _end_of(path: Path) -> str:
    """The last 4 kB of a log; empty where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - 4096, 0))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _replicas(attempt: AttemptDir) -> dict[str, ReplicaFacts]:
    files: dict[str, set[str]] = {}
    beats: dict[str, dict[int, Beat]] = {}
    for file in _names(str(attempt.status)):
        if found := _PER_NODE.match(file):
            text, changed = _read(attempt.status / file)
            if changed is not None:
                beats.setdefault(found[1], {})[int(found[2])] = Beat(changed, parse_beat(text))
        elif found := _PER_REPLICA.match(file):
            files.setdefault(found[1], set()).add(found[2])
    known = {}
    for name in sorted(files.keys() | beats.keys(), key=_replica_key):
        has = files.get(name, set())
        known[name] = ReplicaFacts(
            exit=parse_code(_read(attempt.exit(name))[0]) if "exit" in has else None,
            lives=parse_lives(_read(attempt.lives(name))[0]) if "lives" in has else (),
            first=parse_first(name, _read(attempt.first(name))[0]) if "first" in has else None,
            step=_read(attempt.step(name))[0].strip() if "step" in has else "",
            beats=beats.get(name),
        )
    return known
