"""`items.jsonl`: the items of a sweep, one JSON object a line, written once by the client before anything is sent.

In the mode `pool` a line holds all that the driver needs to run the item; in the others an item has a directory with
a script of its own, and a line only says what it is. `pool.json` beside it holds what is the same for all items.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gangrun.errors import RecordError
from gangrun.record.rundir import RunDir
from gangrun.record.words import refusal


@dataclass(frozen=True, slots=True)
class ItemLine:
    """One item. Its directory is `items/NAME` of the run."""

    index: int
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What it differs in: parameters, values looked up for it, and keys of the file that it sets."""
    run: str = ""
    """Its id, `{run.name}` in its strings: at most 64 characters, unique."""
    argv: tuple[str, ...] = ()
    """Empty where the pool calls a function with the parameters instead."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Beyond the environment of the job."""
    log: str = ""
    """Where its output goes, in its directory; by default the log of a replica `main.0`."""
    cwd: str = ""
    gpus: float = 0
    cpus: int | None = None
    """None where nobody says how many there are."""
    estimate: float | None = None
    """Seconds, or something proportional to them."""
    timeout: int | None = None
    """Seconds."""
    retries: int = 0
    array: int | None = None
    """The number of the Slurm array that it is a task of."""
    task: int | None = None


_NAMES = frozenset(each.name for each in fields(ItemLine))


def encode(items: Iterable[ItemLine]) -> bytes:
    """The file's content. Fields at their defaults are left out. Pure ASCII."""
    lines = []
    for item in items:
        values = {name: getattr(item, name) for name in ItemLine.__slots__}
        kept = {name: value for name, value in values.items() if name in _ALWAYS or value != _DEFAULTS[name]}
        lines.append(json.dumps(kept, separators=(",", ":")))
    return ("\n".join(lines) + "\n").encode("ascii")


_ALWAYS = frozenset({"index", "name", "parameters"})
_DEFAULTS: Mapping[str, Any] = {
    "run": "", "argv": (), "env": {}, "log": "", "cwd": "", "gpus": 0, "cpus": None, "estimate": None, "timeout": None,
    "retries": 0, "array": None, "task": None,
}  # fmt: skip


def read(run: RunDir) -> list[ItemLine]:
    """The items of a sweep in order; none for any other run. Raises RecordError."""
    try:
        data = run.items_file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise refusal("cannot read the items of the sweep", str(run.items_file), error) from error
    try:
        return [_item(json.loads(line)) for line in data.splitlines() if line]
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"not what gangrun wrote: {error}", where=str(run.items_file)) from error


def _item(values: dict[str, Any]) -> ItemLine:
    # A later version may say more of an item.
    known = {name: value for name, value in values.items() if name in _NAMES}
    return ItemLine(**{**known, "argv": tuple(known.get("argv", ()))})
