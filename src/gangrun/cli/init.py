"""Start an experiment file here, with comments that say what can be changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from gangrun.errors import InputError, RecordError

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
    """[FILE]."""
    default = "experiments/001_example/000_train_0.toml"
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default=default, help=f"where to write it (default: {default})"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the file unless there is one."""
    file = Path(args.file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(TEXT)
    except FileExistsError:
        raise InputError(f"{file} is there already", way_out="name another file") from None
    except OSError as error:
        raise RecordError("the experiment cannot be written", where=str(file), why=error.strerror or "") from error
    print(f"{file}: put your program's command in, then gangrun plan {file}")
    return 0
