"""When the job of a run is queued again."""

from __future__ import annotations

from gangrun.errors import Problem
from gangrun.plan.batch import clock
from gangrun.plan.model import Requeue
from gangrun.spec.load import Experiment
from gangrun.spec.model import Allocation
from gangrun.spec.profile import Cluster


def requeue(
    experiment: Experiment, cluster: Cluster, allocation: Allocation, problems: list[Problem]
) -> Requeue | None:
    """What `[requeue]` means for this job; None where nothing is queued."""
    spec = experiment.spec
    wanted = spec.requeue
    if wanted is None:
        return None
    # The script stops its mains, then the services, each within `grace`, and then has to tell Slurm.
    ending = 2 * spec.grace + 15
    if wanted.limit and wanted.signal_before <= ending:
        what = f"{wanted.signal_before} s, but to end a job well takes up to {ending} s (twice grace + 15)"
        problems.append(experiment.problem(("requeue", "signal_before"), what, f'signal_before = "{ending + 30}s"'))
    elif allocation.time is not None and wanted.limit and wanted.signal_before >= allocation.time:
        what = f"{wanted.signal_before} s before a time limit of {clock(allocation.time)} is before the beginning"
        problems.append(experiment.problem(("requeue", "signal_before"), what, "a longer time, or a shorter warning"))
    if cluster.profile.scheduler == "local":
        return None  # no queue, and what cannot be meant is told all the same
    return Requeue(
        limit=wanted.limit,
        preemption=wanted.preemption,
        node=wanted.node,
        before=wanted.signal_before,
        signal=wanted.signal or "",
        glob=spec.resume.glob if spec.resume else "",
    )
