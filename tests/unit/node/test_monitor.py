"""The program that watches a node: what it reads from a machine, from Slurm's cgroups, and from nvidia-smi."""

from __future__ import annotations

import ast
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from gangrun.node import monitor
from gangrun.node.monitor import Gpus, JobGroup, Processes, Writer, cpus_here, mebibytes, number, ours

TICK, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def test_it_runs_on_the_oldest_python_of_a_node() -> None:
    for file in files("gangrun.node").iterdir():
        if file.name.endswith(".py"):
            ast.parse(file.read_text(), file.name, feature_version=(3, 8))


# ---- processes


@pytest.fixture
def proc(tmp_path: Path) -> Callable[..., None]:
    """`proc(pid, parent, cpu=SECONDS, mib=…, read=BYTES, written=BYTES, env={…}, started=TICKS)`."""

    def process(
        pid: int, parent: int = 1, *, cpu: float = 0, mib: int = 0, read: int = 0, written: int = 0, started: int = 1,
        **env: str,
    ) -> None:  # fmt: skip
        folder = tmp_path / str(pid)
        folder.mkdir(exist_ok=True)
        times = [int(cpu * TICK), 0, 0, 0]
        fields = ["S", parent, *range(9), *times, 20, 0, 1, 0, started, 0, 0]
        (folder / "stat").write_text(f"{pid} (a ) b) {' '.join(map(str, fields))}\n")
        pages = mib * (1 << 20) // PAGE
        (folder / "statm").write_text(f"{9 * pages + 9} {pages + 7} 7 0 0 0 0\n")
        (folder / "io").write_text(f"rchar: 5\nwchar: 6\nread_bytes: {read}\nwrite_bytes: {written}\n")
        (folder / "environ").write_text("\0".join(f"{name}={value}" for name, value in env.items()))

    process(1)
    return process


def watched(tmp_path: Path) -> Processes:
    return Processes("run/7/001/", "_monitor.0", str(tmp_path))


def task(replica: str, gpus: str = "") -> dict[str, str]:
    return {"GANGRUN_TASK": f"run/7/001/{replica}/0/", "CUDA_VISIBLE_DEVICES": gpus}


def test_rates_and_sizes_of_each_replica(tmp_path: Path, proc: Callable[..., None]) -> None:
    proc(10, mib=100, **task("trainer.0", "0,1"))
    proc(11, 10, mib=50, **task("trainer.0", "0,1"))
    proc(20, **task("server.0"))
    proc(30, mib=9, **task("_monitor.0"))
    proc(40, mib=9, GANGRUN_TASK="other/7/001/trainer.0/0/")
    processes = watched(tmp_path)
    assert processes.sample(100.0) == {}  # over no time
    proc(10, cpu=3, mib=100, read=50_000_000, **task("trainer.0", "0,1"))
    proc(11, 10, cpu=2, mib=60, written=5_000_000, **task("trainer.0", "0,1"))
    assert processes.sample(102.0) == {"trainer.0": [2.5, 160, 25.0, 2.5], "server.0": [0.0, 0, 0.0, 0.0]}
    assert processes.given == {"trainer.0": ["0", "1"], "server.0": []}


def test_a_process_that_wrote_over_its_environment_counts_with_its_parent(
    tmp_path: Path, proc: Callable[..., None]
) -> None:
    proc(10, **task("main.0"))
    proc(11, 10, ray="::IDLE")
    proc(12, 11, cpu=0)
    processes = watched(tmp_path)
    processes.sample(1.0)
    proc(12, 11, cpu=4)
    assert processes.sample(3.0) == {"main.0": [2.0, 0, 0.0, 0.0]}


def test_counts_that_a_process_takes_along_are_no_negative_use(tmp_path: Path, proc: Callable[..., None]) -> None:
    proc(10, **task("main.0"))
    proc(11, 10, cpu=100, **task("main.0"))
    processes = watched(tmp_path)
    processes.sample(1.0)
    for name in ("stat", "statm", "io", "environ"):
        (tmp_path / "11" / name).unlink()
    assert processes.sample(2.0) == {"main.0": [0.0, 0, 0.0, 0.0]}


def test_a_process_id_that_comes_round_again_is_another_process(tmp_path: Path, proc: Callable[..., None]) -> None:
    proc(10, **task("main.0"))
    processes = watched(tmp_path)
    processes.sample(1.0)
    proc(10, started=2, **task("main.1"))
    assert list(processes.sample(2.0)) == ["main.1"]


# ---- cgroups


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_cgroup_version_2(tmp_path: Path) -> None:
    job = tmp_path / "system.slice/slurmstepd.scope/job_7"
    write(job / "memory.max", f"{500 << 30}\n")
    write(job / "memory.stat", f"anon {3 << 30}\nfile {9 << 30}\nshmem {1 << 30}\n")
    write(job / "cpu.stat", "usage_usec 1000000\nuser_usec 1\n")
    group = JobGroup("0::/system.slice/slurmstepd.scope/job_7/step_1/user/task_0\n", str(tmp_path))
    assert group.limit() == 500 * 1024
    assert group.sample(10.0) is None
    write(job / "cpu.stat", "usage_usec 7000000\n")
    assert group.sample(12.0) == [3.0, 4096]
    write(job / "memory.max", "max\n")
    assert group.limit() is None


def test_cgroup_version_1(tmp_path: Path) -> None:
    write(tmp_path / "memory/slurm/uid_0/job_7/memory.limit_in_bytes", f"{1 << 30}\n")
    write(tmp_path / "memory/slurm/uid_0/job_7/memory.stat", f"cache 5\ntotal_rss {300 << 20}\ntotal_shmem 0\n")
    write(tmp_path / "cpuacct/slurm/uid_0/job_7/cpuacct.usage", "0\n")
    text = "11:cpu,cpuacct:/slurm/uid_0/job_7/step_0\n4:memory:/slurm/uid_0/job_7/step_0/task_0\n0::/x\n"
    group = JobGroup(text, str(tmp_path))
    group.sample(1.0)
    write(tmp_path / "cpuacct/slurm/uid_0/job_7/cpuacct.usage", "500000000\n")
    assert (group.limit(), group.sample(2.0)) == (1024, [0.5, 300])


@pytest.mark.parametrize("text", ["", "0::/user.slice/session-1.scope\n", "4:memory:/docker/ab\n", "torn"])
def test_without_a_cgroup_of_the_job_there_is_nothing_to_tell(text: str, tmp_path: Path) -> None:
    group = JobGroup(text, str(tmp_path))
    assert (group.limit(), group.sample(1.0), group.sample(2.0)) == (None, None, None)


def test_cpus_of_a_node_in_slurms_notation() -> None:
    environment = {"SLURM_JOB_CPUS_PER_NODE": "32(x2),16"}
    assert [cpus_here(environment, node) for node in range(4)] == [32, 32, 16, None]
    assert cpus_here({}, 0) is None


@pytest.mark.parametrize(("text", "size"), [("500G", 512_000), ("1T", 1 << 20), ("64000M", 64_000), ("4000", 4000)])
def test_memory_in_slurms_notation(text: str, size: int) -> None:
    assert mebibytes(text) == size


# ---- nvidia-smi


HEAD = "index, uuid, name, memory.total [MiB], utilization.gpu [%], utilization.memory [%], memory.used [MiB], \
temperature.gpu, power.draw [W]"
ROW = "{0}, GPU-{0}abcd, NVIDIA H100, 81559, 97, 41, 60211, 64, 655.21"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Gpus]]:
    """`nvidia_smi(bash)` puts a program of that name on PATH and gives what starts it."""
    started: list[Gpus] = []

    def install(script: str) -> Gpus:
        file = tmp_path / "bin" / "nvidia-smi"
        write(file, f"#!/bin/bash\necho $$ >>{tmp_path}/pids\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")
        started.append(Gpus(every=15.0))
        return started[-1]

    yield install
    for gpus in started:
        if gpus.file >= 0:
            gpus._stop()
    for pid in (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else ():
        assert not Path(f"/proc/{pid}").exists()


def read(gpus: Gpus, until: Callable[[], object], now: float = 1.0) -> None:
    """What the program's loop does when something came."""
    deadline = time.monotonic() + 20
    gpus.start(now)
    while not until():
        assert time.monotonic() < deadline
        if gpus.file < 0:
            gpus.start(now)
        elif select.select([gpus.file], [], [], 0.1)[0]:
            gpus.take(now)


def test_rows_are_read_by_the_names_in_the_head(nvidia_smi: Callable[[str], Gpus], tmp_path: Path) -> None:
    gpus = nvidia_smi(
        f"echo $@ >{tmp_path}/args; echo '{HEAD}'; echo '{ROW.format(0)}'; echo '{ROW.format(1)}'; sleep 60"
    )
    read(gpus, lambda: len(gpus.rows) == 2)
    assert "--format=csv,nounits -l 15" in (tmp_path / "args").read_text()
    rows = gpus.sample() or {}
    assert [number(rows["1"], name) for name in monitor.FIELDS[4:]] == [97, 41, 60211, 64, 655.2]
    assert gpus.sample() is None  # nothing new since


def test_other_columns_of_another_driver(nvidia_smi: Callable[[str], Gpus]) -> None:
    head = "power.draw.instant [W], index, brand, utilization.gpu [%], memory.used [MiB]"
    gpus = nvidia_smi(
        f"echo; echo 'Some warning, of 2 words'; echo '{head}'; echo '300, 0, Tesla, 12 %, [N/A]'; sleep 60"
    )
    read(gpus, lambda: gpus.rows)
    row = gpus.rows["0"]
    assert [number(row, name) for name in monitor.FIELDS[4:]] == [12, None, None, None, None]


def test_a_field_that_the_driver_does_not_know_is_left_out(nvidia_smi: Callable[[str], Gpus]) -> None:
    gpus = nvidia_smi(
        "case $* in *temperature*) echo 'Field \"temperature.gpu\" is not a valid field to query.'; exit 2;; esac\n"
        "echo index, uuid; echo 0, GPU-1; sleep 60"
    )
    read(gpus, lambda: gpus.rows)
    assert "temperature.gpu" not in gpus.fields
    assert gpus.notes == []


def test_a_driver_that_is_away_is_told_once_and_tried_again(nvidia_smi: Callable[[str], Gpus]) -> None:
    gpus = nvidia_smi("echo 'NVIDIA-SMI has failed: no driver'; exit 9")
    read(gpus, lambda: gpus.notes)
    assert gpus.notes == ["nvidia-smi ended with 9: NVIDIA-SMI has failed: no driver"]
    tries = []
    for now in range(1, 2000):
        if now >= gpus.next_try:
            tries.append(now)
            read(gpus, lambda: gpus.file < 0, float(now))
    assert tries == [61, 181, 421, 901, 1501]
    assert len(gpus.notes) == 1


def test_one_that_hangs_is_ended_and_tried_again(nvidia_smi: Callable[[str], Gpus], tmp_path: Path) -> None:
    gpus = nvidia_smi("trap '' HUP TERM; while :; do sleep 0.1; done")
    gpus.start(1.0)
    assert gpus.file >= 0
    gpus.check(59.0)
    assert gpus.notes == []
    gpus.check(62.0)
    assert gpus.notes == ["nvidia-smi does not answer"]
    assert (gpus.file, gpus.next_try) == (-1, 122.0)


def test_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    gpus = Gpus(15.0)
    read(gpus, lambda: gpus.notes)
    assert gpus.notes == ["nvidia-smi is not installed"]
    gpus.start(1e9)
    assert gpus.file == -1


def test_only_the_gpus_of_the_job_are_told_of() -> None:
    rows = {str(index): {"index": str(index), "uuid": f"GPU-{index}abcd"} for index in range(12)}
    assert [row["index"] for row in ours(rows, 12, [])] == [str(index) for index in range(12)]
    mine = ours(rows, 2, ["3", "GPU-5abcd", ""])
    assert [row["index"] for row in mine] == ["3", "5"]


# ---- writing


def test_a_full_disk_costs_lines_and_is_told_of_later(tmp_path: Path) -> None:
    writer = Writer("/dev/full")
    writer.write(t=1, r={})
    writer.write(t=2, r={})
    assert (writer.lost, writer.torn) == (2, True)
    writer.path = str(tmp_path / "usage" / "0.jsonl")
    writer.write(t=3, r={})
    lines = [json.loads(line) for line in Path(writer.path).read_text().splitlines() if line]
    assert lines == [{"t": 3, "note": "2 lines lost: No space left on device"}, {"t": 3, "r": {}}]


# ---- the whole program


def start(tmp_path: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    given = {
        "GANGRUN_RUN_NAME": "run", "GANGRUN_RUN_DIR": str(tmp_path), "GANGRUN_ATTEMPT": "001",
        "GANGRUN_JOB": "7", "GANGRUN_REPLICA": "_monitor.0",
        "GANGRUN_NODE_RANK": "0", "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **env,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-IS", monitor.__file__, *words], env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def lines_of(tmp_path: Path) -> list[dict[str, Any]]:
    try:
        text = (tmp_path / "attempts/001/usage/0.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_it_ends_at_once_and_leaves_nothing(nvidia_smi: Callable[[str], Gpus], tmp_path: Path) -> None:
    nvidia_smi(f"echo '{HEAD}'; while :; do echo '{ROW.format(0)}'; sleep 0.2; done")
    process = start(tmp_path, "every=1", "gpus=1", "mem=2G")
    try:
        wait_for(lambda: any("g" in line for line in lines_of(tmp_path)))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 1
    finally:
        process.kill()
    assert process.communicate()[0] == ""
    head, *rest = lines_of(tmp_path)
    assert {"v": 1, "every": 1.0, "gpus": 1, "mem": 2048, "asked": True}.items() <= head.items()
    assert [line["devices"] for line in rest if "devices" in line] == [[["0", "GPU-0abcd", "NVIDIA H100", 81559]]]
    assert [97, 41, 60211, 64, 655.2] in [row for line in rest for row in line.get("g", ())]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (tmp_path / "pids").read_text().split()))


@pytest.mark.slow
def test_one_that_is_killed_takes_nvidia_smi_along(nvidia_smi: Callable[[str], Gpus], tmp_path: Path) -> None:
    nvidia_smi(f"echo '{HEAD}'; while :; do sleep 0.2; done")
    process = start(tmp_path, "every=1", "gpus=1")
    wait_for(lambda: (tmp_path / "pids").exists())
    process.kill()
    process.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (tmp_path / "pids").read_text().split()))
