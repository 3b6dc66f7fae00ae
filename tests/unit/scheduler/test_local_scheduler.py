from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gangrun.errors import ProgramMissing, Rejected
from gangrun.scheduler.local import Local, foreground, job_id
from gangrun.scheduler.model import Submission


def script(folder: Path, text: str) -> Submission:
    folder.mkdir(exist_ok=True)
    path = folder / "script.sh"
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    return Submission("run", path)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def test_a_detached_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGRUN_RUN_DIR", "/elsewhere")
    monkeypatch.setenv("GANGRUN_CLUSTER", "local")
    folder = tmp_path / 'it\'s; a "run"'
    local = Local()
    began = time.time()
    text = (
        'echo "out ${GANGRUN_RUN_DIR-none} $GANGRUN_CLUSTER"; echo err >&2; read -r line || echo "no stdin"\n'
        "echo $$ $(ps -o sid= -p $$) >ids\nwhile [ ! -e stop ]; do sleep 0.02; done; exit 3"
    )
    job = local.submit(script(folder, f'cd -- "$(dirname -- "$0")"; {text}'))
    until((folder / "ids").exists)
    status = local.status([job, "local-1-1", "12345"])
    assert list(status) == [job]
    assert (status[job].state, status[job].final) == ("RUNNING", False)
    assert status[job].started is not None
    assert abs(status[job].started - began) < 5
    until((folder / "ids").read_text)
    pid, session = (folder / "ids").read_text().split()
    assert job.startswith(f"local-{pid}-")
    assert pid == session, "a session of its own, so no hang-up of the terminal reaches it"
    (folder / "stop").touch()
    until(lambda: local.status([job]) == {})
    assert (folder / "job.log").read_text() == "out none local\nerr\nno stdin\n"


def test_the_log_is_appended_to(tmp_path: Path) -> None:
    local = Local()
    for _ in range(2):
        job = local.submit(script(tmp_path, "echo line"))
        until(lambda job=job: local.status([job]) == {})
    assert (tmp_path / "job.log").read_text() == "line\nline\n"


def test_it_outlives_the_program_that_started_it(tmp_path: Path) -> None:
    submission = script(tmp_path, 'cd -- "$(dirname -- "$0")"; while [ ! -e stop ]; do sleep 0.02; done')
    code = (
        "from pathlib import Path; from gangrun.scheduler.local import Local; from gangrun.scheduler.model import "
        f"Submission; print(Local().submit(Submission('run', Path({str(submission.script)!r}))))"
    )
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert out.stderr == ""
    job = out.stdout.strip()
    assert Local().status([job])[job].state == "RUNNING"
    (tmp_path / "stop").touch()
    until(lambda: Local().status([job]) == {})


def test_cancel_is_a_term_to_the_script_alone(tmp_path: Path) -> None:
    local = Local()
    text = 'cd -- "$(dirname -- "$0")"; trap "touch caught; exit 143" TERM; touch up; while :; do sleep 0.02; done'
    job = local.submit(script(tmp_path, text))
    until((tmp_path / "up").exists)
    local.cancel([job, "local-1-1", "777"])
    until((tmp_path / "caught").exists)
    until(lambda: local.status([job]) == {})
    local.cancel([job])


def test_another_process_with_the_same_number_is_left_alone() -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        real = job_id(other.pid)
        old = f"local-{other.pid}-1"
        assert list(Local().status([old, real])) == [real]
        Local().cancel([old])
        assert other.poll() is None
    finally:
        other.terminate()
        assert other.wait() == -signal.SIGTERM, "not ended by the cancel before"


def test_a_zombie_is_dead() -> None:
    other = subprocess.Popen(["true"])
    job = job_id(other.pid)
    until(lambda: Path(f"/proc/{other.pid}/stat").read_text().rpartition(") ")[2][0] == "Z")
    assert Local().status([job]) == {}
    other.wait()


def test_children_of_others_are_not_waited_for(tmp_path: Path) -> None:
    other = subprocess.Popen(["bash", "-c", "exit 9"])
    local = Local()
    job = local.submit(script(tmp_path, "true"))
    until(lambda: local.status([job]) == {})
    assert other.wait() == 9


def test_names_are_not_known() -> None:
    assert Local().find(["run"]) == {}


def test_what_cannot_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Rejected, match="could not be started"):
        Local().submit(Submission("run", tmp_path / "missing" / "script.sh"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing, match="bash"):
        Local().submit(script(tmp_path, "true"))


def test_the_foreground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("GANGRUN_RUN_NAME", "other")
    text = "trap 'kill $!; exit 42' INT; sleep 60 & echo $SLURM_JOB_ID ${GANGRUN_RUN_NAME-none}; echo err >&2; wait $!"
    with foreground(script(tmp_path, text).script, subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"7 none\n"
        assert running.stdout.readline() == b"err\n"
        assert os.getpgid(running.pid) == running.pid != os.getpgid(0)
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 42
