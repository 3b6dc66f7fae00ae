"""What must be installed, and bringing it where that can be done."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from gangrun.errors import LabError
from gangrun.lab import commands

PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "ip": "iproute2",
    "unshare": "util-linux",
    "mount": "mount",
    "bash": "bash",
}
"""Program → the Debian or Ubuntu package that brings it."""

ACCOUNTING_PROGRAMS = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",
}
"""What accounting needs besides. The -core packages bring the database without a service of its own."""

PLUGINS = {"select_cons_tres.so": "slurm-wlm-basic-plugins"}
ACCOUNTING_PLUGINS = {"accounting_storage_mysql.so": "slurm-wlm-mysql-plugin"}
PLUGIN_DIRECTORIES = ("/usr/lib/*/slurm-wlm", "/usr/lib/*/slurm", "/usr/lib64/slurm", "/usr/lib/slurm")


def missing(*, accounting: bool) -> list[str]:
    """Return the packages that are not here, in a fixed order."""
    programs = PROGRAMS | (ACCOUNTING_PROGRAMS if accounting else {})
    plugins = PLUGINS | (ACCOUNTING_PLUGINS if accounting else {})
    absent = [package for program, package in programs.items() if commands.find(program) is None]
    absent += [package for plugin, package in plugins.items() if not _has_plugin(plugin)]
    return list(dict.fromkeys(absent))


def require(*, accounting: bool) -> None:
    """LabError that names what is missing, and how to get it."""
    absent = missing(accounting=accounting)
    if absent:
        raise lack(absent)


def lack(absent: list[str]) -> LabError:
    """Return the error for packages that are not here."""
    return LabError(
        "programs of a Slurm cluster are not installed",
        why=f"missing packages (by their names in Debian and Ubuntu): {' '.join(absent)}",
        way_out=f"gangrun lab up --install, or: apt-get install --no-install-recommends {' '.join(absent)}",
    )


def install(*, accounting: bool) -> list[str]:
    """Bring what is missing by apt and return its names. LabError without root, or where there is no apt."""
    absent = missing(accounting=accounting)
    if not absent:
        return []
    names = " ".join(absent)
    if commands.find("apt-get") is None:
        raise LabError(
            "cannot install packages here",
            why="--install knows Debian and Ubuntu only, and there is no apt-get",
            way_out=f"install what this system calls: {names}",
        )
    if os.geteuid() != 0:
        raise LabError(
            "installing packages needs root", way_out=f"sudo apt-get install --no-install-recommends {names}"
        )
    argv = ["apt-get", "install", "--yes", "--no-install-recommends", *absent]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # The lists may be old or absent, as in a fresh container; only then is fetching them worth the time.
    if not _apt(argv, env):
        _apt(["apt-get", "update"], env)
        if not _apt(argv, env):
            raise LabError(f"`{' '.join(argv)}` failed", why="apt-get said why above")
    require(accounting=accounting)
    return absent


def _apt(argv: list[str], env: dict[str, str]) -> bool:
    return subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, check=False).returncode == 0


def _has_plugin(name: str) -> bool:
    return any(True for pattern in PLUGIN_DIRECTORIES for _ in Path("/").glob(f"{pattern.lstrip('/')}/{name}"))
