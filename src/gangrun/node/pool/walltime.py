"""How long the job may still run, and a further job for what it cannot do. All that asks Slurm is here."""

from __future__ import annotations

import os
import subprocess
import time

FAR = float("inf")


class SlurmError(Exception):
    """A command of Slurm did not do its work; in its own words."""


def end_of_job() -> float:
    """When the job will be ended, in seconds since 1970; infinity where nothing says so."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return FAR
    given = os.environ.get("SLURM_JOB_END_TIME", "")
    if given.isdigit() and int(given):
        return float(given)
    try:  # before 22.05; the agents do not wait much longer for their driver
        left = parse_left(_slurm("squeue", "--noheader", "--jobs", job, "--format", "%L", patience=10))
    except SlurmError:
        return FAR
    return time.time() + left if left is not None else FAR


def parse_left(text: str) -> float | None:
    """Seconds in `1-02:03:04`, `02:03:04` or `03:04`; None for `UNLIMITED` and what else squeue can say."""
    text = text.strip()
    days, dash, rest = text.partition("-")
    parts = (rest if dash else text).split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()) or not text:
        return None
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return float(seconds + (int(days) * 86400 if dash else 0))


def queue_further_job(script: str, flags: list[str]) -> str:
    """Queues the same script to begin when this job has ended; its id. Raises SlurmError."""
    job = os.environ["SLURM_JOB_ID"]
    answer = _slurm("sbatch", "--parsable", f"--dependency=afterany:{job}", *flags, script)
    return answer.strip().partition(";")[0]


def cancel(job: str) -> None:
    """Takes a job that waits out of the queue."""
    try:
        _slurm("scancel", job)
    except SlurmError:
        pass


def _environment() -> dict[str, str]:
    """Ours without what sbatch and squeue would take for flags of theirs."""
    kept = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"}
    flags = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "GANGRUN_")
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith(flags)}


def _slurm(*argv: str, patience: float = 60) -> str:
    try:
        done = subprocess.run(
            argv,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(str(error)) from error
    if done.returncode:
        raise SlurmError(done.stderr.strip() or f"{argv[0]} ended with {done.returncode}")
    return done.stdout
