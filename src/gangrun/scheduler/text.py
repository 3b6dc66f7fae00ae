"""The small words of Slurm's text: times, durations, states, job ids. Pure."""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterable, Iterator, Sequence
from time import strptime

_ID = re.compile(r"(\d+)(?:[_+.].*)?")
_PREFIX = re.compile(
    r"^(?:\S*\bs[a-z]+: )?(?:error: |fatal: )?"
    r"(?:slurm_\w+(?: error)?: ?|Batch job submission failed: |allocation failure: |Kill job error on job id \S+: )?"
)
_DURATION = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")

# One word of a command line may be 128 kB long (MAX_ARG_STRLEN); ids and names are joined into one.
WORD_LIMIT = 100_000


def epoch(text: str) -> float | None:
    """Seconds since the epoch of `2026-11-21T00:49:20`, which the commands print in UTC because they run with
    TZ=UTC0; None for `N/A`, `Unknown`, `None` and the like."""
    try:
        return float(timegm(strptime(text.strip(), "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return None


def seconds(text: str) -> int | None:
    """Seconds of `1-02:03:04`, `1:00:00` or `10:00`; None for `UNLIMITED`, `infinite`, `Partition_Limit`, `NONE`."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def state(text: str) -> str:
    """The long state alone: `CANCELLED by 1500` and `CANCELLED+` become `CANCELLED`."""
    return text.split(maxsplit=1)[0].rstrip("+").upper() if text.strip() else ""


def job_base(job: str) -> str | None:
    """`85` of `85`, `85_3`, `85_[2-3%1]` (array), `85+1` (heterogeneous job) and `85.0` (step), else None."""
    match = _ID.fullmatch(job.strip())
    return match.group(1) if match else None


def blank(text: str) -> str:
    """Empty where Slurm has no value and prints a word for it."""
    return "" if text in {"None", "(null)", "N/A", "n/a", "None assigned", "Unknown", "NONE"} else text


def wait_status(text: str) -> tuple[int, int] | None:
    """(exit code, signal) of `9:0`, or of a raw wait status such as `2304`, which is what squeue -O prints in 20.11
    and 22.05 (24.11 and 26.05 print the first form)."""
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return int(match.group(1)), int(match.group(2))
    if not re.fullmatch(r"\d+", text):
        return None
    raw = int(text)
    # 0x80 is the core flag; a low part of 0 means: exited.
    return ((raw >> 8) & 0xFF, 0) if raw & 0x7F == 0 else (0, raw & 0x7F)


def batches(words: Sequence[str]) -> Iterator[list[str]]:
    """Cuts a list so that each part, joined with commas, fits into one word of a command line."""
    part: list[str] = []
    length = 0
    for word in words:
        if part and length + len(word) + 1 > WORD_LIMIT:
            yield part
            part, length = [], 0
        part.append(word)
        length += len(word) + 1
    if part:
        yield part


def pairs(line: str) -> dict[str, str]:
    """`Key=Value Key=Value` of one `scontrol show … -o` line. A word without `=` belongs to the value before it."""
    found: dict[str, str] = {}
    key = ""
    for word in line.split():
        head, sign, value = word.partition("=")
        if sign and re.fullmatch(r"[A-Za-z][\w/:]*", head):
            key = head
            found[key] = value
        elif key:
            found[key] += f" {word}"
    return found


def without_prefix(lines: Iterable[str]) -> list[str]:
    """Slurm's own words: `sbatch: error: x` is `x`, empty lines and the hint to --help are left out."""
    words = (_PREFIX.sub("", line.strip()) for line in lines)
    return [word for word in words if word and not word.startswith('Try "')]
