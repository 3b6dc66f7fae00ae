"""A directory below /tmp that belongs to this user alone, and to one job, for as long as any of its processes lives.

Each process that uses it holds a shared lock in it; whoever can have the lock alone removes it. So several nodes on one
machine can share it, and what a forced end has left behind is removed by the next pool of the same user there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

BASE = Path("/tmp")  # noqa: S108 - short, as the paths of sockets have 107 bytes; what is made there is ours alone
PREFIX = "gangrun-ray-"


class Folder:
    """One that is held by this process. It is 0700: what is put into it may have any mode."""

    def __init__(self, name: str) -> None:
        """Makes it if it is not there, and holds it. Raises OSError where it is another user's."""
        self.path = BASE / f"{PREFIX}{name}"
        while True:
            self.path.mkdir(mode=0o700, exist_ok=True)
            found = self.path.lstat()
            if found.st_uid != os.getuid() or found.st_mode & 0o077 or self.path.is_symlink():
                raise PermissionError(f"{self.path} is there already, and is not ours alone")
            try:
                self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # removed since
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            if _is_locked_file(self._lock, self.path):
                return
            os.close(self._lock)

    def leave(self) -> None:
        """Lets go of it, and removes it where nobody else holds it."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)
        _remove(self.path)


def remove_abandoned() -> None:
    """Removes such directories of this user that nobody holds."""
    for path in BASE.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.getuid() and not path.is_symlink():
                _remove(path)


def _remove(path: Path) -> None:
    """Removes it unless somebody holds it."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # it is gone, or only about to be held
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_locked_file(lock, path):
            # The lock goes last, so that a removal that is cut off can be taken up again.
            for entry in sorted(path.iterdir(), key=lambda entry: entry.name == "lock"):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            path.rmdir()
    except OSError:
        return
    finally:
        os.close(lock)


def _is_locked_file(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), (path / "lock").stat())
    except OSError:
        return False
