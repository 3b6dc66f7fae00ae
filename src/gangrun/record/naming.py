"""The one name of a run: `<experiment>_<step>_<YYMMDD_HHMMSS>`.

It is the job's name in Slurm and the run's name and id in W&B, so it keeps to what all of them take: at most 64
characters of [A-Za-z0-9._-]. Slurm finds names by `squeue --name`, which splits at commas, and `sacct --name`, which
reads brackets and asterisks as patterns (measured on 22.05).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator

from gangrun.errors import InputError

LONGEST = 64
LONGEST_SWEEP = 52
"""Of a run that has items, so that each has an id of its own: a dot, the beginning of its name, and a sum of it."""
_SUM = 8
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]")
_STAMP = re.compile(r"([0-9]{6}_[0-9]{6})(?:-([1-9][0-9]{0,3}))?\Z")


def sanitise(name: str, what: str = "name") -> str:
    """`name` with every other character as `-`, without dots and dashes in front. `what` names it in errors."""
    clean = _FORBIDDEN.sub("-", name).lstrip(".-")
    if not clean:
        raise InputError(
            f"the {what} {name!r} leaves nothing that a run could be called",
            why="names of runs are made of the characters A-Z a-z 0-9 . _ - and do not begin with a dot or a dash",
            way_out=f"give the {what} a name with a letter or a digit in it",
        )
    return clean


def run_id(experiment: str, step: str, when: float | str, longest: int = LONGEST) -> str:
    """The id of a run made at `when`: seconds since the epoch, or a stamp. Raises InputError beyond 64 characters, or
    the fewer that leave room for the names of items."""
    experiment, step = sanitise(experiment, "experiment"), sanitise(step, "step")
    name = f"{experiment}_{step}_{when if isinstance(when, str) else stamp(when)}"
    if len(name) > longest:
        over = len(name) - longest
        room = "" if longest == LONGEST else f", of which a sweep leaves {LONGEST - longest} to its items"
        longer, length = ("experiment", len(experiment)) if len(experiment) >= len(step) else ("step", len(step))
        raise InputError(
            f"the run id {name!r} has {len(name)} characters, {over} too many",
            why=f"Slurm and W&B share it, and W&B takes {LONGEST}{room}: experiment {len(experiment)}, "
            f"step {len(step)}, time stamp and joints {len(name) - len(experiment) - len(step)}",
            way_out=f"shorten the name of the {longer} (now {length} characters) by at least {over}",
        )
    return name


def item_id(run: str, item: str) -> str:
    """The id of an item: its run's and its own name, cut where that is too long, with a sum of it as its end."""
    name = f"{run}.{item}"
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - _SUM - 1]}-{hashlib.sha256(item.encode()).hexdigest()[:_SUM]}"


def item_step(experiment: str, step: str, item: str) -> str:
    """The step under which an item that is submitted by itself runs."""
    room = LONGEST - len(run_id(experiment, "_", "YYMMDD_HHMMSS-1000")) + 1
    return sanitise(f"{step}.{item}", "step")[:room]


def stamp(when: float) -> str:
    """Local time as YYMMDD_HHMMSS."""
    return time.strftime("%y%m%d_%H%M%S", time.localtime(when))


def stamps(experiment: str, step: str, when: float) -> Iterator[str]:
    """The stamp of `when`, then those to try where it is taken: `-2`, `-3`, …, and where that is too long an id, the
    next seconds. Raises InputError where even the first is too long."""
    run_id(experiment, step, when)
    base = stamp(when)
    yield base
    room = LONGEST - len(run_id(experiment, step, base))
    for number in range(2, 10_000):
        suffix = f"-{number}"
        yield base + suffix if len(suffix) <= room else stamp(when + number - 1)


def stamp_key(text: str) -> tuple[str, int] | None:
    """What stamps sort by, oldest first; None for a text that is no stamp."""
    found = _STAMP.match(text)
    return (found[1], int(found[2] or 1)) if found else None


def readings(experiment: str, step: str) -> Iterator[tuple[str, str]]:
    """Every other pair of experiment and step whose run ids read the same, as `a_b` + `c` and `a` + `b_c` do."""
    joined = f"{experiment}_{step}"
    for place, letter in enumerate(joined):
        if letter == "_" and place != len(experiment) and 0 < place < len(joined) - 1:
            yield joined[:place], joined[place + 1 :]
