from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fake_slurm import Installed

from gangrun.errors import Unreachable
from gangrun.scheduler.model import Scheduler, Status, Submission
from gangrun.scheduler.slurm import Slurm
from gangrun.scheduler.watch import Watch


class Told(Scheduler):
    """A scheduler that answers from a list, or raises what stands in it, and notes what it was asked and when."""

    def __init__(self, *answers: Mapping[str, str] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[list[str]] = []
        self.times: list[float] = []

    def status(self, jobs: Sequence[str]) -> Mapping[str, Status]:
        self.asked.append(list(jobs))
        self.times.append(time.monotonic())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {job: Status(job, state) for job, state in answer.items() if job in jobs}


def states(changed: Mapping[str, Status]) -> dict[str, str]:
    return {job: status.state for job, status in changed.items()}


def test_changes_only_and_never_again_what_has_ended() -> None:
    told = Told(
        {"1": "PENDING", "2": "PENDING"},
        {"1": "RUNNING", "2": "PENDING"},
        {"1": "COMPLETED", "2": "RUNNING"},
        {"2": "RUNNING"},
        {"2": "FAILED"},
    )
    watch = Watch(told, ["1", "2", "3"], first=0.001, longest=0.001)
    seen = []
    for changed in watch:
        seen.append(states(changed))
        if len(seen) == 1:
            assert watch.missing == {"3"}
            watch.drop("3")
    assert seen == [
        {"1": "PENDING", "2": "PENDING"},
        {"1": "RUNNING"},
        {"1": "COMPLETED", "2": "RUNNING"},
        {},
        {"2": "FAILED"},
    ]
    assert told.asked == [["1", "2", "3"], ["1", "2"], ["1", "2"], ["2"], ["2"]]
    assert states(watch.known) == {"1": "COMPLETED", "2": "FAILED"}


def test_a_missing_job_is_asked_for_again() -> None:
    told = Told({}, {"1": "COMPLETED"})
    watch = Watch(told, ["1"], first=0.001)
    assert next(watch) == {}
    assert watch.missing == {"1"}
    assert states(next(watch)) == {"1": "COMPLETED"}
    assert watch.missing == frozenset()
    assert list(watch) == []


def test_pauses_grow_up_to_the_longest() -> None:
    told = Told(*[{"1": "RUNNING"}] * 6)
    watch = Watch(told, ["1"], first=0.05, longest=0.2, growth=2)
    for _ in range(6):
        next(watch)
    pauses = [later - earlier for earlier, later in zip(told.times, told.times[1:], strict=False)]
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True):
        assert least <= pause < least + 0.15


def test_silence_is_told_and_outlasted() -> None:
    said: list[str] = []
    told = Told({"1": "RUNNING"}, Unreachable("squeue failed"), {"1": "COMPLETED"})
    looks = [states(changed) for changed in Watch(told, ["1"], first=0.001, say=said.append)]
    assert looks == [{"1": "RUNNING"}, {}, {"1": "COMPLETED"}]
    assert said == ["squeue failed"]


def test_twenty_jobs_cost_one_command_per_look(fake_slurm: Callable[..., Installed], tmp_path: Path) -> None:
    fake = fake_slurm()
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/bash\n#SBATCH --job-name=run\n")
    slurm = Slurm()
    jobs = [slurm.submit(Submission("run", script)) for _ in range(20)]
    watch = Watch(slurm, jobs, first=0.01, longest=0.01)
    assert len(next(watch)) == 20
    assert next(watch) == {}
    for job in jobs:
        fake.move(job, state="COMPLETED", nodes="n1")
    assert len(next(watch)) == 20
    assert list(watch) == []
    assert len(fake.calls("squeue")) == 3
    assert fake.calls("sacct") == []
