"""`partition = "auto"`: the partition that would start a job soonest, by Slurm's own forecast."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gangrun import clusters
from gangrun.errors import Rejected, SpecError
from gangrun.plan.batch import AUTO, clock
from gangrun.plan.model import Plan
from gangrun.resolve import effective_allocation
from gangrun.scheduler.discover import Partition, partitions
from gangrun.scheduler.sbatch import Forecast
from gangrun.spec.load import Experiment
from gangrun.spec.profile import SLURM, Cluster
from gangrun.sweeps import SweepPlan, plan_of, plans_of

_AT_ONCE = 60.0
"""Seconds by which two starts may differ and count as the same: forecasts are made one after another."""


class Chooser:
    """Chooses for one command, which asks only once for jobs that are alike, with the user's own words for sbatch."""

    def __init__(self, flags: Sequence[str], say: Callable[[str], None]) -> None:
        self._flags = tuple(flags)
        self._say = say
        self._chosen: dict[tuple[str, ...], tuple[str, str]] = {}

    def settle(
        self, experiment: Experiment, cluster: Cluster, plan: Plan | SweepPlan
    ) -> tuple[Experiment, Plan | SweepPlan]:
        """Both with a partition in place of `auto`, which the user is told; else as they are.

        Raises Rejected where no partition takes the job, SpecError, and whatever asking Slurm raises.
        """
        _refuse_single_items(experiment, plan)
        allocation, _ = effective_allocation(experiment, cluster)
        if allocation.partition != AUTO or cluster.profile.scheduler != SLURM:
            return experiment, plan
        jobs = [plan.job] if isinstance(plan, SweepPlan) and plan.job else plans_of(plan)
        alike = {_words(job): job for job in jobs}
        key = (cluster.name, *map(" ".join, alike))
        if key not in self._chosen:
            self._chosen[key] = self._choose(alike, cluster)
            self._say(self._chosen[key][1])
        name, why = self._chosen[key]
        settled = experiment.with_partition(name)
        return settled, _with_note(plan_of(settled, cluster), why)

    def _choose(self, jobs: Mapping[tuple[str, ...], Plan], cluster: Cluster) -> tuple[str, str]:
        """The partition as an experiment says it, and why it was chosen."""
        slurm = clusters.slurm_of(cluster, self._say)
        seen = {one.name: one for one in partitions(slurm)}
        names = {real: name for name, real in reversed(cluster.profile.partitions.items())}
        candidates = reversed(names) if names else sorted(seen, key=lambda name: not seen[name].default)
        now = time.time()
        told: dict[str, Forecast] = {}
        for partition in candidates:
            told[partition] = Forecast(None, _closed(seen.get(partition), list(jobs.values())))
            if not told[partition].words:
                forecasts = [slurm.forecast((*words, *self._flags), partition) for words in jobs]
                refusal = next((one for one in forecasts if one.start is None), None)
                told[partition] = refusal or max(forecasts, key=lambda one: one.start or 0.0)
        starts = {partition: one.start for partition, one in told.items() if one.start is not None}
        if not starts:
            raise Rejected(
                f"no partition of {cluster.name} takes the job",
                why="; ".join(f"{partition}: {one.words}" for partition, one in told.items()) or "it shows none",
                way_out="change [allocation], or name a partition in place of auto",
            )
        soonest = min(starts.values())
        best = next(partition for partition, start in starts.items() if start <= soonest + _AT_ONCE)
        others = [f"{partition}: {_when(one, now)}" for partition, one in told.items() if partition != best]
        why = f"partition {best}, where it {_when(told[best], now)}"
        return names.get(best, best), f"{why} ({'; '.join(others)})" if others else why


def _words(job: Plan) -> tuple[str, ...]:
    return tuple(f"--{name}" if value is None else f"--{name}={value}" for name, value in job.allocation.flags)


def _closed(partition: Partition | None, jobs: Sequence[Plan]) -> str:
    """Why a partition is not for these jobs, where Slurm itself may say yes all the same: without EnforcePartLimits it
    takes in what then waits without end."""
    if partition is None:
        return "there is no such partition, or it is hidden from you"
    if not partition.up:
        return "it is not up"
    for job in jobs:
        asked, flags = job.allocation, dict(job.allocation.flags)
        if partition.max_time is not None and asked.time is not None and asked.time > partition.max_time:
            return f"at most {clock(partition.max_time)}"
        if partition.max_nodes is not None and asked.nodes > partition.max_nodes:
            return f"at most {partition.max_nodes} nodes a job"
        if partition.accounts and flags.get("account") not in partition.accounts:
            return f"only for account {' or '.join(partition.accounts)}"
        if partition.qos and flags.get("qos") and flags["qos"] not in partition.qos:
            return f"only for qos {' or '.join(partition.qos)}"
    return ""


def _when(forecast: Forecast, now: float) -> str:
    if forecast.start is None:
        return forecast.words
    wait = forecast.start - now
    return "starts at once" if wait <= _AT_ONCE else f"starts in {clock(int(wait))}"


def _with_note(plan: Plan | SweepPlan, why: str) -> Plan | SweepPlan:
    if isinstance(plan, SweepPlan) and plan.job:
        plan = replace(plan, job=replace(plan.job, notes=(*plan.job.notes, why)))
    return replace(plan, notes=(*plan.notes, why))


def _refuse_single_items(experiment: Experiment, plan: Plan | SweepPlan) -> None:
    items = plan.items if isinstance(plan, SweepPlan) else ()
    if any(planned.item.keys.get("allocation.partition") == AUTO for planned in items):
        what, way_out = "auto is chosen for a sweep as a whole", 'partition = "auto" in [allocation]'
        raise SpecError([experiment.problem(("sweep", "allocation.partition"), what, way_out)])
