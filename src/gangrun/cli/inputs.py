"""Arguments that several commands take, and how they become an experiment, a cluster and a plan."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from gangrun import clusters
from gangrun.errors import UsageError
from gangrun.plan.model import Plan
from gangrun.resolve import resolve
from gangrun.spec.load import Experiment, load
from gangrun.spec.profile import Cluster


def add_file(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """FILE and everything that changes what it means."""
    if several:
        parser.add_argument("files", metavar="FILE", nargs="+", help="experiment files")
        parser.add_argument("--seeds", metavar="0-4", help="one run for each of these seeds, such as 0-4 or 0,2,5")
    else:
        parser.add_argument("file", metavar="FILE", help="experiment file")
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help="set a key, such as gpus=4"
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Which cluster."""
    parser.add_argument("--cluster", metavar="NAME", help="profile to use (default: GANGRUN_CLUSTER, the file, found)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Data for programs."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def planned(file: str, overrides: list[str], cluster: str | None) -> tuple[Experiment, Cluster, Plan]:
    """One file as a plan."""
    experiment = load(file, overrides)
    chosen = clusters.choose(cluster, experiment.spec.cluster, experiment.project)
    return experiment, chosen, resolve(experiment, chosen)


def seeds(text: str) -> Iterator[int]:
    """`0-4` or `0,2,5-7`. Raises UsageError."""
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UsageError(f"--seeds {text!r} is no list of seeds", way_out="write 0-4 or 0,2,5")
        yield from range(int(first), int(last if dash else first) + 1)
