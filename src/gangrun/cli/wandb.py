"""Send to Weights & Biases what runs without internet have kept for it in their directories: gangrun wandb sync RUN

It calls the `wandb` program of the environment that is active here.
"""

from __future__ import annotations

import argparse

from gangrun.cli import inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sync RUN…."""
    parser.add_argument("what", choices=["sync"], help="send what was kept")
    help_ = "run id or its beginning, experiment/step for its newest, path, job id, or latest (default)"
    parser.add_argument("runs", metavar="RUN", nargs="*", default=["latest"], help=help_)


def run(args: argparse.Namespace) -> int:
    """Finds the kept directories and hands them to `wandb sync`; the exit code is that program's."""
    import subprocess

    from gangrun.errors import ProgramMissing

    store = inputs.store_here()
    kept = [path for name in args.runs for path in store.find(name).offline_wandb()]
    if not kept:
        print(f"{', '.join(args.runs)}: nothing is kept for wandb")
        return 0
    try:
        # The attempts of a run are one run there, which older ones take only with this flag and 0.31 without it.
        told = subprocess.run(["wandb", "sync", "--help"], capture_output=True, text=True).stdout
        append = ["--append"] if "--append" in told else []
        return subprocess.run(["wandb", "sync", *append, *map(str, kept)]).returncode
    except FileNotFoundError:
        raise ProgramMissing("there is no wandb on this machine's PATH", way_out="pip install wandb") from None
