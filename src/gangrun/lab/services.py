"""The daemons on the machine itself, all the lab's own: munged, slurmctld; for accounting MariaDB and slurmdbd."""

from __future__ import annotations

import secrets
import shlex
import signal

from gangrun.errors import LabError
from gangrun.lab import commands, processes
from gangrun.lab.config import mariadb_options
from gangrun.lab.hosts import slay
from gangrun.lab.state import Home, Shape

DAEMONS = ("slurmctld", "slurmdbd", "mariadb", "munged")
"""In the order in which they are taken down."""


def start_munged(place: Home) -> None:
    """Start a munged with a key and a socket of the lab's own; the machine's, if there is one, is left alone."""
    place.munge_key.touch(0o600)
    place.munge_key.write_bytes(secrets.token_bytes(128))
    commands.spawn(
        [
            commands.program("munged"),
            "--foreground",
            # Without it munged refuses a path through a directory that others may write, which /var/tmp is.
            "--force",
            f"--socket={place.munge_socket}",
            f"--key-file={place.munge_key}",
            f"--pid-file={place.run}/munged.own",
            f"--log-file={place.log('munged')}",
            f"--seed-file={place.run}/munge/seed",
        ],
        record=place.pid("munged"),
        log=place.log("munged"),
        env=commands.environment(),
    )
    commands.wait_until(place.munge_socket.is_socket, 10, "munged's socket", log=place.log("munged"))


def start_slurmctld(place: Home) -> None:
    """Start slurmctld and wait until it answers."""
    env = commands.environment(SLURM_CONF=str(place.slurm_conf))
    out = place.logs / "slurmctld.out"
    process = commands.spawn(
        [*_among_nodes(place), commands.program("slurmctld"), "-D", "-f", str(place.slurm_conf)],
        record=place.pid("slurmctld"),
        log=out,
        env=env,
    )
    log = place.log("slurmctld")

    def answers() -> bool:
        if not process.alive:
            raise LabError("slurmctld ended as soon as it started", why=commands.tail(log) or commands.tail(out))
        return commands.succeeds("scontrol", "show", "partition", "-o", env=env, limit=2)

    commands.wait_until(answers, 30, "slurmctld to answer", log=log)


def stop_slurmctld(place: Home) -> None:
    """End slurmctld in order (it saves its state) and wait for that."""
    process = processes.recorded(place.pid("slurmctld"))
    if process is None:
        return
    processes.send(process, signal.SIGTERM)
    commands.wait_until(lambda: not process.alive, 30, "slurmctld to end", log=place.log("slurmctld"))


def start_database(place: Home) -> None:
    """Make an empty MariaDB in the lab's directory and start it; root gets in through the socket, nobody by network."""
    place.database.mkdir(mode=0o700)
    make = [
        commands.program("mariadb-install-db"),
        "--no-defaults",
        f"--datadir={place.database}",
        "--user=root",
        "--auth-root-authentication-method=socket",
        "--auth-root-socket-user=root",
        "--skip-test-db",
    ]
    serve = [commands.program("mariadbd"), "--no-defaults", *mariadb_options(place)]
    log = place.log("mariadb")
    # Both under one record, so that `down` finds the first as well if `up` is killed meanwhile.
    process = commands.spawn(
        [commands.program("sh"), "-c", f"{shlex.join(make)} && exec {shlex.join(serve)}"],
        record=place.pid("mariadb"),
        log=log,
        env=commands.environment(),
    )

    def ready() -> bool:
        if not process.alive:
            raise LabError("MariaDB ended as soon as it started", why=commands.tail(log))
        return place.database_socket.is_socket()

    commands.wait_until(ready, 120, "MariaDB's socket", log=log)


def start_slurmdbd(shape: Shape, place: Home) -> None:
    """Start slurmdbd and register the cluster: a slurmctld that starts before that does not account."""
    env = commands.environment(SLURM_CONF=str(place.slurm_conf), MYSQL_UNIX_PORT=str(place.database_socket))
    process = commands.spawn(
        [*_among_nodes(place), commands.program("slurmdbd"), "-D"],
        record=place.pid("slurmdbd"),
        log=place.logs / "slurmdbd.out",
        env=env,
    )
    log = place.log("slurmdbd")

    def registered() -> bool:
        if not process.alive:
            raise LabError("slurmdbd ended as soon as it started", why=commands.tail(log))
        return commands.succeeds("sacctmgr", "-i", "add", "cluster", f"gangrun_{shape.name}", env=env, limit=20)

    commands.wait_until(registered, 60, "slurmdbd to answer", log=log)


def _among_nodes(place: Home) -> list[str]:
    """Return the argv that, put before a command, has it see the nodes' /etc/hosts: its names lead into the lab."""
    script = f'mount --bind {place.root}/hosts /etc/hosts && exec "$@"'
    return [commands.program("unshare"), "--mount", "--propagation=slave", commands.program("sh"), "-c", script, "sh"]


def kill_all(place: Home) -> None:
    """Kill every recorded daemon of the machine at once, and what it started (each leads a session of its own)."""
    for daemon in DAEMONS:
        leader = processes.recorded(place.pid(daemon))
        if leader is None:
            continue
        # Stopped, it starts nothing more, and as long as it is there its session can be told from others.
        processes.send(leader, signal.SIGSTOP)
        while members := [process for process in processes.session(leader) if process != leader]:
            slay(members)
        slay([leader])
