"""scontrol: whether the controller answers, and how it is set up. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gangrun.scheduler.text import pairs

PING = ("scontrol", "ping")
CONFIG = ("scontrol", "show", "config")
PARTITIONS = ("scontrol", "show", "partition", "--oneliner")


def up(text: str) -> bool | None:
    """Whether a controller answers (`Slurmctld(primary) at vm is UP`), the backup counting; None where the text does
    not say."""
    words = re.findall(r"^Slurmctld\(.*\b(UP|DOWN)\b", text, re.MULTILINE)
    return "UP" in words if words else None


def config(text: str) -> dict[str, str]:
    """`Key = Value` per line, `(null)` as empty. The keys differ by some 80 names between versions: look up, never
    count."""
    lines = (line.partition("=") for line in text.splitlines())
    return {key.strip(): "" if value.strip() == "(null)" else value.strip() for key, sign, value in lines if sign}


def partitions(text: str) -> list[dict[str, str]]:
    """The fields of each partition, as Slurm names them."""
    return [pairs(line) for line in text.splitlines() if line.startswith("PartitionName=")]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one cluster takes of one user's wishes."""

    largest_array: int
    """Tasks that one array can have. MaxArraySize is one more than the largest index, 0 where there are no arrays."""
    most_jobs: int
    """Jobs that the controller keeps at once, those of all users and those that ended lately included."""


def limits(text: str) -> Limits:
    """From `scontrol show config`; Slurm's own defaults where it does not say."""
    found = config(text)

    def number(key: str, otherwise: int) -> int:
        value = found.get(key, "")
        return int(value) if value.isdecimal() else otherwise

    return Limits(number("MaxArraySize", 1001), number("MaxJobCount", 10_000))


def hostnames(nodes: str) -> list[str]:
    """The single nodes of a list in Slurm's notation, in its order."""
    return ["scontrol", "show", "hostnames", nodes]


def throttle(array: str, most: int) -> list[str]:
    """So many tasks of the array at once, 0 for any number."""
    return ["scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={most}"]


def depend(job: str, on: Sequence[str], needs: Sequence[str] = ()) -> list[str]:
    """The job starts when all of these have ended, however they did, and what it `needs` has come, in Slurm's words; at
    once where there is neither."""
    waits = [*needs, *([f"afterany:{':'.join(on)}"] if on else [])]
    return ["scontrol", "update", f"JobId={job}", f"Dependency={','.join(waits)}"]
