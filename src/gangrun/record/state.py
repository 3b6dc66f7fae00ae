"""The state of a run, folded from what was recorded, what the job left and what the scheduler says; never stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

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
)
from gangrun.record.facts import AttemptFacts, Failure, first_failure
from gangrun.record.rundir import RunDir
from gangrun.scheduler.model import FINAL_STATES, PROCESS, Status

BECOMES_VISIBLE = 30.0
"""Seconds after a submission within which a scheduler that does not list the job is believed to be late."""


class State:
    """The words for states that are not Slurm's. Slurm's own, known or not, pass through as they are."""

    CREATED: Final = "CREATED"
    """The directory exists; nothing was sent."""
    SUBMITTING: Final = "SUBMITTING"
    """It is being sent, or its sender died and whether there is a job is not yet known."""
    REJECTED: Final = "REJECTED"
    """The scheduler refused it."""
    UNREACHED: Final = "UNREACHED"
    """The scheduler did not answer when it was to be sent."""
    NEVER_SENT: Final = "NEVER_SENT"
    """Its sender died before the scheduler got it."""
    LOST: Final = "LOST"
    """It was queued or ran once; the scheduler knows it no more, and it left no exit code."""
    LEFT: Final = "LEFT"
    """An item that its pool did not come to, as the pool's time was over or the pool ended otherwise."""
    UNREADABLE: Final = "UNREADABLE"
    """Its events cannot be read."""

    PENDING: Final = "PENDING"
    RUNNING: Final = "RUNNING"
    COMPLETED: Final = "COMPLETED"
    FAILED: Final = "FAILED"
    CANCELLED: Final = "CANCELLED"
    TIMEOUT: Final = "TIMEOUT"
    OUT_OF_MEMORY: Final = "OUT_OF_MEMORY"
    NODE_FAIL: Final = "NODE_FAIL"


LOCAL: Final = "local"
"""The cluster that processes of a machine are on."""
ENDED = FINAL_STATES | {State.REJECTED, State.UNREACHED, State.NEVER_SENT, State.LOST, State.LEFT}
"""States of a run that nothing goes on in."""
_BLAMABLE = frozenset({State.FAILED, State.OUT_OF_MEMORY, State.NODE_FAIL, State.LOST})
"""Ends in which a replica that failed is the reason. In the others it was ended like the rest of the job."""
_PROOF = frozenset({"main", "service", "unready", "lost", "limit", "workdir", "setup", "needs", "ports", "requeue"})
"""Causes after which the script has ended the job itself, so that the scheduler could not tell more."""
_SIGNALLED = frozenset({128 + number for number in (1, 2, 9, 10, 12, 15)})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the items of a sweep are."""

    items: int
    done: int = 0
    """Ended well."""
    wrong: int = 0
    """Ended otherwise."""
    running: int = 0
    ends: float | None = None
    """When the last one will probably end, in seconds since the epoch."""
    occupancy: float | None = None
    """The share of its GPUs that a pool has used so far."""

    @property
    def left(self) -> int:
        """Neither ended nor running."""
        return max(self.items - self.done - self.wrong - self.running, 0)


@dataclass(frozen=True, slots=True)
class RunState:
    """One run as a reader sees it. Times in seconds since the epoch, None where unknown."""

    run: str
    """The run id."""
    dir: str
    state: str
    job: str = ""
    """The id of its newest job, empty where there was none."""
    exit_code: int | None = None
    """The run's exit code; None while it is alive, and where nobody knows. 0 means COMPLETED and nothing else."""
    reason: str = ""
    """Slurm's word for why it waits or ended, or why it was not sent."""
    cluster: str = ""
    attempt: int = 0
    """The last attempt that began, 0 for none."""
    created: float | None = None
    submitted: float | None = None
    started: float | None = None
    """Start of the last attempt."""
    expected: float | None = None
    """When a waiting job will start, by the scheduler's estimate."""
    ended: float | None = None
    nodes: str = ""
    """In Slurm's notation."""
    cause: str = ""
    """The first word of the script's own cause (`main`, `signal`, …)."""
    failed: Failure | None = None
    """The replica that failed first."""
    cancel_requested: bool = False
    time_limit: int | None = None
    """Seconds, while the scheduler tells."""
    stale: bool = False
    """Whether the scheduler was not heard and could know better: the state is the last one known."""
    note: str = ""
    """What a reader should know about this answer."""
    mode: str = ""
    """How the items of a sweep run; empty for any other run."""
    progress: Progress | None = None
    """Of a sweep."""

    @property
    def final(self) -> bool:
        """Whether nothing goes on in it any more, for certain."""
        return self.state in ENDED and not self.stale

    @property
    def scheduler(self) -> str:
        """The cluster that is asked about its job: `local` for a process, be it in an allocation of another one."""
        return LOCAL if self.job.startswith(PROCESS) else self.cluster


@dataclass(slots=True)
class History:
    """What the events say of the newest submission."""

    created: Created | None = None
    submitting: Submitting | None = None
    job: str = ""
    submitted: float | None = None
    cluster: str = ""
    refused: Rejected | GaveUp | NeverSent | None = None
    reason: str = ""
    cancel: CancelRequested | None = None
    observed: Observed | None = None
    jobs: set[str] = field(default_factory=set)
    """Every job that the run ever had."""

    @property
    def first_attempt(self) -> int:
        """The attempt that the newest job's first life is."""
        return self.submitting.attempt if self.submitting else 1

    @property
    def local(self) -> bool:
        """Whether its job is a process of one machine, which nobody queues again."""
        return self.job.startswith(PROCESS)

    @property
    def scheduler(self) -> str:
        """The cluster that is asked about the job."""
        return LOCAL if self.local else self.cluster

    @property
    def host(self) -> str:
        """The machine that sent it or, for a local run, that it runs on."""
        if self.submitting:
            return self.submitting.host
        return self.created.host if self.created else ""

    def add(self, event: Event) -> None:
        """Takes the next event in."""
        if isinstance(event, Created):
            self.created = event
            self.cluster = self.cluster or event.cluster
        elif isinstance(event, Submitting):
            self.submitting = event
            self.job, self.submitted, self.reason = "", None, ""
            self.refused = self.cancel = self.observed = None
        elif isinstance(event, (Submitted, Found)):
            self.job = event.job
            self.jobs.add(event.job)
            self.submitted = self.submitting.t if isinstance(event, Found) and self.submitting else event.t
            self.cluster = event.cluster or self.cluster
        elif isinstance(event, (Rejected, GaveUp, NeverSent)):
            self.refused = event
            self.reason = event.reason or self.reason
        elif isinstance(event, CancelRequested):
            self.cancel = event
        elif isinstance(event, Observed) and event.job == self.job:
            self.observed = event


def history(events: Iterable[Event]) -> History:
    """Reads events in order."""
    told = History()
    for event in events:
        told.add(event)
    return told


@dataclass(frozen=True, slots=True)
class _End:
    """How a job ended, whoever tells it."""

    state: str
    exit_code: int | None
    reason: str = ""
    nodes: str = ""
    started: float | None = None
    ended: float | None = None


def fold(
    run: RunDir,
    events: Iterable[Event],
    facts: AttemptFacts | None,
    status: Status | None,
    now: float,
    *,
    answered: bool = True,
) -> RunState:
    """The state of `run`.

    `facts` are those of its last attempt. `status` is what the scheduler says of its newest job; None with `answered`
    means that it was asked and does not know the job, without it that it could not be asked.
    """
    return fold_history(run, history(events), facts, status, now, answered=answered)


def fold_history(
    run: RunDir, told: History, facts: AttemptFacts | None, status: Status | None, now: float, *, answered: bool = True
) -> RunState:
    """`fold` for events that were read already."""
    attempt = facts.number if facts else told.observed.attempt if told.observed else 0
    facts = _of_this_life(told, facts, status)
    fixed = _Fixed(run, told, attempt)
    if status is not None and status.state == "COMPLETING" and over(facts):
        # Slurm tidies up, which lasts for minutes where a node is dead (SlurmdTimeout): the script itself has ended.
        status = None
    if status is not None and not status.final:
        return fixed.state(
            status.state,
            reason=status.reason,
            nodes=status.nodes or _node_list(facts),
            started=status.started if status.state != State.PENDING else None,
            expected=status.started if status.state == State.PENDING else None,
            time_limit=status.time_limit,
        )
    stale = False
    if status is not None:
        end = _End(status.state, _code(status), status.reason, status.nodes, status.started, status.ended)
    elif told.observed is not None and (facts is None or told.observed.state != State.LOST):
        seen = told.observed
        end = _End(seen.state, seen.exit_code, seen.reason, seen.nodes, seen.started, seen.ended)
    elif not told.job:
        return fixed.state(_unsent(told), reason=told.reason, stale=not answered and told.refused is None)
    elif facts is not None and facts.exit is not None:
        end = _End(State.COMPLETED if facts.exit == 0 else facts.ended_as or State.FAILED, facts.exit)
        # A preempted job has written a code and is queued again; only one that ended well cannot be.
        stale = not answered and facts.exit != 0 and not told.local
    elif not answered or (told.submitted is not None and now - told.submitted < BECOMES_VISIBLE and not told.local):
        return fixed.state(
            State.RUNNING if facts is not None or told.local else State.PENDING,
            nodes=_node_list(facts),
            started=facts.started if facts else None,
            stale=not answered,
        )
    else:
        end = _End((facts.ended_as if facts else "") or State.LOST, None)
    return _ended(fixed, told, facts, end, stale=stale)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What does not depend on how the job fares."""

    run: RunDir
    told: History
    attempt: int

    def state(
        self,
        state: str,
        *,
        exit_code: int | None = None,
        reason: str = "",
        nodes: str = "",
        started: float | None = None,
        expected: float | None = None,
        ended: float | None = None,
        cause: str = "",
        failed: Failure | None = None,
        time_limit: int | None = None,
        stale: bool = False,
    ) -> RunState:
        told = self.told
        return RunState(
            run=self.run.run_id,
            dir=self.run.dir,
            state=state,
            job=told.job,
            exit_code=exit_code,
            reason=reason,
            cluster=told.cluster,
            attempt=self.attempt,
            created=told.created.t if told.created else None,
            submitted=told.submitted,
            started=started,
            expected=expected,
            ended=ended,
            nodes=nodes,
            cause=cause,
            failed=failed,
            cancel_requested=told.cancel is not None,
            time_limit=time_limit,
            stale=stale,
            mode=told.created.mode if told.created else "",
            progress=_counted(told),
        )


def _counted(told: History) -> Progress | None:
    """What was recorded when a sweep had ended; before that, how many items there are."""
    if (seen := told.observed) is not None and seen.items:
        return Progress(seen.items, seen.done, seen.wrong)
    return Progress(told.created.items) if told.created and told.created.items else None


def _of_this_life(told: History, facts: AttemptFacts | None, status: Status | None) -> AttemptFacts | None:
    """The facts, unless they are those of an earlier life.

    A run that was resumed and cancelled while it waited has the exit code of its first job on disk, and one that was
    preempted and cancelled while it waited again has that of its first life.
    """
    if facts is None:
        return None
    life = told.first_attempt + (status.restarts or 0 if status else 0)
    return facts if facts.number >= life else None


def over(facts: AttemptFacts | None) -> bool:
    """Whether the script has ended the job itself, so that the scheduler cannot tell more nor queue it again."""
    if facts is None or facts.exit is None or (facts.requeue is not None and facts.requeue.again):
        return False
    return facts.exit == 0 or (facts.cause is not None and facts.cause.kind in _PROOF)


def _code(status: Status) -> int | None:
    if not status.exit_code and status.signal and status.state in {State.FAILED, State.OUT_OF_MEMORY}:
        return 128 + status.signal  # as a shell would say it: `scontrol` has 0:9 for a killed batch script
    return status.exit_code


def _unsent(told: History) -> str:
    if isinstance(told.refused, Rejected):
        return State.REJECTED
    if isinstance(told.refused, GaveUp):
        return State.UNREACHED
    if isinstance(told.refused, NeverSent):
        return State.NEVER_SENT
    return State.SUBMITTING if told.submitting else State.CREATED


def _ended(fixed: _Fixed, told: History, facts: AttemptFacts | None, end: _End, *, stale: bool) -> RunState:
    # The script's own file first: sacct has 0:15 for a script that exited 143 (measured on 22.05).
    code = end.exit_code if facts is None or facts.exit is None else facts.exit
    if end.state == State.COMPLETED:
        code = 0
    elif code == 0:
        code = end.exit_code or None  # sacct has 0:0 for CANCELLED and TIMEOUT; nobody may take that for success
    cause = facts.cause.kind if facts and facts.cause else told.observed.cause if told.observed else ""
    state = end.state
    # A script that ends itself after a signal is FAILED to Slurm, and a killed one is LOST where nobody keeps accounts.
    if told.cancel is not None and (
        state == State.LOST or (state == State.FAILED and (cause == "signal" or (not cause and code in _SIGNALLED)))
    ):
        state = State.CANCELLED
    if state == State.FAILED and cause == "limit":
        state = State.TIMEOUT  # the script ended it in time for a next attempt, which it then did not get
    failed = None
    if state in _BLAMABLE:
        failed = first_failure(facts) if facts else None
        if failed is None and told.observed is not None:
            failed = told.observed.failed
    return fixed.state(
        state,
        exit_code=code,
        reason=end.reason,
        nodes=end.nodes or _node_list(facts),
        started=end.started or (facts.started if facts else None),
        ended=end.ended or (facts.ended if facts else None),
        cause=cause,
        failed=failed,
        stale=stale,
    )


def _node_list(facts: AttemptFacts | None) -> str:
    return ",".join(facts.hosts) if facts else ""
