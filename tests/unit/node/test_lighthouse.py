"""The program beside which replica groups find each other, with TorchFT's own clients."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.gangrun_cli import wait_for

from gangrun.node.lighthouse import listening as listening_socket
from gangrun.node.lighthouse import used

PROGRAM = str(files("gangrun.node") / "lighthouse.py")
OPTIONS = ("--min_replicas=2", "--quorum_tick_ms=20", "--join_timeout_ms=5000", "--heartbeat_timeout_ms=300")
SECONDS = timedelta(seconds=20)


@pytest.fixture
def status(tmp_path: Path) -> Path:
    folder = tmp_path / "attempts" / "001" / "status"
    folder.mkdir(parents=True)
    (folder / "lighthouse.0.lives").write_text("10 start\n12 ready\n")
    (folder / "main.0.lives").write_text("12 start\n40 exit 137\n41 start\n")
    (folder / "main.1.lives").write_text("12 start\n")
    return folder


def test_a_later_life_begins_behind_all_that_can_have_been_counted(status: Path) -> None:
    assert used(status, "lighthouse.0") == 0
    (status / "lighthouse.0.lives").write_text("10 start\n12 ready\n50 exit 137\n50 start\n")
    assert used(status, "lighthouse.0") == 10 * 5
    (status / "lighthouse.0.lives").write_text("10 start\n50 exit 137\n50 start\n60 exit 137\n60 start\n")
    assert used(status, "lighthouse.0") == 2 * 10 * 6


def started(status: Path, port: int, *python: str) -> subprocess.Popen[str]:
    env = {**os.environ, "GANGRUN_RUN_DIR": str(status.parents[2]), "GANGRUN_ATTEMPT": "001"}
    env |= {"GANGRUN_REPLICA": "lighthouse.0", "RUST_LOG": "error"}
    argv = (sys.executable, *python, PROGRAM, f"--port={port}", *OPTIONS)
    return subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def listening(status: Path, port: int) -> Iterator[None]:
    """While it runs: a life that is ended by a kill."""
    with started(status, port) as process:
        try:
            deadline = time.monotonic() + 60
            while not answers(port):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            process.send_signal(signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.torch
def test_a_killed_lighthouse_goes_on_counting_and_takes_nobody_else_for_a_group(status: Path) -> None:
    coordination = pytest.importorskip("torchft.coordination")
    port = free_port()

    def quorum() -> tuple[int, list[str]]:
        """What two groups agree on."""
        answers: list[Any] = []
        clients = []
        for name in ("a", "b"):
            client = coordination.LighthouseClient(f"http://127.0.0.1:{port}", connect_timeout=SECONDS)
            client.heartbeat(name)
            clients.append((name, client))
        askers = [
            Thread(target=lambda name=name, client=client: answers.append(client.quorum(name, timeout=SECONDS)))
            for name, client in clients
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            while asker.is_alive():  # a group tells all the while that it lives
                for name, client in clients:
                    client.heartbeat(name)
                asker.join(0.05)
        first, second = answers
        assert first.quorum_id == second.quorum_id
        return int(first.quorum_id), [member.replica_id for member in first.participants]

    with listening(status, port):
        assert quorum() == (1, ["a", "b"])
    with (status / "lighthouse.0.lives").open("a") as diary:
        diary.write("50 exit 137\n50 start\n")
    with listening(status, port):
        number, members = quorum()
    assert number > 50
    assert members == ["a", "b"]


@pytest.mark.torch
def test_a_port_that_somebody_took_in_between_is_waited_for(status: Path) -> None:
    pytest.importorskip("torchft")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = started(status, port)
        assert process.stderr
        told = process.stderr.readline()
    with process:
        try:
            assert told.startswith("gangrun: the lighthouse waits for its port: [Errno 98]")
            wait_for(lambda: answers(port))
        finally:
            process.send_signal(signal.SIGKILL)


def test_a_port_that_stays_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="Errno 98"):
        listening_socket(taken.getsockname()[1], 0.3)
    assert capsys.readouterr().err.count("the lighthouse waits for its port") == 1


def test_an_environment_without_torchft(status: Path) -> None:
    with started(status, free_port(), "-IS") as process:
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 127, "which is not tried again"
    assert f"gangrun: {sys.executable} has no torchft, which the lighthouse needs" in told
    assert "Traceback" not in told
