"""`gangrun lab`: a throw-away real Slurm of several hosts on this machine."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from dataclasses import asdict

from gangrun.errors import LabError, UsageError
from gangrun.lab import Lab, Status, packages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `gangrun lab` and their options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default="lab", help="which lab; several stand side by side (default: lab)")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text, parents=[common])

    up = action("up", "build a lab and wait until every node is idle (root)")
    up.add_argument("--nodes", type=int, default=4, help="hosts (default: 4)")
    up.add_argument("--gpus", type=int, default=8, help="stand-in GPUs per node (default: 8)")
    up.add_argument("--cpus", type=int, default=32, help="CPUs per node that Slurm is told of (default: 32)")
    up.add_argument("--mem", type=int, default=200_000, metavar="MB", help="memory per node that Slurm is told of")
    up.add_argument("--accounting", action="store_true", help="with slurmdbd and a MariaDB of its own: sacct answers")
    up.add_argument("--install", action="store_true", help="first bring missing packages by apt (Debian, Ubuntu)")
    up.add_argument(
        "--slurmd-timeout", type=int, default=300, metavar="S", help="when Slurm gives a silent node up (default: 300)"
    )
    up.add_argument(
        "--min-job-age", type=int, default=300, metavar="S", help="when slurmctld forgets an ended job (default: 300)"
    )
    action("down", "remove every trace of a lab, half-built or crashed ones too")
    action("status", "show a lab's nodes and daemons").add_argument("--json", action="store_true", help="as one object")
    action("env", "print what to eval in a shell, so that sbatch and squeue reach the lab")
    run_on = action("exec", "run a command on a node, or without NODE on this machine as the login node")
    run_on.add_argument("words", nargs=argparse.REMAINDER, metavar="[NODE] -- CMD", help="node and command")
    action("kill", "cut a node's power").add_argument("node")
    action("start", "boot a killed node, or start slurmctld again").add_argument("what", metavar="NODE|slurmctld")
    action("cut", "pull a node's network cable; its processes live on").add_argument("node")
    action("mend", "put the cable back").add_argument("node")
    restart = action("restart", "restart slurmctld, or slurmd on nodes; jobs go on")
    restart.add_argument("daemon", choices=["slurmctld", "slurmd"])
    restart.add_argument("nodes", nargs="*", metavar="NODE")
    action("stop", "stop slurmctld; jobs go on").add_argument("daemon", choices=["slurmctld"])


def run(args: argparse.Namespace) -> int:
    """Do one action and return the exit code: 0, or for `exec` the command's own."""
    lab = Lab(args.name)
    match args.action:
        case "up":
            _up(lab, args)
        case "down":
            lab.down()
        case "status":
            status = lab.status()
            print(json.dumps(asdict(status), indent=1) if args.json else _table(status))
        case "env":
            print(f"export SLURM_CONF={shlex.quote(lab.env()['SLURM_CONF'])}")
        case "exec":
            _exec(lab, args.words)
        case "kill":
            lab.kill(args.node)
        case "start" if args.what == "slurmctld":
            lab.start_slurmctld()
        case "start":
            lab.start(args.what)
        case "cut":
            lab.cut(args.node)
        case "mend":
            lab.mend(args.node)
        case "stop":
            lab.stop_slurmctld()
        case "restart":
            _restart(lab, args.daemon, args.nodes)
    return 0


def _up(lab: Lab, args: argparse.Namespace) -> None:
    if args.install:
        packages.install(accounting=args.accounting)
    lab.up(
        args.nodes,
        args.gpus,
        args.cpus,
        args.mem,
        accounting=args.accounting,
        slurmd_timeout=args.slurmd_timeout,
        min_job_age=args.min_job_age,
    )
    name = "" if lab.name == "lab" else f" --name {lab.name}"
    print(f"{args.nodes} nodes x {args.gpus} GPUs are idle; profile: {lab.profile}")
    print(f'sbatch and squeue reach it after: eval "$(gangrun lab env{name})"')


def _restart(lab: Lab, daemon: str, nodes: list[str]) -> None:
    if daemon == "slurmctld":
        if nodes:
            raise UsageError("slurmctld runs on no node", way_out="gangrun lab restart slurmctld")
        lab.restart_slurmctld()
        return
    if not nodes:
        raise UsageError("slurmd of which node?", way_out=f"gangrun lab restart slurmd {' '.join(lab.nodes)}")
    for node in nodes:
        lab.restart_slurmd(node)


def _exec(lab: Lab, words: list[str]) -> None:
    """Become the command: `[NODE] -- CMD…`, or `NODE CMD…` as argparse may have eaten the dashes."""
    node, argv = split_words(words, lab.nodes)
    argv = [*(lab.enter(node) if node else []), *argv]
    try:
        os.execvpe(argv[0], argv, lab.env())  # noqa: S606 - no shell is the point
    except OSError as error:
        raise LabError(f"cannot run {argv[0]!r}", why=error.strerror or "") from error


def split_words(words: list[str], nodes: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return (node or empty, command) of what follows `exec`. UsageError where there is no command."""
    node = ""
    if words and words[0] in nodes:
        node, words = words[0], words[1:]
    if words and words[0] == "--":
        words = words[1:]
    elif words and not node and "--" in words[1:2]:
        raise UsageError(f"no node called {words[0]!r}", way_out=f"nodes are {', '.join(nodes)}")
    if not words:
        raise UsageError("no command to run", way_out="gangrun lab exec node1 -- hostname")
    return node, words


def _table(status: Status) -> str:
    slurmctld, accounting = "runs" if status.slurmctld else "is stopped", "  accounting" if status.accounting else ""
    lines = [
        f"lab {status.name}  {status.network}  slurmctld {slurmctld}{accounting}",
        f"SLURM_CONF={status.slurm_conf}",
        f"profile    {status.profile}",
        f"{'NODE':<8} {'ADDRESS':<13} {'POWER':<6} {'CABLE':<6} {'SLURMD':<7} SLURM SAYS",
    ]
    for node in status.nodes:
        power, cable = "on" if node.power else "off", "in" if node.cable else "out"
        slurmd = "runs" if node.slurmd else "-"
        lines.append(f"{node.name:<8} {node.address:<13} {power:<6} {cable:<6} {slurmd:<7} {node.slurm or '?'}")
    return "\n".join(lines)
