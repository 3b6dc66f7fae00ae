"""An operating system's refusal, in words that say what to do."""

from __future__ import annotations

import errno
import os

from gangrun.errors import RecordError

_WORDS = {
    errno.ENOSPC: ("the disk is full", "free some space, or put `outputs` on another file system by a symbolic link"),
    errno.EDQUOT: ("your quota on this file system is used up", "delete old runs, or ask for more"),
    errno.EACCES: ("you have no permission to write there", "look at the directory's owner and mode with `ls -ld`"),
    errno.EPERM: ("the file system does not allow it", "look at the directory's owner and mode with `ls -ld`"),
    errno.EROFS: ("the file system is mounted read-only", "choose a project directory that you can write to"),
    errno.ENOTDIR: ("part of the path is a file, not a directory", "move that file away, or choose another directory"),
    errno.EEXIST: ("a file is in the way of the directory", "move that file away, or choose another directory"),
    errno.ENAMETOOLONG: ("the path is too long for this file system", "choose a shorter directory"),
    errno.ENOENT: ("the directory is gone", "look whether the run was deleted meanwhile"),
    errno.ESTALE: ("the file server has lost this directory", "enter the directory anew and try again"),
}


def refusal(what: str, where: str, error: OSError) -> RecordError:
    """The error to raise when the system refused `what` (a sentence) at the path `where`."""
    why, way_out = _WORDS.get(error.errno or 0, ("", ""))
    named = f"{errno.errorcode.get(error.errno, '')} {os.strerror(error.errno)}" if error.errno else str(error)
    return RecordError(what, where=where, why=f"{why} ({named.strip()})" if why else named.strip(), way_out=way_out)
