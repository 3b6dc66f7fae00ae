"""Runs as rows, as data, and one run in full."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from gangrun.record.facts import AttemptFacts, ReplicaFacts
from gangrun.record.rundir import RunDir
from gangrun.record.state import Progress, RunState, State
from gangrun.views.figures import aligned, cut

_FIELDS = tuple(field.name for field in fields(RunState))
LAST_LINES = 10
"""Lines of a failed replica's log that are shown with it."""


def as_data(state: RunState, facts: AttemptFacts | None = None) -> dict[str, Any]:
    """One run for `--json`: the fields of RunState, and with facts its replicas by name."""
    # asdict() copies every value deeply, which over 10,000 runs took longer than reading them.
    data = {name: getattr(state, name) for name in _FIELDS}
    if state.failed is not None:
        data["failed"] = asdict(state.failed)
    if state.progress is not None:
        data["progress"] = {**asdict(state.progress), "left": state.progress.left}
    if facts is not None:
        data["hosts"] = list(facts.hosts)
        data["replicas"] = {name: asdict(replica) for name, replica in facts.of_roles.items()}
    return data


def table(states: Sequence[RunState], width: int) -> list[str]:
    """One line for each run under a head, cut to `width` columns."""
    if not states:
        return ["no runs yet; gangrun run FILE or gangrun submit FILE makes one"]
    rows = [("RUN", "STATE", "JOB", "CLUSTER", "TIME", "MADE", "")]
    rows += [
        (s.run, s.state + ("?" if s.stale else ""), s.job, s.cluster, _spent(s), ago(s.created), remark(s))
        for s in states
    ]
    return cut(aligned(rows), width)


def details(run: RunDir, state: RunState, facts: AttemptFacts | None) -> list[str]:
    """One run in full."""
    lines = [f"{state.run}  {state.state}" + (f" (exit code {state.exit_code})" if state.exit_code is not None else "")]
    hosts = " ".join(facts.hosts) if facts else state.nodes
    fields = {
        "reason": state.reason,
        "job": f"{state.job} on {state.cluster}" if state.job else state.cluster,
        "attempt": str(state.attempt) if state.attempt > 1 else "",
        "hosts": hosts
        if len(hosts) <= 100
        else f"{len(facts.hosts) if facts else 0} nodes: {state.nodes or hosts[:80]}",
        "made": moment(state.created),
        "started": moment(state.started),
        "expected": moment(state.expected),
        "ended": moment(state.ended),
        "took": _spent(state),
        "items": progress_line(state.progress, final=state.final) if state.progress else "",
        "directory": state.dir,
        "wandb": f"kept offline; gangrun wandb sync {state.run} sends it" if run.offline_wandb() else "",
        "note": state.note,
    }
    lines += [f"  {name:<9} {value}" for name, value in fields.items() if value]
    if facts and facts.of_roles:
        lines += ["", *_replicas(facts.of_roles, state)]
        diary = [f"  {time.strftime('%H:%M:%S', time.localtime(when))}  {words}" for when, words in deaths(facts)]
        lines += ["", *diary] if diary else []
    return [*lines, *failure(run, state)]


def progress_line(progress: Progress, *, final: bool) -> str:
    """`12/20 done, 1 failed, 4 running, 3 left, ends in 00:12:30`."""
    words = [f"{progress.done}/{progress.items} done"]
    for number, word in ((progress.wrong, "failed"), (progress.running, "running"), (progress.left, "left")):
        if number and not (final and word == "running"):
            words.append(f"{number} {word}")
    if progress.ends is not None and not final and (progress.running or progress.left):
        words.append(f"ends in {clock(max(progress.ends - time.time(), 0))}")
    if progress.occupancy is not None:
        words.append(f"GPUs used {progress.occupancy:.0%}")
    return ", ".join(words)


def failure(run: RunDir, state: RunState) -> list[str]:
    """The replica that failed first and the last lines that it printed; nothing where nobody is to blame."""
    failed = state.failed
    if failed is None:
        return []
    rank = f", rank {failed.rank}" if failed.rank is not None else ""
    host = f" on {failed.host}" if failed.host else ""
    code = f" with exit code {failed.code}" if failed.code is not None else ""
    lines = ["", f"first to fail: {failed.replica}{rank}{host}{code}"]
    attempt = run.attempt(state.attempt)
    for path in (attempt.log(failed.replica), attempt.step_log(failed.replica)):
        if tail := last_lines(path.parent / path.name):
            lines += [f"last lines of {path}:", *(f"  | {line}" for line in tail)]
    return lines


def deaths(facts: AttemptFacts) -> list[tuple[float, str]]:
    """When a replica died and was started again or given up, in the order of time; nothing of the last lives."""
    told: list[tuple[float, str]] = []
    for name, replica in facts.of_roles.items():
        for life, following in zip(replica.lives, (*replica.lives[1:], None), strict=True):
            if following is None and not life.given_up:
                continue
            how = f"was lost with {life.lost}" if life.lost else f"ended with exit code {life.code}"
            told.append((life.ended or 0.0, f"{name} {how}{', and was given up' if life.given_up else ''}"))
            if following is not None:
                told.append((following.started or 0.0, f"{name} was started again"))
    return sorted(told, key=lambda pair: pair[0])


def last_lines(path: Any, count: int = LAST_LINES) -> list[str]:
    """The last lines of a log however long it is; none where there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 16384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def _replicas(replicas: Mapping[str, ReplicaFacts], state: RunState) -> Iterator[str]:
    rows = [("REPLICA", "STATE", "LIVES", "TIME")]
    for name, replica in replicas.items():
        life = replica.lives[-1] if replica.lives else None
        over = (life.ended if life else None) or (state.ended if state.final else time.time())
        spent = over - life.started if life and life.started and over else None
        word = replica_state(replica)
        if state.final and word in {"runs", "ready"}:
            word = "killed"  # and the script with it, before it could write down how
        rows.append((name, word, str(len(replica.lives)), clock(spent)))
    return (f"  {line}" for line in aligned(rows))


def replica_state(replica: ReplicaFacts) -> str:
    """`waits`, `runs`, `ready`, `exit N` or `lost`."""
    if replica.lives and replica.lives[-1].lost:
        return "lost"
    if replica.exit is not None:
        return f"exit {replica.exit}"
    if not replica.lives:
        return "waits"
    life = replica.lives[-1]
    if life.ended is not None:
        return f"exit {life.code}"
    return "ready" if life.ready else "runs"


def clock(seconds: float | None) -> str:
    """`1-02:03:04`, `02:03:04` or `3.4s`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{max(seconds, 0):.0f}s"
    days, rest = divmod(int(seconds), 86400)
    text = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text


def moment(when: float | None) -> str:
    """Local time to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when)) if when else ""


def ago(when: float | None) -> str:
    """How long ago, in the largest unit."""
    if not when:
        return ""
    age = max(time.time() - when, 0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if age >= size:
            return f"{age // size:.0f}{unit} ago"
    return f"{age:.0f}s ago"


def _spent(state: RunState) -> str:
    if state.started is None:
        return ""
    return clock((state.ended or time.time()) - state.started) if state.final is (state.ended is not None) else ""


def remark(state: RunState) -> str:
    """What is worth a word beside the state."""
    if state.progress is not None:
        return progress_line(state.progress, final=state.final)
    if (failed := state.failed) is not None:
        if failed.code is not None:
            return f"{failed.replica} exit {failed.code}"
        return f"{failed.host} lost" if failed.host else f"{failed.replica} not ready"
    if state.exit_code:
        return f"exit {state.exit_code}"
    if state.state == State.PENDING and state.reason:
        return state.reason
    if state.state == State.CANCELLED and state.reason == "DependencyNeverSatisfied":
        return "what it needs did not succeed"
    if state.note or state.state == State.CANCELLED:
        return state.note  # the reason of a cancelled job is what it had waited for
    return (state.reason.splitlines() or [""])[0].removeprefix(f"Slurm refused {state.run}: ")
