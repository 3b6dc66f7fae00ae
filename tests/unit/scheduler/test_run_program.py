from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_slurm import Hanging, Installed, Unconfigured

from gangrun.errors import ProgramMissing
from gangrun.scheduler.commands import reading_environment, run, submitting_environment

ENV = dict(os.environ)


def test_both_streams_and_the_code() -> None:
    answer = run(["bash", "-c", "echo out; echo err >&2; exit 5"], env=ENV, timeout=10)
    assert (answer.out, answer.err, answer.code) == ("out\n", "err\n", 5)


def test_much_on_both_streams_at_once_and_no_utf8() -> None:
    script = "head -c 300000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero | tr '\\0' '\\377' >&2"
    answer = run(["bash", "-c", script], env=ENV, timeout=30)
    assert (len(answer.out), len(answer.err)) == (300000, 300000)


def test_stdin_is_empty() -> None:
    assert run(["cat"], env=ENV, timeout=10).code == 0


def test_a_signal_is_a_negative_code() -> None:
    assert run(["bash", "-c", "kill -9 $$"], env=ENV, timeout=10).code == -9


def test_a_hanging_program_is_stopped_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    script = f"sleep 77 & echo $! >{tmp_path}/child; echo half; wait"
    answer = run(["bash", "-c", script], env=ENV, timeout=0.5)
    assert (answer.code, answer.out) == (None, "half\n")
    assert time.monotonic() - began < 5
    assert gone(int((tmp_path / "child").read_text()))


def test_a_child_that_holds_the_streams_open_hides_no_exit_code() -> None:
    answer = run(["bash", "-c", "sleep 77 & exit 3"], env=ENV, timeout=0.5)
    assert answer.code == 3


@pytest.mark.slow
def test_a_line_on_stderr_may_give_more_time() -> None:
    script = "echo wait >&2; sleep 1; echo done"
    assert run(["bash", "-c", script], env=ENV, timeout=0.4).code is None
    heard: list[str] = []

    def patience(line: str) -> float:
        heard.append(line)
        return 10.0

    answer = run(["bash", "-c", script], env=ENV, timeout=0.4, patience=patience)
    assert (answer.code, answer.out, heard) == (0, "done\n", ["wait"])


def test_a_missing_program_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProgramMissing, match="squeue cannot be run on this machine") as caught:
        run(["squeue"], env={"PATH": str(tmp_path)}, timeout=5)
    assert "`--cluster local`, which wins over all else" in caught.value.way_out
    assert "GANGRUN_CLUSTER=local" in caught.value.way_out


def test_a_machine_outside_the_cluster_is_said(fake_slurm: Callable[..., Installed]) -> None:
    fake_slurm(Unconfigured)
    with pytest.raises(ProgramMissing, match=r"finds no slurm\.conf"):
        run(["squeue"], env=os.environ, timeout=10)


@pytest.mark.slow
def test_a_fork_in_the_program_does_not_outlive_it(fake_slurm: Callable[..., Installed]) -> None:
    fake_slurm(Hanging)
    began = time.monotonic()
    assert run(["squeue"], env=os.environ, timeout=1).code is None
    assert time.monotonic() - began < 5


def gone(pid: int) -> bool:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


INHERITED = {
    "SLURM_JOB_ID": "7", "SLURM_CPU_BIND": "x", "SLURM_MEM_PER_NODE": "1", "SBATCH_ACCOUNT": "a", "SRUN_DEBUG": "3",
    "PMIX_RANK": "0", "PMI_FD": "4", "PMI2_X": "1", "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "x",
    "SLURM_TIME_FORMAT": "%s",
    "SINFO_FORMAT": "x", "SALLOC_X": "y", "SCANCEL_VERBOSE": "1", "GANGRUN_RUN_DIR": "/r", "GANGRUN_ATTEMPT": "001",
    "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "3", "RANK": "1", "MASTER_PORT": "1",
}  # fmt: skip
KEPT = {
    "SLURM_CONF": "/c", "SLURM_CLUSTERS": "west", "GANGRUN_CLUSTER": "west", "HOME": "/h", "SLURMX": "1",
    "MY_SLURM_THING": "1", "WANDB_MODE": "offline",
}  # fmt: skip


def test_what_a_job_around_us_left_is_dropped() -> None:
    assert submitting_environment(INHERITED | KEPT) == KEPT
    assert submitting_environment(INHERITED | KEPT, "/mine/slurm.conf") == KEPT | {"SLURM_CONF": "/mine/slurm.conf"}


def test_outside_a_job_a_users_own_names_stay() -> None:
    own = {"CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "8", "RANK": "0", "PATH": "/bin"}
    assert submitting_environment(own) == own


def test_reading_commands_speak_plainly_and_in_utc() -> None:
    env = reading_environment(INHERITED | KEPT | {"TZ": "America/New_York", "LC_ALL": "de_DE.UTF-8"})
    assert env == KEPT | {"TZ": "UTC0", "LC_ALL": "C"}
