"""What a script of the experiment tree evaluates when it sources slurm/init.sh: its variables and functions.

`gangrun init --bash` writes that file; the functions `load`, `posttrain` and `resume` of such a script call it again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gangrun.cli import inputs
from gangrun.errors import UsageError

if TYPE_CHECKING:
    from gangrun.record.rundir import RunDir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SCRIPT, --load, --resume."""
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="the script that is running")
    parser.add_argument("--load", metavar="WHAT", help="begin with this checkpoint: a file, a folder, a run, a step")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run: the variables of its script")


def run(args: argparse.Namespace) -> int:
    """Prints bash."""
    from gangrun import submission
    from gangrun.recipes import bash

    if args.load is None and args.resume is None:
        if not args.script:
            raise UsageError("which script?", way_out="gangrun bash SCRIPT, as slurm/init.sh does")
        script = Path(args.script)
        print(bash.prelude(script, bash.project_of(script), time.time()))
        return 0
    file = bash.script_around(os.environ)
    project = bash.project_of(file)
    store = submission.store_of(project)

    def ended(run: RunDir) -> bool:
        return inputs.states([run], project)[0].final

    if args.resume is not None:
        print(bash.resuming(args.resume, store, str(file)))
    else:
        print(bash.loading(args.load, store, ended, os.environ["EXPERIMENT_NAME"]))
    return 0
