"""scontrol: whether the controller answers, and how it is set up. Pure."""

from __future__ import annotations

import re

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
