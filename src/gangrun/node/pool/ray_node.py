"""One node of the job's own Ray cluster: the head on the first, a worker on every other.

Nothing of it is shared with another cluster of this machine or this user: it has ports and a directory of its own, and
a token that only the job knows. It ends with its step; `ray stop` would end every Ray of this user on the node.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from .channel import KEY, connect, patience
from .folder import Folder, remove_abandoned
from .processes import adopt, end_children, items

MISSING = (
    'engine = "ray" needs Ray in the environment of the items, and {python} has none: '
    "pip install 'ray>=2.52' there, or say in [setup] which environment has it"
)
SOON = 120.0
"""Seconds within which the head has to be there."""
LOOK_EVERY = 0.5
"""Seconds between two looks for items that have lost their agent."""
ENDS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
"""What the first process of the node waits for."""


def environment() -> dict[str, str]:
    """What every process of the cluster has in its environment."""
    key = os.environ.get(KEY, "")
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": hashlib.sha256(f"ray {key}".encode()).hexdigest(),
        "RAY_memory_monitor_refresh_ms": "0",  # how much memory there is for whom is Slurm's to say
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_prestart_worker_first_driver": "0",  # a process for each CPU, which nobody needs here
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else it waits 30 s for what has ended
    }


def missing() -> str:
    """What to tell the user if this Python has no Ray, else nothing."""
    return "" if importlib.util.find_spec("ray") else MISSING.format(python=sys.executable)


def _folder() -> Folder:
    """Where Ray keeps its sockets and logs, on every node at the same path. It opens what it makes to everybody."""
    return Folder(hashlib.sha256(f"directory {os.environ.get(KEY, '')}".encode()).hexdigest()[:10])


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
    """`ray name=NODE host=HOST port=PORT client_port=PORT gpus=COUNT [cpus=COUNT]`: NODE is a number, 0 the head's."""
    given = dict(word.split("=", 1) for word in words)
    if reason := missing():
        print(f"pool: {reason}", file=sys.stderr, flush=True)
        return 127  # which no further try would change
    remove_abandoned()
    folder = _folder()
    said = folder.path / f"{given['name']}.said"
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    adopt()
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        _speak_to(said)
        return _start(given, folder.path / "r")
    code, asked = _outlive(child)
    end_children()
    if not asked:
        # Only here, as it tells everybody who reads it to end it by `ray stop`.
        print(said.read_text(errors="replace"), file=sys.stderr, flush=True)
    folder.leave()
    return code


def _speak_to(file: Path) -> None:
    told = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(told, 1)
    os.dup2(told, 2)


def _outlive(child: int) -> tuple[int, bool]:
    """Waits for the end of Ray's first process or a signal, and then for items to end gently; the exit code, and
    whether it was a signal.

    A signal to the step reaches all that runs in it. Ray leaves at once, and with it the agents; their items have
    become ours, and have been asked to end, too. Ray's own end is not waited for: it has nothing to save.
    """
    code, asked = None, False
    while code is None:
        number = signal.sigtimedwait(ENDS, LOOK_EVERY)
        ended, status = os.waitpid(child, os.WNOHANG)
        if number is not None and number.si_signo != signal.SIGCHLD:
            code, asked = 128 + number.si_signo, True
        elif ended:
            code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            _signal_items(signal.SIGTERM)
        else:
            _signal_items(signal.SIGKILL)  # one that has become ours has lost its agent, and is started anew elsewhere
    settings = json.loads((Path(os.environ["GANGRUN_RUN_DIR"]) / "pool.json").read_bytes())
    deadline = time.monotonic() + patience(settings.get("grace", 30))
    while items() and time.monotonic() < deadline:
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)
    return code, asked


def _signal_items(number: int) -> None:
    for pid in items():
        with suppress(OSError):
            os.kill(pid, number)


def _start(given: dict[str, str], folder: Path) -> int:
    host, port = given["host"], int(given["port"])
    os.environ.update(environment())
    os.environ.pop("RAY_ADDRESS", None)
    scripts = importlib.import_module("ray.scripts.scripts")  # at once, while the head may not be there yet

    words = [
        "start",
        "--block",
        "--disable-usage-stats",
        f"--node-name={given['name']}",
        f"--num-gpus={given['gpus']}",
        f"--num-cpus={given.get('cpus', len(os.sched_getaffinity(0)))}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        "--include-log-monitor=false",
    ]
    if given["name"] == "0":
        words += ["--head", f"--node-ip-address={address(host)}", f"--port={port}", f"--temp-dir={folder}"]
        words += ["--include-dashboard=false", "--no-monitor"]
        if importlib.util.find_spec("grpc"):
            words.append(f"--ray-client-server-port={given['client_port']}")
    else:
        if not wait_for(host, port):
            print(f"pool: the head of the Ray cluster does not answer at {host}:{port}", file=sys.stderr)
            return 1
        words += [f"--address={address(host)}:{port}", f"--node-ip-address={address(socket.gethostname())}"]
    sys.argv = ["ray", *words]
    scripts.main()
    return 0
