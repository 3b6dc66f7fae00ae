"""TorchFT's lighthouse, which after a restart goes on counting where the lives before it can have come to.

    python3 lighthouse.py --port 29510 --min_replicas 2 --quorum_tick_ms 100 ...    the rest as torchft_lighthouse

The groups of a quorum find each other by its number, under which they leave their addresses in a store; the numbers of
a lighthouse begin at 1 (torchft 0.2.0). After a second beginning they would find connections that closed long ago:
measured, four groups that had seen two deaths took no step for 71 s, and two of them died. Where it begins cannot be
told to a lighthouse. So before anybody else can reach it, it is asked for quorums by replicas that do not exist, as if
each had failed: for that it takes a new number every time. Hence it listens on a port of its own on the loopback, to
which connections are passed on; until then they wait. Where somebody else has taken its port since the last life, it
waits for that.

Needs torchft. Ends with 127 where that is missing, since another try would not find it either.
"""

import argparse
import asyncio
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any, List

_NUMBERS = 10
"""That a replica may use up from one start to the next: for joining, for leaving, for steps that failed."""
_SECONDS = timedelta(seconds=60)
PATIENCE = 60.0
"""Seconds to wait for a port that is taken."""


def coordination() -> Any:
    """TorchFT's servers without the package around them, which imports torch: 0.03 s in place of 2.5 s (torchft 0.2.0),
    for which the groups would wait at every start of a lighthouse. Raises ModuleNotFoundError."""
    package = find_spec("torchft")
    found = package and PathFinder.find_spec("_torchft", package.submodule_search_locations)
    if not found or not found.loader:
        raise ModuleNotFoundError("torchft")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def used(status: Path, own: str) -> int:
    """How many quorums the lighthouse's earlier lives can have counted, by the diaries of all replicas."""
    starts = {path.stem: path.read_text().count(" start\n") for path in status.glob("*.lives")}
    return _NUMBERS * sum(starts.values()) * (starts[own] - 1)


def count_on(torchft: Any, address: str, replicas: int, numbers: int) -> None:
    """Uses up that many numbers. The lighthouse forgets who asked after its `heartbeat_timeout_ms`."""
    servers = [
        torchft.ManagerServer(
            replica_id=f"nobody{index}",
            lighthouse_addr=address,
            hostname="127.0.0.1",
            bind="127.0.0.1:0",
            store_addr="",
            world_size=1,
            heartbeat_interval=timedelta(milliseconds=100),
            connect_timeout=_SECONDS,
            quorum_retries=0,
        )
        for index in range(replicas)
    ]

    def ask(server: Any) -> None:
        client = torchft.ManagerClient(server.address(), connect_timeout=_SECONDS)
        for _ in range(numbers):
            client._quorum(
                group_rank=0,
                step=0,
                checkpoint_metadata="",
                shrink_only=False,
                timeout=_SECONDS,
                commit_failures=1,
                init_sync=False,
            )

    askers = [threading.Thread(target=ask, args=(server,)) for server in servers]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    for server in servers:
        server.shutdown()


def listening(port: int, patience: float) -> socket.socket:
    """A socket that listens on this port of all addresses, by IPv6 and IPv4.

    Raises OSError if it is still taken after `patience` seconds.
    """
    deadline, told = time.monotonic() + patience, False
    while True:
        listener = socket.socket(socket.AF_INET6 if os.path.exists("/proc/net/if_inet6") else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listener.family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("", port))
            listener.listen(1024)
        except OSError as error:
            listener.close()
            if time.monotonic() > deadline:
                raise
            if not told:
                print(f"gangrun: the lighthouse waits for its port: {error}", file=sys.stderr, flush=True)
            told = True
            time.sleep(0.2)
        else:
            return listener


async def pass_on(listener: socket.socket, inner: int) -> None:
    """Every connection to this socket, to the port `inner` of the loopback."""

    async def flow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:  # one end is gone, and then the other has nothing to say to it
            pass
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", inner)
        except OSError:
            writer.close()
            return
        await asyncio.gather(flow(reader, back), flow(there, writer))

    server = await asyncio.start_server(connected, sock=listener)
    async with server:
        await server.serve_forever()


def main(argv: List[str]) -> int:
    """Returns only where it cannot go on."""
    parser = argparse.ArgumentParser()
    for name in ("port", "min_replicas", "quorum_tick_ms", "join_timeout_ms", "heartbeat_timeout_ms"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = vars(parser.parse_args(argv))
    port = given.pop("port")
    sys.path.pop(0)  # this directory, whose files are no modules for others
    try:
        torchft = coordination()
    except ModuleNotFoundError:
        where = "install torchft there, or let setup activate the environment that has it"
        print(f"gangrun: {sys.executable} has no torchft, which the lighthouse needs: {where}", file=sys.stderr)
        return 127
    try:
        listener = listening(port, PATIENCE)
    except OSError as error:
        print(f"gangrun: the lighthouse cannot listen on its port: {error}", file=sys.stderr)
        return 1
    server = torchft.LighthouseServer(bind="127.0.0.1:0", **given)
    inner = server.address().rpartition(":")[2]
    status = Path(os.environ["GANGRUN_RUN_DIR"], "attempts", os.environ["GANGRUN_ATTEMPT"], "status")
    if numbers := used(status, os.environ["GANGRUN_REPLICA"]):
        count_on(torchft, f"http://127.0.0.1:{inner}", given["min_replicas"], numbers)
    asyncio.run(pass_on(listener, int(inner)))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
