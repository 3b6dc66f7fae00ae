"""A command beside the program of a replica of a running job: on its node, in its environment and its container."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gangrun import clusters
from gangrun.errors import UsageError
from gangrun.record.facts import AttemptFacts
from gangrun.record.ledger import SPREAD
from gangrun.record.rundir import RunDir
from gangrun.record.state import RunState, State, history
from gangrun.scheduler import srun
from gangrun.scheduler.commands import submitting_environment
from gangrun.scheduler.model import PROCESS
from gangrun.script.parts import part
from gangrun.spec.profile import LOCAL

_FEW = 8
"""Names of replicas that an error lists."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What to execute in the place of this process."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def enter(run: RunDir, state: RunState, project: Path, wanted: str, words: Sequence[str], *, terminal: bool) -> Entry:
    """How `words` get to the replica `wanted`: `ROLE.INDEX`, `ROLE` where that has one, empty where the run has one.

    Of several nodes that a replica has it is the first. Raises UsageError where there is no such replica now.
    """
    facts = run.facts()
    if state.mode in SPREAD:
        raise UsageError(f"{run.run_id} is a sweep, and its items are jobs", way_out="--item NAME")
    if state.final:
        way_out = "gangrun show tells how, gangrun resume goes on with it"
        raise UsageError(f"{run.run_id} has ended: it is {state.state}", way_out=way_out)
    if facts is None or state.state == State.PENDING:
        raise UsageError(f"{run.run_id} has not begun: it is {state.state}", way_out="gangrun why tells why")
    name = _chosen(run, facts, wanted)
    told = history(run.read_events())
    mark = f"{run.run_id}/{facts.job}/{run.attempt(facts.number).path.name}"
    inside = ("bash", "-c", f'{part("enter")}\nenter "$@"', "-", mark, name, *words)
    if facts.job.startswith(PROCESS):
        if told.host not in ("", os.uname().nodename):
            raise UsageError(f"{run.run_id} runs on {told.host}, and this is {os.uname().nodename}")
        return Entry(inside, os.environ)
    # What runs in an allocation that is held was started here, but is in that cluster's job.
    cluster = clusters.named(told.created.cluster if told.local and told.created else state.cluster or LOCAL, project)
    replica = facts.of_roles[name]
    # A job script that somebody wrote is no step.
    first = facts.hosts[:1] if replica.lives and replica.exit is None else ()
    hosts = clusters.slurm_of(cluster).hosts_of_step(replica.step) if replica.step else first
    if not hosts:
        raise UsageError(f"{name} does not run now: it waits, starts again, or has ended", way_out="gangrun show")
    argv = srun.beside(facts.job, hosts[0], inside, terminal=terminal)
    return Entry(tuple(argv), submitting_environment(os.environ, cluster.profile.slurm_conf or ""))


def _chosen(run: RunDir, facts: AttemptFacts, wanted: str) -> str:
    names = list(facts.of_roles)
    found = [name for name in names if not wanted or wanted in (name, name.rpartition(".")[0])]
    if not found:
        near = difflib.get_close_matches(wanted, {*names, *(name.rpartition(".")[0] for name in names)}, 1)
        way_out = f"did you mean {near[0]}?" if near else f"there are {_listed(names)}" if names else ""
        raise UsageError(f"{run.run_id} has no replica {wanted!r}", way_out=way_out)
    if len(found) > 1:
        way_out = f"--role {found[0]}"
        raise UsageError(f"{run.run_id} has {len(found)} replicas: {_listed(found)}", way_out=way_out)
    return found[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (", …" if len(names) > _FEW else "")
