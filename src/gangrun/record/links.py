"""Symbolic links that change their target in one step, so that they always point somewhere."""

from __future__ import annotations

import os
from pathlib import Path


def point(link: Path, target: str) -> None:
    """Points `link` at `target`, whatever link was there. Raises OSError."""
    fresh = link.parent / f".{link.name}.{os.getpid()}.new"
    fresh.unlink(missing_ok=True)  # of a process of this id that was killed
    fresh.symlink_to(target)
    try:
        fresh.replace(link)
    except OSError:
        fresh.unlink()
        raise
