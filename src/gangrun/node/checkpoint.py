"""Finds the checkpoint that a run loads, and prints its path; without one it says why and ends with 1.

    checkpoint.py [--own DIRECTORY GLOB] [--from PATH GLOB]

`--own` is tried first: the checkpoints of earlier attempts of the run itself. `--from` is a file, or a directory in
which there must be one. Where only `--own` is given and nothing is there, it prints an empty line.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import List, Optional, Tuple

_WILD = re.compile(r"\*\*/?|\*|\?|\[[^\]]*\]")
_SHOWN = 3


def newest(directory: Path, pattern: str) -> Tuple[Optional[Path], str]:
    """(The checkpoint with the highest number, "") or (None, why there is none).

    Numbers stand where the pattern has `*`, and count as numbers: 10 is newer than 9. What has none there, such as
    `model_best_9.pth` for `model_*.pth`, is no checkpoint of an epoch, and an empty file is one that was never written.
    """
    if not directory.is_dir():
        return None, f"there is no directory {directory}"
    named = _numbers(pattern)
    ranked: List[Tuple[Tuple[int, ...], Path]] = []
    left_out: List[str] = []
    for path in sorted(directory.glob(pattern)):
        match = named.fullmatch(path.relative_to(directory).as_posix())
        numbers = match.groups() if match else ("",)
        if _is_empty(path) or not all(number.isdecimal() for number in numbers):
            left_out.append(path.name)
        else:
            ranked.append((tuple(map(int, numbers)), path))
    if ranked:
        return max(ranked)[1], ""
    if not left_out:
        return None, f"nothing in {directory} is called {pattern}"
    more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
    shown = ", ".join(left_out[:_SHOWN]) + more
    return None, f"of {pattern} in {directory} none has a number for every * and something in it: {shown}"


def found(path: Path, pattern: str) -> Tuple[Optional[Path], str]:
    """The same for a path that may be the checkpoint itself."""
    if path.is_file():
        return (None, f"{path} is empty") if _is_empty(path) else (path, "")
    return newest(path, pattern) if path.exists() else (None, f"there is no {path}")


def _numbers(pattern: str) -> "re.Pattern[str]":
    """The pattern as one whose groups are what stands for each `*`."""
    text = ""
    end = 0
    for wild in _WILD.finditer(pattern):
        piece = wild.group()
        text += re.escape(pattern[end : wild.start()])
        text += {"*": "([^/]*)", "?": "[^/]"}.get(piece) or ("(?:.*/)?" if piece.startswith("**") else piece)
        end = wild.end()
    return re.compile(text + re.escape(pattern[end:]))


def _is_empty(path: Path) -> bool:
    return not (any(path.iterdir()) if path.is_dir() else path.stat().st_size)


def main() -> int:
    """Prints the path, or says why there is none."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--own", nargs=2, metavar=("DIRECTORY", "GLOB"))
    parser.add_argument("--from", dest="given", nargs=2, metavar=("PATH", "GLOB"))
    args = parser.parse_args()
    later = os.environ.get("GANGRUN_ATTEMPT") != "001"  # what the first one finds there is nobody's of this run
    path = newest(Path(args.own[0]), args.own[1])[0] if args.own and later else None
    if path is None and args.given:
        path, why = found(Path(args.given[0]), args.given[1])
        if path is None:
            sys.stderr.write(f"gangrun: no checkpoint to load: {why}\n")
            return 1
    sys.stderr.write(f"gangrun: loads {path}\n" if path else "gangrun: no earlier attempt left a checkpoint\n")
    sys.stdout.write(f"{path or ''}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
