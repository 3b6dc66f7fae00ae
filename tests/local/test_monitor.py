"""The monitor of real runs on this machine: what it finds, and that nothing that becomes of it becomes of the job."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

from tests.gangrun_cli import Project, marked, sh, wait_for

FILE = "exp/watched.toml"
UNTIL = "until [[ -e go ]]; do sleep 0.1; done"


def samples(project: Project) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for file in project.dir.glob("outputs/exp/watched/latest/attempts/latest/usage/0.jsonl"):
        lines += [json.loads(line) for line in file.read_text().splitlines() if line]
    return lines


def seen(project: Project, name: str) -> list[list[float]]:
    return [line["r"][name] for line in samples(project) if name in line.get("r", {})]


def latest(project: Project) -> Path:
    return project.dir / "outputs/exp/watched/latest/attempts/latest"


def monitors(project: Project) -> list[int]:
    """Process ids of the monitors in this project."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(os.fsencode(project.dir)) and word.endswith(b"/node/monitor.py") for word in words):
            found.append(int(folder.name))
    return found


def test_a_run_is_watched(project: Project) -> None:
    project.write(
        FILE,
        f"""
[roles.burn]
{sh(f"timeout 30 bash -c 'while :; do :; done' & {UNTIL}; kill %1")}
[roles.hold]
kind = "service"
beside = "burn"
command = ["python", "-c", "held = bytearray(200_000_000); import time; time.sleep(60)"]
""",
    )
    run = project.start("run", FILE)
    wait_for(lambda: any(cpu > 0.05 for cpu, *_ in seen(project, "burn.0")))
    wait_for(lambda: any(mib > 180 for _, mib, *_ in seen(project, "hold.0")))
    shown = project.ok("gpus").out
    assert re.search(r"REPLICA +CPUS", shown)
    assert re.search(r"\bhold\.0 .* 19[0-9] M", shown)
    following = project.start("gpus", "-f")
    project.write("go", "")
    assert run.done().code == 0
    assert re.search(r"\bhold\.0 .* 19[0-9] M", following.done().out)
    assert samples(project)[0]["host"] == os.uname().nodename
    # It is no part of the experiment.
    assert set(project.run()["replicas"]) == {"burn.0", "hold.0"}
    assert project.ok("logs").out == ""
    assert (latest(project) / "logs/_monitor.0.log").read_text() == ""
    assert monitors(project) == []
    run_dir = latest(project).resolve().parents[1]
    wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run_dir}"))


def test_a_monitor_that_is_killed_is_no_harm(project: Project) -> None:
    project.write(FILE, sh(UNTIL))
    run = project.start("run", FILE)
    [pid] = wait_for(lambda: samples(project) and monitors(project))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: (latest(project) / "status/_monitor.0.0.beat").read_text().startswith("exit"))
    project.write("go", "")
    assert run.done().code == 0
    assert project.run()["state"] == "COMPLETED"


def test_a_node_without_python_is_not_watched_and_says_so_once(project: Project) -> None:
    """PATH holds every program of the machine but python3, as on a bare node."""
    bare = project.dir / "bare"
    bare.mkdir()
    for folder in reversed(os.environ["PATH"].split(os.pathsep)):
        for file in Path(folder).glob("*"):
            if not file.name.startswith("python") and os.access(file, os.X_OK):
                (bare / file.name).unlink(missing_ok=True)
                (bare / file.name).symlink_to(file)
    project.write(FILE, sh("true") + f'setup = ["export PATH={bare}"]\n')
    assert shutil.which("python3", path=str(bare)) is None
    project.ok("run", FILE)
    log = (latest(project) / "logs/_monitor.0.log").read_text()
    assert log.count("python3: not found") == 1
    assert samples(project) == []
    assert "its monitor says: " in project.ok("gpus").out
    assert project.run()["state"] == "COMPLETED"


def test_a_run_that_is_not_to_be_watched(project: Project) -> None:
    project.write(FILE, sh("true"))
    project.ok("run", FILE, "--set", "monitor=false")
    assert not (latest(project) / "usage").exists()
    assert not (latest(project).resolve().parents[1] / "node").exists()
    assert list((latest(project) / "logs").glob("_*")) == []
    assert "was not watched (monitor = false)" in project.ok("gpus").out


def test_gpus_of_what_is_not_there(project: Project) -> None:
    assert project.gangrun("gpus", "nonsense").code == 2
    project.write(FILE, sh("true"))
    project.ok("run", FILE)
    done = project.gangrun("gpus", "--attempt", "2")
    assert (done.code, done.err.count("\n")) == (2, 2)
    assert "there are 1" in done.err
    assert project.gangrun("gpus", "-f", "--json").code == 2
    assert "nothing was seen of a GPU" in project.ok("gpus", "--gutil", "out").err
    assert not (project.dir / "out").exists()
