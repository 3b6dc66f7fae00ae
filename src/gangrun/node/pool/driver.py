"""The pool's driver, the job's main: hands the items of `items.jsonl` to the nodes until none is left to run.

It alone writes `pool/journal.jsonl` and `pool/status.json`. Killed, it is begun again by the process that it was forked
from; killed with the job, it goes on in the next attempt: what the journal says has ended is never run again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from . import walltime
from .agents import Agents
from .channel import patience
from .engine import Begun, Engine, EngineError, NodeGone, NodeUp, Over
from .items import Item, Items
from .journal import Journal
from .merge import merge
from .places import Node, Place, Places
from .waiting import Waiting

LIVES = 5
"""How often a driver that something kills is begun again."""
PATIENCE = 180.0
"""Seconds without any node after which there is no hope."""
MARGIN = 15.0
"""Seconds before the job's end in which no item is expected to end any more."""
FRUITLESS = 3
"""Jobs in a row in which no item came to its end, after which no further one is queued."""
_EVERY = 1.0
"""Seconds between two looks at the throttle and two writings of the status."""


def main(words: list[str]) -> int:
    """`drive PORT [RAY_PORT]`. Returns 0 where all items are done, 1 where some failed or are left, 143 after TERM."""
    run = Path(os.environ["GANGRUN_RUN_DIR"])
    for life in range(LIVES):
        sys.stdout.flush()
        child = os.fork()
        if not child:
            return _drive(run, [int(word) for word in words])
        code = _outlive(child)
        if code < 128 or code == 143 or code == 130:
            return code
        print(f"pool: the driver ended with {code}" + (", and is begun again" if life < LIVES - 1 else ""), flush=True)
    return 1


def _outlive(child: int) -> int:
    """Waits for the driver, to which it passes signals on."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _drive(run: Path, ports: list[int]) -> int:
    try:
        settings = json.loads((run / "pool.json").read_bytes())
        driver = Driver(run, settings, _engine(settings, *ports))
        return driver.run()
    except EngineError as error:
        print(f"pool: {error}", file=sys.stderr, flush=True)
        return 1


def _engine(settings: dict[str, Any], port: int, ray_port: int = 0) -> Engine:
    grace = patience(settings.get("grace", 30))
    if settings.get("engine") == "ray":
        from .rays import Rays  # Ray takes its time

        return Rays(port, grace, ray_port, settings["nodes"])
    return Agents(port, grace)


class Driver:
    """See the module."""

    def __init__(self, run: Path, settings: dict[str, Any], engine: Engine) -> None:
        self._run = run
        self._settings = settings
        self._engine = engine
        (run / "pool").mkdir(mode=0o700, exist_ok=True)
        self._journal = Journal(str(run / "pool" / "journal.jsonl"))
        self._reopen()
        self._items = Items(str(run / "items.jsonl"), self._journal.known)
        self._places = Places()
        self._running: dict[int, tuple[Item, Place, float]] = {}
        """By ticket; with when it began."""
        self._awaited: set[int] = set()
        """Those whose beginning has not been noted."""
        self._ticket = 0
        self._waiting = Waiting()
        self._late: list[Item] = []
        """What could not end in time any more."""
        self._counts = {state: len(self._items.in_state(state)) for state in ("waiting", "done", "failed")}
        self._ended_before = self._counts["done"] + self._counts["failed"]
        self._most = settings.get("max_parallel")
        self._most_nodes = settings.get("max_nodes")
        self._throttle: float | None = None
        self._end = walltime.end_of_job()
        whole = self._end - MARGIN - time.time()
        self._in_seconds = any(
            item.estimate is not None and item.estimate <= whole for item in self._items.all.values()
        )
        """Whether the estimates may be seconds: if they were, at least one item would fit into the job."""
        self._further = ""
        """The job that was queued to go on."""
        self._refused = False
        self._stopping = 0
        """The signal that asked for the end."""
        self._full_disk = False
        self._began = time.time()
        self._looked = 0.0
        self._alone_since = time.monotonic()
        self._used = self._had = 0.0
        """GPU-seconds taken, and there."""
        self._counted = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked)

    def _asked(self, number: int, _: object) -> None:
        self._stopping = self._stopping or number

    def _reopen(self) -> None:
        """Where somebody has asked for this attempt, items that have failed are tried again."""
        wish = self._run / "pool" / "again"
        if wish.exists():
            self._journal.write("Reopened")
            self._journal.known.add({"type": "Reopened"})
            if self._journal.flush(now=True):
                wish.unlink()

    # --- the life of the driver --------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until nothing runs and nothing can be started. Raises EngineError."""
        job, attempt = os.environ.get("GANGRUN_JOB", ""), os.environ.get("GANGRUN_ATTEMPT", "")
        engine = self._settings.get("engine", "steps")
        total = len(self._items.all)
        self._journal.write("Opened", job=job, attempt=attempt, pid=os.getpid(), engine=engine, items=total)
        self._say_what_is_known()
        self._queue()
        self._engine.open()
        try:
            told = 0
            while True:
                for event in self._engine.wait(_EVERY):
                    self._take(event)
                if self._stopping and not told:
                    told = self._stopping
                    self._stop()
                if not self._stopping:
                    self._assign()
                self._write_down()
                self._look()
                if not self._running and (self._stopping or not self._open_work()):
                    break
            return self._close()
        finally:
            self._engine.close()

    def _say_what_is_known(self) -> None:
        done, failed = self._counts["done"], self._counts["failed"]
        if done or failed:
            again = f", {self._items.interrupted} were interrupted and run again" if self._items.interrupted else ""
            self._say(f"{done} items are done and {failed} failed already{again}")

    def _write_down(self) -> None:
        full = not self._journal.flush()
        if full and not self._full_disk:
            self._say("the disk takes no more of the journal: nothing is started until it does")
        self._full_disk = full

    def _open_work(self) -> bool:
        return bool(self._waiting) and not self._hopeless()

    def _hopeless(self) -> bool:
        if self._places.nodes:
            self._alone_since = time.monotonic()
            return False
        if time.monotonic() - self._alone_since < PATIENCE:
            return False
        role = "ray" if self._settings.get("engine") == "ray" else "agent"
        self._say(f"no node could be used for {PATIENCE:.0f} s: gangrun logs --role {role} may say why")
        return True

    def _stop(self) -> None:
        for ticket in self._running:
            self._engine.stop(ticket)

    def _close(self) -> int:
        """The end in order: what is left, the exit code, one line for a person."""
        done, failed = self._counts["done"], self._counts["failed"]
        left = len(self._items.all) - done - failed
        wrong = "" if self._stopping or left else self._merge()
        undone = failed or wrong or (left and not self._further)
        code = 128 + self._stopping if self._stopping else 1 if undone else 0
        if self._further and not left:
            walltime.cancel(self._further)
            self._further = ""
            self._journal.write("Continued", job="")
        self._journal.write("Closed", code=code, left=left)
        self._journal.flush(now=True)
        self._write_status()
        told = f"{done} done, {failed} failed, {left} left"
        if left and self._further:
            told += f", which job {self._further} goes on with"
        elif self._late and not self._stopping:
            told += ", which could not have ended before the time limit"
        self._say(told)
        return code

    def _merge(self) -> str:
        """Puts the results together where that is asked for. What went wrong."""
        wanted = self._settings.get("merge")
        if not wanted:
            return ""
        items = ((item.name, item.state == "done") for item in self._items.all.values())
        if wrong := merge(self._run, wanted, items):
            self._say(wrong)
        return wrong

    def _say(self, words: str) -> None:
        print(f"pool: {words}", flush=True)

    # --- what has happened -------------------------------------------------------------------------------------------

    def _take(self, event: object) -> None:
        if isinstance(event, NodeUp):
            self._count()
            self._places.nodes[event.name] = Node(event.name, event.gpus, event.cpus, event.order)
            self._journal.write("NodeUp", node=event.name, gpus=event.gpus, cpus=event.cpus)
        elif isinstance(event, NodeGone):
            self._count()
            if self._places.nodes.pop(event.name, None) is not None:
                self._journal.write("NodeLost", node=event.name, why=event.why)
                if not self._stopping:
                    self._say(f"{event.name} is lost: {event.why}")
        elif isinstance(event, Begun):
            self._begun(event)
        elif isinstance(event, Over):
            self._ended(event)

    def _ended(self, event: Over) -> None:
        if event.ticket not in self._running:
            return
        self._count()
        self._begun(Begun(event.ticket, []))  # if it came to nothing before
        item, place, began = self._running.pop(event.ticket)
        self._places.release(place)
        seconds = event.seconds if event.why != "lost" else time.time() - began
        again = False
        item.seconds = seconds
        why = event.why or (self._verdict(item) if event.code else "")
        if event.why in {"lost", "stopped"}:
            again = True
        elif event.code or event.why:
            item.failures += 1
            item.avoid.add(place.node)
            again = item.failures <= item.retries
        outcome: dict[str, Any] = {
            "item": item.index,
            "try": item.tries,
            "code": event.code,
            "seconds": round(seconds, 3),
        }
        if why:
            outcome["why"] = why
        if again:
            outcome["again"] = True
        self._journal.write("Ended", **outcome)
        if again:
            item.state = "waiting"
            self._counts["waiting"] += 1
            self._waiting.put(item)
            if event.why not in {"lost", "stopped"}:
                self._say(f"{item.name} ended with {why or event.code} and is tried again")
        elif event.code or event.why:
            item.state = "failed"
            self._counts["failed"] += 1
            self._say(f"{item.name} failed with {why or event.code}")
        else:
            item.state = "done"
            self._counts["done"] += 1
            if self._items.learn(self._counts["done"]):
                self._queue()

    def _verdict(self, item: Item) -> str:
        """What the attempt has left as the reason for its end."""
        try:
            file = self._run / "items" / item.name / "attempts" / f"{item.tries:03d}" / "verdict"
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    # --- what to start next ------------------------------------------------------------------------------------------

    def _queue(self) -> None:
        """All waiting items anew."""
        self._late = []
        self._waiting = Waiting(self._items.in_state("waiting"))

    def _assign(self) -> None:
        if self._full_disk:
            return  # what cannot be written down must not happen

        def room() -> bool:
            return self._most is None or len(self._running) < self._most

        for item, place in self._waiting.assign(self._places, room, self._most_nodes, self._too_late, self._give_up):
            self._start(item, place)

    def _give_up(self, item: Item) -> bool:
        """Fails an item that no node could hold even if it were empty."""
        nodes = list(self._places.nodes.values())
        wanted = self._settings.get("nodes", 1)
        if len(nodes) < wanted or any(node.could_ever(*item.needs) for node in nodes):
            return False
        item.state = "failed"
        self._counts["waiting"] -= 1
        self._counts["failed"] += 1
        item.tries += 1
        self._journal.write("Started", item=item.index, **{"try": item.tries}, node="", gpus=[], cpus=0)
        self._journal.write("Ended", item=item.index, **{"try": item.tries}, code=1, seconds=0, why="unstartable")
        self._say(f"{item.name} needs {item.gpus:g} GPUs and {item.cpus:g} CPUs, which no node has")
        return True

    def _too_late(self, item: Item) -> bool:
        """Puts an item aside that cannot end before the job does."""
        if time.time() + (item.predicted or 0.0) <= self._end - MARGIN:
            return False
        if item.estimate is not None and not self._items.evidence and not self._in_seconds:
            return False  # until items that have ended show what the estimates are
        self._late.append(item)
        return True

    def _start(self, item: Item, place: Place) -> None:
        self._count()
        line = self._items.line(item)
        self._ticket += 1
        item.tries += 1
        item.state = "running"
        self._counts["waiting"] -= 1
        node = self._places.nodes[place.node]
        folder = str(self._run / "items" / item.name)
        attempt = f"{item.tries:03d}"
        warm = self._settings.get("call")
        order = {
            "ticket": self._ticket,
            "name": item.name,
            "argv": line.get("argv") or self._worker(),
            "env": {
                **line.get("env", {}),
                "GANGRUN_RUN_DIR": folder,
                "GANGRUN_RUN_NAME": line.get("run") or item.name,
                "GANGRUN_ATTEMPT": attempt,
                "GANGRUN_ITEM": item.name,
            },
            "cwd": line.get("cwd") or str(Path.cwd()),
            "dir": folder,
            "log": line.get("log") or f"attempts/{attempt}/logs/main.0.log",
            "gpus": place.gpus,
            "shared": place.share < 1,
            "share": place.share,
            "cpus": item.cpus,
            "crowded": node.cpus,
            "timeout": item.timeout,
            "warm": bool(warm),
            "own_step": bool(self._settings.get("own_step")),
        }
        if warm:
            order["parameters"] = item.parameters
        names = self._engine.start(place.node, order)
        self._running[self._ticket] = (item, place, time.time())
        self._awaited.add(self._ticket)
        if names is not None:
            self._begun(Begun(self._ticket, names))

    def _begun(self, event: Begun) -> None:
        """Notes it before anything is sent, which the engine does when it waits."""
        if event.ticket in self._awaited:
            self._awaited.discard(event.ticket)
            item, place, _ = self._running[event.ticket]
            self._running[event.ticket] = (item, place, time.time())
            started = {"item": item.index, "try": item.tries, "node": place.node, "gpus": event.gpus, "cpus": item.cpus}
            self._journal.write("Started", **started)

    def _worker(self) -> list[str]:
        python = shutil.which("python") or "python3"
        return [python, str(Path(__file__).with_name("warm.py")), self._settings["call"]]

    # --- time, throttle, status --------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Adds up what was taken since the last time; called before anything is taken or given back."""
        now = time.monotonic()
        self._used += self._places.busy() * (now - self._counted)
        self._had += self._places.size() * (now - self._counted)
        self._counted = now

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _EVERY:
            return
        self._looked = now
        self._read_throttle()
        self._mind_the_end()
        self._write_status()

    def _read_throttle(self) -> None:
        file = self._run / "throttle"
        try:
            changed = file.stat().st_mtime
            if changed != self._throttle:
                self._throttle = changed
                items, nodes, *attempts = (int(word) for word in file.read_text(encoding="ascii").split())
                self._most, self._most_nodes = items or None, nodes or None
                for item in self._items.all.values() if any(attempts) else ():
                    item.retries = attempts[0] - 1
        except (OSError, ValueError):
            return

    def _expected_end(self) -> float | None:
        """When the last item will probably end; None where nothing is known of how long they take."""
        work = 0.0
        for item in self._items.in_state("waiting"):
            if item.predicted is None:
                return None
            work += item.predicted * max(item.gpus, 0.0 if item.gpus else item.cpus)
        now = time.time()
        last = now
        for item, _, began in self._running.values():
            if item.predicted is None:
                return None
            last = max(last, began + item.predicted)
            work += max(0.0, began + item.predicted - now) * max(item.gpus, 0.0 if item.gpus else item.cpus)
        size = self._places.size()
        return max(last, now + work / size) if size else None

    def _mind_the_end(self) -> None:
        """Queues a further job when it is clear that this one cannot do all, or when it is about to end."""
        if self._end == walltime.FAR or self._further or self._refused or not self._settings.get("continue"):
            return
        expected = self._expected_end()
        close = self._end - time.time() < MARGIN + 60
        if not (self._late or close or (expected is not None and expected > self._end - MARGIN)):
            return
        before = [one for one in self._journal.known.fruitless if one != os.environ.get("GANGRUN_ATTEMPT")]
        if len(before) >= FRUITLESS - 1 and self._counts["done"] + self._counts["failed"] == self._ended_before:
            if close:
                self._refused = True
                self._say(f"no further job is queued: no item came to its end in {len(before) + 1} jobs in a row")
            return
        try:
            self._further = walltime.queue_further_job(str(self._run / "script.sh"), self._settings.get("flags", []))
        except walltime.SlurmError as error:
            self._refused = True
            self._say(f"no further job could be queued: {error}")
            return
        self._journal.write("Continued", job=self._further)
        self._say(f"job {self._further} will go on with what the time limit leaves undone")

    def _write_status(self) -> None:
        """`pool/status.json`, by rename: what views show while it runs."""
        self._count()
        status = {
            "t": round(time.time(), 3),
            "began": round(self._began, 3),
            "total": len(self._items.all),
            "done": self._counts["done"],
            "failed": self._counts["failed"],
            "running": len(self._running),
            "waiting": self._counts["waiting"],
            "late": len(self._late),
            "nodes": len(self._places.nodes),
            "size": self._places.size(),
            "busy": round(self._places.busy(), 3),
            "occupancy": round(self._used / self._had, 4) if self._had else None,
            "expected_end": self._expected_end(),
            "job_end": None if self._end == walltime.FAR else round(self._end, 3),
            "max_parallel": self._most,
            "continued": self._further,
            "host": socket.gethostname(),
        }
        path = self._run / "pool" / "status.json"
        draft = path.with_suffix(".new")
        try:
            draft.write_text(json.dumps(status) + "\n", encoding="ascii")
            draft.replace(path)
        except OSError:
            return  # a full disk; the journal says so
