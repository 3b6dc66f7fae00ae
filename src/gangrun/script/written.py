"""The script that sends a job script which somebody wrote: its own head, the same prelude, and it as the only main."""

from __future__ import annotations

from collections.abc import Sequence

import gangrun
from gangrun.plan import monitor
from gangrun.script.parts import part, prelude
from gangrun.script.quote import directive, literal
from gangrun.script.render import in_pattern
from gangrun.spec.model import Monitor

GRACE = 600
"""Seconds: longer than a cluster's KillWait, so that it is Slurm that loses patience, as without gangrun."""


def written(head: Sequence[str], name: str, command: Sequence[str], run_name: str, run_dir: str) -> str:
    """The batch script of a run for `command`, a job script named `name` with these lines for sbatch.

    sbatch lets later lines win: what is only a default of ours comes first, the run's name last.
    """
    lines = [
        f"#SBATCH {directive('output', f'{in_pattern(run_dir)}/job.log')}",
        f"#SBATCH {directive('open-mode', 'append')}",
        *(line.replace("%x", name) for line in head),  # the job itself is called as the run
        f"#SBATCH {directive('job-name', run_name)}",
        f"#SBATCH {directive('comment', run_name)}",
    ]
    return f"""#!/usr/bin/env bash
{chr(10).join(lines)}
# Run {run_name}, written by gangrun {gangrun.__version__} around a job script, which is beside this one as it was.
# shellcheck disable=SC2016,SC2034,SC2154,SC2329  # quoted words are literal; parts of the prelude go unused
RUN_NAME='{run_name}'
JOB_NAME={literal(name)}
RUN_DIR=${{GANGRUN_RUN_DIR:-{literal(run_dir)}}}
FIRST_ATTEMPT=1
GRACE={GRACE} # seconds between asking the job script to stop and making it

setup() {{ :; }}

roles() {{
  written {" ".join(map(literal, command))} "$RUN_DIR/job.sh"
  start {monitor.ROLE} 0 sidecar nodes="$(all_nodes)" alone=0 flags=1 --kill-on-bad-exit=0 -- \\
    python3 -IS "$RUN_DIR/node/{monitor.PROGRAM}" every={Monitor().every} gpus="$GIVEN_GPUS" \\
    ${{GIVEN_MEMORY:+mem="$GIVEN_MEMORY"}}
}}

# ---- prelude: how replicas start, stop and are watched; the same in every script
{prelude("slurm")}
{part("written")}
# ---- the job
begin 1 0
roles
finish_when_mains_end
"""
