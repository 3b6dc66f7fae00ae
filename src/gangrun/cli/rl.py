"""Train by RL from one TOML: an inference service, a trainer and an orchestrator in one job.

`@ FILE` is a configuration, a further one is laid over it, and `--key.path VALUE` over both, such as
--max-steps 100, --trainer.optim.lr 1e-5, --slurm.template-path my.sh.j2. Words after `--` go to sbatch as they are.
"""

from __future__ import annotations

import argparse

from gangrun.cli import training
from gangrun.cli.training import add_arguments

__all__ = ["add_arguments"]

PASSES_ON = True
OPEN = True
"""Further flags are keys of the configuration; the command line hands them over as `args.words`."""


def run(args: argparse.Namespace) -> int:
    """Reads the configuration and does what `training.run` says."""
    from gangrun.recipes import rl

    return training.run(rl.job(args.words, resume=args.resume), args)
