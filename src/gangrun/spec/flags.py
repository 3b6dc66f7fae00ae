"""Flags of sbatch as keys of `[allocation]`, so that a plan knows what a command line asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gangrun.errors import UsageError
from gangrun.spec.toml import Table

_SHORT = {
    "A": "account", "b": "begin", "C": "constraint", "c": "cpus-per-task", "D": "chdir", "d": "dependency",
    "e": "error", "G": "gpus", "H": "hold", "J": "job-name", "k": "no-kill", "L": "licenses", "M": "clusters",
    "m": "distribution", "N": "nodes", "n": "ntasks", "O": "overcommit", "o": "output", "p": "partition",
    "Q": "quiet", "q": "qos", "s": "oversubscribe", "t": "time", "v": "verbose", "w": "nodelist", "x": "exclude",
}  # fmt: skip
_BARE = {
    "contiguous", "exclusive", "hold", "ignore-pbs", "kill-on-invalid-dep", "no-kill", "no-requeue", "overcommit",
    "oversubscribe", "quiet", "reboot", "requeue", "spread-job", "use-min-nodes", "verbose",
}  # fmt: skip
"""Flags that need no value; one may follow `=`."""
_KEYS = {"cpus-per-task": "cpus", "mem": "mem", "partition": "partition", "qos": "qos", "account": "account"}
_GPU = re.compile(r"(?:gres[/:])?gpu(?::(?P<type>[A-Za-z][^:,]*))?(?::(?P<count>\d+))?")


def allocation(words: Sequence[str]) -> Table:
    """The table `[allocation]` that these flags mean. Raises UsageError."""
    table: Table = {}
    rest: dict[str, str | bool] = {}
    gpus = 0
    for flag, value in _pairs(words):
        if flag in _KEYS:
            table[_KEYS[flag]] = int(value) if flag == "cpus-per-task" and _is_number(value) else value
        elif flag == "nodes":
            nodes = int(value) if _is_number(value) else 0
            if not nodes:
                raise UsageError(f"--nodes={value}: a plan needs one number of nodes", way_out="--nodes=2")
            table["nodes"] = nodes
        elif flag == "time":
            table["time"] = _time(str(value))
        elif flag in ("gres", "gpus-per-node"):
            items = str(value).split(",") if flag == "gres" else [f"gpu:{value}"]
            found = [match for item in items if (match := _GPU.fullmatch(item))]
            table["gpus"] = sum(int(match["count"] or 1) for match in found)
            if len(found) < len(items) or any(match["type"] for match in found):
                rest["gres"] = ",".join(items)  # a type of GPU, or something else beside them
        elif flag == "gpus":
            match = _GPU.fullmatch(f"gpu:{value}")
            if not match:
                raise UsageError(f"--gpus={value} is no number of GPUs", way_out="--gpus=4")
            gpus = int(match["count"] or 1)
            if match["type"]:
                rest["gpus"] = value
        else:
            rest[flag] = value
    if gpus:
        nodes = table.get("nodes", 1)
        if gpus % nodes:
            raise UsageError(f"--gpus={gpus} is no whole number of GPUs on each of {nodes} nodes")
        table["gpus"] = gpus // nodes
    if rest:
        table["sbatch"] = rest
    return table


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str | bool]]:
    """Each flag by its long name with its value, True for none."""
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word[2:].partition("=")
        elif re.match(r"-[A-Za-z]", word) and word[1] in _SHORT:
            flag, equals, value = _SHORT[word[1]], word[2:], word[2:].removeprefix("=")
        else:
            raise UsageError(f"{word!r} is no flag of sbatch", way_out="--time=3-00:00:00 --gres=gpu:4")
        if equals:
            yield flag, value
        elif flag in _BARE:
            yield flag, True
        elif left and not left[0].startswith("-"):
            yield flag, left.pop(0)
        else:
            raise UsageError(f"{word} needs a value", way_out=f"{word}=…")


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.isdecimal()


def _time(text: str) -> str:
    """Slurm's `minutes` and `minutes:seconds`, which elsewhere would mean something else; others as they are."""
    if text.isdecimal():
        return f"{text}m"
    if match := re.fullmatch(r"(\d+):(\d\d)", text):
        return f"{int(match[1]) * 60 + int(match[2])}s"
    return text
