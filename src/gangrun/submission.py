"""From a plan to a run that is recorded and sent: created, intent noted, sent, outcome noted, in that order.

Whatever instant this process is killed at, the record tells the truth or `gangrun.record.ledger` finds it out: the
intent is on disk before anything is sent, and the job carries the run's id as its name.
"""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import tomli_w

import gangrun
from gangrun import node
from gangrun.errors import InputError, RecordError, Rejected, SchedulerError, UsageError
from gangrun.jobscript.read import JobScript, asked_for
from gangrun.node import checkpoint
from gangrun.plan import monitor
from gangrun.plan.model import Plan, Word
from gangrun.project import OUTPUTS
from gangrun.record import code, events
from gangrun.record.rundir import NODE, RunDir
from gangrun.record.source import read_source
from gangrun.record.state import RunState, State
from gangrun.record.store import Store
from gangrun.scheduler.local import foreground, job_id
from gangrun.scheduler.model import Scheduler, Submission
from gangrun.script.quote import known_text
from gangrun.script.render import render
from gangrun.script.written import written
from gangrun.spec import toml
from gangrun.spec.load import Experiment
from gangrun.spec.model import Resume

_user = cache(getpass.getuser)  # which may ask a directory server over the network


def store_of(project: Path) -> Store:
    """The runs of a project."""
    return Store(project / OUTPUTS)


def create(store: Store, experiment: Experiment, plan: Plan, argv: Sequence[str], when: float | None = None) -> RunDir:
    """Makes the run directory with everything that is known before sending. Raises InputError, RecordError."""
    if experiment.copy:
        code.make(experiment.copy)
    run = store.create(
        plan.experiment,
        plan.step,
        spec=resolved(experiment, plan.cluster),
        script=lambda run: render(plan, run.run_id, run.dir),
        project=experiment.project,
        created=created_by(experiment, plan.cluster, argv),
        files=files_of(plan),
        when=when,
    )
    keep_code(run, experiment)
    if experiment.spec.output:
        store.link(run, experiment.spec.output)
    note(run, plan.notes)
    return run


def keep_code(run: RunDir, experiment: Experiment) -> None:
    """Notes on the run which copy of the code is its own, and what is not in it. Raises RecordError."""
    if experiment.copy:
        code.link(run, experiment.copy)
        note(run, experiment.copy.notes)


def require_code(run: RunDir) -> None:
    """Raises InputError where the copy of the code that the run was given is gone."""
    if tree := code.missing(run if run.sweep is None else run.sweep):
        raise InputError(
            f"{run.run_id} cannot be resumed: its copy of the code is gone",
            why=f"gangrun clean has deleted {tree}",
            way_out=f"gangrun submit {run.spec} begins anew, with the code as it is now",
        )


def note(run: RunDir, notes: Iterable[str]) -> None:
    """Puts on record what a reader of the plan was told."""
    for words in notes:
        run.append(events.Note(words))


def create_written(store: Store, project: Path, job: JobScript, cluster: str, argv: Sequence[str]) -> RunDir:
    """Makes the run directory of a job script that somebody wrote. Raises InputError, RecordError."""
    return store.create(
        job.file.parent.name or "jobs",
        job.file.stem,
        spec=f"# No experiment: {job.file} was sent, and is kept here as job.sh.\n",
        script=lambda run: written(job.head, job.name, job.interpreter, run.run_id, run.dir),
        project=project,
        created=created_event(job.file, cluster, argv),
        files={"job.sh": job.text.encode(), f"{NODE}/{monitor.PROGRAM}": node.source(monitor.PROGRAM)},
    )


def renew(run: RunDir, experiment: Experiment, plan: Plan) -> None:
    """Gives a run that has ended a new spec and script for its next attempt, and the code as it is now; what is on
    record stays under the old attempt's number: `spec.1.toml`. Raises RecordError."""
    number = max(run.attempts(), default=0)
    script = render(plan, run.run_id, run.dir, number + 1)
    source = read_source(str(experiment.project), str(experiment.project / OUTPUTS))
    if experiment.copy:
        code.make(experiment.copy)
    run.replace(run.spec, resolved(experiment, plan.cluster), number)
    run.replace(run.script, script, number)
    run.replace(run.commit, source.describe(), number)
    run.replace(run.diff, source.diff.decode("utf-8", "surrogateescape"), number)
    keep_code(run, experiment)


def created_by(experiment: Experiment, cluster: str, argv: Sequence[str]) -> events.Created:
    """The first event of a run that this process makes."""
    return created_event(experiment.file, cluster, argv)


def created_event(file: Path, cluster: str, argv: Sequence[str]) -> events.Created:
    """The first event of a run of this file."""
    return events.Created(
        gangrun=gangrun.__version__,
        file=str(file),
        argv=tuple(argv),
        cwd=str(Path.cwd()),
        cluster=cluster,
        host=os.uname().nodename,
        user=_user(),
    )


def files_of(plan: Plan) -> dict[str, bytes | Callable[[RunDir], bytes]]:
    """What the run's directory holds besides the record: programs for the node, and the user's own small files."""
    return {
        **{f"{NODE}/{name}": node.source(name) for name in plan.programs},
        **{name: partial(_content, word) for name, word in plan.files},
    }


def _content(word: Word, run: RunDir) -> bytes:
    return known_text(word, run.run_id, run.dir).encode("utf-8", "surrogateescape")


def resolved(experiment: Experiment, cluster: str) -> str:
    """The experiment as one file that extends nothing, valid input again: submitting it repeats the run."""
    fixed: dict[str, Any] = {"experiment": experiment.experiment, "step": experiment.step, "cluster": cluster}
    if experiment.seed is not None:
        fixed["seed"] = experiment.seed
    workdir = experiment.spec.workdir or str(experiment.project)
    values = {key: value for key, value in experiment.values.items() if key != "extends"}
    head = f"# What was run, with everything that {experiment.file.name} extends folded in.\n"
    return head + tomli_w.dumps({**fixed, **values, **fixed, "workdir": workdir})


def send(run: RunDir, cluster: str, scheduler: Scheduler, flags: Sequence[str] = (), attempt: int = 1) -> str:
    """Queues a run and returns its job id. Raises Rejected or another SchedulerError, recorded before.

    `attempt` is the number of the job's first life: every further job of a run is a further attempt, in the same
    directory and under the same name.
    """
    run.append(events.Submitting.here(attempt, run.run_id))
    try:
        job = scheduler.submit(Submission(run.run_id, run.script, tuple(flags)))
    except Rejected as error:
        run.append(events.Rejected(str(error)))
        raise
    except SchedulerError as error:
        run.append(events.GaveUp(str(error)))
        raise
    run.append(events.Submitted(job, cluster))
    return job


def next_attempt(run: RunDir) -> int:
    """Prepares a run that has ended for a further job, and gives the number of the attempt that this begins with.

    The driver of a pool is to try again what has failed, and the sweep of an item has not ended any more. Raises
    RecordError.
    """
    number = max(run.attempts(), default=0) + 1
    run.reopen_pool()
    if run.sweep is not None:
        note(run.sweep, [f"{run.item_name} goes on with attempt {number}"])
    return number


def require_ended(state: RunState) -> None:
    """Raises UsageError where a run cannot be resumed, as it goes on or has succeeded."""
    if not state.final:
        raise UsageError(f"{state.run} is {state.state}", way_out=f"gangrun cancel {state.run} ends it first")
    if state.state == State.COMPLETED:
        raise UsageError(
            f"{state.run} has succeeded: there is nothing to resume",
            way_out=f"gangrun submit {state.dir}/spec.toml makes a new run of it",
        )


def lost_hosts(run: RunDir) -> list[str]:
    """The hosts that its attempts have lost, the first one first."""
    found: dict[str, None] = {}
    for number in run.attempts():
        facts = run.facts(number)
        lives = [life for replica in (facts.replicas or {}).values() for life in replica.lives] if facts else []
        found |= dict.fromkeys(life.lost for life in lives if life.lost)
    return list(found)


def keeping_off(run: RunDir, hosts: Sequence[str]) -> tuple[str, ...]:
    """What sbatch is told to keep a run off these hosts as well as off those that its script excludes."""
    if not hosts:
        return ()
    said = asked_for(run.script, "--exclude", "-x")
    return (f"--exclude={','.join([*([said] if said else []), *hosts])}",)


def require_checkpoint(run: RunDir, state: RunState) -> None:
    """Raises InputError where the run is to go on from a checkpoint of its own and has left none."""
    resume = toml.read(run.spec)[0].get("resume")
    if not isinstance(resume, dict) or not state.attempt:
        return
    found, why = checkpoint.newest(run.path, str(resume.get("glob", Resume.model_fields["glob"].default)))
    if found is None:
        raise InputError(
            f"{run.run_id} cannot be resumed: it has left no checkpoint",
            why=why,
            way_out=f"gangrun submit {run.spec} begins anew",
        )


def start_here(run: RunDir, cluster: str, attempt: int = 1) -> subprocess.Popen[bytes]:
    """Starts a run in the foreground of this terminal, in a process group of its own.

    `cluster` is where the nodes are that it runs on; the job is a process of this machine all the same.
    """
    run.append(events.Submitting.here(attempt, run.run_id))
    with run.job_log.open("ab") as log:
        process = foreground(run.script, log)
    run.append(events.Submitted(job_id(process.pid), cluster))
    return process


def end_steps(run: RunDir, scheduler: Scheduler) -> None:
    """Ends the steps of a run whose script was killed inside an allocation that goes on."""
    facts = run.facts()
    steps = [replica.step for replica in (facts.replicas or {}).values() if replica.step] if facts else []
    if steps:
        scheduler.cancel(steps)


def note_cancel(run: RunDir, job: str = "") -> None:
    """Records that somebody here wants a run to end, without which its end by a signal would count as a failure."""
    with suppress(RecordError):  # on a full disk a run must be cancelled all the same
        run.append(events.CancelRequested(job, os.uname().nodename, _user()))
