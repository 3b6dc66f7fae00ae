"""One node of the job's own Ray cluster: the head on the first, a worker on every other.

Nothing of it is shared with another cluster of this machine or this user: it has ports and a directory of its own, and
a token that only the job knows. It ends with its step; `ray stop` would end every Ray of this user on the node.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import sys
import time

from .channel import KEY, LAST_GRACE, connect
from .processes import adopt, end_children, items

MISSING = (
    'engine = "ray" needs Ray in the environment of the items, and {python} has none: '
    "pip install 'ray>=2.9' there, or say in [setup] which environment has it"
)
SOON = 120.0
"""Seconds within which the head has to be there."""


def environment() -> dict[str, str]:
    """What every process of the cluster has in its environment."""
    key = os.environ.get(KEY, "")
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": hashlib.sha256(f"ray {key}".encode()).hexdigest(),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_prestart_worker_first_driver": "0",  # a process for each CPU, which nobody needs here
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else it waits 30 s for what has ended
    }


def missing() -> str:
    """What to tell the user if this Python has no Ray, else nothing."""
    return "" if importlib.util.find_spec("ray") else MISSING.format(python=sys.executable)


def directory(node: int) -> str:
    """Where the node keeps its sockets, whose paths have 107 bytes; the name is that of no other job."""
    key = hashlib.sha256(f"directory {os.environ.get(KEY, '')}".encode()).hexdigest()[:10]
    return f"/tmp/gangrun-ray-{key}-{node}"  # noqa: S108 - made for the user alone


def address(host: str) -> str:
    """The host's address as other nodes see it: many a host calls itself 127.0.1.1."""
    found = socket.gethostbyname(host)
    if found.startswith("127.") and host not in {"localhost", "127.0.0.1"}:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("10.255.255.255", 1))  # sends nothing
            found = probe.getsockname()[0]
    return found


def wait_for(host: str, port: int) -> bool:
    """Until the head answers; False where it does not in time."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        connection = connect(host, port)
        if connection is not None:
            connection.close()
            return True
        time.sleep(0.05)
    return False


def main(words: list[str]) -> int:
    """`ray --name NODE --host HOST --port PORT …`: NODE is its number in the allocation, 0 the head."""
    parser = argparse.ArgumentParser(prog="pool ray")
    parser.add_argument("--name", type=int, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--client-port", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)))
    place = parser.parse_args(words)
    if reason := missing():
        print(f"pool: {reason}", file=sys.stderr, flush=True)
        return 1
    folder = directory(place.name)
    os.mkdir(folder, 0o700)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # they reach Ray as well, whose end is waited for
    adopt()
    child = os.fork()
    if not child:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        return _start(place, folder)
    _, status = os.waitpid(child, 0)
    # Asked to end, Ray leaves at once what its workers had started; that is ours now, and has been asked, too.
    deadline = time.monotonic() + LAST_GRACE
    while items() and time.monotonic() < deadline:
        time.sleep(0.1)
    end_children()
    shutil.rmtree(folder, ignore_errors=True)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _start(place: argparse.Namespace, folder: str) -> int:
    os.environ.update(environment())
    os.environ.pop("RAY_ADDRESS", None)
    scripts = importlib.import_module("ray.scripts.scripts")  # at once, while the head may not be there yet

    words = [
        "start",
        "--block",
        "--disable-usage-stats",
        f"--node-name={place.name}",
        f"--num-gpus={place.gpus}",
        f"--num-cpus={place.cpus}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        "--include-log-monitor=false",
    ]
    if place.name == 0:
        words += ["--head", f"--node-ip-address={address(place.host)}", f"--port={place.port}", f"--temp-dir={folder}"]
        words += ["--include-dashboard=false", "--no-monitor"]
        if importlib.util.find_spec("grpc"):
            words.append(f"--ray-client-server-port={place.client_port}")
    else:
        if not wait_for(place.host, place.port):
            print(f"pool: the head of the Ray cluster does not answer at {place.host}:{place.port}", file=sys.stderr)
            return 1
        words += [f"--address={address(place.host)}:{place.port}", f"--node-ip-address={address(socket.gethostname())}"]
    sys.argv = ["ray", *words]
    scripts.main()
    return 0
