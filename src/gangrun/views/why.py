"""Why a run waits or failed, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gangrun.node.requeue import WORDS
from gangrun.record.facts import AttemptFacts, ReplicaFacts
from gangrun.record.rundir import RunDir
from gangrun.record.state import RunState, State
from gangrun.scheduler import reasons
from gangrun.views.runs import clock, failure, last_lines, moment

_CODES = {
    1: "the program said so itself; the last lines of its log usually tell",
    2: "a usage error of the program, most often",
    125: "its container could not be started; the last lines of its log usually tell",
    126: "the command exists but cannot be executed",
    127: "the command was not found on the node: is the environment set up there (see [setup])?",
    134: "it aborted (SIGABRT): an assertion, or a library that gave up",
    137: "it was killed (SIGKILL): out of memory, most often, or ended by hand",
    139: "it crashed (SIGSEGV)",
    143: "it was asked to end (SIGTERM)",
}


def answer(run: RunDir, state: RunState, facts: AttemptFacts | None, needed: Sequence[RunState] = ()) -> list[str]:
    """Lines for a person: what is so, why, and the way out where there is one.

    `needed` are the runs that it builds on and that have not succeeded.
    """
    lines = [f"{state.run} is {state.state}" + (" (as last known)" if state.stale else "")]
    if not state.attempt and needed:
        lines += [f"it did not start, for it needs {other.run}, which is {other.state}" for other in needed]
        lines.append(f"way out: gangrun resume {needed[0].run}, then gangrun resume {state.run}")
        return lines
    lines += _earlier(run, state)
    lines += _reasons(run, state, facts)
    if state.note:
        lines.append(f"note: {state.note}")
    return lines


def _reasons(run: RunDir, state: RunState, facts: AttemptFacts | None) -> Iterator[str]:
    if state.state == State.PENDING:
        yield from _told(reasons.pending(state.reason), state.reason)
        if state.expected:
            yield f"expected to start: {moment(state.expected)}"
        return
    if state.state in (State.REJECTED, State.UNREACHED, State.NEVER_SENT, State.LOST, State.UNREADABLE):
        yield state.reason or _OWN[state.state]
        yield from failure(run, state)
        return
    if not state.final:
        started = f" since {moment(state.started)}" if state.started else ""
        yield f"nothing is wrong that the record shows: it goes on{started}"
        return
    if state.state == State.COMPLETED:
        missing = [name for name, replica in (facts.of_roles if facts else {}).items() if _given_up(replica)]
        yield "all mains exited 0" + (
            f", but for {', '.join(missing)}, without which the job went on" if missing else ""
        )
        return
    yield from _cause(facts)
    if state.state != State.FAILED:
        yield from _told(reasons.ended(state.state, state.reason), state.state)
    elif state.reason and state.reason != "NonZeroExitCode" and not (facts and facts.cause):
        yield from _told(reasons.ended(state.state, state.reason), state.reason)
    elif (code := _program_code(state, facts)) in _CODES:
        yield f"exit code {code}: {_CODES[code]}"
    yield from failure(run, state)
    if state.failed is None and (tail := last_lines(run.job_log)):
        yield f"last lines of {run.job_log}:"
        yield from (f"  | {line}" for line in tail)


def _earlier(run: RunDir, state: RunState) -> Iterator[str]:
    """Why there is more than one attempt, and why there is no further one."""
    for number in run.attempts():
        known = run.facts(number, replicas=False)
        if known is None or known.requeue is None:
            continue
        reason = WORDS.get(known.requeue.reason, known.requeue.reason)
        if known.requeue.again:
            yield f"attempt {number} ended with {reason}, and the job was queued again for the next one"
        elif state.final:
            yield f"it was not queued again after {reason}: {known.requeue.why}"


def _given_up(replica: ReplicaFacts) -> bool:
    return bool(replica.lives) and replica.lives[-1].given_up


_OWN = {
    State.LOST: "the scheduler knows the job no more and it left no exit code: it was killed, its node died, or the "
    "disk is full",
    State.NEVER_SENT: "gangrun was killed before the scheduler got the job; submit it again",
    State.UNREACHED: "the scheduler did not answer; submit it again",
    State.REJECTED: "the scheduler refused it",
    State.UNREADABLE: "its record cannot be read",
}


def _cause(facts: AttemptFacts | None) -> Iterator[str]:
    cause = facts.cause if facts else None
    if cause is None:
        return
    if cause.kind == "main":
        yield f"{cause.replica} ended with exit code {cause.code}, and every main must end with 0"
    elif cause.kind == "service":
        yield f"the service {cause.replica} ended with exit code {cause.code} before the mains were done"
    elif cause.kind == "unready":
        yield f"{cause.replica} was not ready within {clock(float(cause.detail or 0))}"
    elif cause.kind == "lost":
        yield f"the node {cause.host} was lost, and {cause.replica} with it"
    elif cause.kind == "signal":
        yield f"the job was sent SIG{cause.detail}: by scancel, the time limit, preemption or a person"
    elif cause.kind == "workdir":
        yield "the working directory (workdir) does not exist there or cannot be entered, so nothing was started"
    elif cause.kind == "setup":
        yield f"the setup lines ended with exit code {cause.code}, so nothing was started"
    elif cause.kind == "limit":
        yield "its time was nearly over, and it was ended in time for a next attempt"
    elif cause.kind == "requeue":
        yield "Slurm had queued it again, and it ended at once"
    elif cause.kind == "needs":
        yield f"a run that it needs ended with exit code {cause.detail}, so nothing was started"
    elif cause.kind == "ports":
        yield "no range of free ports was found on its nodes"
    else:
        yield f"{cause.kind} {cause.detail}".strip()


def _program_code(state: RunState, facts: AttemptFacts | None) -> int:
    """The exit code of the program that is to blame, 0 where none is: a node that was lost has none."""
    cause = facts.cause if facts else None
    if cause is None:
        return state.exit_code or 0
    return cause.code or 0 if cause.kind in {"main", "service"} else 0


def _told(meaning: reasons.Meaning, word: str) -> Iterator[str]:
    yield f"{word}: {meaning.words}" if word and meaning.words != word else meaning.words
    if meaning.way_out:
        yield f"way out: {meaning.way_out}"
