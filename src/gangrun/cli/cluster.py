"""Cluster profiles: discover writes one from what Slurm says, list shows those there are, check looks for trouble."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gangrun.cli import inputs
from gangrun.errors import InputError, RecordError

if TYPE_CHECKING:
    from gangrun.spec.profile import Cluster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """discover [NAME] [--print], list, check [NAME]."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    discover = actions.add_parser("discover", help="write clusters/NAME.toml from what Slurm says")
    discover.add_argument("name", nargs="?", metavar="NAME", help="of the profile (default: Slurm's own name)")
    discover.add_argument("--print", dest="show", action="store_true", help="print it instead of writing it")
    discover.add_argument("--cluster", metavar="PROFILE", help="ask the Slurm of this profile (default: the one found)")
    listing = actions.add_parser("list", help="profiles by name, and the one that is found here")
    inputs.add_json(listing)
    check = actions.add_parser("check", help="what is wrong or missing here, one line each")
    check.add_argument("name", nargs="?", metavar="NAME", help="profile (default: the one found)")
    inputs.add_json(check)


def run(args: argparse.Namespace) -> int:
    """Does one of the three."""
    actions = {"discover": _discover, "list": _list, "check": _check}
    return actions[args.action](args, inputs.project_here())


def _discover(args: argparse.Namespace, project: Path) -> int:
    from gangrun import clusters
    from gangrun.scheduler import discover
    from gangrun.scheduler.slurm import Slurm

    cluster = clusters.choose(args.cluster, None, project) if args.cluster else _asked(project)
    if cluster.profile.scheduler != "slurm":
        raise InputError("no Slurm is configured on this machine", way_out="gangrun lab up starts one to try things on")
    conf = cluster.profile.slurm_conf or ""
    facts = discover.collect(Slurm(conf=conf))
    text = clusters.profile_text(facts, conf)
    if args.show:
        print(text, end="")
        return 0
    file = project / "clusters" / f"{args.name or facts.name}.toml"
    try:
        file.parent.mkdir(exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise InputError(f"{file} is there already", way_out="--print shows what would be written") from None
    except OSError as error:
        raise RecordError("the profile cannot be written", where=str(file), why=error.strerror or "") from error
    print(f"{file}: look through it, then gangrun cluster check {file.stem}")
    return 0


def _asked(project: Path) -> Cluster:
    """The cluster that is found here, be there a profile for it or not."""
    from gangrun import clusters
    from gangrun.spec.profile import SLURM

    try:
        return clusters.choose(None, None, project)
    except InputError:
        return clusters.named(SLURM, project)


def _list(args: argparse.Namespace, project: Path) -> int:
    from gangrun import clusters
    from gangrun.spec.profile import known
    from gangrun.views.terminal import print_json

    profiles = known(project, clusters.elsewhere())
    found = _asked(project).name
    rows = [
        {"name": name, "file": str(file) if file else None, "found": name == found}
        for name, file in sorted(profiles.items())
    ]
    if args.json:
        print_json(rows)
        return 0
    for row in rows:
        print(f"{'*' if row['found'] else ' '} {row['name']:<16} {row['file'] or 'built in'}")
    return 0


def _check(args: argparse.Namespace, project: Path) -> int:
    from dataclasses import asdict

    from gangrun import clusters
    from gangrun.views.health import examine
    from gangrun.views.terminal import print_json

    cluster = clusters.choose(args.name, None, project)
    findings = list(examine(cluster, project))
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print(f"{cluster.name} ({cluster.file or 'built in'})")
        for finding in findings:
            print(f"  {finding.grade:<5}  {finding.what:<10}  {finding.words}")
    return 1 if any(finding.grade == "wrong" for finding in findings) else 0
