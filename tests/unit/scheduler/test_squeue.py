from __future__ import annotations

import pytest
from recordings import VERSIONS, text

from gangrun.scheduler import squeue
from gangrun.scheduler.model import Status
from gangrun.scheduler.rows import newest, pick

# name: state, reason, exit code, signal. The same jobs were submitted to each version.
EXPECTED = {
    "ok": ("COMPLETED", "", 0, None),
    "nodir": ("COMPLETED", "", 0, None),
    "exit7": ("FAILED", "NonZeroExitCode", 7, None),
    "exit143": ("FAILED", "NonZeroExitCode", 143, None),
    "exit200": ("FAILED", "NonZeroExitCode", 200, None),
    "selfkill": ("FAILED", "RaisedSignal:9(Killed)", None, 9),
    "timeout": ("TIMEOUT", "TimeLimit", None, 15),
    "cancelled": ("CANCELLED", "", None, 15),
    "cancelledheld": ("CANCELLED", "JobHeldUser", None, None),
    "toomany": ("FAILED", "BadConstraints", None, None),
    "held": ("PENDING", "JobHeldUser", None, None),
    "begin": ("PENDING", "BeginTime", None, None),
    "depbad": ("PENDING", "DependencyNeverSatisfied", None, None),
    "a|b c": ("PENDING", "JobHeldUser", None, None),
    "toolong": ("PENDING", "PartitionTimeLimit", None, None),
    "off": ("PENDING", "PartitionDown", None, None),
    "requeued": ("PENDING", "BeginTime", None, None),
    "big": ("PENDING", "Resources", None, None),
    "big2": ("PENDING", "Priority", None, None),
    "arr": ("FAILED", "NonZeroExitCode", 4, None),
    "thr": ("RUNNING", "", None, None),
}
DIFFERENT = {
    ("20.11.4", "selfkill"): ("FAILED", "JobLaunchFailure", None, 9),
    ("22.05.8", "selfkill"): ("FAILED", "JobLaunchFailure", None, 9),
    # Looked at before it was over: this Slurm stopped it a few seconds later than the others.
    ("26.05.5", "timeout"): ("RUNNING", "", None, None),
}


def of(version: str) -> dict[str, Status]:
    return newest(squeue.rows(text(version, "squeue.out")), list(EXPECTED))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_job_is_read_alike_in_all_versions(version: str) -> None:
    seen = {name: (s.state, s.reason, s.exit_code, s.signal) for name, s in of(version).items()}
    assert seen == {name: DIFFERENT.get((version, name), expected) for name, expected in EXPECTED.items()}


# 2026-11-21T09:09:00 UTC
NINE = 1795252140.0


@pytest.mark.parametrize(
    ("version", "job", "reason", "signal"),
    [("20.11.4", "6", "JobLaunchFailure", 9), ("24.11.5", "5", "RaisedSignal:9(Killed)", 9)],
)
def test_a_whole_row(version: str, job: str, reason: str, signal: int) -> None:
    ended = NINE + 10 if version == "20.11.4" else NINE + 9
    assert pick(squeue.rows(text(version, "squeue.out")), [job]) == {
        job: Status(
            job=job,
            state="FAILED",
            name="selfkill",
            reason=reason,
            nodes="n1",
            exit_code=None,
            signal=signal,
            submitted=NINE + 9,
            started=NINE + 9,
            ended=ended,
            restarts=0,
            partition="gpu",
            time_limit=3600,
        )
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_waiting_jobs_have_estimates_and_no_end(version: str) -> None:
    jobs = of(version)
    assert jobs["big"].submitted is not None
    assert jobs["big"].started is not None
    assert jobs["big"].started > jobs["big"].submitted
    assert jobs["held"].started is None
    assert jobs["requeued"].restarts == 1
    assert all(job.ended is None for job in jobs.values() if not job.final)
    assert all(job.ended is not None for job in jobs.values() if job.final)
    # It never ran, though Slurm prints a start for it.
    assert jobs["cancelledheld"].started is None
    assert jobs["off"].time_limit is None
    assert jobs["toolong"].time_limit == 3600
    assert jobs["toolong"].partition == "short"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_array_its_tasks_and_their_own_numbers(version: str) -> None:
    rows = list(squeue.rows(text(version, "squeue.out")))
    array = newest(rows, ["arr"])["arr"].job
    tasks = [row for row in rows if row.status.name == "arr"]
    assert len(tasks) == 5
    number = next(row.raw for row in tasks if row.status.job == f"{array}_3")
    found = pick(rows, [array, f"{array}_3", f"{array}_0", number, f"{array}_9", "999999", "nonsense"])
    assert set(found) == {array, f"{array}_3", f"{array}_0", number}
    assert (found[array].job, found[array].state, found[array].exit_code) == (array, "FAILED", 4)
    assert (found[f"{array}_3"].exit_code, found[f"{array}_0"].exit_code) == (4, 0)
    assert (found[number].job, found[number].exit_code) == (number, 4)


def test_an_array_is_alive_while_one_task_is() -> None:
    line = "{0}_{1}|{0}{1}|{2}|0:0|0|N/A|N/A|N/A|1:00|gpu|{3}|None|arr|\n"
    done = line.format(7, 0, "FAILED", "n1")
    assert pick(squeue.rows(done + line.format(7, 1, "PENDING", "")), ["7"])["7"].state == "PENDING"
    both = done + line.format(7, 1, "PENDING", "") + line.format(7, 2, "RUNNING", "n2")
    assert pick(squeue.rows(both), ["7"])["7"].state == "RUNNING"


def test_what_is_no_row_is_passed_over_and_unknown_states_live() -> None:
    text = (
        "CLUSTER: fake\n"
        "12|12|QUANTUM_LEAPING|0:0|0|N/A|N/A|N/A|1:00|gpu|n1|None|new|\n"
        "13|13|RUNNING|0:0|0|N/A|N/A|N/A|1:00|gpu|n1|None|a name with\n"
        "a newline|\n"
        "No jobs in the system\n"
        "14_[1-3%1]|14|PENDING|0|x|N/A|N/A|N/A|INVALID|gpu||Priority|bar|bar|\n"
    )
    found = pick(squeue.rows(text), ["12", "13", "14"])
    assert not found["12"].final
    assert found["13"].name == "a name with"
    assert (found["14"].name, found["14"].restarts, found["14"].time_limit) == ("bar|bar", None, None)


def test_the_question() -> None:
    assert squeue.by_job(["1", "2_3"])[:4] == ["squeue", "--noheader", "--array", "--states=all"]
    assert squeue.by_job(["1", "2_3"])[-1] == "--jobs=1,2_3"
    assert squeue.by_name(["a", "b"], 1500)[-2:] == ["--user=1500", "--name=a,b"]


def test_the_newest_job_under_a_name_wins_by_number_not_by_text() -> None:
    line = "{0}|{0}|{1}|0:0|0|N/A|N/A|N/A|1:00|gpu|n1|None|run|\n"
    found = newest(squeue.rows(line.format(10, "RUNNING") + line.format(9, "FAILED")), ["run"])
    assert found["run"].job == "10"


def test_what_jobs_need_is_told_from_whose_end_they_wait_for() -> None:
    waits = ["(null)", "afterany:9(unfulfilled)", "afterok:5_*(unfulfilled),afterany:13(unfulfilled)", "singleton"]
    printed = "".join(f"{job}|{words}|\n" for job, words in enumerate(waits, 12))
    assert squeue.needs(printed) == {"12": [], "13": [], "14": ["afterok:5_*"], "15": ["singleton"]}
