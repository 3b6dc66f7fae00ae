"""The items that run on one node: started, timed, ended with all that they have started.

Every item is a session of its own. This process adopts what its items leave behind (PR_SET_CHILD_SUBREAPER), so when an
item's first process has ended, whatever else belongs to it has become a child of ours and is killed, too, whichever
session it is in.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from .channel import KEY, Channel, ChannelError

DEVICES = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "GPU_DEVICE_ORDINAL",
)
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Report:
    """How a start of an item ended."""

    ticket: int
    code: int
    seconds: float
    why: str
    """Empty where it ended by itself, else `timeout`, `stopped` or `unstartable`."""


@dataclass
class _Running:
    order: dict[str, Any]
    pid: int
    began: float
    deadline: float | None
    """When it is signalled next."""
    why: str = ""
    killed: bool = False
    worker: Worker | None = None


@dataclass
class Worker:
    """A process that waits for items and keeps what it has imported and loaded."""

    key: tuple[Any, ...]
    pid: int
    channel: Channel
    gpus: tuple[int, ...]
    ticket: int | None = None
    """Of the item that it has; None while it waits."""


def adopt() -> None:
    """Makes orphans below this process its children, where the machine's Python can ask for that."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass  # the script's own sweep at the end of the agent finds them by their environment


def items() -> list[int]:
    """What this process has adopted of items."""
    found = []
    for pid in _children():
        with suppress(OSError):
            if _variable(pid, "GANGRUN_ITEM"):
                found.append(pid)
    return found


def end_children() -> None:
    """Kills all that this process has started or adopted, until nothing is left."""
    while children := _children():
        for pid in children:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


class Processes:
    """What runs here. `ended` gets a report for every start, in time with `reap` and `tick`."""

    def __init__(self, ended: Callable[[Report], None], grace: float, selector: selectors.BaseSelector) -> None:
        """`selector` gets what warm workers answer on, with the worker as data for `answer`."""
        self._ended = ended
        self._selector = selector
        self.grace = grace
        self._running: dict[int, _Running] = {}
        """By ticket."""
        self._by_pid: dict[int, int] = {}
        self._workers: dict[int, Worker] = {}
        """Warm ones, by process id."""
        self._spawned: dict[int, subprocess.Popen[bytes]] = {}
        self._cpus: list[int] = sorted(os.sched_getaffinity(0))
        """Those that no item is bound to."""
        self._all_cpus = list(self._cpus)
        self._bound: dict[int, list[int]] = {}
        self.devices = {name: os.environ[name].split(",") for name in DEVICES if os.environ.get(name)}

    def __len__(self) -> int:
        return len(self._running)

    # --- starting ----------------------------------------------------------------------------------------------------

    def start(self, order: dict[str, Any]) -> None:
        """Starts what the driver has ordered; what cannot be started is reported as ended."""
        try:
            log = self._open_log(order)
        except OSError as error:
            self._ended(Report(order["ticket"], 1, 0.0, f"unstartable: no log: {error}"))
            return
        try:
            environment = self._environment(order)
            if order.get("warm"):
                self._start_warm(order, environment, log)
            else:
                pid = self._spawn(order["argv"], environment, order["cwd"], log, self._choose_cpus(order))
                self._note(order, pid, None)
        except OSError as error:
            code = 127 if error.errno == errno.ENOENT else 126
            os.write(log, f"gangrun: cannot be started: {error}\n".encode())
            self._ended(Report(order["ticket"], code, 0.0, "unstartable"))
        finally:
            os.close(log)

    def _open_log(self, order: dict[str, Any]) -> int:
        path = os.path.join(order["dir"], order["log"])
        folder = os.path.dirname(path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _environment(self, order: dict[str, Any]) -> dict[str, str]:
        environment = {**os.environ, **order["env"]}
        environment.pop(KEY, None)
        for name in {"CUDA_VISIBLE_DEVICES", *self.devices}:
            given = self.devices.get(name, [])
            environment[name] = ",".join(given[gpu] if gpu < len(given) else str(gpu) for gpu in order["gpus"])
        if order["cpus"]:
            environment["OMP_NUM_THREADS"] = order["env"].get("OMP_NUM_THREADS", str(max(1, int(order["cpus"]))))
        return environment

    def _choose_cpus(self, order: dict[str, Any]) -> list[int]:
        """CPUs for this item alone; none where it asks for none, or the node has promised more than there are."""
        count = int(order["cpus"] or 0)
        if not count or order["crowded"] > len(self._all_cpus) or count > len(self._cpus):
            return []
        chosen, self._cpus = self._cpus[:count], self._cpus[count:]
        return chosen

    def _spawn(
        self, argv: list[str], environment: dict[str, str], cwd: str, log: int, cpus: list[int], stdin: int = -1
    ) -> int:
        if cpus:
            os.sched_setaffinity(0, cpus)  # for the child to inherit, as code between fork and exec would be slow
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if stdin < 0 else stdin,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            self._free(cpus)
            raise
        finally:
            if cpus:
                os.sched_setaffinity(0, self._all_cpus)
        self._spawned[process.pid] = process
        self._bound[process.pid] = cpus
        return process.pid

    def _note(self, order: dict[str, Any], pid: int, worker: Worker | None) -> None:
        now = time.monotonic()
        deadline = now + order["timeout"] if order.get("timeout") else None
        self._running[order["ticket"]] = _Running(order, pid, now, deadline, worker=worker)
        self._by_pid[pid] = order["ticket"]

    def _free(self, cpus: list[int]) -> None:
        self._cpus = sorted(self._cpus + cpus)

    # --- warm workers ------------------------------------------------------------------------------------------------

    def _start_warm(self, order: dict[str, Any], environment: dict[str, str], log: int) -> None:
        gpus = tuple(order["gpus"])
        lasting = {name: value for name, value in environment.items() if not name.startswith("GANGRUN_")}
        key = (order["argv"], lasting, order["cwd"], gpus)
        idle = [worker for worker in self._workers.values() if worker.ticket is None]
        worker = next((worker for worker in idle if worker.key == key), None)
        if worker is None:
            for other in idle:
                # One that waits with a whole device holds its memory.
                if not order["shared"] and set(other.gpus) & set(gpus):
                    self._signal(other.pid, signal.SIGKILL)
            ours, theirs = socket.socketpair()
            with theirs:
                cpus = self._choose_cpus(order)
                pid = self._spawn(order["argv"], environment, order["cwd"], log, cpus, theirs.fileno())
            worker = self._workers[pid] = Worker(key, pid, Channel(ours), gpus)
            self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        worker.ticket = order["ticket"]
        passing = {name: value for name, value in environment.items() if name.startswith("GANGRUN_")}
        path = os.path.join(order["dir"], order["log"])
        worker.channel.send({"parameters": order["parameters"], "dir": order["dir"], "log": path, "env": passing})
        self._note(order, worker.pid, worker)
        try:
            worker.channel.flush()
        except ChannelError:
            pass  # its end will be seen

    def answer(self, worker: Worker) -> None:
        """Takes in what a worker says, or that it has closed its end, which is its own."""
        try:
            messages = worker.channel.receive()
        except ChannelError:
            self._signal(worker.pid, signal.SIGKILL)
            return
        ticket = worker.ticket
        if messages and ticket is not None and not self._running[ticket].why:
            worker.ticket = None
            self._over(ticket, int(messages[0]["code"]))

    # --- ending ------------------------------------------------------------------------------------------------------

    def stop(self, ticket: int, why: str = "stopped") -> None:
        """Asks an item to end, and makes it after the grace."""
        one = self._running.get(ticket)
        if one is None or one.why:
            return
        one.why = why
        one.deadline = time.monotonic() + self.grace
        self._signal(one.pid, signal.SIGTERM)

    def stop_all(self) -> None:
        """Asks all items to end, and ends idle workers."""
        for ticket in list(self._running):
            self.stop(ticket)
        self.dismiss()

    def dismiss(self) -> None:
        """Ends the workers that wait."""
        for worker in self._workers.values():
            if worker.ticket is None:
                self._signal(worker.pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Ends everything at once."""
        self.dismiss()
        for one in self._running.values():
            one.why = one.why or "stopped"
            self._signal(one.pid, signal.SIGKILL)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, in the time of `time.monotonic`."""
        return min((one.deadline for one in self._running.values() if one.deadline is not None), default=None)

    def tick(self) -> None:
        """Ends what has had its time."""
        now = time.monotonic()
        for ticket, one in list(self._running.items()):
            if one.deadline is None or now < one.deadline:
                continue
            if not one.why:
                self.stop(ticket, "timeout")
            else:
                one.deadline = now + 1
                self._signal(one.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Takes note of all that has ended, and ends what it has left behind."""
        ended = False
        while True:
            try:
                # Not yet reaped, so that its number cannot belong to another when its group is killed.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if found is None:
                break
            pid = found.si_pid
            ours = pid in self._spawned
            if ours:
                self._signal(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if not ours:
                continue
            ended = True
            code = _code(status)
            self._spawned.pop(pid).returncode = code
            self._free(self._bound.pop(pid))
            worker = self._workers.pop(pid, None)
            if worker is not None:
                self._selector.unregister(worker.channel)
                worker.channel.close()
                code = code or 1  # it has gone without a word
            ticket = self._by_pid.get(pid)
            if ticket is not None:
                self._over(ticket, code)
        if ended:
            self.end_orphans()

    def _over(self, ticket: int, code: int) -> None:
        one = self._running.pop(ticket)
        self._by_pid.pop(one.pid, None)
        self._ended(Report(ticket, code, time.monotonic() - one.began, one.why))

    def end_orphans(self) -> None:
        """Kills what items that are over have left. What says no more whose it is lives on while any item does."""
        names = {one.order["name"] for one in self._running.values()}
        for pid in _children():
            if pid in self._spawned:
                continue
            try:
                if os.getsid(pid) in self._spawned:
                    continue
                name = _variable(pid, "GANGRUN_ITEM")
                if name in names or (names and name is None):
                    continue
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue  # it has ended meanwhile

    def _signal(self, pid: int, number: int) -> None:
        try:
            os.killpg(pid, number)
        except OSError:
            pass


def _variable(pid: int, name: str) -> str | None:
    """What a variable was when the process began."""
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == name.encode():
            return os.fsdecode(value)
    return None


def _code(status: int) -> int:
    """The exit code as a shell gives it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]
