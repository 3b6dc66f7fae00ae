"""The scheduler against a real Slurm, which forgets ended jobs after 5 s so that accounting has to know them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer

import pytest

from gangrun.errors import Rejected, Unreachable
from gangrun.lab import Lab, packages
from gangrun.scheduler import discover, reasons, scontrol, squeue
from gangrun.scheduler.model import Status, Submission
from gangrun.scheduler.rows import pick
from gangrun.scheduler.slurm import Slurm

pytestmark = pytest.mark.slurm

REMEMBERED = 5


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    if absent := packages.missing(accounting=True):
        pytest.skip(f"packages are absent: {' '.join(absent)}")
    lab = Lab(f"sched{os.getpid()}")
    try:
        lab.up(nodes=2, gpus=2, accounting=True, min_job_age=REMEMBERED)
        yield lab
    finally:
        lab.down()


@pytest.fixture
def slurm(lab: Lab) -> Slurm:
    return Slurm(str(lab.slurm_conf))


@pytest.fixture
def submission(tmp_path: Path) -> Callable[..., Submission]:
    """Makes a script under a name of its own."""

    def make(text: str, *flags: str) -> Submission:
        name = f"{tmp_path.name}_{time.time_ns()}"[-64:]
        script = tmp_path / f"{name}.sh"
        header = f"#SBATCH --job-name={name}\n#SBATCH --output={tmp_path}/out.log\n#SBATCH --mem=100"
        script.write_text(f"#!/bin/bash\n{header}\ncd {tmp_path}\n{text}\n")
        return Submission(name, script, flags)

    return make


def until(condition: Callable[[], object], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)


def statuses(slurm: Slurm, job: str) -> list[Status]:
    """What was said of the job until its end."""
    seen: list[Status] = []

    def ended() -> bool:
        seen.extend(slurm.status([job]).values())
        return bool(seen) and seen[-1].final

    until(ended, 60)
    return seen


def last(slurm: Slurm, job: str) -> Status:
    """The job's status after its end."""
    return statuses(slurm, job)[-1]


def test_a_life_and_its_exact_exit_code(slurm: Slurm, submission: Callable[..., Submission]) -> None:
    sent = submission("sleep 1; exit 143", "--time=5", "--nodes=2")
    began = time.time()
    job = slurm.submit(sent)
    seen = statuses(slurm, job)
    words = list(dict.fromkeys(status.state for status in seen))
    assert words[0] in {"PENDING", "RUNNING"}
    assert words[-2:] == ["RUNNING", "FAILED"] or "COMPLETING" in words
    end = seen[-1]
    assert (end.state, end.exit_code, end.reason, end.name) == ("FAILED", 143, "NonZeroExitCode", sent.name)
    assert (end.nodes, end.time_limit, end.restarts) == ("node[1-2]", 300, 0)
    assert began - 1 <= (end.submitted or 0) <= (end.started or 0) < (end.ended or 0) <= time.time()
    assert slurm.find([sent.name, "nobody"]) == {sent.name: end}


def test_what_the_controller_forgot_accounting_knows(slurm: Slurm, submission: Callable[..., Submission]) -> None:
    good, bad = submission("true"), submission("exit 7")
    jobs = {sent: slurm.submit(sent) for sent in (good, bad)}
    for job in jobs.values():
        last(slurm, job)
    until(lambda: not pick(squeue.rows(slurm.read(squeue.by_job([*jobs.values(), "999998"]))), list(jobs.values())))
    found = slurm.status(list(jobs.values()))
    assert [(found[job].state, found[job].exit_code) for job in jobs.values()] == [("COMPLETED", 0), ("FAILED", None)]
    named = slurm.find([good.name, bad.name])
    assert {name: status.job for name, status in named.items()} == {sent.name: job for sent, job in jobs.items()}


def test_cancel_lets_the_job_say_goodbye(slurm: Slurm, submission: Callable[..., Submission], tmp_path: Path) -> None:
    running = slurm.submit(submission("trap 'touch goodbye; exit 0' TERM; touch up; sleep 60 & wait"))
    waiting = slurm.submit(submission("true", "--hold"))
    until((tmp_path / "up").exists)
    slurm.cancel([running, waiting, "999998"])
    assert last(slurm, running).state == "CANCELLED"
    assert (tmp_path / "goodbye").exists()
    end = last(slurm, waiting)
    assert (end.state, end.started, end.exit_code) == ("CANCELLED", None, None)
    slurm.cancel([running])


@pytest.mark.parametrize(
    ("flag", "words", "why"),
    [
        ("--partition=nope", "Invalid partition name specified", "there is no such partition"),
        ("--gres=gpu:99", "Requested node configuration is not available", "too few nodes"),
        ("--nope", "unrecognized option '--nope'", "does not know --nope"),
        ("--time=soon", "Invalid --time specification", "the value of --time"),
    ],
)
def test_a_refusal(slurm: Slurm, submission: Callable[..., Submission], flag: str, words: str, why: str) -> None:
    with pytest.raises(Rejected, match=words) as caught:
        slurm.submit(submission("true", flag))
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--partition=off",), "PartitionDown"),
        (("--partition=short", "--time=60"), "PartitionTimeLimit"),
        (("--hold",), "JobHeldUser"),
        (("--begin=now+1hour",), "BeginTime"),
    ],
)
def test_why_it_waits(slurm: Slurm, submission: Callable[..., Submission], flags: tuple[str, ...], reason: str) -> None:
    job = slurm.submit(submission("true", *flags))
    until(lambda: slurm.status([job])[job].reason == reason)
    assert reasons.pending(reason).words != reason
    slurm.cancel([job])


def test_an_array(slurm: Slurm, submission: Callable[..., Submission]) -> None:
    job = slurm.submit(submission('exit "$SLURM_ARRAY_TASK_ID"', "--array=0-2"))
    until(lambda: slurm.status([job])[job].final)
    found = slurm.status([job, f"{job}_0", f"{job}_2"])
    assert [(found[key].state, found[key].exit_code) for key in (f"{job}_0", f"{job}_2")] == [
        ("COMPLETED", 0),
        ("FAILED", 2),
    ]
    assert found[job].state == "FAILED"


def test_a_second_life_is_counted(slurm: Slurm, submission: Callable[..., Submission], tmp_path: Path) -> None:
    job = slurm.submit(submission('touch up; [ -n "$SLURM_RESTART_COUNT" ] || sleep 60', "--requeue"))
    until((tmp_path / "up").exists)
    slurm.read(["scontrol", "requeue", job])
    until(lambda: slurm.status([job])[job].restarts == 1)
    assert not slurm.status([job])[job].final
    slurm.cancel([job])


def test_a_job_inherits_nothing_of_the_job_that_submits_it(
    slurm: Slurm, submission: Callable[..., Submission], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SLURM_JOB_ID": "1",
        "SLURM_MEM_PER_NODE": "1",
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
        "SBATCH_PARTITION": "off",
        "GANGRUN_RUN_DIR": "/elsewhere",
        "MINE": "kept",
    }.items():
        monkeypatch.setenv(name, value)
    job = slurm.submit(submission("env >env.tmp; mv env.tmp env"))
    end = last(slurm, job)
    assert (end.state, end.partition) == ("COMPLETED", "gpu")
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert env["SLURM_JOB_ID"] == job
    assert env["SLURM_MEM_PER_NODE"] == "100"
    assert env["MINE"] == "kept"
    assert not {"SLURM_CPU_BIND", "SBATCH_PARTITION", "GANGRUN_RUN_DIR"} & env.keys()


def test_a_controller_that_is_away_and_comes_back(lab: Lab, submission: Callable[..., Submission]) -> None:
    conf = str(lab.slurm_conf)
    said: list[str] = []
    sent = submission("true")
    lab.stop_slurmctld()
    back = Timer(4, lab.start_slurmctld)
    try:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="was not queued within 1 s"):
            Slurm(conf, patience=1).submit(sent)
        assert time.monotonic() - began < 5, "no command may wait its 10 s for a controller that is known to be down"
        back.start()
        job = Slurm(conf, patience=60, say=said.append).submit(sent)
    finally:
        if back.is_alive() or back.finished.is_set():
            back.join()
        else:
            lab.start_slurmctld()
    assert any("controller does not answer" in words for words in said)
    slurm = Slurm(conf)
    assert jobs_named(slurm, sent.name) == [job]
    assert last(slurm, job).state == "COMPLETED"


def test_reading_while_the_controller_is_away(lab: Lab) -> None:
    lab.stop_slurmctld()
    try:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="Unable to contact slurm controller"):
            Slurm(str(lab.slurm_conf)).status(["1"])
        with pytest.raises(Unreachable, match="Unable to contact slurm controller"):
            Slurm(str(lab.slurm_conf)).cancel(["1"])
        assert time.monotonic() - began < 8, "each would wait 10 s by itself"
    finally:
        lab.start_slurmctld()


def test_a_job_that_a_stuck_controller_took_in_is_not_sent_twice(
    lab: Lab, slurm: Slurm, submission: Callable[..., Submission]
) -> None:
    sent = submission("true")
    slurm.submit(submission("true"))  # the controller has just answered, so no ping stands before the next sbatch
    pid = int(Path(scontrol.config(slurm.read(scontrol.CONFIG))["SlurmctldPidFile"]).read_text())
    said: list[str] = []
    stuck = Slurm(str(lab.slurm_conf), patience=60, timeout=2, settle=5, say=said.append)
    stuck.status(["1"])
    os.kill(pid, signal.SIGSTOP)
    go_on = Timer(5, os.kill, (pid, signal.SIGCONT))
    go_on.start()
    try:
        job = stuck.submit(sent)
    finally:
        go_on.join()
    assert any("looking whether" in words for words in said), "sbatch was to be stopped before the answer"
    assert jobs_named(slurm, sent.name) == [job]


def jobs_named(slurm: Slurm, name: str) -> list[str]:
    rows = squeue.rows(slurm.read(squeue.by_name([name], os.getuid())))
    return [row.status.job for row in rows if row.status.name == name]


def test_what_the_cluster_says_of_itself(lab: Lab, slurm: Slurm) -> None:
    facts = discover.collect(slurm)
    assert (facts.name, facts.accounting, facts.remembered) == (f"gangrun_{lab.name}", True, REMEMBERED)
    assert discover.cluster_name(slurm) == facts.name
    gpu = next(partition for partition in facts.partitions if partition.default)
    assert sum(nodes.count for nodes in gpu.nodes) == 2
    assert {(nodes.gpus[0].type, nodes.gpus[0].count) for nodes in gpu.nodes} == {("h100", 2)}
    assert {partition.name: partition.up for partition in facts.partitions}["off"] is False
