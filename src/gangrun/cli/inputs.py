"""Arguments that several commands take, and how they become experiments, plans and runs."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from gangrun.errors import UsageError
from gangrun.project import OUTPUTS, project_root

if TYPE_CHECKING:
    from gangrun.chains import Link
    from gangrun.plan.model import Plan
    from gangrun.record.item_states import ItemState
    from gangrun.record.rundir import RunDir
    from gangrun.record.state import RunState
    from gangrun.record.store import Store
    from gangrun.scheduler.model import Scheduler
    from gangrun.scheduler.slurm import Slurm
    from gangrun.spec.copy import Copy
    from gangrun.spec.load import Experiment
    from gangrun.spec.profile import Cluster
    from gangrun.sweeps import SweepPlan

Planned: TypeAlias = "tuple[Experiment, Cluster, Plan | SweepPlan]"


def add_file(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """FILE and everything that changes what it means."""
    if several:
        parser.add_argument("files", metavar="FILE", nargs="+", type=file_name, help="experiment files")
        parser.add_argument("--seeds", metavar="0-4", help="one run for each of these seeds, such as 0-4 or 0,2,5")
    else:
        parser.add_argument("file", metavar="FILE", type=file_name, help="experiment file")
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help="set a key, such as gpus=4"
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Which cluster."""
    parser.add_argument("--cluster", metavar="NAME", help="profile to use (default: GANGRUN_CLUSTER, the file, found)")


def add_partition(parser: argparse.ArgumentParser) -> None:
    """Which partition of it."""
    words = "partition or its alias; auto: the one that would start the job soonest"
    parser.add_argument("--partition", metavar="NAME", help=words)


def with_partition(args: argparse.Namespace) -> list[str]:
    """The overrides of the command line, `--partition` among them."""
    import json

    return [*args.overrides, *([f"allocation.partition={json.dumps(args.partition)}"] if args.partition else [])]


def add_run(parser: argparse.ArgumentParser) -> None:
    """Which run."""
    help_ = "run id or its beginning, experiment/step for its newest, path, job id, or latest (default)"
    parser.add_argument("run", metavar="RUN", nargs="?", default="latest", help=help_)


def add_item(parser: argparse.ArgumentParser) -> None:
    """Which item of a sweep."""
    parser.add_argument("--item", metavar="NAME", help="one item of a sweep, by its name or number; also RUN/NAME")


def add_replica(parser: argparse.ArgumentParser) -> None:
    """Which replica."""
    parser.add_argument("--role", metavar="ROLE", default="", help="ROLE, or ROLE.INDEX where it has several replicas")


def become(args: argparse.Namespace, words: Sequence[str], *, terminal: bool) -> int:
    """Turns this process into `words` beside a replica of a running job. Raises UsageError; returns where it cannot."""
    from gangrun.entering import enter

    found = run_or_item(args)
    project = project_here()
    state = states([found], project)[0]
    entry = enter(found, state, project, args.role, words, terminal=terminal)
    sys.stdout.flush()
    try:
        os.execvpe(entry.argv[0], entry.argv, entry.env)  # noqa: S606 - words, not a line of shell
    except OSError as error:
        raise UsageError(f"cannot run {entry.argv[0]}: {error.strerror}") from error


def run_or_item(args: argparse.Namespace) -> RunDir:
    """The run that is meant, or the item of it. Raises RunNotFound."""
    found = store_here().find(args.run)
    if args.item is None:
        return found
    from gangrun.errors import RunNotFound
    from gangrun.record import items

    lines = items.read(found)
    if not lines:
        raise RunNotFound(f"{found.run_id} is no sweep and has no items")
    for line in lines:
        if args.item in (line.name, str(line.index)):
            return found.item(line.name)
    import difflib

    near = difflib.get_close_matches(args.item, [line.name for line in lines], 5, cutoff=0.4)
    raise RunNotFound(
        f"{found.run_id} has no item {args.item!r}",
        why=f"near it: {', '.join(near)}" if near else "",
        way_out=f"gangrun show {found.run_id} lists its {len(lines)} items",
    )


def items(run: RunDir, state: RunState, project: Path) -> list[ItemState]:
    """The items of a sweep as they are now."""
    from gangrun.record.item_states import item_states

    return item_states(run, state, schedulers(project))


def items_as_runs(run: RunDir, project: Path) -> list[RunState]:
    """The same as the states of runs."""
    from gangrun.record.ledger import refresh_items

    return refresh_items(run, schedulers(project))


def jobs_of(run: RunDir, state: RunState, project: Path) -> list[tuple[RunDir, str]]:
    """The jobs that a run still has, each with the run that it is recorded with: of a sweep those are its items."""
    from gangrun.record import pools
    from gangrun.record.ledger import SPREAD

    if state.mode in SPREAD:
        alive = (one for one in items(run, state, project) if not one.final and one.job)
        return [(run.item(one.name), one.job) for one in alive]
    jobs = [pools.continued(run), state.job] if state.mode == "pool" else [state.job]
    return [(run, job) for job in dict.fromkeys(jobs) if job]


def add_json(parser: argparse.ArgumentParser) -> None:
    """Data for programs."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def expanded(files: Sequence[str]) -> list[tuple[str, bool]]:
    """Every file, with the steps of a folder of experiments, or of a tree of them, in its place.

    True goes with those that a folder stands for. Raises InputError, and SpecError for steps without an identity.
    """
    from gangrun.jobscript import read
    from gangrun.spec import tree

    found: list[tuple[str, bool]] = []
    for name in files:
        folder = Path(name)
        if not folder.is_dir():
            found.append((name, False))
            continue
        steps = tree.read(tree.spread([folder]))
        if not steps:
            way_out = "a step is called <step id>_<step name>_<seed>.toml"
            script = next((str(one) for one in sorted(folder.iterdir()) if read.is_one(str(one))), "")
            way_out += f", or gangrun submit {script}" if script else ""
            raise UsageError(f"{name} holds no step of an experiment", way_out=way_out)
        found += [(str(step.file), True) for step in steps]
    return found


def require_experiment(file: str) -> None:
    """Raises UsageError for a script, which is sent or run as it is."""
    from gangrun.jobscript import read
    from gangrun.recipes import bash

    if Path(file).is_file() and read.is_one(file):
        front = bash.sources_init(Path(file))
        way_out = "bash runs it" if front else "gangrun submit sends it as it is, gangrun check tells its faults"
        raise UsageError(f"{file} is a script, and no experiment file", way_out=way_out)


def loaded(file: str, overrides: list[str], cluster: str | None) -> tuple[Experiment, Cluster]:
    """One file, and the cluster that it is meant for."""
    from gangrun import clusters
    from gangrun.spec.load import load

    require_experiment(file)
    experiment = with_code(load(file, overrides))
    place = str(experiment.origin("cluster"))
    return experiment, clusters.choose(cluster, experiment.spec.cluster, experiment.project, place)


def with_code(experiment: Experiment) -> Experiment:
    """The experiment with the copy of the code that its runs use, if `[code]` says so; the copy is not made yet."""
    if not experiment.spec.code.snapshot:
        return experiment
    from dataclasses import replace

    return replace(experiment, copy=_copy(experiment.project))


@cache
def _copy(project: Path) -> Copy:
    """The same for all runs of one command."""
    from gangrun.record.code import look

    return look(str(project), str(project / OUTPUTS))


def say_what_is_copied(experiments: Iterable[Experiment]) -> None:
    """What a user should know of the copies of the code: what git does not track is not in them."""
    for words in dict.fromkeys(note for one in experiments if one.copy for note in one.copy.notes):
        say(words)


def planned(file: str, overrides: list[str], cluster: str | None) -> Planned:
    """One file as a plan."""
    from gangrun.sweeps import plan_of

    experiment, chosen = loaded(file, overrides, cluster)
    check_name(experiment)
    return experiment, chosen, plan_of(experiment, chosen)


def check_name(experiment: Experiment) -> None:
    """Raises InputError where no run can be named after the experiment and its step."""
    from gangrun.record.naming import LONGEST, LONGEST_SWEEP, run_id

    longest = LONGEST if experiment.spec.sweep is None else LONGEST_SWEEP
    run_id(experiment.experiment, experiment.step, "YYMMDD_HHMMSS", longest)


def created(
    store: Store,
    experiment: Experiment,
    cluster: Cluster,
    plan: Plan | SweepPlan,
    flags: Sequence[str] = (),
    when: float | None = None,
) -> RunDir:
    """The run's directory, made; of a sweep in arrays that the cluster takes. `flags` are the user's own for sbatch;
    `when` names the run in place of now."""
    from gangrun import submission, sweep_submission
    from gangrun.sweeps import SweepPlan

    if not isinstance(plan, SweepPlan):
        return submission.create(store, experiment, plan, sys.argv, when)
    if plan.mode != "array":
        return sweep_submission.create(store, plan, sys.argv, flags=flags, when=when)
    largest = patient(cluster).limits().largest_array
    if not largest:
        way_out = '--set sweep.mode="jobs", or "pool"'
        raise UsageError(f"{cluster.name} has no job arrays: its MaxArraySize is 0", way_out=way_out)
    return sweep_submission.create(store, plan, sys.argv, largest, when=when)


def require_held(plan: Plan | SweepPlan, links: Iterable[Link]) -> None:
    """Raises UsageError for what cannot run in the allocation that is held here."""
    from gangrun import clusters
    from gangrun.sweeps import SweepPlan, shown_of

    if isinstance(plan, SweepPlan) and plan.mode != "pool":
        what = f"mode {plan.mode} queues its items as jobs, and an allocation that is held has no queue"
        raise UsageError(what, way_out="gangrun submit, or --set sweep.mode=pool")
    if waits := [link.run.run_id for link in links if not link.done]:
        raise UsageError(f"{', '.join(waits)} has not ended, and an allocation that is held does not wait for it")
    clusters.require_room(shown_of(plan).allocation.nodes)


def follow_here(run: RunDir, project: Path, cluster: Cluster, *, attempt: int = 1, quiet: bool = False) -> int:
    """Starts a run in front and follows it to its end; its exit code."""
    from gangrun import clusters, submission
    from gangrun.views.live import follow_process

    process = submission.start_here(run, cluster.name, attempt)
    code = follow_process(
        run,
        process,
        quiet=quiet,
        stopping=lambda: submission.note_cancel(run),
        killing=lambda: submission.end_steps(run, clusters.scheduler_of(cluster)),
    )
    states([run], project)  # puts the end on record
    return code


ROOM = 86_400.0
"""Seconds for which the submission of a sweep waits while the queue is full: it is drained by what it holds."""


def patient(cluster: Cluster, say: Callable[[str], None] = lambda _: None) -> Slurm:
    """The Slurm that a sweep is sent to."""
    from gangrun import clusters

    return clusters.slurm_of(cluster, say, ROOM)


def sender(plan: Plan | SweepPlan, cluster: Cluster, usual: Scheduler) -> Scheduler:
    """What sends it: a sweep waits for room in the queue."""
    from gangrun.sweeps import SweepPlan

    return patient(cluster, say) if isinstance(plan, SweepPlan) and cluster.profile.scheduler == "slurm" else usual


def seeds(text: str) -> Iterator[int]:
    """`0-4` or `0,2,5-7`. Raises UsageError."""
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UsageError(f"--seeds {text!r} is no list of seeds", way_out="write 0-4 or 0,2,5")
        yield from range(int(first), int(last if dash else first) + 1)


def count(text: str) -> int:
    """A number from 0, as an argument's type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def file_name(text: str) -> str:
    """The name of a file, as an argument's type: an empty one would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def positive(text: str) -> int:
    """A number from 1, as an argument's type."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


def named(jobs: Sequence[str]) -> str:
    """`job 7`, or `3 jobs, 7 to 9,` where they are several."""
    return f"job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs, {jobs[0]} to {jobs[-1]},"


def require_sbatch_for(flags: Sequence[str], cluster: Cluster, way_out: str = "") -> None:
    """Raises UsageError where there are words for sbatch, and no sbatch on this cluster."""
    if flags and cluster.profile.scheduler == "local":
        raise UsageError(f"{' '.join(flags)}: this machine has no sbatch to take flags", way_out=way_out)


def code_of(state: RunState) -> int:
    """The exit code of a run, 1 where nobody knows."""
    return 1 if state.exit_code is None else state.exit_code


def overall(codes: Sequence[int]) -> int:
    """The exit code for several: that of a single one, else 0, 3 where some have failed, 1 where all have."""
    if len(codes) == 1:
        return codes[0]
    bad = sum(1 for code in codes if code)
    return 0 if not bad else 1 if bad == len(codes) else 3


def check_attempt(run: RunDir, attempt: int | None) -> None:
    """Raises UsageError where the run has no such attempt."""
    attempts = run.attempts()
    if attempt is not None and attempt not in attempts:
        known = f"there are {', '.join(map(str, attempts))}" if attempts else "none has begun"
        raise UsageError(f"{run.run_id} has no attempt {attempt}", way_out=known)


def project_here() -> Path:
    """The project around the current directory."""
    return project_root(Path.cwd())


def say(words: str) -> None:
    """A word to the user, in one write, as several threads may speak."""
    print(f"gangrun: {words}\n", end="", file=sys.stderr, flush=True)


def store_here() -> Store:
    """The runs of the project around the current directory."""
    from gangrun.record.store import Store

    return Store(project_here() / OUTPUTS)


def states(runs: Sequence[RunDir], project: Path) -> list[RunState]:
    """The states of these runs now; ends that are new are put on record."""
    from gangrun.record.ledger import refresh

    return refresh(runs, schedulers(project))


@cache
def schedulers(project: Path) -> Callable[[str], Scheduler]:
    """Schedulers by cluster name, each made once, and no profile read before one is needed."""

    @cache
    def by_name(name: str) -> Scheduler:
        from gangrun import clusters

        return clusters.scheduler_of(clusters.named(name or "local", project))

    return by_name


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size((120, 40)).columns
