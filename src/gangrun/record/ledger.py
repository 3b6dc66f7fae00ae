"""What the record says, brought up to what the scheduler knows: one question to each cluster for all runs.

Only here are events added for things that nobody was there to record: a submission whose sender died, and the end of
a job.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from gangrun.errors import GangrunError, RecordError
from gangrun.record import items, pools
from gangrun.record.events import (
    Created,
    Event,
    Found,
    GaveUp,
    NeverSent,
    Observed,
    Rejected,
    Submitting,
    decode,
    decode_all,
    process_start,
)
from gangrun.record.facts import AttemptFacts
from gangrun.record.rundir import RunDir
from gangrun.record.state import History, Progress, RunState, State, fold_history, history, over
from gangrun.scheduler.model import QUEUED_AGAIN, Scheduler, Status

SENDER_QUIET = 30.0
"""Seconds after which a dead sender's job, if the scheduler has none, counts as never sent."""
FAR_SENDER_QUIET = 120.0
"""The same for a sender on another machine, whose processes cannot be seen from here."""
MAY_STILL_COME = 600.0
"""Seconds for which a job that counts as never sent is looked for: sbatch itself may outlive the one who called it,
and at MaxJobCount it sleeps for 120 s before its last try."""
UNREACHED_MAY_EXIST = 86_400.0
"""Seconds for which a job is looked for that the scheduler did not confirm."""
MAY_COME_BACK = 600.0
"""Seconds for which a job that ended in a way after which Slurm queues jobs again is still asked about."""
RECORD_DECIDES = 3600.0
"""Seconds without any sign of a job that the scheduler does not know, after which its end is recorded although the
job's own files do not prove it: accounting may be down for a while."""
FILES_ARRIVE = 120.0
"""Seconds after its end by which a job's last files are seen on every host; NFS clients keep what they know of a
directory for 60 s."""


@dataclass(slots=True)
class _Run:
    """A run on which the record does not have the last word."""

    run: RunDir
    told: History
    status: Status | None = None
    answered: bool = True
    note: str = ""

    def record(self, event: Event) -> None:
        """Appends the event where that is allowed: a colleague's run can be looked at as well."""
        self.told.add(event)
        try:
            self.run.append(event)
        except RecordError as error:
            self.note = self.note or f"not recorded: {error.why or error.what}"

    def unheard(self, why: str) -> None:
        self.answered = False
        self.note = why


def refresh(
    runs: Iterable[RunDir], scheduler_of: Callable[[str], Scheduler], now: float | None = None
) -> list[RunState]:
    """The states of `runs`, in their order.

    `scheduler_of` gives the scheduler of a cluster by name. Each is asked once for all of its jobs that have not ended,
    and once more only for submissions in doubt. One that cannot be asked does no harm: states are then the last ones
    known, with `stale` set and the reason in `note`. Runs that ended are read from the record alone.
    """
    now = time.time() if now is None else now
    states: list[RunState | _Run | _Sweep] = []
    for run in runs:
        try:
            states += _looked_up(run, scheduler_of, now)
        except RecordError as error:
            states.append(_unreadable(run, error))
    return _answers(states, scheduler_of, now)


def _looked_up(run: RunDir, scheduler_of: Callable[[str], Scheduler], now: float) -> Sequence[RunState | _Run | _Sweep]:
    """What the record says of a run, as the only one of a list. Raises RecordError."""
    if run.sweep is not None:
        return _members(run.sweep, scheduler_of, now, only=run.item_name)
    data = run.read_events_bytes()
    if (ended := _ended_state(run, data, now)) is not None:
        return [ended]
    told = history(decode_all(data))
    if told.created is not None and told.created.mode in SPREAD:
        return [_Sweep(run, told, _members(run, scheduler_of, now))]
    return [_Run(run, told)]


def refresh_items(run: RunDir, scheduler_of: Callable[[str], Scheduler], now: float | None = None) -> list[RunState]:
    """The states of a sweep's items, in their order, where each is a job or a task of an array. Raises RecordError."""
    now = time.time() if now is None else now
    return _answers(_members(run, scheduler_of, now), scheduler_of, now)


SPREAD = frozenset({"jobs", "array"})
"""Modes of a sweep whose items are jobs or tasks of arrays."""


@dataclass(slots=True)
class _Sweep:
    """A sweep of which the record does not say that it has ended, and its items."""

    run: RunDir
    told: History
    members: Sequence[RunState | _Run]


def _answers(
    states: Sequence[RunState | _Run | _Sweep], scheduler_of: Callable[[str], Scheduler], now: float
) -> list[RunState]:
    alive: list[_Run] = []
    for one in states:
        alive += [each for each in (one.members if isinstance(one, _Sweep) else [one]) if isinstance(each, _Run)]
    if alive:
        _ask(alive, scheduler_of, now)
    if further := [one for one in alive if _goes_on(one)]:
        _ask(further, scheduler_of, now)
    return [one if isinstance(one, RunState) else _answer(one, now) for one in states]


def _answer(one: _Run | _Sweep, now: float) -> RunState:
    if isinstance(one, _Run):
        return _fold(one, now)
    return _gathered(one, [each if isinstance(each, RunState) else _fold(each, now) for each in one.members], now)


def _goes_on(one: _Run) -> bool:
    """Whether the job of a pool has ended and left the rest to the job that it has queued; that is the run's now."""
    told = one.told
    if told.created is None or told.created.mode != "pool" or not told.job or (one.status and not one.status.final):
        return False
    job = pools.continued(one.run)
    if not job or job in told.jobs:
        return False
    facts = one.run.facts(replicas=False)
    one.record(Submitting.here((facts.number if facts else 1) + 1, one.run.run_id))
    one.record(Found(job, told.cluster))
    one.status = None
    return True


def _unreadable(run: RunDir, error: RecordError) -> RunState:
    return RunState(run.run_id, run.dir, State.UNREADABLE, note=f"{error.what}: {error.why}")


def _members(
    run: RunDir, scheduler_of: Callable[[str], Scheduler], now: float, only: str = ""
) -> list[RunState | _Run]:
    """The items of a sweep as runs, or one of them."""
    lines = [line for line in items.read(run) if not only or line.name == only]
    if run.pool_file.exists():
        (sweep,) = refresh([run], scheduler_of, now)
        told_of = pools.journal(run).items
        return [pools.item_state(run.item(line.name), line, told_of.get(line.index), sweep) for line in lines]
    gone = _nobody_sends(run, now)
    arrays = {
        number: _array(run.array(number), scheduler_of, now)
        for number in {line.array for line in lines if line.array is not None}
    }
    found: list[RunState | _Run] = []
    for line in lines:
        item = run.item(line.name)
        try:
            data = item.read_events_bytes()
        except RecordError as error:
            found.append(_unreadable(item, error))
            continue
        if (ended := _ended_state(item, data, now)) is not None:
            found.append(ended)
            continue
        told, answered = history([]), True
        if line.array is not None:
            _as_task(told, arrays[line.array].told, line.task)
            answered = arrays[line.array].answered
        for event in decode_all(data):
            told.add(event)
        if told.job or (line.array is None and told.submitting is not None):
            found.append(_Run(item, told))
        else:
            state = fold_history(item, told, None, None, now, answered=answered)
            unsent = gone and state.state == State.CREATED
            found.append(replace(state, state=State.NEVER_SENT) if unsent else state)
    return found


def _array(array: RunDir, scheduler_of: Callable[[str], Scheduler], now: float) -> _Run:
    """The record of a Slurm array, brought up to date where its sender left it in doubt."""
    one = _Run(array, history(array.read_events()))
    if _in_doubt(one.told, now):
        _ask([one], scheduler_of, now)
    return one


def _as_task(told: History, array: History, task: int | None) -> None:
    """What is recorded of an array holds for each of its tasks."""
    told.submitting, told.submitted, told.cluster = array.submitting, array.submitted, array.cluster
    told.refused, told.reason = array.refused, array.reason
    if array.job:
        told.job = f"{array.job}_{task}"
        told.jobs.add(told.job)


def _nobody_sends(run: RunDir, now: float) -> bool:
    """Whether whoever sent the items of a sweep is gone, so that what was not sent will not be."""
    told = history(run.read_events())
    sent = told.submitting
    if sent is None:
        return False
    return told.refused is not None or _sender_gone(sent.host, sent.pid, sent.pid_started, now - sent.t)


NOT_SENT = frozenset({State.REJECTED, State.UNREACHED, State.NEVER_SENT})
"""The states of a run that has no job."""


def _gathered(sweep: _Sweep, states: Sequence[RunState], now: float) -> RunState:
    """A sweep as its items make it; put on record when all of them have ended."""
    told = sweep.told
    ended = [state for state in states if state.final]
    done = sum(1 for state in ended if state.state == State.COMPLETED)
    waiting = (State.PENDING, State.SUBMITTING, State.CREATED)
    running = [state for state in states if not state.final and state.state not in waiting]
    progress = Progress(len(states), done, len(ended) - done, len(running), _expected(states, len(running), now))
    starts = [state.started for state in states if state.started is not None]
    ends = [state.ended for state in ended if state.ended is not None]
    known = RunState(
        run=sweep.run.run_id,
        dir=sweep.run.dir,
        state=State.RUNNING if running else State.PENDING,
        cluster=next((state.cluster for state in states if state.cluster), told.cluster),
        created=told.created.t if told.created else None,
        submitted=told.submitting.t if told.submitting else None,
        started=min(starts, default=None),
        cancel_requested=told.cancel is not None,
        reason=next((state.reason for state in states if state.state == State.PENDING and state.reason), ""),
        stale=any(state.stale for state in states),
        note=next((state.note for state in states if state.note), ""),
        mode=told.created.mode if told.created else "",
        progress=progress,
    )
    if told.submitting is None:
        return replace(known, state=State.CREATED)
    if len(ended) < len(states):
        return known
    states_of = {state.state for state in states}
    if done == len(states):
        word, code = str(State.COMPLETED), 0
    elif states_of <= NOT_SENT:
        word, code = next(iter(sorted(states_of))), None
    elif told.cancel is not None and State.CANCELLED in states_of:
        word, code = State.CANCELLED, None
    else:
        word, code = State.FAILED, 3 if done else 1
    reason = next((state.reason for state in states if state.state in NOT_SENT and state.reason), "")
    final = replace(known, state=word, exit_code=code, ended=max(ends, default=None), reason=reason)
    new = _observed(final, word, now)
    if (told.observed is None or replace(told.observed, t=now) != new) and not _may_go_on(sweep, now):
        with suppress(RecordError):  # a colleague's sweep can be looked at as well
            sweep.run.append(new)
    return final


def _may_go_on(sweep: _Sweep, now: float) -> bool:
    """Whether an item that has ended may yet turn out otherwise: its job comes back, or there is one after all."""
    told = [one.told for one in sweep.members if isinstance(one, _Run)]
    told += [history(array.read_events()) for array in sweep.run.arrays()]
    return any(_in_doubt(one, now) or (one.observed and not _settled(one.observed, now)) for one in told)


def _expected(states: Sequence[RunState], running: int, now: float) -> float | None:
    """When the last item will end, if the others take as long as those that have ended did."""
    took = [state.ended - state.started for state in states if state.ended and state.started]
    left = sum(1 for state in states if not state.final)
    if not took or not running or not left:
        return None
    return now + sum(took) / len(took) * (left - running / 2) / running


def _ended_state(run: RunDir, data: bytes, now: float) -> RunState | None:
    """The state of a run whose end is recorded beyond doubt, from the last line alone; None for any other run."""
    if not data.endswith(b"\n") or b'"CancelRequested"' in data:
        return None
    last = decode(data[data.rfind(b"\n", 0, -1) + 1 :])
    if not isinstance(last, Observed) or not _settled(last, now) or not _whole(last):
        return None
    told = History(
        created=Created(t=last.created, mode=last.mode, items=last.items) if last.created is not None else None,
        job=last.job,
        submitted=last.submitted,
        cluster=last.cluster,
        observed=last,
    )
    return fold_history(run, told, None, None, now)


def _settled(observed: Observed, now: float) -> bool:
    """Whether the job cannot come back by itself."""
    return observed.state not in QUEUED_AGAIN or now - observed.t > MAY_COME_BACK


def _whole(observed: Observed) -> bool:
    """Whether the job's own files can add nothing to what was recorded."""
    if observed.mode in SPREAD:
        return True  # they were asked for one by one
    if observed.state in {State.COMPLETED, State.LOST} or (observed.exit_code is not None and observed.cause):
        return True
    return observed.ended is not None and observed.t - observed.ended > FILES_ARRIVE


def _in_doubt(told: History, now: float) -> bool:
    """Whether a job may exist that the record does not know."""
    if told.job or told.submitting is None or isinstance(told.refused, Rejected):
        return False
    age = now - told.submitting.t
    if isinstance(told.refused, NeverSent):
        return age < MAY_STILL_COME
    return not isinstance(told.refused, GaveUp) or age < UNREACHED_MAY_EXIST


def _started_anyway(one: _Run) -> bool:
    """Whether the job itself proves that it exists, by the file it writes first."""
    facts = one.run.facts(one.told.first_attempt, replicas=False)
    if facts is None or not facts.job or facts.job in one.told.jobs:
        return False
    one.record(Found(facts.job, one.told.cluster))
    return True


def _job_names(runs: Sequence[_Run]) -> list[str]:
    return [one.told.submitting.name for one in runs if one.told.submitting]


def _settle(waiting: Sequence[_Run], found: Mapping[str, Status], now: float) -> None:
    for one in waiting:
        sent = one.told.submitting
        assert sent is not None  # noqa: S101 - as above
        status = found.get(sent.name)
        # A resumed run has its first job under the same name.
        if status is not None and status.job not in one.told.jobs:
            one.status = status
            one.record(Found(status.job, one.told.cluster))
        elif not isinstance(one.told.refused, NeverSent) and _sender_gone(
            sent.host, sent.pid, sent.pid_started, now - sent.t
        ):
            one.record(NeverSent(one.told.reason))


def _sender_gone(host: str, pid: int, started: int | None, age: float) -> bool:
    if age <= SENDER_QUIET:
        return False
    if host != os.uname().nodename:
        return age > FAR_SENDER_QUIET
    if started is not None:
        return process_start(pid) != started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _ask(alive: Sequence[_Run], scheduler_of: Callable[[str], Scheduler], now: float) -> None:
    here = os.uname().nodename
    clusters: dict[str, list[_Run]] = {}
    for one in alive:
        told = one.told
        if told.submitting is None and not told.job and _started_anyway(one):  # by `sbatch script.sh`, typed by hand
            clusters.setdefault(told.cluster, []).append(one)
        elif _in_doubt(told, now):
            _started_anyway(one)
            clusters.setdefault(told.scheduler, []).append(one)
        elif told.job and (told.observed is None or not _settled(told.observed, now)):
            clusters.setdefault(told.scheduler, []).append(one)
    for cluster, members in clusters.items():
        near = []
        for one in members:
            # A shared file system shows runs of other machines' processes too.
            if one.told.local and one.told.host and one.told.host != here:
                one.unheard(f"it runs on {one.told.host}: look there")
            else:
                near.append(one)
        if not near:
            continue
        try:
            scheduler = scheduler_of(cluster)
            unsent = [one for one in near if not one.told.job]
            if unsent:
                _settle(unsent, scheduler.find(_job_names(unsent)), now)
            jobs = [one for one in near if one.told.job and one.status is None]
            if jobs:
                known = scheduler.status([one.told.job for one in jobs])
                for one in jobs:
                    one.status = known.get(one.told.job)
        except GangrunError as error:
            for one in near:
                one.unheard(f"{cluster or 'the scheduler'}: {error.what}")


def _fold(one: _Run, now: float) -> RunState:
    told, status = one.told, one.status
    proven = told.observed is not None and _settled(told.observed, now) and _whole(told.observed)
    begun = told.submitting is not None or told.job
    facts = one.run.facts(replicas=False) if begun and (status is not None or not proven) else None
    state = fold_history(one.run, told, facts, status, now, answered=one.answered)
    ended = told.job and one.answered and state.final and (facts is not None or not proven)
    if ended and facts is not None and state.exit_code != 0:
        state = fold_history(one.run, told, one.run.facts(facts.number), status, now)
    if state.mode == "pool" and state.progress is not None:
        state = replace(state, progress=pools.progress(one.run, state.progress.items))
    if ended:
        _keep(one, state, facts, now)
    return replace(state, note=one.note) if one.note else state


def _keep(one: _Run, state: RunState, facts: AttemptFacts | None, now: float) -> None:
    """Records how the job ended, unless that is recorded or not yet certain."""
    told, old = one.told, one.told.observed
    if one.status is not None and one.status.final:
        word = one.status.state
    elif old is not None and old.state != State.LOST:
        word = old.state
    else:
        word = (facts.ended_as if facts else "") or _word(state)
        signs = [told.submitted, state.started, state.ended]
        quiet = now - max((sign for sign in signs if sign is not None), default=0.0)
        if not (told.local or state.exit_code == 0 or over(facts) or quiet > RECORD_DECIDES):
            return
    new = _observed(state, word, now)
    if old is None or replace(old, t=now) != new or (_whole(new) and not _whole(old)):
        one.record(new)


def _observed(state: RunState, word: str, now: float) -> Observed:
    """What is recorded of an end, under the word for it."""
    progress = state.progress or Progress(0)
    return Observed(
        state.job,
        word,
        exit_code=state.exit_code,
        reason=state.reason,
        nodes=state.nodes,
        started=state.started,
        ended=state.ended,
        attempt=state.attempt,
        cause=state.cause,
        failed=state.failed,
        cluster=state.cluster,
        created=state.created,
        submitted=state.submitted,
        mode=state.mode,
        items=progress.items,
        done=progress.done,
        wrong=progress.wrong,
        t=now,
    )


def _word(state: RunState) -> str:
    """The end as the job's own exit code tells it; `CANCELLED` is a reading of it, not a fact."""
    if state.exit_code is None:
        return State.LOST
    return State.COMPLETED if state.exit_code == 0 else State.FAILED
