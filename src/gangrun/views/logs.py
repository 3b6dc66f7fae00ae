"""What the replicas of a run printed, merged line by line, each line with its replica's name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gangrun.record.facts import is_own
from gangrun.record.rundir import AttemptDir, RunDir

JOB = "job"
"""The name under which the batch script's own output is shown."""
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a replica printed."""

    source: str
    """`ROLE.INDEX`, with ` srun` behind it for what Slurm said of its step, or `job`."""
    text: str


@dataclass
class _Tail:
    """Reads whole lines of a growing file from where it stopped last."""

    path: Path
    at: int = 0
    rest: bytes = b""

    def lines(self, *, final: bool) -> Iterator[str]:
        """Lines since the last call; with `final` also one without an end."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self.at:
                    self.at, self.rest = 0, b""  # cut short by its writer; begin again
                file.seek(self.at)
                while block := file.read(_BLOCK):
                    self.at += len(block)
                    *whole, self.rest = (self.rest + block).split(b"\n")
                    yield from map(_text, whole)
        except FileNotFoundError:
            return
        if final and self.rest:
            yield _text(self.rest)
            self.rest = b""


def _text(line: bytes) -> str:
    # A progress bar rewrites its line; what a terminal would show in the end is behind the last return.
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")


@dataclass
class Merged:
    """The logs of one run, or of one role or replica of it, as one stream over all attempts that follow."""

    run: RunDir
    role: str = ""
    """Only this role (`trainer`) or replica (`trainer.1`); empty for all of the experiment's."""
    attempt: int | None = None
    """Only this attempt; None for the newest and those that follow."""
    tails: dict[str, _Tail] = field(default_factory=dict)

    def lines(self, *, final: bool = False) -> Iterator[Line]:
        """What came since the last call, replica by replica. `final` when nothing more will come."""
        for source, path in self.files():
            tail = self.tails.setdefault(str(path), _Tail(path))
            for text in tail.lines(final=final):
                yield Line(source, text)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Names of those that print, and the files that hold it, as far as they are there."""
        if not self.role:
            yield JOB, self.run.job_log
        for number in self._attempts():
            attempt = self.run.attempt(number)
            for name in attempt.replica_logs():
                if self.shows(name):
                    yield name, attempt.log(name)
            yield from self._steps(attempt)

    def _steps(self, attempt: AttemptDir) -> Iterator[tuple[str, Path]]:
        names = attempt.replica_logs()
        yield from ((f"{name} srun", attempt.step_log(name)) for name in names if self.shows(name))

    def _attempts(self) -> list[int]:
        if self.attempt is not None:
            return [self.attempt]
        known = self.run.attempts()
        seen = {number for number in known if str(self.run.attempt(number).logs) in self._read()}
        return [number for number in known if number in seen or number == known[-1]]

    def _read(self) -> set[str]:
        return {str(Path(path).parent) for path in self.tails}

    def shows(self, name: str) -> bool:
        """Whether this replica is among those that are asked for."""
        return self.role in (name, name.rpartition(".")[0]) if self.role else not is_own(name)


def painter(*, colour: bool) -> Callable[[Line], str]:
    """Writes lines as `trainer.0 | text`, the name in its role's colour, widths growing with the names seen."""
    colours: dict[str, int] = {}
    width = 0

    def paint(line: Line) -> str:
        nonlocal width
        width = max(width, len(line.source))
        name = line.source.ljust(width)
        role = line.source.partition(".")[0]
        if colour:
            code = colours.setdefault(role, 90 if role == JOB else _COLOURS[len(colours) % len(_COLOURS)])
            name = f"\x1b[{code}m{name}\x1b[0m"
        return f"{name} | {line.text}"

    return paint
