"""The scheduler against programs on PATH that behave as Slurm does, well and badly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_slurm as fakes
import pytest
from fake_slurm import FakeSlurm, Installed
from recordings import VERSIONS, refusals

from gangrun.errors import ProgramMissing, Rejected, SchedulerError, Unreachable
from gangrun.scheduler import text
from gangrun.scheduler.model import Submission
from gangrun.scheduler.slurm import Slurm

NAME = "001_a_b_240101_120000"
Start = Callable[..., Installed]


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    script = tmp_path / "it's a; run" / "script.sh"
    script.parent.mkdir()
    script.write_text(f"#!/bin/bash\n#SBATCH --job-name={NAME}\n#SBATCH --partition=gpu\ntrue\n")
    return Submission(NAME, script)


@pytest.fixture(autouse=True)
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times must come out right whatever the user's zone is."""
    monkeypatch.setenv("TZ", "America/St_Johns")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "%H:%M")
    monkeypatch.setenv("SQUEUE_FORMAT", "JobID")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_submit(fake_slurm: Start, submission: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_slurm()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SBATCH_PARTITION", "wrong")
    said: list[str] = []
    job = Slurm("/etc/other.conf", say=said.append).submit(
        Submission(submission.name, submission.script, ("--partition=short",))
    )
    assert [(each["id"], each["name"], each["partition"]) for each in fake.jobs()] == [(job, NAME, "short")]
    (call,) = fake.calls("sbatch")
    assert call["argv"] == ["--parsable", "--partition=short", str(submission.script)]
    assert "SLURM_JOB_ID" not in call["env"]
    assert "SBATCH_PARTITION" not in call["env"]
    assert call["env"]["SLURM_CONF"] == "/etc/other.conf"
    # They would become the job's own.
    assert call["env"]["TZ"] == "America/St_Johns"
    assert said == []


def test_many_submissions_ping_once(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm()
    slurm = Slurm()
    assert len({slurm.submit(submission) for _ in range(3)}) == 3
    assert [call["program"] for call in fake.calls()] == ["scontrol", "sbatch", "sbatch", "sbatch"]


def test_a_talking_site_of_several_clusters(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm(fakes.Chatty)
    assert Slurm().submit(submission) == fake.jobs()[0]["id"]


@pytest.mark.parametrize(
    "name", ["try_badpart", "try_badtime", "try_mem", "try_crlf", "enforce_toolong", "try_badflag"]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_refusal(fake_slurm: Start, submission: Submission, version: str, name: str) -> None:
    fake = fake_slurm(fakes.Refusing)
    code, words = refusals(version)[name]
    fake.refuse(code, words)
    with pytest.raises(Rejected) as caught:
        Slurm().submit(submission)
    last = words.splitlines()[-1 if "Try" not in words else 0].removeprefix("sbatch: ").removeprefix("error: ")
    assert last.removeprefix("Batch job submission failed: ") in caught.value.what
    assert NAME in caught.value.what
    assert caught.value.why
    assert caught.value.way_out
    assert len(fake.calls("sbatch")) == 1


def test_no_slurm_here(submission: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for action in (
        lambda: Slurm().submit(submission),
        lambda: Slurm().status(["1"]),
        lambda: Slurm().find(["a"]),
        lambda: Slurm().cancel(["1"]),
    ):
        with pytest.raises(ProgramMissing):
            action()


def test_outside_the_cluster(fake_slurm: Start, submission: Submission) -> None:
    fake_slurm(fakes.Unconfigured)
    with pytest.raises(ProgramMissing):
        Slurm().submit(submission)


# Nobody answers.


@pytest.mark.slow
def test_a_controller_that_is_down_is_waited_for_and_said(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm(fakes.Down)
    said: list[str] = []
    began = time.monotonic()
    with pytest.raises(Unreachable, match="was not queued within 1 s") as caught:
        Slurm(patience=1, say=said.append).submit(submission)
    assert 0.9 < time.monotonic() - began < 10
    assert caught.value.way_out == "submit it again later"
    assert "controller does not answer" in said[0]
    assert "trying again" in said[0]
    # Only pings: each sbatch would have taken 10 s.
    assert {call["program"] for call in fake.calls()} == {"scontrol"}
    assert 2 <= len(fake.calls()) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", [fakes.DownAtFirst, fakes.DownBetween])
def test_a_controller_that_comes_back(fake_slurm: Start, submission: Submission, kind: type[FakeSlurm]) -> None:
    fake = fake_slurm(kind)
    said: list[str] = []
    job = Slurm(patience=20, say=said.append).submit(submission)
    assert [each["id"] for each in fake.jobs()] == [job]
    assert said


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [fakes.SilentAccept, fakes.TimedOut, fakes.ZeroBytes, fakes.Killed, fakes.SilentAcceptThenDown]
)
def test_a_job_taken_in_without_an_answer_is_found_and_never_sent_twice(
    fake_slurm: Start, submission: Submission, kind: type[FakeSlurm]
) -> None:
    fake = fake_slurm(kind)
    said: list[str] = []
    job = Slurm(patience=20, timeout=1, settle=5, say=said.append).submit(submission)
    assert [each["id"] for each in fake.jobs()] == [job]
    assert any("looking whether" in words for words in said)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [fakes.Deaf, fakes.TimedOutUnheard])
def test_a_job_that_never_arrived_is_sent_again(
    fake_slurm: Start, submission: Submission, kind: type[FakeSlurm]
) -> None:
    fake = fake_slurm(kind)
    job = Slurm(patience=20, timeout=1, settle=1).submit(submission)
    assert [each["id"] for each in fake.jobs()] == [job]
    programs = [call["program"] for call in fake.calls() if call["program"] != "scontrol"]
    again = programs.index("sbatch", 1)
    assert programs[0] == "sbatch"
    assert {"squeue", "sacct"} <= set(programs[1:again])
    assert "sbatch" not in programs[again + 1 :]


@pytest.mark.slow
def test_of_two_that_came_in_late_one_is_cancelled(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm(fakes.TimedOutLate)
    said: list[str] = []
    job = Slurm(patience=20, settle=0.2, say=said.append).submit(submission)
    assert [(each["id"], each["state"]) for each in fake.jobs()] == [(job, "PENDING"), (str(int(job) + 1), "CANCELLED")]
    assert any("taken in twice" in words for words in said)


@pytest.mark.slow
def test_a_refusal_because_the_first_came_in_late(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm(fakes.TimedOutThenRefused)
    job = Slurm(patience=20, settle=0.2).submit(submission)
    assert [each["id"] for each in fake.jobs()] == [job]


@pytest.mark.slow
def test_an_ended_namesake_is_not_taken_for_the_new_job(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm(fakes.TimedOutUnheard)
    (fake.folder / "count.sbatch").write_text("x")
    slurm = Slurm(patience=20, settle=0.5)
    old = slurm.submit(submission)
    fake.move(old, state="FAILED", code=1, nodes="n1", submitted=time.time() - 600, ended=time.time() - 300)
    (fake.folder / "count.sbatch").unlink()
    new = slurm.submit(submission)
    assert new != old
    assert len(fake.jobs()) == 2


@pytest.mark.slow
def test_when_it_stays_unknown_the_user_is_told_to_look(
    fake_slurm: Start, submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_slurm(fakes.Deaf)
    with pytest.raises(Unreachable, match="did not answer in time") as caught:
        Slurm(patience=0.2, timeout=0.5, settle=0.5).submit(submission)
    assert "gangrun ls" in caught.value.way_out
    assert fake.jobs() == []


@pytest.mark.slow
def test_a_command_that_takes_longer_than_a_ping_is_waited_for(fake_slurm: Start) -> None:
    fake = fake_slurm(fakes.SlowQueue)
    assert Slurm().status(["1", "2"]) == {}
    assert [call["program"] for call in fake.calls()] == ["scontrol", "squeue", "sacct"]


def test_a_slow_cluster_is_no_trouble(fake_slurm: Start, submission: Submission) -> None:
    fake_slurm(fakes.Slow)
    slurm = Slurm()
    assert slurm.status([slurm.submit(submission)])


@pytest.mark.slow
def test_a_full_queue_is_waited_for_and_said(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm(fakes.QueueFull)
    said: list[str] = []
    job = Slurm(patience=20, timeout=1, say=said.append).submit(submission)
    assert [each["id"] for each in fake.jobs()] == [job]
    assert len(fake.calls("sbatch")) == 1
    assert len(said) == 1
    assert "queue is full" in said[0]


@pytest.mark.slow
def test_a_queue_that_stays_full(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm(fakes.QueueFullForEver)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="sleeping and retrying") as caught:
        Slurm(patience=1.5, timeout=1, settle=0.5).submit(submission)
    assert "MaxJobCount" in caught.value.why
    assert 1.4 < time.monotonic() - began < 10
    assert fake.jobs() == []


# What is known.


def test_a_job_through_its_life(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm()
    slurm = Slurm()
    before = int(time.time())
    job = slurm.submit(submission)
    status = slurm.status([job])[job]
    assert (status.state, status.reason, status.name, status.time_limit) == ("PENDING", "Priority", NAME, 3600)
    assert status.submitted is not None
    assert before <= status.submitted <= time.time()
    fake.move(job, state="RUNNING", reason="None", nodes="n[1-2]", started=time.time(), restarts=1)
    status = slurm.status([job])[job]
    assert (status.state, status.reason, status.nodes, status.restarts) == ("RUNNING", "", "n[1-2]", 1)
    assert (status.exit_code, status.ended) == (None, None)
    fake.move(job, state="FAILED", reason="NonZeroExitCode", code=143, ended=time.time())
    assert slurm.status([job])[job].exit_code == 143
    fake.move(job, forgotten=True)
    status = slurm.status([job])[job]
    assert (status.state, status.exit_code, status.name) == ("FAILED", None, NAME)


def test_one_question_for_any_number_of_jobs(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm()
    slurm = Slurm()
    jobs = [slurm.submit(submission) for _ in range(5)]
    fake.move(jobs[1], forgotten=True, state="COMPLETED", nodes="n1")
    asked = len(fake.calls())
    found = slurm.status([*jobs, "999999", "local-1-2", jobs[0]])
    assert list(found) == [job for job in jobs if job != jobs[1]] + [jobs[1]]
    assert [call["program"] for call in fake.calls()[asked:]] == ["squeue", "sacct"]
    assert fake.calls()[asked + 1]["argv"][-1] == f"--jobs={jobs[1]},999999"


def test_a_question_too_long_for_one_word_is_cut(
    fake_slurm: Start, submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_slurm()
    slurm = Slurm()
    job = slurm.submit(submission)
    many = [str(10**9 + index) for index in range(20_000)]
    assert list(slurm.status([*many, job])) == [job]
    lengths = [len(call["argv"][-1]) for call in fake.calls("squeue")]
    assert len(lengths) == 3
    assert max(lengths) <= text.WORD_LIMIT + len("--jobs=")


def test_nothing_asked_nothing_run(fake_slurm: Start) -> None:
    fake = fake_slurm()
    assert Slurm().status([]) == {}
    assert Slurm().status(["local-1-2"]) == {}
    assert Slurm().find([]) == {}
    Slurm().cancel([])
    assert fake.calls() == []


def test_a_single_unknown_job_is_absent(fake_slurm: Start) -> None:
    fake_slurm()
    assert Slurm().status(["999999"]) == {}


def test_without_accounting_sacct_is_asked_once(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm(fakes.NoAccounting)
    said: list[str] = []
    slurm = Slurm(say=said.append)
    job = slurm.submit(submission)
    for _ in range(3):
        assert list(slurm.status([job, "999999"])) == [job]
    assert slurm.find(["nobody"]) == {}
    assert len(fake.calls("sacct")) == 1
    assert said == []


def test_accounting_that_is_down_is_said_and_hides_nothing(fake_slurm: Start, submission: Submission) -> None:
    fake_slurm(fakes.AccountingDown)
    said: list[str] = []
    slurm = Slurm(say=said.append)
    job = slurm.submit(submission)
    assert list(slurm.status([job, "999999"])) == [job]
    assert "Connection refused" in said[0]


def test_arrays(fake_slurm: Start, submission: Submission) -> None:
    fake_slurm()
    slurm = Slurm()
    job = slurm.submit(Submission(NAME, submission.script, ("--array=0-3",)))
    found = slurm.status([job, f"{job}_2", f"{job}_9"])
    assert {name: status.job for name, status in found.items()} == {job: job, f"{job}_2": f"{job}_2"}


def test_find_gives_the_newest_of_mine(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm()
    slurm = Slurm()
    first, second, other = (slurm.submit(submission) for _ in range(3))
    fake.move(other, user=os.getuid() + 1)
    assert slurm.find([NAME, "nobody"])[NAME].job == second
    for job in (first, second):
        fake.move(job, forgotten=True, state="COMPLETED", nodes="n1")
    found = slurm.find([NAME, "nobody"])
    assert list(found) == [NAME]
    assert (found[NAME].job, found[NAME].exit_code) == (second, 0)


def test_reading_from_a_controller_that_is_down(fake_slurm: Start) -> None:
    fake_slurm(fakes.Down)
    for action in (lambda: Slurm().status(["1"]), lambda: Slurm().find(["a"]), lambda: Slurm().cancel(["1"])):
        with pytest.raises(Unreachable, match="Unable to contact slurm controller") as caught:
            action()
        assert "controller does not answer" in caught.value.why


@pytest.mark.slow
def test_reading_does_not_wait_for_a_controller_that_a_ping_finds_down(fake_slurm: Start) -> None:
    fake_slurm(fakes.DownSlowly)
    for action in (lambda: Slurm().status(["1"]), lambda: Slurm().cancel(["1"])):
        began = time.monotonic()
        with pytest.raises(Unreachable, match="it is down"):
            action()
        assert time.monotonic() - began < 5


def test_reading_that_hangs(fake_slurm: Start) -> None:
    fake_slurm(fakes.Hanging)
    with pytest.raises(Unreachable, match="did not answer in time"):
        Slurm(timeout=0.5).status(["1", "2"])


def test_another_failure_keeps_its_words(fake_slurm: Start) -> None:
    fake = fake_slurm()
    (fake.bin / "squeue").write_text("#!/bin/sh\necho 'squeue: error: strange thing' >&2; exit 1\n")
    with pytest.raises(SchedulerError, match="squeue failed: strange thing"):
        Slurm().status(["1"])


def test_cancel(fake_slurm: Start, submission: Submission) -> None:
    fake = fake_slurm()
    slurm = Slurm()
    jobs = [slurm.submit(submission) for _ in range(3)]
    slurm.cancel([jobs[0], jobs[2], "999999", jobs[0]])
    assert [each["state"] for each in fake.jobs()] == ["CANCELLED", "PENDING", "CANCELLED"]
    slurm.cancel([jobs[0]])
    assert [call["argv"] for call in fake.calls("scancel")] == [[jobs[0], jobs[2], "999999"], [jobs[0]]]


def test_cancel_what_is_not_mine(fake_slurm: Start) -> None:
    fake_slurm(fakes.NotYours)
    with pytest.raises(Rejected, match="Access/permission denied"):
        Slurm().cancel(["7"])
