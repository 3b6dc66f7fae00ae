"""What was seen of the GPUs, as `nvidia-smi dmon --select pumt --options DT` writes it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from gangrun.record import usage
from gangrun.record.rundir import RunDir

_HEAD = """\
#Date       Time        gpu    pwr  gtemp  mtemp     sm    mem    enc    dec     fb   bar1  rxpci  txpci
#YYYYMMDD   HH:MM:SS    Idx      W      C      C      %      %      %      %     MB     MB   MB/s   MB/s
"""


def files(run: RunDir, attempt: int | None = None) -> Iterator[tuple[str, Iterator[str]]]:
    """For each node with GPUs the name of a file, `slurm-JOB.HOST.gutil`, and its parts."""
    number = attempt if attempt is not None else max(run.attempts(), default=0)
    facts = run.facts(number, replicas=False) if number else None
    job = facts.job if facts and facts.job else run.run_id
    for path in run.attempt(number).usage().values() if number else ():
        if next(usage.gpu_samples(path), None):
            yield f"slurm-{job}.{usage.host(path)}.gutil", _text(path)


def _text(path: Path) -> Iterator[str]:
    yield _HEAD
    for when, index, (busy, traffic, memory, heat, watts) in usage.gpu_samples(path):
        cells = (index, watts, heat, None, busy, traffic, None, None, memory, None, None, None)
        stamp = time.strftime(" %Y%m%d   %H:%M:%S ", time.localtime(when))
        yield stamp + "".join(_cell(cell) for cell in cells) + "\n"


def _cell(value: str | float | None) -> str:
    text = "-" if value is None else value if isinstance(value, str) else f"{value:.0f}"
    return f"{text:>7}"
