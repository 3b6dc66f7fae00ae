"""Start an experiment file here, with comments that say what can be changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from gangrun.cli import inputs
from gangrun.errors import InputError, UsageError

FILE = "experiments/001_example/000_train_0.toml"
TEXT = """\
# One experiment: gangrun plan shows what will happen, gangrun run does it here, gangrun submit queues it.
# The run is named after the path: <experiment>/<step>_<seed>; {seed} below is the number that ends the file's name.
command = ["python", "train.py", "--seed", "{seed}", "--out", "{run.dir}"]
# launcher = "torchrun"     # one process for each GPU, over all nodes

[allocation]
nodes = 1
gpus = 0                    # on each node
cpus = 4                    # on each node
time = "01:00:00"

# [env]
# NCCL_DEBUG = "WARN"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[FILE], --bash."""
    help_ = "write slurm/init.sh, jobs/*.toml and an example for scripts in bash, in the current folder"
    parser.add_argument("--bash", action="store_true", help=help_)
    help_ = f"where to write it (default: {FILE})"
    parser.add_argument("file", metavar="FILE", nargs="?", type=inputs.file_name, help=help_)


def run(args: argparse.Namespace) -> int:
    """Writes what is not there yet."""
    if args.bash:
        if args.file:
            way_out = "leave FILE out: --bash writes files of its own, into the current folder"
            raise UsageError(f"--bash does not write {args.file}", way_out=way_out)
        from gangrun.recipes import bash

        for name, text in bash.templates().items():
            if Path(name).exists():
                print(f"{name}: is there already, and stays as it is")
            else:
                _write(Path(name), text)
                print(name)
        print(f"put your program's command into {bash.JOBS}/train.toml, then bash {bash.EXAMPLE}")
        return 0
    file = Path(args.file or FILE)
    _write(file, TEXT)
    print(f"{file}: put your program's command in, then gangrun plan {file}")
    return 0


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:  # a file may stand where a folder is needed
        raise InputError(f"{error.filename} is there already", way_out="name another file") from None
    except OSError as error:
        why, way_out = error.strerror or "", "name another file, or go to a folder that you may write"
        raise InputError("cannot be written", where=str(file), why=why, way_out=way_out) from error
