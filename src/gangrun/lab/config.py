"""Every configuration file of a lab, as text: pure functions of the shape and the directory."""

from __future__ import annotations

import re
import sys
from importlib.resources import files as files_of
from pathlib import Path

from gangrun.lab.state import Home, Shape

SLURMD_PORT = 6818
"""Each slurmd has a network namespace of its own."""

REQUEUE_DELAY = 20
"""Seconds (AuthInfo's cred_expire) that Slurm holds a requeued job, plus one; its default of 120 makes tests slow."""


def ports(subnet: int) -> tuple[int, int]:
    """Return the ports of slurmctld and slurmdbd: two per subnet, below those of jobs and the ephemeral ones."""
    return 7000 + subnet, 7300 + subnet


def slurm_conf(shape: Shape, place: Home) -> str:
    """Return slurm.conf: the same file for every daemon and client, or slurmctld refuses the nodes (state INVAL)."""
    first, last = shape.node_names[0], shape.node_names[-1]
    names = first if first == last else f"node[1-{shape.nodes}]"
    gres = f" Gres=gpu:h100:{shape.gpus}" if shape.gpus else ""
    lines = [
        f"ClusterName=gangrun_{shape.name}",
        f"SlurmctldHost={shape.login}({shape.login_address})",
        f"SlurmctldPort={ports(shape.subnet)[0]}",
        f"SlurmdPort={SLURMD_PORT}",
        # slurmctld listens where its host's name leads (NodeAddr does not count), which is the lab's address in the
        # mount namespace it is started in; not on every address of the machine.
        "CommunicationParameters=NoCtldInAddrAny",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={place.munge_socket},cred_expire={REQUEUE_DELAY}",
        f"StateSaveLocation={place.controller}",
        f"SlurmdSpoolDir={place.spool}/%n",
        f"SlurmctldPidFile={place.run}/slurmctld.own",
        f"SlurmdPidFile={place.run}/slurmd-%n.own",
        f"SlurmctldLogFile={place.log('slurmctld')}",
        f"SlurmdLogFile={place.logs}/slurmd-%n.log",
        f"PlugStackConfig={place.root}/plugstack.conf",
        # Nobody shall get mail from a test.
        "MailProg=/bin/true",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        # config_overrides: slurmd believes CPUs= and RealMemory= below, whatever the machine has.
        "SlurmdParameters=config_overrides",
        # A lone sbatch starts at once; by default the scheduler lets 2 to 3 s pass between two of its rounds.
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000",
        "ReturnToService=2",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "KillWait=5",
        f"SlurmdTimeout={shape.slurmd_timeout}",
        f"MinJobAge={shape.min_job_age}",
        *(["GresTypes=gpu"] if shape.gpus else []),
        *(_accounting(shape, place) if shape.accounting else []),
        *(
            f"NodeName={node} NodeAddr={shape.address(node)} CPUs={shape.cpus} RealMemory={shape.mem}{gres}"
            for node in shape.node_names
        ),
        f"PartitionName=gpu Nodes={names} Default=YES PriorityTier=1 PreemptMode=REQUEUE",
        f"PartitionName=debug Nodes={names} PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=short Nodes={names} PriorityTier=1 MaxTime=10 MaxNodes=1",
        f"PartitionName=off Nodes={names} State=DOWN",
    ]
    return "\n".join(lines) + "\n"


def _accounting(shape: Shape, place: Home) -> list[str]:
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        f"AccountingStorageHost={shape.login_address}",
        f"AccountingStoragePort={ports(shape.subnet)[1]}",
        # Where slurmdbd's munge is reached; AuthInfo alone does not serve this connection.
        f"AccountingStoragePass={place.munge_socket}",
        "JobAcctGatherType=jobacct_gather/linux",
    ]


def gres_conf(shape: Shape, place: Home) -> str:
    """Return gres.conf. Without File= a node ends in state INVAL ("gpu count reported lower than configured")."""
    if not shape.gpus:
        return "AutoDetect=off\n"
    files = "nvidia0" if shape.gpus == 1 else f"nvidia[0-{shape.gpus - 1}]"
    return f"AutoDetect=off\nName=gpu Type=h100 File={place.devices}/{files}\n"


def cgroup_conf(version: tuple[int, int]) -> str:
    """Return cgroup.conf for a slurmd of that version: from 23 on it wants a cgroup file system even for task/none."""
    return "CgroupPlugin=disabled\n" if version >= (23, 0) else "# all defaults\n"


def slurmdbd_conf(shape: Shape, place: Home) -> str:
    """Return slurmdbd.conf. DbdHost must be the machine's own host name: slurmdbd refuses to start under an address."""
    lines = [
        f"DbdHost={shape.login}",
        f"DbdAddr={shape.login_address}",
        f"DbdPort={ports(shape.subnet)[1]}",
        "SlurmUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={place.munge_socket}",
        "StorageType=accounting_storage/mysql",
        # localhost means the socket, which slurmdbd finds by MYSQL_UNIX_PORT.
        "StorageHost=localhost",
        "StorageUser=root",
        "StorageLoc=slurm_acct_db",
        f"LogFile={place.log('slurmdbd')}",
        f"PidFile={place.run}/slurmdbd.own",
    ]
    return "\n".join(lines) + "\n"


def hosts(shape: Shape) -> str:
    """Return /etc/hosts of every node."""
    lines = [
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        f"{shape.login_address} {shape.login}",
        *(f"{shape.address(node)} {node}" for node in shape.node_names),
    ]
    return "\n".join(lines) + "\n"


def nsswitch(machine: str) -> str:
    """Return nsswitch.conf of every node: the machine's own text, but host names come from files only.

    No name server can be reached from a node, and torch does reverse look-ups: 10 s each instead of 0.1 s.
    """
    kept = [line for line in machine.splitlines() if not re.match(r"\s*hosts\s*:", line)]
    return "\n".join([*kept, "hosts: files"]) + "\n"


def boot_script(node: str, place: Home, slurmd: str) -> str:
    """Return what runs as process 1 of a node: bash, since it reaps orphans as a real init does.

    slurmd is not process 1, so it can be restarted under living steps. `-b` says that the node has booted: the
    machine's uptime would say that it has not.
    """
    return f"""\
set -e
hostname {node}
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind {place.root}/hosts /etc/hosts
mount --bind {place.root}/nsswitch.conf /etc/nsswitch.conf
{slurmd} -b -f {place.slurm_conf} -N {node} || echo "{node}: slurmd did not start: $?"
exec 3<>{place.run}/{node}.fifo
while :; do read -r -u 3 || :; done
"""


def profile(shape: Shape, place: Home) -> str:
    """Return the cluster profile of the lab."""
    text = f"""\
scheduler = "slurm"
slurm_conf = "{place.slurm_conf}"
defaults = {{ partition = "gpu" }}
partitions = {{ gpu = "gpu", debug = "debug", short = "short", off = "off" }}
"""
    return text + f"setup = ['export PATH=\"{place.programs}:$PATH\"']\n" if shape.gpus else text


def nvidia_smi(shape: Shape) -> str:
    """Return the program that answers for the stand-in GPUs, `gangrun.lab.nvidia_smi` with their number."""
    text = (files_of("gangrun.lab") / "nvidia_smi.py").read_text(encoding="utf-8")
    # The lab's own Python, as the one that a job finds first may be too old.
    return f'#!/usr/bin/env -S "{sys.executable}" -IS\n{text}\n\nsys.exit(main(sys.argv[1:], {shape.gpus}))\n'


def mariadb_options(place: Home) -> list[str]:
    """Return mariadbd's options: nothing read from /etc, no network, small and quick rather than durable."""
    return [
        f"--datadir={place.database}",
        f"--socket={place.database_socket}",
        f"--pid-file={place.run}/mariadb.own",
        "--user=root",
        "--skip-networking",
        "--skip-log-bin",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=0",
        "--innodb-log-file-size=16M",
        "--innodb-buffer-pool-size=64M",
        "--innodb-lock-wait-timeout=900",
        "--performance-schema=OFF",
    ]


def version_of(text: str) -> tuple[int, int]:
    """Return (major, minor) from what `slurmd -V` prints, such as `slurm-wlm 22.05.8`; (0, 0) where it says none."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def files(
    shape: Shape, place: Home, *, version: tuple[int, int], nsswitch_text: str, slurmd: str
) -> dict[Path, tuple[str, int]]:
    """Return every file to write, with its text and mode; not the profile, which says that the lab is up."""
    made = {
        place.slurm_conf: (slurm_conf(shape, place), 0o644),
        place.root / "gres.conf": (gres_conf(shape, place), 0o644),
        place.root / "cgroup.conf": (cgroup_conf(version), 0o644),
        place.root / "plugstack.conf": ("# no plugins\n", 0o644),
        place.root / "hosts": (hosts(shape), 0o644),
        place.root / "nsswitch.conf": (nsswitch(nsswitch_text), 0o644),
    }
    if shape.gpus:
        made[place.programs / "nvidia-smi"] = (nvidia_smi(shape), 0o755)
    for node in shape.node_names:
        made[place.run / f"{node}.sh"] = (boot_script(node, place, slurmd), 0o644)
    if shape.accounting:
        # slurmdbd does not start when others can read its file.
        made[place.root / "slurmdbd.conf"] = (slurmdbd_conf(shape, place), 0o600)
    return made
