from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from gangrun.errors import InputError
from gangrun.record.events import (
    CancelRequested,
    Created,
    Event,
    Found,
    GaveUp,
    NeverSent,
    Note,
    Observed,
    Rejected,
    Submitted,
    Submitting,
    process_start,
)
from gangrun.record.facts import Failure
from gangrun.record.ledger import refresh
from gangrun.record.rundir import RunDir
from gangrun.record.state import RunState
from gangrun.scheduler.model import Scheduler, Status

T0 = 1_700_000_000.0
HERE = os.uname().nodename
MakeRun = Callable[..., RunDir]


def last(run: RunDir) -> Event:
    return run.read_events()[-1]


def observed(run: RunDir) -> list[Observed]:
    return [event for event in run.read_events() if isinstance(event, Observed)]


def sending(host: str = HERE, pid: int = 2**22 + 1, started: int | None = 1) -> list[Event]:
    """A submission by a process that, unless told otherwise, is gone."""
    return [Created(cluster="lab", t=T0), Submitting(1, "name", host, pid, started, t=T0)]


def nobody(cluster: str) -> Scheduler:
    raise AssertionError(f"nobody is to be asked, but {cluster} was")


def one(run: RunDir, scheduler: Scheduler, now: float) -> RunState:
    (state,) = refresh([run], lambda cluster: scheduler, now)
    return state


# --- submissions without an outcome ---------------------------------------------------------------------------------


def test_a_job_that_was_sent_is_found_by_its_name(new_run: MakeRun, answers) -> None:
    run = new_run(*sending())
    scheduler = answers(Status("77", "RUNNING", name="name"))
    assert (one(run, scheduler, T0 + 1).state, last(run)) == ("RUNNING", Found("77", "lab", t=last(run).t))
    assert scheduler.asked == [("find", ("name",))]
    assert one(run, scheduler, T0 + 1).state == "RUNNING"
    assert scheduler.asked[1:] == [("status", ("77",))]


@pytest.mark.parametrize(
    ("age", "host", "alive", "gone"),
    [
        (29, HERE, False, False),
        (31, HERE, False, True),
        (1e6, HERE, True, False),
        (119, "elsewhere", False, False),
        (121, "elsewhere", False, True),
    ],
)
def test_a_job_counts_as_never_sent_once_its_sender_is_gone(
    new_run: MakeRun, answers, age: float, host: str, alive: bool, gone: bool
) -> None:
    pid, started = (os.getpid(), process_start(os.getpid())) if alive else (2**22 + 1, 1)
    run = new_run(*sending(host, pid, started))
    assert one(run, answers(), T0 + age).state == ("NEVER_SENT" if gone else "SUBMITTING")
    assert isinstance(last(run), NeverSent if gone else Submitting)


def test_another_process_of_the_same_number_is_not_the_sender(new_run: MakeRun, answers) -> None:
    run = new_run(*sending(HERE, os.getpid(), 1))
    assert one(run, answers(), T0 + 31).state == "NEVER_SENT"
    assert isinstance(last(run), NeverSent)


def test_a_sender_on_a_machine_without_proc(new_run: MakeRun, answers) -> None:
    living, dead = new_run(*sending(HERE, os.getpid(), None)), new_run(*sending(HERE, 2**22 + 1, None))
    refresh([living, dead], lambda cluster: answers(), T0 + 31)
    assert isinstance(last(living), Submitting)
    assert isinstance(last(dead), NeverSent)


def test_a_sender_that_was_killed(new_run: MakeRun, answers) -> None:
    program = (
        "import sys; from gangrun.record.events import Submitting; from gangrun.record.rundir import RunDir\n"
        "RunDir(sys.argv[1]).append(Submitting.here(1, 'name')); print('sent', flush=True); sys.stdin.read()\n"
    )
    run = new_run(Created(cluster="lab"))
    words = [sys.executable, "-c", program, run.dir]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "sent\n"
        assert one(run, answers(), time.time() + 60).state == "SUBMITTING"
        child.kill()
    assert one(run, answers(), time.time() + 60).state == "NEVER_SENT"
    assert isinstance(last(run), NeverSent)


def test_a_silent_scheduler_settles_nothing(new_run: MakeRun, answers) -> None:
    run = new_run(*sending())
    state = one(run, answers(reachable=False), T0 + 1e6)
    assert (state.state, state.stale) == ("SUBMITTING", True)
    assert isinstance(last(run), Submitting)


def test_many_are_settled_by_one_question(new_run: MakeRun, answers) -> None:
    runs = [new_run(Submitting(1, f"n{number}", HERE, 2**22 + 1, 1, t=T0)) for number in range(20)]
    scheduler = answers(*(Status(str(number), "PENDING", name=f"n{number}") for number in range(0, 20, 2)))
    states = refresh(runs, lambda cluster: scheduler, T0 + 60)
    assert [state.state for state in states] == ["PENDING", "NEVER_SENT"] * 10
    assert [type(last(run)) for run in runs] == [Found, NeverSent] * 10
    assert len(scheduler.asked) == 1


def test_settled_runs_are_asked_about_no_more(new_run: MakeRun) -> None:
    runs = [new_run(Created()), new_run(*sending(), Rejected("no"))]
    assert [state.state for state in refresh(runs, nobody, T0 + 60)] == ["CREATED", "REJECTED"]


def test_the_first_job_of_a_resumed_run_is_not_the_second(new_run: MakeRun, answers) -> None:
    run = new_run(*sending(), Submitted("77", "lab", t=T0), Submitting(2, "name", HERE, 2**22 + 1, 1, t=T0 + 100))
    old = Status("77", "COMPLETED", name="name")
    one(run, answers(old), T0 + 200)
    assert isinstance(last(run), NeverSent)
    again = new_run(*run.read_events()[:-1])
    assert one(again, answers(Status("99", "RUNNING", name="name")), T0 + 200).state == "RUNNING"
    assert last(again) == Found("99", "lab", t=last(again).t)


@pytest.mark.parametrize("scheduler_knows", [True, False])
def test_the_job_itself_proves_that_it_was_sent(new_run: MakeRun, answers, job_files, scheduler_knows: bool) -> None:
    run = new_run(*sending())
    job_files(run).start(job="local-12-345").end(0)
    scheduler = answers(*([Status("local-12-345", "COMPLETED", name="name")] if scheduler_knows else []))
    assert one(run, scheduler, T0 + 60).state == "COMPLETED"
    found = run.read_events()[2]
    assert found == Found("local-12-345", "lab", t=found.t)
    assert scheduler.asked == [("status", ("local-12-345",))]


def test_what_was_not_confirmed_may_turn_up(new_run: MakeRun, answers) -> None:
    run = new_run(*sending(), GaveUp("no answer", t=T0 + 90))
    assert one(run, answers(reachable=False), T0 + 100).state == "UNREACHED"
    assert one(run, answers(), T0 + 110).state == "NEVER_SENT"
    found = one(run, answers(Status("77", "PENDING", name="name")), T0 + 200)  # an sbatch that outlived its caller
    assert (found.state, found.job) == ("PENDING", "77")
    settled = new_run(*sending(), NeverSent(t=T0 + 60))
    (state,) = refresh([settled], nobody, T0 + 601)
    assert state.state == "NEVER_SENT"


# --- states of many runs --------------------------------------------------------------------------------------------


def test_each_cluster_is_asked_once(new_run: MakeRun, answers) -> None:
    def sent(job: str, cluster: str) -> RunDir:
        return new_run(Created(cluster=cluster, t=T0), Submitted(job, cluster, t=T0))

    runs = [sent("1", "a"), sent("2", "b"), sent("3", "a"), new_run(Created(cluster="c", t=T0)), sent("4", "a")]
    ends = {
        "a": answers(Status("1", "RUNNING"), Status("3", "PENDING", reason="Priority")),
        "b": answers(Status("2", "COMPLETED")),
    }
    asked = []

    def scheduler_of(cluster: str) -> Scheduler:
        asked.append(cluster)
        return ends[cluster]

    states = refresh(runs, scheduler_of, T0 + 600)
    assert [state.state for state in states] == ["RUNNING", "COMPLETED", "PENDING", "CREATED", "LOST"]
    assert [state.run for state in states] == [run.run_id for run in runs]
    assert sorted(asked) == ["a", "b"]
    assert ends["a"].asked == [("status", ("1", "3", "4"))]
    assert ends["b"].asked == [("status", ("2",))]
    ends["a"].asked.clear()
    ends["b"].asked.clear()
    refresh(runs, scheduler_of, T0 + 601)
    assert ends["a"].asked == [("status", ("1", "3", "4"))]
    assert ends["b"].asked == []  # what has ended is not asked about again


def test_an_end_is_recorded_once_and_read_without_the_scheduler(
    new_run: MakeRun, submitted: list[Event], answers, job_files
) -> None:
    run = new_run(*submitted)
    job_files(run).start().replica("m.1", 7, first="7 3 n1").replica("m.0", 143, when=T0 + 70).end(7, "main m.1 7")
    end = Status("77", "FAILED", exit_code=7, reason="NonZeroExitCode", nodes="n[0-1]", started=T0 + 4, ended=T0 + 80)
    seen = one(run, answers(end), T0 + 90)
    assert seen == RunState(
        run=run.run_id,
        dir=run.dir,
        state="FAILED",
        job="77",
        exit_code=7,
        reason="NonZeroExitCode",
        cluster="lab",
        attempt=1,
        created=T0,
        submitted=T0 + 2,
        started=T0 + 4,
        ended=T0 + 80,
        nodes="n[0-1]",
        cause="main",
        failed=Failure("m.1", 7, 3, "n1"),
    )
    assert len(observed(run)) == 1
    assert refresh([run], nobody, T0 + 1e6) == [seen]
    assert len(observed(run)) == 1


def test_a_note_after_the_end_changes_nothing(new_run: MakeRun, submitted: list[Event], answers, job_files) -> None:
    run = new_run(*submitted)
    job_files(run).start().end(0)
    seen = one(run, answers(Status("77", "COMPLETED", ended=T0 + 80)), T0 + 90)
    run.append(Note("kept for the paper"))
    assert refresh([run], nobody, T0 + 1e6) == [seen]
    assert len(observed(run)) == 1


def test_a_recorded_end_counts_for_its_job_only(new_run: MakeRun, submitted: list[Event], answers) -> None:
    run = new_run(*submitted, Observed("77", "TIMEOUT", ended=T0 + 10, t=T0 + 1000))
    (state,) = refresh([run], nobody, T0 + 2000)
    assert state.state == "TIMEOUT"
    run.append(Submitting(2, "name", HERE, 2**22 + 1, 1, t=T0 + 3000))
    run.append(Submitted("99", "lab", t=T0 + 3001))
    assert one(run, answers(Status("99", "RUNNING")), T0 + 4000).state == "RUNNING"


def test_a_cancelled_run_stays_cancelled(new_run: MakeRun, submitted: list[Event], answers, job_files) -> None:
    run = new_run(*submitted, CancelRequested("77", t=T0 + 50))
    job_files(run).start().end(143, "signal TERM")
    for scheduler in (answers(Status("77", "FAILED", exit_code=143, ended=T0 + 60)), answers()):
        state = one(run, scheduler, T0 + 100)
        assert (state.state, state.exit_code) == ("CANCELLED", 143)
    assert [event.state for event in observed(run)] == ["FAILED"]  # the record keeps the scheduler's own word
    (state,) = refresh([run], nobody, T0 + 1e6)
    assert (state.state, state.exit_code) == ("CANCELLED", 143)


def test_files_that_arrive_late_are_still_read(new_run: MakeRun, submitted: list[Event], answers, job_files) -> None:
    """An NFS client may not see the last files of a job for a minute."""
    run = new_run(*submitted)
    files = job_files(run).start()
    end = Status("77", "FAILED", exit_code=None, signal=15, ended=T0 + 80)
    assert one(run, answers(end), T0 + 81).exit_code == 143
    files.replica("m.0", 7).end(7, "main m.0 7")
    (state,) = refresh([run], nobody, T0 + 100)
    assert (state.exit_code, state.failed) == (7, Failure("m.0", 7))
    assert len(observed(run)) == 2
    assert refresh([run], nobody, T0 + 1e6) == [state]
    assert len(observed(run)) == 2


def test_an_end_without_files_is_settled_when_none_can_arrive(
    new_run: MakeRun, submitted: list[Event], answers
) -> None:
    run = new_run(*submitted)
    one(run, answers(Status("77", "CANCELLED", ended=T0 + 80)), T0 + 81)
    for later in (100, 150, 300, 400, 500):
        refresh([run], nobody, T0 + later)
    assert [event.t for event in observed(run)] == [T0 + 81, T0 + 300]


def test_a_preempted_job_may_come_back(new_run: MakeRun, submitted: list[Event], answers, job_files) -> None:
    run = new_run(*submitted)
    job_files(run).start().end(143, "signal TERM")
    assert one(run, answers(Status("77", "PREEMPTED", ended=T0 + 80)), T0 + 81).state == "PREEMPTED"
    back = one(run, answers(Status("77", "PENDING", reason="BeginTime", restarts=1)), T0 + 90)
    assert (back.state, back.exit_code, back.reason, back.attempt) == ("PENDING", None, "BeginTime", 1)
    job_files(run, 2).start(when=T0 + 250).end(0)
    done = one(run, answers(Status("77", "COMPLETED", exit_code=0, restarts=1, ended=T0 + 300)), T0 + 301)
    assert (done.state, done.exit_code, done.attempt) == ("COMPLETED", 0, 2)
    assert [event.state for event in observed(run)] == ["PREEMPTED", "COMPLETED"]
    assert refresh([run], nobody, T0 + 1e6) == [done]


def test_a_preempted_job_that_stays_away_is_asked_about_no_more(
    new_run: MakeRun, submitted: list[Event], answers
) -> None:
    run = new_run(*submitted)
    one(run, answers(Status("77", "NODE_FAIL", ended=T0 + 80)), T0 + 81)
    scheduler = answers()
    assert one(run, scheduler, T0 + 400).state == "NODE_FAIL"
    assert len(scheduler.asked) == 1
    (state,) = refresh([run], nobody, T0 + 1200)
    assert state.state == "NODE_FAIL"


def test_a_silent_scheduler_does_not_stop_a_listing(
    new_run: MakeRun, submitted: list[Event], answers, job_files
) -> None:
    running, waiting, over = new_run(*submitted), new_run(*submitted), new_run(*submitted)
    job_files(running).start()
    job_files(over).start().end(143, "signal TERM")
    states = refresh([running, waiting, over], lambda cluster: answers(reachable=False), T0 + 1e6)
    assert [(state.state, state.stale, state.final) for state in states] == [
        ("RUNNING", True, False),
        ("PENDING", True, False),
        ("FAILED", True, False),
    ]
    assert {state.note for state in states} == {"lab: squeue gave no answer within 30 s"}
    assert [len(run.read_events()) for run in (running, waiting, over)] == [3, 3, 3]


def test_a_cluster_that_is_gone_does_not_stop_a_listing(new_run: MakeRun, submitted: list[Event], answers) -> None:
    def scheduler_of(cluster: str) -> Scheduler:
        if cluster == "lab":
            raise InputError("no profile 'lab'")
        return answers(Status("5", "RUNNING"))

    runs = [new_run(*submitted), new_run(Submitted("5", "other", t=T0))]
    states = refresh(runs, scheduler_of, T0 + 600)
    assert [(state.state, state.stale, state.note) for state in states] == [
        ("PENDING", True, "lab: no profile 'lab'"),
        ("RUNNING", False, ""),
    ]


@pytest.mark.parametrize(
    ("code", "cause", "age", "kept"),
    [
        (0, "", 60, ["COMPLETED"]),
        (7, "main m.0 7", 60, ["FAILED"]),
        (143, "signal TERM", 60, []),  # accounting may be down and know of a time limit
        (143, "signal TERM", 5000, ["FAILED"]),
        (None, "", 60, []),
        (None, "", 5000, ["LOST"]),
    ],
)
def test_what_the_files_say_is_recorded_when_it_is_certain(
    new_run: MakeRun,
    submitted: list[Event],
    answers,
    job_files,
    code: int | None,
    cause: str,
    age: float,
    kept: list[str],
) -> None:
    run = new_run(*submitted)
    files = job_files(run).start(when=T0 + 5)
    if code is not None:
        files.end(code, cause)
        os.utime(files.attempt.run_exit, (T0 + 10, T0 + 10))
    state = one(run, answers(), T0 + age)
    assert state.state == ("LOST" if code is None else "COMPLETED" if code == 0 else "FAILED")
    assert [event.state for event in observed(run)] == kept
    if kept:
        assert refresh([run], nobody, T0 + 1e6)[0].state == state.state


def test_a_local_run_of_another_machine_is_not_called_lost(new_run: MakeRun, answers, job_files) -> None:
    run = new_run(Created(cluster="local", host="laptop", t=T0), Submitted("local-12-345", "local", t=T0))
    job_files(run).start(job="local-12-345", hosts="laptop")
    (state,) = refresh([run], nobody, T0 + 1e5)
    assert (state.state, state.stale, state.note) == ("RUNNING", True, "it runs on laptop: look there")
    job_files(run).end(0)
    (state,) = refresh([run], nobody, T0 + 1e5)
    assert (state.state, state.exit_code, state.stale) == ("COMPLETED", 0, False)


def test_a_local_run_that_was_killed_is_lost(new_run: MakeRun, answers, job_files) -> None:
    run = new_run(Created(cluster="local", host=HERE, t=T0), Submitted("local-12-345", "local", t=T0))
    job_files(run).start(job="local-12-345")
    assert one(run, answers(), T0 + 1).state == "LOST"
    assert refresh([run], nobody, T0 + 1e5)[0].state == "LOST"


def test_a_run_without_events_is_shown_as_unreadable(new_run: MakeRun, submitted: list[Event], answers) -> None:
    states = refresh([new_run(), new_run(*submitted)], lambda cluster: answers(Status("77", "RUNNING")), T0 + 60)
    assert [state.state for state in states] == ["UNREADABLE", "RUNNING"]
    assert "cannot read the events" in states[0].note


@pytest.mark.parametrize("mode", ["jobs", "array", "pool"])
def test_a_sweep_whose_items_cannot_be_read_does_not_stop_a_listing(new_run: MakeRun, answers, mode: str) -> None:
    sweep = new_run(Created(cluster="lab", mode=mode, items=2, t=T0), Submitting(1, "name", HERE, 1, 1, t=T0))
    sweep.items_file.write_text('{"index":0,"name":"x=1"}\n{"ind')
    item = sweep.item("x=1")
    whole = new_run(Created(t=T0))
    found = refresh([sweep, item, whole], lambda _: answers(), T0 + 1)
    assert [state.state for state in found] == [
        "UNREADABLE" if mode != "pool" else "SUBMITTING",
        "UNREADABLE",
        "CREATED",
    ]
    assert "not what gangrun wrote" in found[1].note


def test_events_without_one_whole_line(new_run: MakeRun) -> None:
    run = new_run()
    run.events.write_bytes(b'{"v":1,"t":170')
    (state,) = refresh([run], nobody, T0)
    assert (state.state, state.created) == ("CREATED", None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the power to make a file unchangeable")
def test_a_run_that_cannot_be_written_can_be_listed(new_run: MakeRun, submitted: list[Event], answers) -> None:
    run = new_run(*submitted)
    if subprocess.run(["chattr", "+i", str(run.events)], capture_output=True).returncode:
        pytest.skip("this file system has no attributes")
    try:
        state = one(run, answers(Status("77", "COMPLETED", ended=T0)), T0 + 60)
    finally:
        subprocess.run(["chattr", "-i", str(run.events)], check=True)
    assert state.state == "COMPLETED"
    assert state.note.startswith("not recorded: the file system does not allow it")
    assert observed(run) == []


def test_ended_runs_cost_one_file_each(new_run: MakeRun, submitted: list[Event], job_files) -> None:
    """Whatever their logs hold: a listing opens the events of a run that ended, and nothing else."""
    for _ in range(10):
        run = new_run(*submitted, Observed("77", "COMPLETED", exit_code=0, ended=T0 + 9, t=T0 + 10))
        job_files(run).start().end(0).replica("m.0", 0).attempt.log("m.0").write_text("x" * 100_000)
    program = (
        "import sys\n"
        "from gangrun.record.ledger import refresh\n"
        "from gangrun.record.store import Store\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append((event, args[0])) if event in "
        "('open', 'os.scandir', 'os.listdir') else None)\n"
        "states = refresh(Store(sys.argv[1]).runs(), None)\n"
        "files = [str(path) for event, path in opened if event == 'open']\n"
        "folders = [path for event, path in opened if event != 'open']\n"
        "assert len(states) == 10 and {state.state for state in states} == {'COMPLETED'}\n"
        "assert len(files) == 10 and all(path.endswith('events.jsonl') for path in files), files\n"
        "assert len(folders) == 3, folders\n"
    )
    root = str(run.path.parents[2])
    done = subprocess.run([sys.executable, "-c", program, root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- a pool whose time limit has left something ----------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True], ids=["that waits", "that has begun and forgotten who queued it"])
def test_a_pool_goes_on_in_the_job_that_it_has_queued(new_run: MakeRun, answers, begun: bool) -> None:
    run = new_run(
        Created(cluster="lab", t=T0, mode="pool", items=9),
        Submitting(1, "name", HERE, 1, 1, t=T0),
        Submitted("7", "lab", t=T0),
    )
    run.pool.mkdir()
    opened = [f'{{"t": {T0 + 9 * number}, "type": "Opened", "job": "{job}"}}\n' for number, job in enumerate("78")]
    (run.pool / "journal.jsonl").write_text("".join(opened[: 1 + begun]))
    (run.pool / "status.json").write_text(json.dumps({"done": 4, "continued": "" if begun else "8"}))
    scheduler = answers(
        Status("7", "TIMEOUT", ended=T0 + 8), Status("8", "RUNNING" if begun else "PENDING", name="name")
    )
    state = one(run, scheduler, T0 + 60)
    assert (state.state, state.job, state.progress and state.progress.done) == (
        "RUNNING" if begun else "PENDING",
        "8",
        4,
    )
    assert one(run, scheduler, T0 + 61).job == "8"
    assert [event.job for event in run.read_events() if isinstance(event, Found)] == ["8"], "noted once"
