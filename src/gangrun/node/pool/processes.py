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

from .channel import KEY, Channel, ChannelError, Message
from .door import Door, environment

DEVICES = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "GPU_DEVICE_ORDINAL",
)
LINGERS = 30.0
"""Seconds that an srun has after the end of what ran in its step."""
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
    worker: Worker | None = None
    step: Step | None = None


@dataclass
class Worker:
    """A process that waits for items and keeps what it has imported and loaded."""

    key: tuple[Any, ...]
    pid: int
    channel: Channel
    gpus: tuple[int, ...]
    ticket: int | None = None
    """Of the item that it has; None while it waits."""


@dataclass
class Step:
    """An item's step of its own, as long as its srun lives."""

    log: Path
    """What srun says."""
    channel: Channel | None = None
    """To what starts the item there, once it has come."""
    begun: bool = False
    code: int | None = None
    """What the item has ended with."""
    why: str = ""
    ended: float = 0.0
    killed: bool = False


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
    """What runs here. `ended` gets a report for every start, in time with `reap` and `tick`; before, `begun` gets the
    ticket and the devices of one that is a step of its own."""

    def __init__(
        self,
        begun: Callable[[int, list[str]], None],
        ended: Callable[[Report], None],
        grace: float,
        selector: selectors.BaseSelector,
    ) -> None:
        """`selector` gets what can be heard of items, with who it is as data for `answer`."""
        self._begun = begun
        self._ended = ended
        self._selector = selector
        self.grace = grace
        self._running: dict[int, _Running] = {}
        """By ticket."""
        self._by_pid: dict[int, int] = {}
        self._workers: dict[int, Worker] = {}
        """Warm ones, by process id."""
        self._door: Door | None = None
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
            given = {**os.environ, **self._environment(order)}
            given.pop(KEY, None)
            if order.get("warm"):
                self._start_warm(order, given, log)
            elif order.get("own_step"):
                self._start_step(order)
            else:
                pid = self._spawn(order["argv"], given, order["cwd"], log, self._choose_cpus(order))
                self._note(order, pid)
        except OSError as error:
            self._ended(Report(order["ticket"], cannot_start(log, error), 0.0, "unstartable"))
        finally:
            os.close(log)

    def _open_log(self, order: dict[str, Any]) -> int:
        path = os.path.join(order["dir"], order["log"])
        folder = os.path.dirname(path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _environment(self, order: dict[str, Any]) -> dict[str, str]:
        """What an item has beyond the agent's environment. In a step of its own Slurm says which devices it has."""
        own = dict(order["env"])
        for name in {"CUDA_VISIBLE_DEVICES", *self.devices} if not (order.get("own_step") and order["gpus"]) else ():
            given = self.devices.get(name, [])
            own[name] = ",".join(given[gpu] if gpu < len(given) else str(gpu) for gpu in order["gpus"])
        if order["cpus"]:
            own["OMP_NUM_THREADS"] = order["env"].get("OMP_NUM_THREADS", str(max(1, int(order["cpus"]))))
        return own

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

    def _note(self, order: dict[str, Any], pid: int, worker: Worker | None = None, step: Step | None = None) -> None:
        one = self._running[order["ticket"]] = _Running(order, pid, 0.0, None, worker=worker, step=step)
        self._by_pid[pid] = order["ticket"]
        if step is None:
            self._time(one)

    def _time(self, one: _Running) -> None:
        """Its time begins."""
        one.began = time.monotonic()
        one.deadline = one.began + one.order["timeout"] if one.order.get("timeout") else None

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

    def _answer(self, worker: Worker) -> None:
        try:
            messages = worker.channel.receive()
        except ChannelError:
            self._signal(worker.pid, signal.SIGKILL)
            return
        ticket = worker.ticket
        if messages and ticket is not None and not self._running[ticket].why:
            worker.ticket = None
            self._over(ticket, int(messages[0]["code"]))

    # --- steps of their own ------------------------------------------------------------------------------------------

    def _start_step(self, order: dict[str, Any]) -> None:
        if self._door is None:
            self._door = Door()
            self._selector.register(self._door, selectors.EVENT_READ, self._door)
        said = Path(order["dir"], order["log"]).with_suffix(".step.log")
        log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            pid = self._spawn(self._door.command(order), environment(), "/", log, [])
        finally:
            os.close(log)
        self._note(order, pid, step=Step(said))

    def answer(self, who: object) -> None:
        """Takes in what a worker or a step says, or that it has closed its end, which is its own."""
        if isinstance(who, Worker):
            self._answer(who)
        elif isinstance(who, Channel):
            self._hear(who)
        elif isinstance(who, Door) and (channel := who.enter()):
            self._selector.register(channel, selectors.EVENT_READ, channel)

    def _hear(self, channel: Channel) -> None:
        try:
            for message in channel.receive():
                if "ticket" in message:
                    self._admit(channel, message["ticket"])
                for one in self._running.values():
                    if one.step is not None and one.step.channel is channel:
                        self._take(one, one.step, message)
        except ChannelError:
            self._part(channel)

    def _admit(self, channel: Channel, ticket: int) -> None:
        """A step is there. Raises ChannelError where its item is not wanted any more, and it shall end."""
        one = self._running.get(ticket)
        if one is None or one.step is None or one.why:
            raise ChannelError("not wanted any more")
        one.step.channel = channel
        order = one.order
        log = os.path.join(order["dir"], order["log"])
        channel.send({"argv": order["argv"], "env": self._environment(order), "cwd": order["cwd"], "log": log})
        channel.flush()

    def _take(self, one: _Running, step: Step, message: Message) -> None:
        if "gpus" in message:
            step.begun = True
            self._time(one)
            self._begun(one.order["ticket"], self._names(message["gpus"]))
        elif "code" in message:
            step.code, step.why, step.ended = message["code"], message["why"], time.monotonic()
            one.deadline = step.ended + LINGERS

    def _part(self, channel: Channel) -> None:
        self._selector.unregister(channel)
        channel.close()
        for one in self._running.values():
            if one.step is not None and one.step.channel is channel:
                one.step.channel = None

    def _names(self, numbers: list[str]) -> list[str]:
        """What Slurm's numbers of devices are here: a job that sees only its own counts them from 0."""
        names = self.devices.get("CUDA_VISIBLE_DEVICES", [])
        known = dict(zip(os.environ.get("SLURM_STEP_GPUS", "").split(","), names))
        return [known.get(number, number) for number in numbers]

    def _settle(self, ticket: int, one: _Running, step: Step, code: int) -> Report:
        """How a start ended whose srun has ended with this."""
        if step.channel is not None:
            self._hear(step.channel)
        if step.channel is not None:
            self._part(step.channel)  # which ends what srun has left
        said = step.log.read_bytes()
        if not said:
            step.log.unlink()
        if not step.begun:
            with open(os.path.join(one.order["dir"], one.order["log"]), "ab") as log:
                log.write(said)
            return Report(ticket, code or 1, 0.0, one.why or "unstartable")
        if step.code is None:
            return Report(ticket, code or 1, time.monotonic() - one.began, one.why)  # somebody has killed the step
        return Report(ticket, step.code, step.ended - one.began, one.why or step.why)

    # --- ending ------------------------------------------------------------------------------------------------------

    def stop(self, ticket: int, why: str = "stopped") -> None:
        """Asks an item to end, and makes it after the grace."""
        one = self._running.get(ticket)
        if one is None or one.why or (one.step is not None and one.step.code is not None):
            return
        one.why = why
        one.deadline = time.monotonic() + self.grace
        self._ask(one, signal.SIGTERM)

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

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, in the time of `time.monotonic`."""
        return min((one.deadline for one in self._running.values() if one.deadline is not None), default=None)

    def tick(self) -> None:
        """Ends what has had its time."""
        now = time.monotonic()
        for ticket, one in list(self._running.items()):
            if one.deadline is None or now < one.deadline:
                continue
            over = one.step is not None and one.step.code is not None
            if not one.why and not over:
                self.stop(ticket, "timeout")
                continue
            one.deadline = now + 1
            if over:
                self._signal(one.pid, signal.SIGKILL)  # an srun that has not noticed
            else:
                self._ask(one, signal.SIGKILL)

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
            code = exit_code(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status))
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
        one = self._running[ticket]
        report = Report(ticket, code, time.monotonic() - one.began, one.why)
        if one.step is not None:
            report = self._settle(ticket, one, one.step, code)
        del self._running[ticket]
        self._by_pid.pop(one.pid, None)
        self._ended(report)

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

    def _ask(self, one: _Running, number: int) -> None:
        """Sends an item a signal. A step that cannot hear it, or has outlived KILL, is ended by Slurm."""
        step = one.step
        if step is None:
            self._signal(one.pid, number)
        elif step.channel is None or not step.begun or step.killed:
            self._signal(one.pid, signal.SIGTERM)  # srun asks for it
        else:
            step.killed = number == signal.SIGKILL
            with suppress(ChannelError):
                step.channel.send({"signal": number})
                step.channel.flush()

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


def exit_code(code: int) -> int:
    """The exit code as a shell gives it, of one that is negative for a signal."""
    return 128 - code if code < 0 else code


def cannot_start(log: int, error: OSError) -> int:
    """Says why in the item's log; what the item ends with."""
    os.write(log, f"gangrun: cannot be started: {error}\n".encode())
    return 127 if error.errno == errno.ENOENT else 126


def _children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]
