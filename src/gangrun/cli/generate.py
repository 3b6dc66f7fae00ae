"""Write the batch script of a training by DDP, DiLoCo or MuLoCo, with the flags of MuLoCo's generate_job_file.py.

The script is a run of the record that waits to be sent: sbatch FILE. With --as-spec the same as an experiment file.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from gangrun.cli import inputs
from gangrun.errors import InputError, RecordError

if TYPE_CHECKING:
    from gangrun.recipes.generate import Asked
    from gangrun.record.rundir import RunDir
    from gangrun.spec.profile import Cluster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MuLoCo's flags, --cluster and --as-spec."""
    add, positive = parser.add_argument, inputs.positive
    add("--config-file", metavar="FILE", required=True, help="configuration of the training")
    add("--job-name", metavar="NAME", default="diloco", help="name of the step in the run's name (default: diloco)")
    add("--qos", metavar="QOS", help="quality of service, with what the cluster's profile says that it brings")
    add("--partition", metavar="NAME", help="partition, in place of the profile's")
    add("--account", metavar="NAME", help="account, in place of the profile's")
    add("--mem", metavar="SIZE", help="memory on each node, in place of the profile's")
    add("--time", metavar="TIME", help="time limit (default: the profile's, or 36:00:00)")
    add("--nodes", metavar="N", type=positive, default=2, help="nodes (default: 2)")
    add("--gpus-per-node", metavar="N", type=inputs.count, help="GPUs on each (default: the profile's, or 8)")
    add("--cpus-per-node", metavar="N", type=positive, help="CPUs of each, in place of the profile's")
    add("--ntasks-per-node", metavar="N", type=positive, help="tasks that share them (default: groups and lighthouse)")
    add("--use-ddp", action="store_true", help="train as one, by torchrun over all nodes")
    add("--num-ft-replicas-per-node", metavar="N", type=positive, help="replica groups on each node (default: 8)")
    add("--nodes-per-replica", metavar="N", type=positive, default=1, help="nodes of each replica group (default: 1)")
    add("--extra-args", metavar="ARGS", default="", help="words for --cfg_options, handed over as they stand")
    add("--mail-user", metavar="EMAIL", help="whom Slurm writes to")
    add("--mail-type", metavar="EVENTS", help="when (default with --mail-user: BEGIN,END,FAIL)")
    add("--output", metavar="PATH", help="log of the job, %%j is its id (default: job.log in the run's directory)")
    add("--error", metavar="PATH", help="its stderr (default: the same)")
    add("--output-file", metavar="FILE", help="where to write the script (default: stdout)")
    add("--as-spec", action="store_true", help="write an experiment file in place of a script")
    inputs.add_cluster(parser)


def run(args: argparse.Namespace) -> int:
    """Makes the run and writes its script where it was asked for."""
    from gangrun import clusters
    from gangrun.recipes.generate import Asked

    cluster = clusters.choose(args.cluster, None, inputs.project_here())
    asked = Asked(**{field.name: getattr(args, field.name) for field in fields(Asked)})
    made = None
    if args.as_spec:
        text = _spec(asked, cluster)
        _ready(asked, args.output_file)
    else:
        made = _script(asked, cluster, args.output_file)
        text = made.script.read_text(encoding="utf-8", errors="surrogateescape")
    if args.output_file is None:
        print(text, end="")
    else:
        _write(Path(args.output_file), text, made)
    local = cluster.profile.scheduler == "local"
    if local and not args.cluster:
        inputs.say(f"the cluster is {cluster.name}, so nothing is asked of Slurm; --cluster NAME chooses another")
    if made:
        sender = "bash" if local else "sbatch"
        inputs.say(f"{made.run_id} is written, not sent: {sender} {args.output_file or 'SCRIPT'}")
    return 0


def _spec(asked: Asked, cluster: Cluster) -> str:
    import tomli_w

    from gangrun.recipes.generate import as_spec, experiment
    from gangrun.resolve import resolve

    resolve(experiment(asked, cluster), cluster)  # whatever is wrong with it is said here
    head = f"# As gangrun generate made it for {cluster.name}. The folder names the experiment, the file the step.\n"
    return head + tomli_w.dumps(as_spec(asked, cluster))


def _script(asked: Asked, cluster: Cluster, file: str | None) -> RunDir:
    """The run, made."""
    from gangrun import submission
    from gangrun.recipes.generate import experiment
    from gangrun.resolve import resolve
    from gangrun.script.render import render

    made = experiment(asked, cluster)
    inputs.check_name(made)
    plan = resolve(made, cluster)
    render(plan, "check", "/run")
    _ready(asked, file)
    return submission.create(submission.store_of(made.project), made, plan, sys.argv)


def _ready(asked: Asked, file: str | None) -> None:
    """Raises InputError where a file cannot be written, before anything else is."""
    if file is not None:
        _check_target(Path(file))
    for log in (asked.output, asked.error):
        # sbatch makes no folder, and a job without its log fails before its first line.
        if log is not None and "%" not in str(Path(log).parent):
            _make(Path(log).parent)


def _check_target(file: Path) -> None:
    """Raises InputError where the script could not be written there. A folder with a typing error is not made."""
    there = file.exists()
    if there and not file.is_file() and not file.is_dir():
        return  # a pipe: its reader would take this for the end
    try:
        with file.open("ab"):
            pass
    except OSError as error:
        if not file.parent.is_dir():
            why, way_out = f"there is no folder {file.parent}", f"make it first: mkdir -p {quote(str(file.parent))}"
        else:
            why, way_out = error.strerror or "", "name another file, or none to have it on stdout"
        raise InputError(
            "the script cannot be written", where=f"--output-file {file}", why=why, way_out=way_out
        ) from error
    if not there:
        file.resolve().unlink()  # not a link that leads there


def _write(file: Path, text: str, made: RunDir | None) -> None:
    """Raises RecordError, as for a disk that is full: what can be seen before the run is made was."""
    try:
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        way_out = f"send the run's own: {made.script}" if made else ""
        raise RecordError("cannot be written", where=str(file), why=error.strerror or "", way_out=way_out) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", where=str(folder)) from error
