"""The items of a pool in memory: as little of each as deciding needs, the rest stays in `items.jsonl`."""

from __future__ import annotations

import bisect
import json
import os
from dataclasses import dataclass, field
from typing import Any, Iterable

from .journal import Fold

ENOUGH = 3
"""Items that have ended well before what they took says something about the others."""


@dataclass
class Item:
    """One item and what became of it so far."""

    index: int
    name: str
    gpus: float
    cpus: float
    estimate: float | None
    timeout: float | None
    retries: int
    parameters: dict[str, Any]
    offset: int
    """Of its line in the file."""
    length: int
    tries: int = 0
    failures: int = 0
    state: str = "waiting"
    seconds: float = 0.0
    predicted: float | None = None
    avoid: set[str] = field(default_factory=set)
    """Nodes on which it has failed."""

    @property
    def needs(self) -> tuple[float, float]:
        """GPUs and CPUs, which items of one kind have in common."""
        return self.gpus, self.cpus


class Items:
    """All of them, by index."""

    def __init__(self, path: str, known: Fold) -> None:
        """Reads the file, and from the journal what is done already."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # every start reads a line of it
        self.all: dict[int, Item] = {}
        offset = 0
        with open(path, "rb") as lines:
            for line in lines:
                item = _item(json.loads(line), offset, len(line))
                self.all[item.index] = item
                offset += len(line)
        self.interrupted = 0
        """How many were running when an earlier driver was killed."""
        for index, history in known.items.items():
            if index not in self.all:
                continue
            item = self.all[index]
            item.tries = len(history.spans)
            counting = history.spans[history.forgiven :]
            item.failures = sum(
                1 for span in counting if span.why not in {"lost", "stopped"} and (span.code or span.why)
            )
            item.state = history.state
            item.seconds = history.spans[-1].seconds
            if item.state == "running":
                item.state = "waiting"
                self.interrupted += 1
        self.evidence = 0
        """How many had ended well at the last prediction."""
        self.predict()

    def line(self, item: Item) -> dict[str, Any]:
        """Everything about an item, from the file."""
        found: dict[str, Any] = json.loads(os.pread(self._file, item.length, item.offset))
        return found

    def in_state(self, state: str) -> list[Item]:
        """Those that are `waiting`, `running`, `done` or `failed`."""
        return [item for item in self.all.values() if item.state == state]

    def learn(self, done: int) -> bool:
        """Predicts anew when so many that are done are clearly more than at the last time; True if it did."""
        if done < ENOUGH or done < self.evidence * 1.3:
            return False
        self.predict()
        return True

    def predict(self) -> None:
        """Sets how long each waiting item will take: its estimate, in seconds once items have shown their proportion;
        without estimates, by what those that have ended have in common with it."""
        done = self.in_state("done")
        self.evidence = len(done)
        waiting = self.in_state("waiting")
        scale = _scale(done)
        model = _Model([item for item in done if item.estimate is None])
        for item in waiting:
            if item.estimate is not None:
                item.predicted = item.estimate * (scale or 1.0)
            elif item.failures == 0 and item.seconds:
                item.predicted = item.seconds  # it was interrupted after so long
            else:
                item.predicted = model.of(item)


def _item(line: dict[str, Any], offset: int, length: int) -> Item:
    gpus = float(line.get("gpus") or 0)
    cpus = line.get("cpus")
    return Item(
        index=line["index"],
        name=line["name"],
        gpus=gpus,
        cpus=float(cpus) if cpus is not None else (0.0 if gpus else 1.0),
        estimate=line.get("estimate"),
        timeout=line.get("timeout"),
        retries=line.get("retries") or 0,
        parameters=line.get("parameters") or {},
        offset=offset,
        length=length,
    )


def _scale(done: Iterable[Item]) -> float | None:
    """Seconds for one unit of the estimates."""
    found = sorted(item.seconds / item.estimate for item in done if item.estimate)
    # The median; `statistics` would cost every driver 6 ms before its first item.
    return (found[(len(found) - 1) // 2] + found[len(found) // 2]) / 2 if found else None


class _Model:
    """How long items take, from each value of each parameter: in a grid most values have been seen."""

    def __init__(self, done: list[Item]) -> None:
        self._mean = sum(item.seconds for item in done) / len(done) if len(done) >= ENOUGH else None
        seen: dict[tuple[str, Any], list[float]] = {}
        for item in done if self._mean else []:
            for key, value in item.parameters.items():
                if isinstance(value, (str, int, float, bool)):
                    seen.setdefault((key, value), []).append(item.seconds)
        self._factors = {key: sum(times) / len(times) / (self._mean or 1.0) for key, times in seen.items()}
        self._numbers: dict[str, list[float]] = {}
        for key, value in self._factors:
            if isinstance(value, (int, float)):
                self._numbers.setdefault(key, []).append(value)
        for numbers in self._numbers.values():
            numbers.sort()

    def of(self, item: Item) -> float | None:
        """Seconds; None where nothing is known."""
        if self._mean is None:
            return None
        seconds = self._mean
        for key, value in item.parameters.items():
            if isinstance(value, (str, int, float, bool)):
                seconds *= self._factors.get((key, self._nearest(key, value)), 1.0)
        return seconds

    def _nearest(self, key: str, value: Any) -> Any:
        """The value itself where it has been seen, else the number that comes next to it."""
        numbers = self._numbers.get(key)
        if (key, value) in self._factors or not numbers or isinstance(value, str):
            return value
        at = bisect.bisect(numbers, value)
        return min(numbers[max(at - 1, 0) : at + 1], key=lambda other: abs(other - value))
