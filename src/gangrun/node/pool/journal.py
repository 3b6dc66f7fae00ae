"""What became of every item: `pool/journal.jsonl`, one JSON object a line, only ever appended to, by the driver alone.

Every line has `t` (seconds since 1970) and `type`:

`Opened` (`job` `attempt` `pid` `engine` `items`) a driver begins · `NodeUp` (`node` `gpus` `cpus`) · `NodeLost` (`node`
`why`) · `Started` (`item` `try` `node` `gpus` `cpus`) · `Ended` (`item` `try` `code` `seconds` `why` `again`) ·
`Continued` (`job`) a follow-up job was queued, or with an empty `job` called off · `Reopened` what has failed is to be
tried again · `Closed` (`code` `left`) the driver ends.

`item` is the item's index, `try` counts its starts from 1. `why` is empty where a process ended by itself, else
`timeout`, `lost` (with its node or its agent), `stopped` (with the job) or `unstartable`; `again` is there and true
where the item is still to be run. A `Started` without an `Ended` belongs to a driver that was killed: such an item is
run again, one with a last `Ended` never is.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator

SYNC_EVERY = 0.25
"""Seconds between two syncs: other hosts see the file through NFS only then, and a power cut loses no more."""


@dataclass
class Span:
    """One start of an item. Times in seconds since 1970."""

    number: int
    node: str
    gpus: list[str]
    started: float
    ended: float | None = None
    code: int | None = None
    seconds: float = 0.0
    why: str = ""
    again: bool = False


@dataclass
class History:
    """What is known of one item."""

    spans: list[Span] = field(default_factory=list)
    forgiven: int = 0
    """How many of them do not count any more, as the item was to be tried again from the beginning."""

    @property
    def state(self) -> str:
        """`waiting`, `running`, `done` or `failed`. What was running when its driver was killed stays `running`."""
        if not self.spans:
            return "waiting"
        last = self.spans[-1]
        if last.ended is None:
            return "running"
        if last.again:
            return "waiting"
        return "failed" if last.code or last.why else "done"


@dataclass
class Fold:
    """The journal as far as it has been read."""

    items: dict[int, History] = field(default_factory=dict)
    opened: list[dict[str, Any]] = field(default_factory=list)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name, the last `NodeUp`; those lost since are left out."""
    continued: str = ""
    """Id of the follow-up job that the present driver queued."""
    fruitless: list[str] = field(default_factory=list)
    """Attempts in a row, up to the present one, in which no item has come to its end."""
    closed: dict[str, Any] | None = None
    """The last event, where the last driver ended in order."""

    def add(self, event: dict[str, Any]) -> None:
        """Takes one event in. What is of no known form is left out."""
        kind = event.get("type")
        try:
            if kind == "Started":
                history = self.items.setdefault(event["item"], History())
                history.spans.append(Span(event["try"], event["node"], event["gpus"], event["t"]))
            elif kind == "Ended":
                span = self.items[event["item"]].spans[-1]
                span.ended, span.code, span.seconds = event["t"], event["code"], event["seconds"]
                span.why, span.again = event.get("why", ""), event.get("again", False)
                if not span.again:
                    self.fruitless = []
            elif kind == "Opened":
                self.opened.append(event)
                self.nodes, self.continued, self.closed = {}, "", None
                self.fruitless = list(dict.fromkeys([*self.fruitless, event.get("attempt", "")]))
            elif kind == "NodeUp":
                self.nodes[event["node"]] = event
            elif kind == "NodeLost":
                self.nodes.pop(event["node"], None)
            elif kind == "Reopened":
                for history in self.items.values():
                    if history.state == "failed":
                        history.spans[-1].again, history.forgiven = True, len(history.spans)
            elif kind == "Continued":
                self.continued = event["job"]
            elif kind == "Closed":
                self.closed = event
        except (KeyError, IndexError, TypeError):
            return


def decode(data: bytes) -> Iterator[dict[str, Any]]:
    """The events in whole lines; what a crash has torn is left out."""
    for line in data.split(b"\n"):
        if not line:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("t"), (int, float)):
            yield event


def fold(events: Iterable[dict[str, Any]]) -> Fold:
    """All of them, in order."""
    known = Fold()
    for event in events:
        known.add(event)
    return known


class Journal:
    """The writing end. Events wait in memory until `flush`, which one pass of the driver calls once for all."""

    def __init__(self, path: str) -> None:
        """Opens it, making it where there is none. Waits for another driver of this run to let go of it."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        with open(path, "rb") as whole:
            data = whole.read()
        self.known = fold(decode(data))
        """What was in it."""
        # A torn last line becomes a line of its own, which readers skip.
        self._waiting: list[bytes] = [b"\n"] if data and not data.endswith(b"\n") else []
        self._synced = 0.0
        self._unsynced = False

    def write(self, kind: str, **fields: Any) -> None:
        """Notes an event."""
        event = {"t": round(time.time(), 3), "type": kind, **fields}
        self._waiting.append(json.dumps(event, separators=(",", ":")).encode() + b"\n")

    def flush(self, *, now: bool = False) -> bool:
        """Writes what waits; False where the disk takes no more, and then it waits on."""
        while self._waiting:
            data = b"".join(self._waiting)
            try:
                done = os.write(self._file, data)
            except OSError:
                self._waiting = [data]
                return False
            self._unsynced = True
            self._waiting = [data[done:]] if done < len(data) else []
        clock = time.monotonic()
        if self._unsynced and (now or clock - self._synced >= SYNC_EVERY):
            try:
                os.fdatasync(self._file)
            except OSError:
                return False
            self._synced, self._unsynced = clock, False
        return True
