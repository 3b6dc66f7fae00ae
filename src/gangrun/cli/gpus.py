"""What a run uses, live or afterwards: one row for each GPU, and one for each replica on each node."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gangrun.cli import inputs
from gangrun.errors import UsageError

if TYPE_CHECKING:
    from gangrun.record.rundir import RunDir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, -f, --attempt, --gutil, --json."""
    inputs.add_run(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--attempt", type=int, metavar="N", help="an earlier attempt (default: the newest)")
    help_ = "write what was seen of the GPUs as `nvidia-smi dmon` would have, DIR/slurm-JOB.HOST.gutil for each node"
    parser.add_argument("--gutil", metavar="DIR", help=help_)
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the tables; exit code 0 whatever is in them."""
    from gangrun.views import gpus

    found = inputs.store_here().find(args.run)
    if args.follow and (args.attempt is not None or args.json or args.gutil):
        raise UsageError("-f follows the newest attempt, as text", way_out="leave the other flags out, or -f")
    inputs.check_attempt(found, args.attempt)
    if args.gutil:
        return _write(found, args.attempt, Path(args.gutil))
    if args.follow:
        from gangrun.views.live import follow_use

        project = inputs.project_here()
        follow_use(found, lambda: inputs.states([found], project)[0])
        return 0
    nodes = gpus.latest(found, args.attempt)
    if args.json:
        from gangrun.views.terminal import print_json

        print_json(gpus.as_data(found, nodes))
    else:
        print("\n".join(gpus.lines(found, nodes, args.attempt)))
    return 0


def _write(run: RunDir, attempt: int | None, folder: Path) -> int:
    """Writes the files and prints their paths. Raises UsageError where they cannot be written."""
    from gangrun.views import gutil

    count = 0
    for name, parts in gutil.files(run, attempt):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("w") as file:
                file.writelines(parts)
        except OSError as error:
            raise UsageError(f"cannot write {folder / name}: {error.strerror}", way_out="--gutil DIR") from error
        print(folder / name)
        count += 1
    if not count:
        print(f"gangrun: nothing was seen of a GPU in {run.run_id}", file=sys.stderr)
    return 0
