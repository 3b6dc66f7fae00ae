"""Slurm as a scheduler: builders and parsers of the other files around the one call that runs a program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic, sleep, time
from typing import NoReturn

from gangrun.errors import ProgramMissing, Rejected, SchedulerError, Unreachable
from gangrun.scheduler import reasons, sacct, sbatch, scancel, scontrol, squeue, srun
from gangrun.scheduler.commands import Answer, reading_environment, run, silent, submitting_environment
from gangrun.scheduler.model import Status, Submission
from gangrun.scheduler.rows import newest, pick
from gangrun.scheduler.text import batches, job_base, without_prefix

# A controller that answered within the last seconds is not pinged again before the next submission.
_FRESH = 10.0

# Job names are unique but for a resumed run, which queues a second job under its first one's name. That one has ended,
# so only what is alive or was submitted since a submission began (clocks differ between machines) counts as its own.
_CLOCKS = 60.0

_DOWN = "Unable to contact slurm controller: it is down"


class Slurm:
    """A Slurm cluster, reached through its own commands.

    `conf` is the slurm.conf of the profile (empty: the machine's own), `name` what the cluster must call itself (empty:
    anything), `patience` how long in all a submission waits for a controller that does not answer or whose queue is
    full, `room` how long it waits for a full queue if that is longer, `say` is told what it waits for, `timeout` ends a
    single command, `settle` is how long a submission without an answer is looked for in the queue before it is sent
    again. All times in seconds.
    """

    def __init__(
        self,
        conf: str = "",
        *,
        name: str = "",
        patience: float = 60.0,
        room: float = 0.0,
        say: Callable[[str], None] = silent,
        timeout: float = 30.0,
        settle: float = 15.0,
    ) -> None:
        self._conf = conf
        self._name, self._named = name, not name
        self._patience = patience
        self._room = room
        self._say = say
        self._timeout = timeout
        self._settle = settle
        self._answered = -_FRESH
        self._accounting: bool | None = None

    def submit(self, submission: Submission) -> str:
        """Queues once and never twice: after a failure that leaves it open whether the job was taken in, the job is
        looked up by its name before it is sent again. Raises Rejected, Unreachable or ProgramMissing."""
        sending = _Sending(submission.name, self._patience, self._room, self._say)
        while True:
            self._await_controller(sending)
            self._check_name()
            if sending.tried:
                try:
                    job = self._look_for(sending, self._settle if sending.doubtful else 0.0)
                except Unreachable as error:
                    sending.pause(error.what)
                    continue
                if job:
                    return job
            answer = run(
                sbatch.submit(submission),
                env=submitting_environment(os.environ, self._conf),
                timeout=self._timeout,
                patience=sending.for_room,
            )
            outcome = sbatch.outcome(answer)
            if isinstance(outcome, sbatch.Accepted):
                self._answered = monotonic()
                return self._only(outcome.job, sending) if sending.doubtful else outcome.job
            if isinstance(outcome, sbatch.Refused):
                # The first may have come in late and be what the second is refused for.
                if sending.doubtful and (job := self._last_look(sending, 0.0)):
                    return job
                raise _rejection(f"Slurm refused {submission.name}", outcome.words)
            self._answered = -_FRESH
            sending.tried = True
            sending.doubtful |= outcome.sent
            if sending.over and sending.doubtful and (job := self._last_look(sending, self._settle)):
                return job
            sending.pause(outcome.words)

    def status(self, jobs: Sequence[str]) -> Mapping[str, Status]:
        """One squeue for all, and one sacct for those that the controller has forgotten, where there is accounting."""
        known = [job for job in dict.fromkeys(jobs) if job_base(job)]
        found: dict[str, Status] = {}
        for part in batches(_arrays_as_one(known)):
            found |= pick(squeue.rows(self.read(squeue.by_job(part))), known)
        left = [job for job in known if job not in found]
        for part in batches(_arrays_as_one(left)):
            found |= pick(sacct.rows(self._account(sacct.by_job(part))), left)
        return found

    def find(self, names: Sequence[str]) -> Mapping[str, Status]:
        """The newest job under each name, of this user: in the queue, else in the last 30 days of accounting."""
        wanted = list(dict.fromkeys(names))
        found: dict[str, Status] = {}
        for part in batches(wanted):
            found |= newest(squeue.rows(self.read(squeue.by_name(part, os.getuid()))), part)
        for part in batches([name for name in wanted if name not in found]):
            found |= newest(sacct.rows(self._account(sacct.by_name(part, os.getuid()))), part)
        return found

    def cancel(self, jobs: Sequence[str]) -> None:
        """Asks Slurm to end these jobs gracefully. Raises Unreachable, or Rejected for a job that is not yours."""
        self._check_name()
        for part in batches([job for job in dict.fromkeys(jobs) if job_base(job)]):
            # Slurm takes them one by one; a busy controller made scancel of 500 jobs last minutes.
            answer = self._ask(scancel.cancel(part), self._timeout + 0.5 * len(part))
            words = scancel.complaints(answer)
            if answer.code is None or sbatch.passing("\n".join(words)) or (answer.code and not answer.err.strip()):
                self._fail(answer)
            if words and answer.code:
                raise _rejection("Slurm did not cancel", "\n".join(words))

    def forecast(self, flags: Sequence[str], partition: str) -> sbatch.Forecast:
        """When a job with these flags would start in that partition. Raises as `read` does."""
        self._check_name()
        answer = self._ask(sbatch.test(flags, partition), self._timeout)
        if answer.code is None or sbatch.passing(answer.err):
            self._fail(answer)
        return sbatch.forecast(answer, time())

    def limits(self) -> scontrol.Limits:
        """How many jobs and tasks of an array this cluster takes. Raises as `read` does."""
        return scontrol.limits(self.read(scontrol.CONFIG))

    def needs(self, jobs: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """What each of these jobs still waits for beyond the mere end of others. Raises as `read` does."""
        found: dict[str, Sequence[str]] = {}
        for part in batches(jobs):
            found |= squeue.needs(self.read(squeue.needs_of(part)))
        return found

    def update(self, changes: Iterable[Sequence[str]]) -> list[str]:
        """Makes these changes of waiting jobs, one after another, and gives what Slurm said against single ones, which
        may have begun or ended meanwhile. Raises Unreachable or ProgramMissing."""
        said = []
        self._check_name()
        for change in changes:
            answer = self._ask(change, self._timeout)
            words = "\n".join(without_prefix(answer.err.splitlines()))
            if answer.code is None or sbatch.passing(words):
                self._fail(answer)
            if answer.code:
                said.append(_one_line(words))
        return said

    def hosts_of_step(self, step: str) -> list[str]:
        """The nodes of a step `JOB.STEP` that runs, in Slurm's order; none where there is no such step. Raises as
        `read` does."""
        nodes = self.read(srun.hosts_of_step(step)).split()
        return self.read(scontrol.hostnames(nodes[0])).split() if nodes else []

    def read(self, argv: Sequence[str]) -> str:
        """What a reading command prints. Raises Unreachable, ProgramMissing or SchedulerError."""
        self._check_name()
        answer = self._ask(argv, self._timeout)
        # squeue says so of a single id that it does not know, and exits with 1; of several it prints those it knows.
        if answer.code != 0 and "Invalid job id specified" not in answer.err:
            self._fail(answer)
        self._answered = monotonic()
        return answer.out

    def _check_name(self) -> None:
        """Whether this is the cluster that is meant, as another one's jobs have the same numbers. Asked once."""
        if self._named:
            return
        answer = self._ask(scontrol.CONFIG, self._timeout)
        if answer.code != 0:
            self._fail(answer)
        own = scontrol.config(answer.out).get("ClusterName", "")
        if own != self._name:
            raise SchedulerError(
                f"the Slurm of this machine is {own}, and {self._name} is meant",
                way_out=f"log in to a machine of {self._name}, or say slurm_conf in its profile",
            )
        self._named = True

    def _await_controller(self, sending: _Sending) -> None:
        """Until the controller answers. Asked by ping, which knows at once what other commands find out after 10 s."""
        while monotonic() - self._answered > _FRESH and self._down():
            sending.pause(_DOWN)

    def _down(self) -> bool:
        """Whether the controller is known to be down; a ping that says nothing leaves it to the command itself."""
        return scontrol.up(self._run(scontrol.PING, self._timeout).out) is False

    def _look_for(self, sending: _Sending, seconds: float) -> str | None:
        """The job under this name if the controller took it in after all; looked for during some seconds after its
        first answer, as one that was stuck reads in any order what it was sent. Raises Unreachable."""
        if seconds:
            self._say(f"looking whether {sending.name} was taken in all the same")
        until = None
        pause = 0.5
        while True:
            status = self.find([sending.name]).get(sending.name)
            if status and sending.owns(status):
                return status.job
            until = until or monotonic() + seconds
            left = until - monotonic()
            if left <= 0:
                return None
            sleep(min(pause, left))
            pause = min(2 * pause, 5.0)

    def _last_look(self, sending: _Sending, seconds: float) -> str | None:
        """As _look_for, where nothing follows that could do harm."""
        with suppress(Unreachable):
            return self._look_for(sending, seconds)
        return None

    def _only(self, job: str, sending: _Sending) -> str:
        """The one that stays, where a job that was given up for lost came in before the one that was sent after it: a
        busy controller takes them in turn, so it is there when the second is answered."""
        with suppress(Unreachable):
            rows = squeue.rows(self.read(squeue.by_name([sending.name], os.getuid())))
            ids = {job_base(row.status.job) or job for row in rows if sending.owns(row.status)}
            first = min(ids, key=int, default=job)
            if first != job:
                self._say(f"{sending.name} was taken in twice, as {first} and {job}; {job} is cancelled")
                self.cancel([job])
            return first
        return job

    def _account(self, argv: Sequence[str]) -> str:
        """What sacct prints; empty where there is no accounting, or none that answers."""
        if self._accounting is False:
            return ""
        try:
            answer = self._run(argv, self._timeout)
        except ProgramMissing:
            self._accounting = False
            return ""
        if sacct.DISABLED in answer.err:
            self._accounting = False
        elif answer.code != 0:
            self._say(
                f"accounting does not answer ({_one_line(answer.err) or 'no word'}), so ended jobs may be missing"
            )
        else:
            self._accounting = True
        return answer.out

    def _ask(self, argv: Sequence[str], timeout: float) -> Answer:
        """A command that needs the controller, given up early where a ping says that it is down."""

        def doubt() -> None:
            if self._down():
                self._fail(Answer(tuple(argv), 1, "", _DOWN))

        return run(argv, env=reading_environment(os.environ, self._conf), timeout=timeout, doubt=doubt)

    def _run(self, argv: Sequence[str], timeout: float) -> Answer:
        return run(argv, env=reading_environment(os.environ, self._conf), timeout=timeout)

    def _fail(self, answer: Answer) -> NoReturn:
        self._answered = -_FRESH
        words = "\n".join(without_prefix(answer.err.splitlines()))
        if answer.code is None:
            words = f"{words}\n{answer.argv[0]} did not answer in time".strip()
        kind = Unreachable if answer.code is None or sbatch.passing(words) else SchedulerError
        why, way_out = _plainly(words)
        raise kind(
            f"{answer.argv[0]} failed: {_one_line(words) or f'exit code {answer.code}'}",
            why=why,
            way_out=way_out or "try again later; running jobs are not touched by this",
        )


class _Sending:
    """One submission on its way: what is known of it, and its patience, in pauses that grow from 0.5 s to 10 s."""

    def __init__(self, name: str, patience: float, room: float, say: Callable[[str], None]) -> None:
        self.name = name
        self._room = room
        self.tried = False
        """Whether it was sent at least once."""
        self.doubtful = False
        """Whether it may have been taken in without our hearing of it."""
        self._began = time()
        self._patience = patience
        self._until = monotonic() + patience
        self._say = say
        self._pause = 0.5

    @property
    def over(self) -> bool:
        """Whether the next pause raises."""
        return monotonic() >= self._until

    def owns(self, status: Status) -> bool:
        """Whether this job under its name can be the one that was sent."""
        return not status.final or (status.submitted or 0.0) > self._began - _CLOCKS

    def pause(self, words: str) -> None:
        """Tells, and sleeps. Raises Unreachable when patience is over."""
        why, _ = _plainly(words)
        left = self._until - monotonic()
        if left <= 0:
            raise Unreachable(
                f"{self.name} was not queued within {self._patience:.0f} s: {_one_line(words)}",
                why=why,
                way_out="look with `gangrun ls` whether it was queued after all, before you submit it again"
                if self.doubtful
                else "submit it again later",
            )
        self._say(f"{why or _one_line(words)}; trying again, for up to {left:.0f} s more")
        sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, 10.0)

    def for_room(self, line: str) -> float | None:
        """Given each line of sbatch's stderr: a full queue makes sbatch wait by itself, and it may, as long as there
        is patience."""
        if not sbatch.QUEUE_FULL.search(line):
            return None
        self._until = max(self._until, monotonic() + self._room)
        left = max(self._until - monotonic(), 0.0)
        self._say(f"{reasons.refused(line).words}; sbatch waits for room, for up to {left:.0f} s")
        return left


def _arrays_as_one(jobs: Sequence[str]) -> list[str]:
    """The array itself in place of its tasks, whose ids would fill a command line."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))


def _rejection(what: str, words: str) -> Rejected:
    why, way_out = _plainly(words)
    return Rejected(f"{what}: {_one_line(words)}", why=why, way_out=way_out)


def _plainly(words: str) -> tuple[str, str]:
    """(why, way out) of Slurm's words; empty where they are not known, as the words themselves are shown anyway."""
    meaning = reasons.refused(words)
    return ("" if meaning.words == words else meaning.words), meaning.way_out


def _one_line(words: str) -> str:
    return "; ".join(line.strip() for line in words.splitlines() if line.strip())
