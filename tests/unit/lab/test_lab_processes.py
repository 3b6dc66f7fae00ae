from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gangrun.errors import LabError
from gangrun.lab import commands, processes
from gangrun.lab.processes import Process


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def until(check: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_stat_of_a_command_with_brackets_and_blanks() -> None:
    text = "42 (a) (b c) S 1 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987 10 11 12\n"
    assert processes.parse_stat(text) == (42, "S", 40, 987)
    for half in ("", "42 (a", "42 (a) S 1 42"):
        with pytest.raises(ValueError, match="not a whole line"):
            processes.parse_stat(half)


def test_a_process_lives_until_it_is_a_zombie(sleeper: subprocess.Popen[bytes]) -> None:
    process = processes.of_pid(sleeper.pid)
    assert process is not None
    assert process.alive
    sleeper.kill()
    until(lambda: Path(f"/proc/{sleeper.pid}/stat").read_text().split()[2] == "Z")
    assert not process.alive
    assert processes.of_pid(sleeper.pid) is None


def test_a_later_process_with_the_same_pid_is_another_one(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    record = tmp_path / "x.pid"
    text = Path(f"/proc/{sleeper.pid}/stat").read_text()
    record.write_text(text)
    found = processes.recorded(record)
    assert found is not None
    assert found.pid == sleeper.pid

    record.write_text(text.replace(f" {found.started} ", f" {found.started - 1} "))
    assert processes.recorded(record) is None
    processes.send(Process(sleeper.pid, found.started - 1), signal.SIGKILL)
    assert processes.session(Process(sleeper.pid, found.started - 1)) == []
    assert found.alive

    processes.send(found, signal.SIGKILL)
    until(lambda: not found.alive)
    sleeper.wait()
    processes.send(found, signal.SIGKILL)
    assert processes.recorded(tmp_path / "absent") is None


def test_namespaces_tell_who_is_inside(sleeper: subprocess.Popen[bytes]) -> None:
    mine = processes.namespace(os.getpid(), "net")
    assert mine == processes.namespace(sleeper.pid, "net") != ""
    assert sleeper.pid in [process.pid for process in processes.inside("net", mine)]
    assert processes.inside("net", "") == []
    assert processes.inside("net", "net:[1]") == []


def test_spawned_daemon_is_recorded_and_leads_a_session_with_its_children(tmp_path: Path) -> None:
    record, log = tmp_path / "d.pid", tmp_path / "d.log"
    argv = ["/bin/sh", "-c", "echo started; sleep 61 & wait"]
    daemon = commands.spawn(argv, record=record, log=log, env=commands.environment(MARK="1"))
    try:
        until(lambda: len(processes.session(daemon)) == 2)
        assert processes.recorded(record) == daemon
        assert log.read_text() == "started\n"
        environ = Path(f"/proc/{daemon.pid}/environ").read_bytes().split(b"\0")
        assert b"MARK=1" in environ
        assert not any(word.startswith(b"PYTEST") for word in environ)
    finally:
        for process in processes.session(daemon):
            processes.send(process, signal.SIGKILL)


def test_run_says_what_failed() -> None:
    assert commands.run("sh", "-c", "cat; echo $A", text="in ", env=commands.environment(A="a")) == "in a\n"
    with pytest.raises(LabError) as caught:
        commands.run("sh", "-c", "echo because >&2; exit 3")
    assert "ended with 3" in str(caught.value)
    assert "because" in str(caught.value)
    with pytest.raises(LabError, match="did not end within"):
        commands.run("sleep", "60", limit=0.1)
    with pytest.raises(LabError, match="not installed"):
        commands.run("no-such-program-anywhere")


def test_waiting_ends_with_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\n" * 50 + "the reason\n")
    with pytest.raises(LabError) as caught:
        commands.wait_until(lambda: False, 0.05, "nothing", log=log)
    assert "the reason" in str(caught.value)
    assert str(caught.value).count("first") < 20


def test_the_state_module_is_light() -> None:
    program = "import sys, gangrun.lab.state; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "gangrun.lab.state" in loaded
    assert not {"subprocess", "pydantic", "jinja2", "gangrun.lab.lab", "gangrun.lab.commands"} & set(loaded)
