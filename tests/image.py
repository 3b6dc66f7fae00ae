"""A small real image for containers: Debian or Ubuntu as the machine has it, unpacked, built once for all sessions."""

from __future__ import annotations

import fcntl
import os
import shutil
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

VERSION = "4"
"""Of what is in the image; another one is built anew."""
PROGRAMS = {"ch-run": "charliecloud-runtime", "mmdebstrap": "mmdebstrap"}


@dataclass(frozen=True)
class Image:
    """An unpacked image, in which nothing is but an essential system and `/etc/image`."""

    path: Path

    def mounts(self, *folders: str | Path) -> list[str]:
        """Mounts of these folders at their own paths. The image gets the mount points, which charliecloud needs."""
        for folder in folders:
            (self.path / str(folder).lstrip("/")).mkdir(parents=True, exist_ok=True)
        return [f"{folder}:{folder}" for folder in folders]

    def python(self) -> list[str]:
        """Mounts that bring the Python of these tests with its packages, torch among them."""
        folders = {Path(sys.prefix), Path(sys.base_prefix)}
        folders |= {Path(entry).resolve() for entry in sys.path if "site-packages" in entry or entry.endswith("src")}
        folders |= {Path(entry).resolve() for entry in site.getsitepackages()}
        whole = sorted(
            folder for folder in folders if not any(folder != one and folder.is_relative_to(one) for one in folders)
        )
        return self.mounts(*(folder for folder in whole if folder != Path("/usr")))


def built() -> Image:
    """The image, from the cache of this machine, else built there in a quarter of a minute."""
    if os.geteuid() != 0:
        pytest.skip("building an image needs root")
    if absent := [package for program, package in PROGRAMS.items() if not shutil.which(program)]:
        pytest.skip(f"packages are absent: {' '.join(absent)}")
    system = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    codename = system.get("VERSION_CODENAME", "").strip('"')
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gangrun-tests"
    cache.mkdir(parents=True, exist_ok=True)
    image = cache / f"image-{codename}-{VERSION}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.is_dir():
            draft = image.with_suffix(".new")
            shutil.rmtree(draft, ignore_errors=True)
            # And the libraries to which a Python and a torch that are mounted from elsewhere are linked.
            done = subprocess.run(
                [
                    "mmdebstrap",
                    "--quiet",
                    "--variant=essential",
                    "--include=python3,libstdc++6,libgomp1",
                    codename,
                    str(draft),
                ],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                shutil.rmtree(draft, ignore_errors=True)
                pytest.skip(f"no image could be built, as without a network: {done.stderr.strip()[-200:]}")
            (draft / "etc/image").write_text("a gangrun test image\n")
            (draft / "etc/hosts").touch()  # or the hosts' own is not seen inside, and their names mean nothing
            draft.rename(image)
    return Image(image)
