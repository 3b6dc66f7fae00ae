"""`gangrun lab`: the real Slurm of several hosts is what it says, under faults too, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gangrun.errors import LabError, UsageError
from gangrun.lab import Lab, packages
from gangrun.lab.state import profile_path
from tests.gangrun_cli import PROGRAMS

ABSENT = packages.missing(accounting=True)
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.skipif(bool(ABSENT), reason=f"packages are absent: {' '.join(ABSENT)}"),
]


def until(check: Callable[[], object], limit: float = 30) -> None:
    end = time.monotonic() + limit
    while not check():
        assert time.monotonic() < end, f"not within {limit} s"
        time.sleep(0.05)


def traces(name: str) -> dict[str, list[str]]:
    """Everything on this machine that belongs to the lab of that name."""
    lab = Lab(name)
    mark = f"{lab.directory}/".encode()
    found: dict[str, list[str]] = {"processes": [], "namespaces": [], "interfaces": [], "files": []}
    for entry in Path("/proc").iterdir():
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if mark in text:
            found["processes"].append(text.decode(errors="replace"))
    found["namespaces"] = [path.name for path in Path("/run/netns").glob(f"gangrun-{name}-*")]
    found["interfaces"] = [path.name for path in Path("/sys/class/net").glob(f"gr-{name}")]
    found["files"] = [str(path) for path in [lab.directory] if path.exists()]
    return found


WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
TESTA, TESTB, TESTC, TESTD, TESTE, TESTF = (f"test{letter}{WORKER}" for letter in "abcdef")
NOTHING: dict[str, list[str]] = {"processes": [], "namespaces": [], "interfaces": [], "files": []}


def slurm(lab: Lab, *argv: str, user: str = "", limit: float = 60) -> str:
    words = ["runuser", "-u", user, "--", *argv] if user else list(argv)
    done = subprocess.run(words, env=lab.env(), cwd="/tmp", capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()


def submit(lab: Lab, script: str, *flags: str) -> str:
    return slurm(lab, "sbatch", "--parsable", "--output=/dev/null", *flags, f"--wrap={script}")


def state(lab: Lab, job: str) -> str:
    return slurm(lab, "squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")


def nodes_in(lab: Lab, word: str) -> set[str]:
    return {node.name for node in lab.status().nodes if node.slurm == word}


def reaches(address: str) -> bool:
    """Whether a slurmd answers there."""
    try:
        socket.create_connection((address, 6818), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(TESTA)
    lab.up(nodes=4, gpus=8)
    yield lab
    lab.down()
    assert traces(TESTA) == NOTHING


@pytest.fixture
def idle(lab: Lab) -> Iterator[Lab]:
    """The lab with every node idle before, and put right after the test whatever it did to it."""
    until(lambda: nodes_in(lab, "idle") == set(lab.nodes))
    yield lab
    if not lab.status().slurmctld:
        lab.start_slurmctld()
    for node in lab.status().nodes:
        if not node.power:
            lab.start(node.name)
        elif not node.cable:
            lab.mend(node.name)
    for job in slurm(lab, "squeue", "--noheader", "--format=%i").split():
        slurm(lab, "scancel", job)
    until(lambda: not slurm(lab, "squeue", "--noheader"), 60)
    for node in lab.nodes:
        slurm(lab, "scontrol", "update", f"NodeName={node}", "State=RESUME") if node in nodes_in(lab, "down") else None


def test_a_job_on_four_hosts_has_four_host_names(idle: Lab, tmp_path: Path) -> None:
    out = tmp_path / "out"
    submit(idle, f'srun sh -c "hostname; uname -n" >{out}.new; mv {out}.new {out}', "-N4", "-n4")
    until(out.exists)
    assert sorted(out.read_text().split()) == sorted(idle.nodes * 2)


def test_gpus_are_bound_by_slurm(idle: Lab) -> None:
    said = slurm(idle, "srun", "-N2", "-n2", "--gres=gpu:3", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert said.split() == ["0,1,2", "0,1,2"]
    refused = subprocess.run(["srun", "-N1", "--gres=gpu:9", "true"], env=idle.env(), capture_output=True, text=True)
    assert refused.returncode != 0


def test_a_node_is_a_host_of_its_own(idle: Lab) -> None:
    probe = (
        "touch /dev/shm/$SLURMD_NODENAME; ls -A /dev/shm; echo mtu$(cat /proc/net/dev | grep -c eth0); "
        "getent hosts node4; getent hosts no.such.name.example; cat /proc/1/comm"
    )
    said = slurm(idle, "srun", "-N1", "-w", "node2", "bash", "-c", probe).split("\n")
    address = next(node.address for node in idle.status().nodes if node.name == "node4")
    assert said[0] == "node2"
    assert said[1] == "mtu1"
    assert said[2].split() == [address, "node4"]
    assert said[3:] == ["bash"], "an unknown name must fail at once, and process 1 must be the node's own"


def test_an_ordinary_user_runs_jobs_from_the_machine(idle: Lab) -> None:
    assert slurm(idle, "srun", "-N2", "id", "-un", user="nobody").split() == ["nobody", "nobody"]
    assert slurm(idle, "salloc", "--quiet", "-N2", "srun", "id", "-un", user="nobody").split() == ["nobody", "nobody"]


def test_partitions(idle: Lab) -> None:
    said = slurm(idle, "sinfo", "--noheader", "--format=%P %a %l %p")
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines()}
    assert {name: row[0] for name, row in rows.items()} == {"gpu*": "up", "debug": "up", "short": "up", "off": "down"}
    assert rows["short"][1] == "10:00"


def test_debug_preempts_gpu_which_is_requeued(idle: Lab) -> None:
    job = submit(idle, "sleep 300", "-N4", "--exclusive")
    until(lambda: state(idle, job) == "RUNNING")
    other = submit(idle, "true", "-N4", "--exclusive", "--partition=debug")
    until(lambda: state(idle, other) == "COMPLETED")
    assert state(idle, job) == "PENDING"
    until(lambda: state(idle, job) == "RUNNING", 40)
    assert "Restarts=1" in slurm(idle, "scontrol", "show", "job", job)


def test_killed_node_dies_at_once_falls_silent_and_boots_again(idle: Lab, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    job = submit(idle, f'srun sh -c "while :; do date +%s.%N >{beat}.\\$(hostname); sleep 0.1; done"', "-N2", "-n2")
    until(lambda: Path(f"{beat}.node2").exists() and Path(f"{beat}.node1").exists())
    inside = idle.processes("node2")
    assert any("sleep 0.1" in line or "date" in line for _, line in inside)
    address = next(node.address for node in idle.status().nodes if node.name == "node2")
    assert reaches(address)

    began = time.monotonic()
    idle.kill("node2")
    assert time.monotonic() - began < 5
    assert idle.processes("node2") == []
    assert not any(Path(f"/proc/{pid}").exists() for pid, _ in inside)
    assert not reaches(address)
    last = Path(f"{beat}.node2").read_text()
    first = Path(f"{beat}.node1").read_text()
    until(lambda: Path(f"{beat}.node1").read_text() != first)
    assert Path(f"{beat}.node2").read_text() == last
    # As for any power cut, Slurm goes on for SlurmdTimeout as if nothing had happened.
    assert state(idle, job) == "RUNNING"
    with pytest.raises(LabError, match="node2 is off"):
        idle.cut("node2")

    idle.start("node2")
    assert reaches(address)
    with pytest.raises(UsageError, match="is running"):
        idle.start("node2")
    slurm(idle, "scancel", job)
    until(lambda: nodes_in(idle, "idle") == set(idle.nodes), 60)
    assert slurm(idle, "srun", "-w", "node2", "hostname") == "node2"


def test_cut_node_lives_on_in_silence_until_mended(idle: Lab, tmp_path: Path) -> None:
    address = next(node.address for node in idle.status().nodes if node.name == "node3")
    count = "i=0; while sleep 0.1; do i=\\$((i+1)); echo \\$i >/dev/shm/count; done"
    job = submit(idle, f'srun sh -c "{count}"', "-w", "node3")
    read = [*idle.enter("node3"), "cat", "/dev/shm/count"]

    def counted() -> str:
        return subprocess.run(read, capture_output=True, text=True).stdout

    until(counted)
    idle.cut("node3")
    assert not reaches(address)
    assert [node.name for node in idle.status().nodes if not node.cable] == ["node3"]
    before = counted()
    until(lambda: counted() not in ("", before))
    idle.mend("node3")
    until(lambda: reaches(address))
    assert state(idle, job) == "RUNNING"


def test_steps_survive_a_restart_of_slurmd_and_of_slurmctld(idle: Lab, tmp_path: Path) -> None:
    go, out = tmp_path / "go", tmp_path / "out"
    script = f'srun sh -c "until [ -e {go} ]; do sleep 0.1; done; hostname" >{out}.new; mv {out}.new {out}'
    job = submit(idle, script, "-w", "node1")
    until(lambda: any(line == "sleep 0.1" for _, line in idle.processes("node1")))
    before = {pid for pid, line in idle.processes("node1") if "stepd" in line}
    idle.restart_slurmd("node1")
    idle.restart_slurmctld()
    assert {pid for pid, line in idle.processes("node1") if "stepd" in line} == before
    assert state(idle, job) == "RUNNING"
    go.touch()
    until(out.exists)
    assert out.read_text() == "node1\n"
    until(lambda: state(idle, job) == "COMPLETED")
    until(lambda: idle.processes("node1") == [])


def test_slurmctld_stops_and_starts(idle: Lab) -> None:
    idle.stop_slurmctld()
    assert not idle.status().slurmctld
    assert {node.slurm for node in idle.status().nodes} == {""}
    assert profile_path(TESTA) is not None, "its nodes live: the lab is up, and its controller does not answer"
    idle.start_slurmctld()
    with pytest.raises(UsageError, match="slurmctld is running"):
        idle.start_slurmctld()
    until(lambda: nodes_in(idle, "idle") == set(idle.nodes))


def test_processes_shows_a_stray_daemon_and_no_zombie(idle: Lab) -> None:
    # The daemon's parent ends at once; 10 short-lived orphans must be reaped by the node's process 1.
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do (setsid true &); done; (setsid sleep 987 >/dev/null 2>&1 &)"
    slurm(idle, "srun", "-w", "node4", "sh", "-c", f"{script}; true", limit=90)
    strays = [pid for pid, line in idle.processes("node4") if line == "sleep 987"]
    assert len(strays) == 1
    said = subprocess.run([*idle.enter("node4"), "ps", "-eo", "stat="], capture_output=True, text=True)
    assert said.returncode == 0
    assert "Z" not in said.stdout
    os.kill(strays[0], signal.SIGKILL)
    until(lambda: idle.processes("node4") == [])


def test_two_labs_side_by_side_and_accounting(idle: Lab) -> None:
    with_accounts = Lab(TESTB)
    with_accounts.up(nodes=2, gpus=0, accounting=True)
    try:
        assert slurm(with_accounts, "sinfo", "--noheader", "--partition=gpu", "--format=%D %T") == "2 idle"
        assert slurm(idle, "sinfo", "--noheader", "--partition=gpu", "--format=%D %T") == "4 idle"
        mine, theirs = submit(idle, "exit 3"), submit(with_accounts, "exit 4")
        asked = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={theirs}", "--format=State,ExitCode")
        until(lambda: slurm(with_accounts, *asked) == "FAILED|4:0")
        until(lambda: state(idle, mine) == "FAILED")
        assert idle.status().network != with_accounts.status().network
        with pytest.raises(LabError, match="is up already"):
            Lab(TESTB).up()
        assert profile_path(TESTB) == with_accounts.profile != idle.profile
    finally:
        with_accounts.down()
    assert traces(TESTB) == NOTHING
    assert profile_path(TESTB) is None
    assert nodes_in(idle, "idle") == set(idle.nodes), "taking one lab down leaves the other alone"


def test_profile_path_tells_the_truth(idle: Lab) -> None:
    profile = profile_path(TESTA)
    assert profile is not None
    assert profile == idle.directory / "profile.toml"
    assert f'slurm_conf = "{idle.env()["SLURM_CONF"]}"' in profile.read_text()
    assert profile_path("nolab") is None
    assert profile_path("no/../lab") is None
    # What a machine finds after a reboot: the directory is there, the boot is another one.
    record = idle.directory / "lab.json"
    text = record.read_text()
    try:
        record.write_text(json.dumps({**json.loads(text), "boot": "another"}))
        assert profile_path(TESTA) is None
    finally:
        record.write_text(text)
    assert profile_path(TESTA) == profile


def test_profile_path_is_not_fooled_by_dead_daemons_or_a_crash_of_up() -> None:
    program = f"from gangrun.lab import Lab; Lab('{TESTC}').up(nodes=4, gpus=1, accounting=True)"
    for moment in ("lab.json", "run/mariadb.pid", "run/node1.pid"):
        building = subprocess.Popen([sys.executable, "-c", program])
        try:
            until(lambda moment=moment: (Lab(TESTC).directory / moment).exists())
            building.send_signal(signal.SIGSTOP)  # or it may come to its end before we have looked
            with pytest.raises(LabError, match="being built"):
                Lab(TESTC).down()
        finally:
            building.kill()
            building.wait()
        assert profile_path(TESTC) is None
        assert traces(TESTC) != NOTHING
        Lab(TESTC).down()
        assert traces(TESTC) == NOTHING


def test_up_replaces_a_lab_whose_daemons_all_died(tmp_path: Path) -> None:
    lab = Lab(TESTD)
    lab.up(nodes=1, gpus=0)
    try:
        lab.kill("node1")
        lab.stop_slurmctld()
        assert profile_path(TESTD) is None
        umask = os.umask(0o077)
        try:
            lab.up(nodes=2, gpus=0)
        finally:
            os.umask(umask)
        assert profile_path(TESTD) is not None
        assert slurm(lab, "srun", "-N2", "id", "-un", user="nobody").split() == ["nobody", "nobody"]
        assert set(slurm(lab, "srun", "-N2", "hostname").split()) == {"node1", "node2"}
    finally:
        lab.down()
    assert traces(TESTD) == NOTHING


def test_up_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "slurmctld"
    broken.write_text("#!/bin/sh\necho no such luck; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(LabError, match="slurmctld ended"):
        Lab(TESTE).up(nodes=2)
    assert traces(TESTE) == NOTHING


def test_down_refuses_a_directory_that_somebody_else_made() -> None:
    directory = Lab(TESTF).directory
    directory.mkdir()
    try:
        os.chown(directory, 65534, 65534)
        (directory / "profile.toml").write_text('scheduler = "slurm"\n')
        assert profile_path(TESTF) is None
        with pytest.raises(LabError, match="somebody else"):
            Lab(TESTF).up()
        assert (directory / "profile.toml").exists()
    finally:
        (directory / "profile.toml").unlink()
        directory.rmdir()


MAIN = "import sys; from gangrun.cli import main; sys.exit(main())"


def test_command_line(idle: Lab) -> None:
    def gangrun(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", MAIN, "lab", words[0], "--name", TESTA, *words[1:]]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60)

    status = json.loads(gangrun("status", "--json").stdout)
    assert [node["slurm"] for node in status["nodes"]] == ["idle"] * 4
    assert "node4" in gangrun("status").stdout
    line = gangrun("env").stdout
    assert (
        subprocess.run(["sh", "-c", f"{line}\nsinfo -h -o %D -p gpu"], capture_output=True, text=True).stdout == "4\n"
    )
    assert gangrun("exec", "node3", "--", "hostname").stdout == "node3\n"
    assert gangrun("exec", "node3", "--", "sh", "-c", "exit 7").returncode == 7
    assert gangrun("exec", "--", "sinfo", "-h", "-o", "%D", "-p", "gpu").stdout == "4\n"
    for verb in ("cut", "mend", "kill", "start"):
        assert gangrun(verb, "node4").returncode == 0
    assert gangrun("restart", "slurmd", "node1", "node4").returncode == 0
    assert gangrun("restart", "slurmctld").returncode == 0
    assert gangrun("stop", "slurmctld").returncode == 0
    assert gangrun("start", "slurmctld").returncode == 0
    wrong = gangrun("kill", "node9")
    assert wrong.returncode == 2
    assert "node1, node2, node3, node4" in wrong.stderr


def test_in_a_plain_chroot_it_says_what_is_missing(tmp_path: Path) -> None:
    """There every node would die at once, as it cannot keep its mounts to itself; bound on itself the root can."""
    name = f"c{os.getpid()}"
    make = """
        cd -- "$1"
        for entry in /*; do
          if [[ -L $entry ]]; then cp -P "$entry" .; elif [[ -d $entry ]]; then mkdir ".$entry"; fi
        done
        [[ $2 == plain ]] || { mount --bind . . && cd -- "$1"; }
        for entry in /*; do
          [[ -L $entry || ! -d $entry ]] || mount --rbind "$entry" ".$entry"
        done
        exec chroot . "${@:3}"
    """

    def inside(kind: str, *words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / kind).mkdir(exist_ok=True)
        argv = ["unshare", "--mount", "bash", "-euc", make, "-", tmp_path / kind, kind, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120)

    refused = inside("plain", PROGRAMS / "gangrun", "lab", "up", "--name", name)
    assert refused.returncode == 1
    assert "nodes need a root that is a mount point, and / is none here" in refused.stderr
    assert "mount --bind DIRECTORY DIRECTORY" in refused.stderr
    assert not Lab(name).directory.exists()
    lab = shlex.join([str(PROGRAMS / "gangrun"), "lab"])
    both = f"{lab} up --name {name} --nodes 1 --gpus 0; code=$?; {lab} down --name {name}; exit $code"
    bound = inside("bound", "bash", "-c", both)
    assert bound.returncode == 0, bound.stderr
