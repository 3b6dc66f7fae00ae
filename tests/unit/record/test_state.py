from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from gangrun.record.events import (
    CancelRequested,
    Created,
    Event,
    Found,
    GaveUp,
    NeverSent,
    Observed,
    Rejected,
    Submitted,
    Submitting,
    Unknown,
)
from gangrun.record.facts import AttemptFacts, Cause, Failure, Life, ReplicaFacts
from gangrun.record.rundir import RunDir
from gangrun.record.state import fold
from gangrun.scheduler.model import Status

T0 = 1_700_000_000.0
NOW = T0 + 5000
RUN = RunDir("/p/outputs/001_exp/000_step/260131_154500")
SENT: list[Event] = [
    Created(cluster="lab", host="login1", t=T0),
    Submitting(1, RUN.run_id, "login1", 1, 1, t=T0 + 1),
    Submitted("77", "lab", t=T0 + 2),
]
CANCEL = CancelRequested("77", t=T0 + 50)


def ran(code: int | None, cause: Cause | None = None, number: int = 1, **exits: int) -> AttemptFacts:
    """An attempt of replicas m0, m1, … that ended with these codes, in the order given."""
    replicas = {
        f"{name}.0": ReplicaFacts(exit=each, lives=(Life(T0 + 6, None, T0 + 60 + place, each),))
        for place, (name, each) in enumerate(exits.items())
    }
    return AttemptFacts(
        number, T0 + 5, "77", ("n0", "n1"), 12000, code, T0 + 99 if code is not None else None, cause, replicas
    )


def says(state: str, code: int | None = None, signal: int | None = None, **more: object) -> Status:
    return Status("77", state, exit_code=code, signal=signal, **more)  # type: ignore[arg-type]


TERM = Cause("signal", detail="TERM")


@dataclass
class Case:
    """A row of what was measured on Slurm 22.05, and what a reader of the run shall see."""

    facts: AttemptFacts | None
    status: Status | None
    state: str
    code: int | None
    failed: Failure | None = None
    more: list[Event] = field(default_factory=list)


# What scontrol says, and where it differs what sacct says, which alone knows after MinJobAge.
ROWS: dict[str, Case] = {
    "mains 0": Case(ran(0, m0=0, m1=0, s=143), says("COMPLETED", 0, 0), "COMPLETED", 0),
    "m1 exits 7": Case(
        ran(7, Cause("main", "m1.0", 7), m1=7, m0=143), says("FAILED", 7, 0), "FAILED", 7, Failure("m1.0", 7)
    ),
    "service exits 0 early": Case(
        ran(1, Cause("service", "s.0", 0), s=0), says("FAILED", 1, 0), "FAILED", 1, Failure("s.0", 0)
    ),
    "service never ready": Case(
        ran(1, Cause("unready", "s.0", detail="3")), says("FAILED", 1, 0), "FAILED", 1, Failure("s.0")
    ),
    "sidecar exits 9": Case(ran(0, side=9, m0=0, m1=0), says("COMPLETED", 0, 0), "COMPLETED", 0),
    "m1 SIGKILL, sacct": Case(
        ran(137, Cause("main", "m1.0", 137), m1=137), says("FAILED", None, 9), "FAILED", 137, Failure("m1.0", 137)
    ),
    "m1 SEGV, sacct": Case(
        ran(139, Cause("main", "m1.0", 139), m1=139), says("FAILED", None, 11), "FAILED", 139, Failure("m1.0", 139)
    ),
    "m1 SEGV, scontrol": Case(
        ran(139, Cause("main", "m1.0", 139), m1=139), says("FAILED", 139, 0), "FAILED", 139, Failure("m1.0", 139)
    ),
    "m1 5, others ignore TERM": Case(
        ran(5, Cause("main", "m1.0", 5), m1=5, m0=137), says("FAILED", 5, 0), "FAILED", 5, Failure("m1.0", 5)
    ),
    "three lives, always 7": Case(
        ran(7, Cause("main", "m1.0", 7), m1=7), says("FAILED", 7, 0), "FAILED", 7, Failure("m1.0", 7)
    ),
    "scancel, pending": Case(None, says("CANCELLED", 0, 0), "CANCELLED", None, more=[CANCEL]),
    "scancel, running, scontrol": Case(
        ran(None, TERM, m0=143), says("CANCELLED", 0, 9), "CANCELLED", None, more=[CANCEL]
    ),
    "scancel, running, sacct": Case(ran(None), says("CANCELLED", 0, 0), "CANCELLED", None),
    "scancel, running, script was quick": Case(ran(143, TERM, m0=143), says("CANCELLED", 0, 15), "CANCELLED", 143),
    "scancel -s TERM --batch by gangrun": Case(
        ran(143, TERM, m0=143), says("FAILED", 143), "CANCELLED", 143, more=[CANCEL]
    ),
    "scancel -s TERM --batch by hand": Case(ran(143, TERM, m0=143), says("FAILED", 143), "FAILED", 143),
    "scancel --full -s TERM, sacct": Case(ran(143, TERM), says("FAILED", None, 15), "CANCELLED", 143, more=[CANCEL]),
    "scancel of a step, no effect": Case(ran(0, m0=0, m1=0), says("COMPLETED", 0), "COMPLETED", 0),
    "time limit, scontrol": Case(ran(None, Cause("main", "m0.0", 143), m0=143), says("TIMEOUT", 0, 9), "TIMEOUT", None),
    "time limit, sacct": Case(ran(None), says("TIMEOUT", 0, 0), "TIMEOUT", None),
    "time limit, script was quick": Case(ran(143, TERM), says("TIMEOUT", 0, 0), "TIMEOUT", 143),
    "--signal=B:TERM": Case(ran(143, TERM), says("FAILED", 143), "FAILED", 143),
    "preempted, queued again": Case(ran(143, TERM), says("PENDING", reason="BeginTime", restarts=1), "PENDING", None),
    "preempted, not queued again": Case(ran(143, TERM), says("PREEMPTED", 0, 15), "PREEMPTED", 143),
    "kill -9 of the batch script": Case(ran(None), says("FAILED", 0, 9, reason="JobLaunchFailure"), "FAILED", 137),
    "kill -9 of srun": Case(
        ran(137, Cause("main", "m1.0", 137), m1=137), says("FAILED", 137), "FAILED", 137, Failure("m1.0", 137)
    ),
    "requeued from inside": Case(ran(143, TERM), says("RUNNING", restarts=1), "RUNNING", None),
    "slurmctld was down": Case(ran(0, m0=0), says("COMPLETED", 0), "COMPLETED", 0),
    "power cut, noticed by the script": Case(
        ran(1, Cause("lost", "m1.0", host="n3")), says("FAILED", 1), "FAILED", 1, Failure("m1.0", host="n3")
    ),
    "power cut, noticed by nobody": Case(ran(None), says("RUNNING"), "RUNNING", None),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_measured_end_reads_as_it_was(name: str) -> None:
    row = ROWS[name]
    got = fold(RUN, [*SENT, *row.more], row.facts, row.status, NOW)
    assert (got.state, got.exit_code, got.failed) == (row.state, row.code, row.failed)
    assert got.job == "77"
    assert got.cluster == "lab"
    assert not got.stale
    assert got.final == (row.state not in {"RUNNING", "PENDING"})


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.status and row.status.final])
def test_an_end_that_was_recorded_reads_the_same_when_slurm_forgot(name: str) -> None:
    row = ROWS[name]
    first = fold(RUN, [*SENT, *row.more], row.facts, row.status, NOW)
    assert row.status is not None
    kept = Observed("77", row.status.state, exit_code=first.exit_code, cause=first.cause, failed=first.failed, t=NOW)
    got = fold(RUN, [*SENT, *row.more, kept], row.facts, None, NOW + 1e6)
    assert (got.state, got.exit_code, got.failed) == (row.state, row.code, row.failed)
    without_files = fold(RUN, [*SENT, *row.more, kept], None, None, NOW + 1e6)
    assert (without_files.state, without_files.exit_code, without_files.failed) == (row.state, row.code, row.failed)


@pytest.mark.parametrize(
    ("facts", "more", "state", "code"),
    [
        (ran(0), [], "COMPLETED", 0),
        (ran(7, Cause("main", "m0.0", 7)), [], "FAILED", 7),
        (ran(143, TERM), [], "FAILED", 143),
        (ran(143, TERM), [CANCEL], "CANCELLED", 143),
        (ran(143), [CANCEL], "CANCELLED", 143),
        (ran(5, Cause("main", "m0.0", 5)), [CANCEL], "FAILED", 5),
        (ran(None), [], "LOST", None),
        (ran(None), [CANCEL], "CANCELLED", None),
        (None, [], "LOST", None),
        (None, [CANCEL], "CANCELLED", None),
    ],
)
def test_without_accounting_the_files_decide(
    facts: AttemptFacts | None, more: list[Event], state: str, code: int | None
) -> None:
    got = fold(RUN, [*SENT, *more], facts, None, NOW)
    assert (got.state, got.exit_code, got.final) == (state, code, True)


@pytest.mark.parametrize(("facts", "state"), [(ran(None), "RUNNING"), (None, "PENDING")])
def test_a_job_too_young_to_be_listed_is_not_lost(facts: AttemptFacts | None, state: str) -> None:
    assert fold(RUN, SENT, facts, None, T0 + 10).state == state


@pytest.mark.parametrize(
    ("facts", "state", "code", "stale"),
    [
        (None, "PENDING", None, True),
        (ran(None), "RUNNING", None, True),
        (ran(0), "COMPLETED", 0, False),
        (ran(143, TERM), "FAILED", 143, True),  # it may have been preempted and be waiting again
    ],
)
def test_a_silent_scheduler_leaves_the_last_known_state(
    facts: AttemptFacts | None, state: str, code: int | None, stale: bool
) -> None:
    got = fold(RUN, SENT, facts, None, NOW, answered=False)
    assert (got.state, got.exit_code, got.stale) == (state, code, stale)
    assert got.final == (not stale)


LOCAL: list[Event] = [SENT[0], SENT[1], Submitted("local-12-345", "local", t=T0 + 2)]


@pytest.mark.parametrize(
    ("facts", "more", "state", "code"),
    [
        (ran(0), [], "COMPLETED", 0),
        (ran(7, Cause("main", "m0.0", 7)), [], "FAILED", 7),
        (ran(143, TERM), [CANCEL], "CANCELLED", 143),
        (ran(None), [], "LOST", None),
        (None, [], "LOST", None),
    ],
)
def test_a_local_run_is_its_process_or_its_exit_file(
    facts: AttemptFacts | None, more: list[Event], state: str, code: int | None
) -> None:
    got = fold(RUN, [*LOCAL, *more], facts, None, T0 + 3)  # a process is never late to be listed
    assert (got.state, got.exit_code) == (state, code)


def test_a_local_run_alive() -> None:
    got = fold(RUN, LOCAL, ran(None), Status("local-12-345", "RUNNING", started=T0 + 5), NOW)
    assert (got.state, got.started, got.nodes) == ("RUNNING", T0 + 5, "n0,n1")


@pytest.mark.parametrize(
    ("events", "state", "reason"),
    [
        (SENT[:1], "CREATED", ""),
        (SENT[:2], "SUBMITTING", ""),
        ([*SENT[:2], Rejected("Invalid qos specification")], "REJECTED", "Invalid qos specification"),
        ([*SENT[:2], GaveUp("no answer")], "UNREACHED", "no answer"),
        ([*SENT[:2], NeverSent()], "NEVER_SENT", ""),
        ([*SENT[:2], GaveUp("no answer"), NeverSent()], "NEVER_SENT", "no answer"),
        ([*SENT[:2], Rejected("no"), SENT[1]], "SUBMITTING", ""),
        ([SENT[0], Unknown("Later", 2, {})], "CREATED", ""),
    ],
)
def test_runs_without_a_job(events: list[Event], state: str, reason: str) -> None:
    got = fold(RUN, events, None, None, NOW)
    assert (got.state, got.reason, got.job, got.exit_code) == (state, reason, "", None)
    assert got.run == "001_exp_000_step_260131_154500"
    assert got.dir == RUN.dir
    assert got.created == T0


def test_two_readers_that_settle_at_once_do_not_contradict() -> None:
    for order in ([Found("77", "lab"), NeverSent()], [NeverSent(), Found("77", "lab")]):
        assert fold(RUN, [*SENT[:2], *order], None, says("RUNNING"), NOW).state == "RUNNING"


def test_the_live_word_wins_over_everything_recorded() -> None:
    kept = Observed("77", "PREEMPTED", exit_code=143)
    got = fold(RUN, [*SENT, CANCEL, kept], ran(143, TERM), says("RUNNING", nodes="n[5-6]", started=T0 + 900), NOW)
    assert (got.state, got.exit_code, got.nodes, got.started, got.failed) == ("RUNNING", None, "n[5-6]", T0 + 900, None)
    assert got.cancel_requested


def test_a_state_of_a_later_slurm_passes_through_as_alive() -> None:
    got = fold(RUN, SENT, None, says("LEVITATING"), NOW)
    assert (got.state, got.final) == ("LEVITATING", False)


@pytest.mark.parametrize(
    ("facts", "state", "code"),
    [
        (ran(1, Cause("lost", "m1.0", host="n1"), m1=1), "FAILED", 1),
        (ran(0, m0=0), "COMPLETED", 0),
        (ran(143, TERM, m0=143), "COMPLETING", None),
        (ran(None), "COMPLETING", None),
        (ran(1, Cause("main", "m1.0", 1), number=0), "COMPLETING", None),
    ],
    ids=["lost a node", "mains 0", "told to end", "still ends", "an earlier life"],
)
def test_slurm_tidying_up_does_not_keep_a_run_alive(facts: AttemptFacts, state: str, code: int | None) -> None:
    seen = fold(RUN, SENT, facts, says("COMPLETING", nodes="n[0-1]"), NOW)
    assert (seen.state, seen.exit_code, seen.stale) == (state, code, False)


@pytest.mark.parametrize("code", [143, None], ids=["it could write its code", "it was killed first"])
def test_slurms_own_word_in_the_log_outlives_its_memory(code: int | None) -> None:
    facts = replace(ran(code, TERM if code else None), ended_as="TIMEOUT")
    seen = fold(RUN, SENT, facts, None, NOW)
    assert (seen.state, seen.exit_code) == ("TIMEOUT", code)


def test_an_estimate_is_no_start() -> None:
    got = fold(RUN, SENT, None, says("PENDING", reason="Priority", started=NOW + 600), NOW)
    assert (got.started, got.expected, got.reason) == (None, NOW + 600, "Priority")


RESUMED: list[Event] = [
    *SENT,
    CANCEL,
    Observed("77", "CANCELLED", exit_code=143),
    Submitting(2, RUN.run_id, "login1", 2, 2, t=T0 + 1000),
    Submitted("99", "lab", t=T0 + 1001),
]


def test_a_resumed_run_has_nothing_of_its_first_job() -> None:
    waiting = fold(RUN, RESUMED, ran(143, TERM), Status("99", "PENDING"), NOW)
    assert (waiting.job, waiting.state, waiting.exit_code, waiting.attempt) == ("99", "PENDING", None, 1)
    assert not waiting.cancel_requested
    ended = fold(RUN, RESUMED, ran(143, TERM), Status("99", "CANCELLED", exit_code=0), NOW)
    assert (ended.state, ended.exit_code, ended.started) == ("CANCELLED", None, None)
    failed = fold(RUN, RESUMED, ran(143, TERM, number=2), Status("99", "FAILED", exit_code=143), NOW)
    assert (failed.state, failed.exit_code, failed.attempt) == ("FAILED", 143, 2)


def test_the_code_of_a_preempted_life_is_not_that_of_the_next() -> None:
    """Preempted with 143, queued again, and cancelled while it waited, or killed before it could begin a directory."""
    got = fold(RUN, SENT, ran(143, TERM), says("CANCELLED", 0, 0, restarts=1), NOW)
    assert (got.state, got.exit_code) == ("CANCELLED", None)
    got = fold(RUN, SENT, ran(143, TERM), says("FAILED", 0, 9, restarts=1), NOW)
    assert got.exit_code == 137
    got = fold(RUN, SENT, ran(0, number=2), says("COMPLETED", 0, 0, restarts=1), NOW)
    assert (got.exit_code, got.attempt) == (0, 2)


def test_zero_is_said_of_completed_runs_only() -> None:
    assert fold(RUN, SENT, ran(0), says("NODE_FAIL", 0, 0), NOW).exit_code is None
    assert fold(RUN, SENT, ran(0), says("FAILED", 1, 0), NOW).exit_code == 1
    assert fold(RUN, SENT, None, says("COMPLETED", None), NOW).exit_code == 0


def test_a_job_out_of_memory_names_the_replica() -> None:
    got = fold(RUN, SENT, ran(137, Cause("main", "m0.0", 137), m0=137), says("OUT_OF_MEMORY", 0, 9), NOW)
    assert (got.state, got.exit_code, got.failed, got.cause) == ("OUT_OF_MEMORY", 137, Failure("m0.0", 137), "main")


def test_times_and_nodes_come_from_whoever_knows_them() -> None:
    got = fold(RUN, SENT, ran(7, Cause("main", "m0.0", 7)), None, NOW)
    assert (got.started, got.ended, got.nodes, got.submitted, got.created) == (T0 + 5, T0 + 99, "n0,n1", T0 + 2, T0)
    got = fold(RUN, SENT, ran(7), says("FAILED", 7, nodes="n[0-1]", started=T0 + 4, ended=T0 + 100), NOW)
    assert (got.started, got.ended, got.nodes) == (T0 + 4, T0 + 100, "n[0-1]")
