from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gangrun.errors import RecordError
from gangrun.record.events import Created, Event, Note
from gangrun.record.facts import (
    AttemptFacts,
    Beat,
    Cause,
    Failure,
    Life,
    ReplicaFacts,
    first_failure,
    parse_beat,
    parse_cause,
    parse_code,
    parse_first,
    parse_lives,
    parse_seconds,
    parse_start,
)
from gangrun.record.rundir import RunDir


def test_the_layout() -> None:
    run = RunDir("/p/outputs/001_exp/000_step/260131_154500-2/")
    assert (run.experiment, run.step, run.stamp) == ("001_exp", "000_step", "260131_154500-2")
    assert run.run_id == "001_exp_000_step_260131_154500-2"
    names = {
        run.spec: "spec.toml",
        run.script: "script.sh",
        run.commit: "commit.txt",
        run.diff: "diff.patch",
        run.events: "events.jsonl",
        run.job_log: "job.log",
        run.latest_attempt: "attempts/latest",
        run.attempt(1).path: "attempts/001",
        run.attempt(1234).path: "attempts/1234",
        run.attempt(2).log("a.0"): "attempts/002/logs/a.0.log",
        run.attempt(2).step_log("a.0"): "attempts/002/logs/a.0.step.log",
        run.attempt(2).exit("a.0"): "attempts/002/status/a.0.exit",
        run.attempt(2).lives("a.0"): "attempts/002/status/a.0.lives",
        run.attempt(2).first("a.0"): "attempts/002/status/a.0.first",
        run.attempt(2).step("a.0"): "attempts/002/status/a.0.step",
        run.attempt(2).beat("a.0", 3): "attempts/002/status/a.0.3.beat",
        run.attempt(2).run_start: "attempts/002/status/run.start",
        run.attempt(2).run_exit: "attempts/002/status/run.exit",
        run.attempt(2).run_cause: "attempts/002/status/run.cause",
    }
    for path, name in names.items():
        assert path == Path("/p/outputs/001_exp/000_step/260131_154500-2") / name
    assert run.latest == Path("/p/outputs/001_exp/000_step/latest")


def test_a_run_is_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDir("outputs/e/s/260131_154500")
    assert run == RunDir(tmp_path / "outputs/e/s/260131_154500")
    assert hash(run) == hash(RunDir(f"{tmp_path}/outputs/e/s/260131_154500/"))
    assert run != RunDir("outputs/e/s/260131_154501")
    with pytest.raises(AttributeError):
        run.dir = "/"  # type: ignore[misc]


def test_everything_a_job_leaves_is_read(new_run: Callable[..., RunDir], job_files) -> None:
    run = new_run()
    files = job_files(run, 1).start(job="77", hosts="n0 n1", when=100.25, base="12000")
    files.replica("trainer.0", 7, when=160, first="7 3 n1").replica("trainer.10", None).replica("trainer.2", 0)
    files.attempt.step("trainer.10").write_text("77.4\n")
    files.attempt.beat("trainer.10", 0).write_text("123\nexit 0\n")
    files.attempt.beat("trainer.10", 1).write_text("123\n")
    os.utime(files.attempt.beat("trainer.10", 1), (500, 500))
    files.end(7, "main trainer.0 7")
    os.utime(files.attempt.run_exit, (200, 200))
    facts = run.facts()
    assert facts is not None
    assert (facts.number, facts.started, facts.job, facts.hosts, facts.port_base) == (
        1,
        100.25,
        "77",
        ("n0", "n1"),
        12000,
    )
    assert (facts.exit, facts.ended) == (7, 200)
    assert facts.cause == Cause("main", "trainer.0", 7)
    assert facts.replicas is not None
    assert list(facts.replicas) == ["trainer.0", "trainer.2", "trainer.10"]
    assert facts.replicas["trainer.0"].first == Failure("trainer.0", 7, 3, "n1")
    assert facts.replicas["trainer.0"].exit == 7
    assert facts.replicas["trainer.0"].lives[-1].ended == 160
    assert facts.replicas["trainer.10"].step == "77.4"
    beats = facts.replicas["trainer.10"].beats
    assert beats is not None
    assert beats[0].code == 0
    assert beats[1] == Beat(500, None)
    heads = run.facts(replicas=False)
    assert heads is not None
    assert heads.replicas is None
    assert (heads.exit, heads.cause) == (facts.exit, facts.cause)


def test_attempts_are_numbered_and_the_last_counts(new_run: Callable[..., RunDir], job_files) -> None:
    run = new_run()
    assert run.attempts() == []
    assert run.facts() is None
    job_files(run, 2).start(job="b")
    job_files(run, 1).start(job="a").end(143)
    run.latest_attempt.symlink_to("002")
    (run.path / "attempts" / "junk").mkdir()
    (run.path / "attempts" / "٣").mkdir()
    assert run.attempts() == [1, 2]
    facts = run.facts()
    assert facts is not None
    assert (facts.number, facts.job, facts.exit) == (2, "b", None)
    assert run.facts(1) is not None
    assert run.facts(3) is None


def test_an_attempt_of_which_only_the_directory_exists(new_run: Callable[..., RunDir]) -> None:
    run = new_run()
    run.attempt(1).path.mkdir(parents=True)
    assert run.facts() == AttemptFacts(1, replicas={})


def test_a_start_cut_at_any_byte(new_run: Callable[..., RunDir], job_files) -> None:
    run = new_run()
    files = job_files(run)
    whole = b"1700000000.5\n12345\nnode1 node2\n12000\n"
    for cut in range(len(whole) + 1):
        files.attempt.run_start.write_bytes(whole[:cut])
        facts = run.facts()
        assert facts is not None
        assert "12345".startswith(facts.job)
        assert all("node1 node2".find(host) >= 0 for host in facts.hosts)


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("slurmstepd-n1: error: *** JOB 12 ON n1 CANCELLED AT {} DUE TO TIME LIMIT ***", "TIMEOUT"),
        ("slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT {} DUE TO PREEMPTION ***", "PREEMPTED"),
        ("[2026-11-21T10:00:00] error: *** JOB 12 ON n1 CANCELLED AT {} ***", "CANCELLED"),
        ("slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT {} DUE TO JOB REQUEUE ***", ""),
        ("slurmstepd: error: *** STEP 12.0 ON n1 CANCELLED AT {} ***", ""),
        ("gangrun: signal TERM", ""),
    ],
)
def test_slurms_word_on_the_end(new_run: Callable[..., RunDir], job_files, line: str, state: str) -> None:
    run = new_run()
    began = 1_700_000_000.0
    job_files(run).start(when=began)

    def at(when: float) -> str:
        return line.format(time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(when))) + "\n"

    run.job_log.write_text("x" * 10000 + "\n" + at(began + 60))
    facts = run.facts()
    assert facts is not None
    assert facts.ended_as == state
    run.job_log.write_text(at(began - 60))  # of an earlier life
    facts = run.facts()
    assert facts is not None
    assert not facts.ended_as


def test_what_is_no_plain_file_hangs_nobody(new_run: Callable[..., RunDir], job_files) -> None:
    run = new_run()
    files = job_files(run)
    os.mkfifo(files.attempt.run_exit)
    files.attempt.run_start.mkdir()
    files.attempt.run_cause.symlink_to(files.attempt.run_cause)
    os.mkfifo(files.attempt.exit("a.0"))
    facts = run.facts()
    assert facts is not None
    assert (facts.exit, facts.ended, facts.job, facts.cause) == (None, None, "", None)
    assert facts.replicas == {"a.0": ReplicaFacts()}


def test_other_files_in_the_status_directory_are_left_alone(new_run: Callable[..., RunDir], job_files) -> None:
    run = new_run()
    files = job_files(run).replica("role.with.dots.3", 0)
    for name in ["a.0.exit.tmp", "run.exit", "a.exit", "a.x.beat", ".exit", "a.0.0.beat.tmp", "notes.txt"]:
        (files.attempt.status / name).write_text("1\n")
    facts = run.facts()
    assert facts is not None
    assert facts.replicas is not None
    assert list(facts.replicas) == ["role.with.dots.3"]


def test_the_logs_name_the_replicas(new_run: Callable[..., RunDir], job_files) -> None:
    run = new_run()
    files = job_files(run)
    assert files.attempt.replica_logs() == []
    for name in ["a.10.log", "a.2.log", "a.2.step.log", "server.0.log", "other"]:
        (files.attempt.logs / name).write_text("")
    assert files.attempt.replica_logs() == ["a.2", "a.10", "server.0"]


def test_no_control_characters_come_from_a_job(new_run: Callable[..., RunDir], job_files) -> None:
    run = new_run()
    files = job_files(run).start(hosts="n\x1b[31m0 n1")
    facts = run.facts()
    assert files is not None
    assert facts is not None
    assert facts.hosts == ("n", "[31m0", "n1")


@given(st.binary(max_size=80))
def test_no_bytes_raise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    run = RunDir(tmp_path_factory.mktemp("r") / "e" / "s" / "260131_154500")
    attempt = run.attempt(1)
    attempt.status.mkdir(parents=True)
    for path in [attempt.run_start, attempt.run_exit, attempt.run_cause, attempt.beat("a.0", 0)]:
        path.write_bytes(data)
    for path in [attempt.exit("a.0"), attempt.lives("a.0"), attempt.first("a.0"), attempt.step("a.0")]:
        path.write_bytes(data)
    facts = run.facts()
    assert facts is not None
    first_failure(facts)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("0\n", 0),
        ("137", 137),
        (" 7 ", 7),
        ("", None),
        ("x", None),
        ("1 2", None),
        ("9" * 5000, None),
        ("٣", None),
        ("-1", -1),
    ],
)
def test_codes(text: str, code: int | None) -> None:
    assert parse_code(text) == code


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1700000000", 1.7e9),
        ("1700000000.25", 1700000000.25),
        ("1700000000,25", 1700000000.25),
        ("nan", None),
        ("1e400", None),
        ("", None),
    ],
)
def test_seconds(text: str, seconds: float | None) -> None:
    assert parse_seconds(text) == seconds


def test_a_local_start_without_ports() -> None:
    assert parse_start("5\nlocal-12-345\nbox\n\n") == (5.0, "local-12-345", ("box",), None)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("main trainer.0 7\n", Cause("main", "trainer.0", 7)),
        ("service s.1 1", Cause("service", "s.1", 1)),
        ("unready s.1 600", Cause("unready", "s.1", detail="600")),
        ("lost node4 trainer.0", Cause("lost", "trainer.0", host="node4")),
        ("signal TERM", Cause("signal", detail="TERM")),
        ("setup 3", Cause("setup", code=3)),
        ("workdir", Cause("workdir")),
        ("ports", Cause("ports")),
        ("main", Cause("main")),
        ("main trainer.0 seven", Cause("main", "trainer.0")),
        ("flood in cellar", Cause("flood", detail="in cellar")),
        ("\n", None),
    ],
)
def test_causes(text: str, cause: Cause | None) -> None:
    assert parse_cause(text) == cause


@pytest.mark.parametrize(
    ("text", "lives"),
    [
        ("", ()),
        ("5 start\n", (Life(5.0),)),
        ("5 start\n7 ready\n9 exit 0\n", (Life(5.0, 7.0, 9.0, 0),)),
        ("5 start\n9 exit 1\n10 start\n12 exit 0\n", (Life(5.0, None, 9.0, 1), Life(10.0, None, 12.0, 0))),
        ("5 start\n9 ex", (Life(5.0),)),
        ("5 start\n9 exit ", (Life(5.0),)),
        ("5 start\n10 start\n", (Life(5.0), Life(10.0))),
        ("9 exit 1\n", (Life(None, None, 9.0, 1),)),
        ("5 start\n8 lost node4\n9 exit 1\n9 given up\n", (Life(5.0, None, 9.0, 1, "node4", given_up=True),)),
        ("5 start\n8 lost node4\n9 start\n", (Life(5.0, None, 8.0, None, "node4"), Life(9.0))),
        ("garbage\n5 dance\nx start\n6 start\n", (Life(6.0),)),
    ],
)
def test_lives(text: str, lives: tuple[Life, ...]) -> None:
    assert parse_lives(text) == lives


def test_firsts_and_beats() -> None:
    assert parse_first("a.0", "7 3 n1\n") == Failure("a.0", 7, 3, "n1")
    assert parse_first("a.0", "7\n") == Failure("a.0", 7)
    assert parse_first("a.0", "x 3 n1") is None
    assert parse_first("a.0", "") is None
    assert parse_beat("1\n2\nexit 7\n") == 7
    assert parse_beat("exit 7\n3\n") is None
    assert parse_beat("exit") is None


def _ended(*ends: tuple[str, float, int], cause: Cause | None = None) -> AttemptFacts:
    replicas = {name: ReplicaFacts(exit=code, lives=(Life(1.0, None, when, code),)) for name, when, code in ends}
    return AttemptFacts(1, cause=cause, replicas=replicas)


def test_the_blamed_replica_failed_first_whatever_the_clocks_say() -> None:
    facts = _ended(("a.0", 5, 143), ("b.0", 9, 7), cause=Cause("main", "b.0", 7))
    assert first_failure(facts) == Failure("b.0", 7)


def test_the_failing_task_is_named_where_known() -> None:
    first = Failure("b.0", 7, 5, "n3")
    facts = AttemptFacts(1, cause=Cause("main", "b.0", 7), replicas={"b.0": ReplicaFacts(exit=7, first=first)})
    assert first_failure(facts) == first


def test_a_lost_host_is_named() -> None:
    assert first_failure(_ended(cause=Cause("lost", "b.0", host="n3"))) == Failure("b.0", None, None, "n3")


@pytest.mark.parametrize(
    "cause", [Cause("signal", detail="TERM"), Cause("setup", code=1), Cause("ports"), Cause("main", "x")]
)
def test_nobody_failed_where_nobody_is_blamed(cause: Cause) -> None:
    assert first_failure(_ended(("a.0", 5, 143), cause=cause)) is None


def test_without_a_cause_the_earliest_end_decides() -> None:
    assert first_failure(_ended(("a.0", 9, 143), ("b.0", 5, 7), ("c.0", 2, 0))) == Failure("b.0", 7)
    assert first_failure(_ended(("c.0", 2, 0))) is None
    assert first_failure(
        AttemptFacts(1, replicas={"a.0": ReplicaFacts(exit=0), "b.0": ReplicaFacts(exit=9)})
    ) == Failure("b.0", 9)


def test_events_go_through_the_run(new_run: Callable[..., RunDir], submitted: list[Event]) -> None:
    run = new_run(*submitted, Note("x" * 200_000))
    assert run.read_events()[:3] == submitted
    assert len(run.read_events()) == 4
    assert isinstance(run.read_events()[0], Created)


def test_a_run_without_events_cannot_be_read(new_run: Callable[..., RunDir]) -> None:
    with pytest.raises(RecordError, match="cannot read the events"):
        new_run().read_events()


def test_a_page_for_which_there_is_no_room_leaves_the_earlier_one(small_disk: Path) -> None:
    run = RunDir(small_disk / "exp" / "step" / "260131_154500")
    run.path.mkdir(parents=True)
    run.write_report("earlier")
    with pytest.raises(RecordError, match="the disk is full"):
        run.write_report("x" * 100_000)
    assert [path.name for path in run.path.iterdir()] == ["report.html"]
    assert run.report.read_text() == "earlier"
