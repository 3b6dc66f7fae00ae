"""srun: a step beside the others of a running job. Pure."""

from __future__ import annotations

from collections.abc import Sequence

HELP = ("srun", "--help")


def beside(job: str, host: str, words: Sequence[str], *, terminal: bool) -> list[str]:
    """One process on that node of the job, sharing all with the steps there, with or without a terminal."""
    return [
        "srun",
        f"--jobid={job}",
        "--job-name=exec",
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={host}",
        "--mem=0",
        "--export=ALL",
        "--chdir=/",
        *(["--pty"] if terminal else ["--unbuffered"]),
        *words,
    ]


def hosts_of_step(step: str) -> list[str]:
    """The nodes of a step `JOB.STEP`, in Slurm's notation."""
    return ["squeue", "--noheader", f"--steps={step}", "--format=%N"]
