"""Sends what was created: one run or sweep, or all those of a call side by side, each after what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache

from gangrun import chains, submission, sweep_submission
from gangrun.chains import AnyPlan, Link
from gangrun.errors import GangrunError, Rejected
from gangrun.plan.model import Need
from gangrun.record import events, items
from gangrun.record.rundir import RunDir
from gangrun.scheduler.model import Scheduler
from gangrun.sweeps import SweepPlan, shown_of

SENDERS = 4
"""Submissions under way at once. One sbatch after another made 118 jobs a second, four at once 277."""


def send(
    run: RunDir,
    plan: AnyPlan,
    scheduler: Scheduler,
    links: Sequence[Link],
    flags: Sequence[str] = (),
    *,
    sent: Callable[[RunDir, str], None],
    attempt: int = 1,
) -> None:
    """Queues a run, or what a sweep consists of, behind the jobs of these links; `sent` is told of each job.

    On this machine nothing is queued, and the script itself waits. Raises Rejected or another SchedulerError, with what
    was queued before it going on.
    """
    local = shown_of(plan).scheduler == "local"
    needed = {} if local else {link.need: link.job for link in links if link.job}
    if isinstance(plan, SweepPlan):
        sweep_submission.send(run, plan, scheduler, flags, needed, sent)
    else:
        waits = chains.flags(list(dict.fromkeys(needed.values())))
        sent(run, submission.send(run, plan.cluster, scheduler, (*waits, *flags), attempt))


class Dispatch:
    """The runs of one call. Used in a `with`, which ends when all are sent."""

    def __init__(
        self,
        links: Mapping[Need, Link],
        flags: Sequence[str],
        told: Callable[[RunDir, AnyPlan, Sequence[str]], None],
        failed: Callable[[GangrunError], None],
    ) -> None:
        """`links` lead to runs that were there before; `told` hears of each run with its jobs, `failed` of each error,
        both from several threads."""
        self.links = dict(links)
        self._flags = flags
        self._told, self._failed = told, failed
        self._sending: dict[RunDir, Future[dict[RunDir, str]]] = {}
        self._tasks_of = cache(self._tasks)
        self._senders = ThreadPoolExecutor(max_workers=SENDERS)

    def __enter__(self) -> Dispatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, GangrunError):
            return  # the senders may wait a minute for a controller that is away
        self._senders.shutdown()  # what was created is sent
        for one in self._sending.values() if kind is None else ():
            one.result()  # what is no GangrunError comes out here

    def add(self, run: RunDir, plan: AnyPlan, scheduler: Scheduler) -> None:
        """Sends a run that has been created; what it needs of this call has been added before."""
        links = [chains.link_to(need, self.links) for need in chains.needs_of(plan)]
        self._sending[run] = self._senders.submit(self._send, run, plan, scheduler, links)
        self.links[chains.name_of(plan)] = Link(chains.name_of(plan), run, pending=True)

    def _send(self, run: RunDir, plan: AnyPlan, scheduler: Scheduler, links: Sequence[Link]) -> dict[RunDir, str]:
        sent: dict[RunDir, str] = {}
        try:
            links = [replace(link, job=self._job_of(link)) for link in links]
            chains.note(run, links)
            if absent := [link.run.run_id for link in links if not (link.done or link.job)]:
                error = Rejected(f"{run.run_id} was not sent, as {absent[0]}, which it needs, was not queued")
                run.append(events.Rejected(error.what))
                raise error
            send(run, plan, scheduler, links, self._flags, sent=sent.__setitem__)
        except GangrunError as error:
            self._failed(error)
        if sent:
            self._told(run, plan, list(sent.values()))
        return sent

    def _job_of(self, link: Link) -> str:
        if not link.pending:
            return link.job
        # Those that are sent by this call came before, so their turn is not after this one's.
        jobs = self._sending[link.run.sweep or link.run].result()
        if link.run.is_item and link.run.sweep and not link.run.pool_around:
            return jobs.get(link.run, "") or self._tasks_of(link.run.sweep).get(link.run, "")
        return ":".join(jobs.values())

    def _tasks(self, sweep: RunDir) -> dict[RunDir, str]:
        """The items of a sweep in arrays, with their tasks."""
        jobs = self._sending[sweep].result()
        return {
            sweep.item(line.name): f"{jobs[array]}_{line.task}"
            for line in items.read(sweep)
            if line.array is not None and (array := sweep.array(line.array)) in jobs
        }
