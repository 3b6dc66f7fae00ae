"""A run as the job and the client leave it on disk, made of real files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from gangrun.errors import Unreachable
from gangrun.record.events import Created, Event, Submitted, Submitting
from gangrun.record.rundir import RunDir
from gangrun.scheduler.model import Status, Submission

T0 = 1_700_000_000.0


class Answers:
    """A scheduler that knows the given jobs, counts what it is asked, and can be out of reach."""

    def __init__(self, *jobs: Status, reachable: bool = True) -> None:
        self.jobs = list(jobs)
        self.reachable = reachable
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def submit(self, submission: Submission) -> str:
        raise AssertionError("the record never submits")

    def cancel(self, jobs: Sequence[str]) -> None:
        raise AssertionError("the record never cancels")

    def status(self, jobs: Sequence[str]) -> Mapping[str, Status]:
        self._hear("status", jobs)
        return {job.job: job for job in self.jobs if job.job in jobs}

    def find(self, names: Sequence[str]) -> Mapping[str, Status]:
        self._hear("find", names)
        return {job.name: job for job in self.jobs if job.name in names}

    def _hear(self, question: str, about: Sequence[str]) -> None:
        self.asked.append((question, tuple(about)))
        if not self.reachable:
            raise Unreachable("squeue gave no answer within 30 s")


class JobFiles:
    """Writes what a job writes, in the formats of the script."""

    def __init__(self, run: RunDir, number: int = 1) -> None:
        self.attempt = run.attempt(number)
        self.attempt.status.mkdir(parents=True, exist_ok=True)
        self.attempt.logs.mkdir(exist_ok=True)

    def start(self, job: str = "77", hosts: str = "n0 n1", when: float = T0 + 5, base: str = "12000") -> JobFiles:
        self.attempt.run_start.write_text(f"{when}\n{job}\n{hosts}\n{base}\n")
        return self

    def end(self, code: int, cause: str = "") -> JobFiles:
        if cause:
            self.attempt.run_cause.write_text(cause + "\n")
        self.attempt.run_exit.write_text(f"{code}\n")
        return self

    def replica(self, name: str, code: int | None, when: float = T0 + 60, first: str = "") -> JobFiles:
        self.attempt.lives(name).write_text(f"{T0 + 6} start\n" + (f"{when} exit {code}\n" if code is not None else ""))
        if code is not None:
            self.attempt.exit(name).write_text(f"{code}\n")
        if first:
            self.attempt.first(name).write_text(first + "\n")
        return self


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., RunDir]:
    """Makes a run directory that holds the given events."""
    made = []

    def make(*events: Event, step: str = "000_step") -> RunDir:
        run = RunDir(tmp_path / "outputs" / "001_exp" / step / f"260131_1545{len(made):02d}")
        run.path.mkdir(parents=True)
        made.append(run)
        for event in events:
            run.append(event)
        return run

    return make


@pytest.fixture
def submitted() -> list[Event]:
    """The events of a run that job 77 came of."""
    return [
        Created(cluster="lab", host="login1", t=T0),
        Submitting(1, "001_exp_000_step_260131_154500", "login1", 1, 1, t=T0 + 1),
        Submitted("77", "lab", t=T0 + 2),
    ]


@pytest.fixture
def job_files() -> type[JobFiles]:
    return JobFiles


@pytest.fixture
def answers() -> type[Answers]:
    return Answers


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k tmpfs '{place}' 2>/dev/null"):
        pytest.skip("this machine mounts no tmpfs")
    try:
        yield place
    finally:
        os.system(f"umount '{place}'")
