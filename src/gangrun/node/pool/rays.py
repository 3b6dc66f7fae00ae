"""The engine `ray`: the same agents, but each is a task of the job's Ray cluster, which gives it its GPUs.

A task holds what one item needs, on the node that the driver has chosen, and runs item after item of the same needs:
a task for every item would start a process for each (0.3 to 1 s with GPUs). One that waits is ended where an item of
other needs wants its room. Ray decides which devices a task has, so items may use the cluster, too.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from .agents import Agents, Guest
from .channel import Message, connect
from .engine import Begun, EngineError, Event, NodeGone, NodeUp, Over
from .ray_node import address, environment, missing

LOOK_EVERY = 0.2, 5.0
"""Seconds between two looks at the cluster's nodes, before and after all are there."""
PATIENCE = 60.0
"""Seconds within which a task has to begin."""


class _Slot:
    """A task of the cluster that is, or will be, an agent."""

    def __init__(self, node: str, needs: tuple[float, float], order: dict[str, Any]) -> None:
        self.node = node
        self.needs = needs
        self.order: dict[str, Any] | None = order
        """What it is to start when it has come."""
        self.since = time.monotonic()
        self.guest: Guest | None = None


class Rays(Agents):
    """The agents of a Ray cluster."""

    def __init__(self, port: int, grace: float, ray_port: int, nodes: int) -> None:
        super().__init__(port, grace)
        self._ray_port = ray_port
        self._expected = nodes
        self._ray: Any = None
        self._joined = False
        self._ids: dict[str, str] = {}
        """Ray's id of each node that is up."""
        self._slots: dict[int, _Slot] = {}
        self._number = 0
        self._looked = 0.0

    def open(self) -> None:
        """Listens for agents; the cluster may not be there yet. Raises EngineError where there is no Ray."""
        if reason := missing():
            raise EngineError(reason)
        os.environ.update(environment())
        os.environ.pop("RAY_ADDRESS", None)
        self._ray = import_module("ray")
        self._on = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        super().open()
        self._host = address(socket.gethostname()) if "SLURM_JOB_ID" in os.environ else "127.0.0.1"
        self._address = f"{self._host}:{self._ray_port}"

    def _join(self) -> bool:
        """Joins the cluster if that is possible now. On a machine that has much to do its head may give up its first
        start, and is started again."""
        connection = connect(self._host, self._ray_port)
        if connection is None:
            return False
        connection.close()
        try:
            self._ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            print(f"pool: the Ray cluster is not ready: {error}", flush=True)
            return False
        self._task = self._ray.remote(max_calls=1, max_retries=0)(_task())
        return True

    def start(self, node: str, order: dict[str, Any]) -> list[str] | None:
        """See Engine."""
        needs = (order["share"] * len(order["gpus"]), float(order["cpus"] or 0))
        order["crowded"] = 1 << 30  # agents side by side on a node cannot divide its CPUs among themselves
        idle = [(number, slot) for number, slot in self._slots.items() if slot.node == node and self._waits(slot)]
        for _, slot in idle:
            if slot.needs == needs and slot.guest is not None:
                return self._give(order, slot.guest)
        for number, slot in idle:
            self._dismiss(number, slot)
        self._number += 1
        self._slots[self._number] = _Slot(node, needs, order)
        words = ["name=0", f"host={self._host}", f"port={self._port}", f"only={self._number}"]
        folder = str(Path(__file__).resolve().parent.parent)
        here = self._on(self._ids[node], soft=False)
        env = {"RAY_ADDRESS": self._address}  # which `ray.init()` in an item takes
        self._task.options(num_gpus=needs[0], num_cpus=needs[1], scheduling_strategy=here).remote(folder, words, env)
        return None

    def wait(self, seconds: float) -> list[Event]:
        """See Engine."""
        self._joined = self._joined or self._join()
        if not self._joined:
            return super().wait(LOOK_EVERY[0])
        now = time.monotonic()
        complete = len(self._ids) >= self._expected
        every = LOOK_EVERY[complete]
        if now - self._looked >= every:
            self._looked = now
            self._look()
        for number, slot in list(self._slots.items()):
            if slot.guest is None and now - slot.since > PATIENCE:
                del self._slots[number]
                self._events.append(Over((slot.order or {})["ticket"], 1, 0.0, "lost"))
        return super().wait(min(seconds, every))

    # -----------------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Which nodes the cluster has."""
        for node in self._ray.nodes():
            order = int(node["NodeName"]) if node["NodeName"].isdigit() else 0
            name = node["NodeManagerHostname"].partition(".")[0]
            name = name if "SLURM_JOB_ID" in os.environ or not order else f"{name}.{order}"
            if node["Alive"] and name not in self._ids:
                has = node["Resources"]
                self._ids[name] = node["NodeID"]
                self._events.append(NodeUp(name, order, ["?"] * int(has.get("GPU", 0)), has.get("CPU", 0.0)))
            elif not node["Alive"] and self._ids.get(name) == node["NodeID"]:
                del self._ids[name]
                self._events.append(NodeGone(name, "Ray says so"))

    @staticmethod
    def _waits(slot: _Slot) -> bool:
        return slot.guest is not None and not slot.guest.tickets

    def _give(self, order: dict[str, Any], guest: Guest) -> list[str]:
        order["gpus"] = list(range(len(guest.gpus)))
        self._send(guest, order)
        return guest.gpus

    def _dismiss(self, number: int, slot: _Slot) -> None:
        del self._slots[number]
        if slot.guest is not None:
            slot.guest.channel.send({"bye": True})

    def _admit(self, guest: Guest, message: Message) -> None:
        slot = self._slots.get(message["only"])
        if slot is None or slot.order is None:
            guest.channel.send({"bye": True})
            return
        guest.node, slot.guest = slot.node, guest
        order, slot.order = slot.order, None
        self._events.append(Begun(order["ticket"], self._give(order, guest)))

    def _left(self, guest: Guest, why: str) -> None:  # noqa: ARG002 - a task that ends takes no node with it
        self._slots = {number: slot for number, slot in self._slots.items() if slot.guest is not guest}


def _task() -> Any:
    def serve(folder: str, words: list[str], env: dict[str, str]) -> int:
        """Defined in here, as Ray then sends its code and not its name, which workers could not import."""
        sys.path.insert(0, folder)
        os.environ.update(env)
        code: int = import_module("pool.agent").main(words)
        return code

    return serve
