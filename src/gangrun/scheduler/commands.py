"""The one place that starts a program of Slurm, and the environment it starts in."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from gangrun.errors import ProgramMissing

_OF_SLURM = (
    "SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_",
    "SPRIO_", "SSTAT_", "PMI_", "PMI2_", "PMIX_",
)  # fmt: skip
_KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "GANGRUN_CLUSTER"})

# What Slurm and the task wrapper set inside a job under names that others use too. Outside a job they are the user's.
_OF_A_JOB = frozenset(
    {
        "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
        "ZE_AFFINITY_MASK", "OMP_NUM_THREADS", "RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR",
        "MASTER_PORT",
    }
)  # fmt: skip

# Slurm's commands answer in hundredths of a second, and give a controller up that is down after 9 to 10 s.
_PROMPT = 1.0

_ELSEWHERE = (
    "log in to a machine of the cluster, load its Slurm module, or choose `--cluster local`, which wins over all else "
    "(for a command without it `GANGRUN_CLUSTER=local`)"
)
_NO_CONFIGURATION = re.compile(r"Could not establish a configuration source|cannot stat file .*slurm\.conf")


def submitting_environment(env: Mapping[str, str], conf: str = "") -> dict[str, str]:
    """The environment for sbatch, which is also the new job's: without what a job around us left in it.

    An inherited SLURM_CPU_BIND pins ranks, an inherited SLURM_MEM_PER_NODE contradicts --mem-per-cpu, an inherited
    GANGRUN_RUN_DIR would make two runs write into one directory. SBATCH_* go too: what a job asks for stands in its
    spec. `conf` is the profile's slurm.conf, empty for the machine's own.
    """
    inside = "SLURM_JOB_ID" in env or "GANGRUN_RUN_DIR" in env
    clean = {
        name: value
        for name, value in env.items()
        if name in _KEPT or not (name.startswith((*_OF_SLURM, "GANGRUN_")) or (inside and name in _OF_A_JOB))
    }
    if conf:
        clean["SLURM_CONF"] = conf
    return clean


def reading_environment(env: Mapping[str, str], conf: str = "") -> dict[str, str]:
    """The environment for every other command: plain messages, times in UTC, nobody's SQUEUE_FORMAT."""
    return {**submitting_environment(env, conf), "LC_ALL": "C", "TZ": "UTC0"}


def silent(words: str) -> None:
    """Tells nobody: the `say` of a caller who does not listen."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one program said."""

    argv: tuple[str, ...]
    code: int | None
    """The exit code, negative for a signal, None where it was stopped because its time was over."""
    out: str
    err: str


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float,
    patience: Callable[[str], float | None] | None = None,
    doubt: Callable[[], None] | None = None,
) -> Answer:
    """Runs one program with nothing on its stdin and gives what it said; after `timeout` seconds it is killed.

    `patience` is called with each line of stderr as it comes and may return how many seconds the program has from
    then on; `doubt` is called once where the program has not ended within a second, and may raise. Raises
    ProgramMissing. On any way out, Ctrl-C included, the program and its children are gone.
    """
    try:
        program = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a site's wrapper script dies together with the sbatch that it runs
        )
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise ProgramMissing(
            f"{argv[0]} cannot be run on this machine", why=error.strerror or str(error), way_out=_ELSEWHERE
        ) from error
    with program:
        try:
            out, err, code = _listen(program, monotonic() + timeout, patience, doubt)
        finally:
            if program.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)
                program.wait()
    if code and _NO_CONFIGURATION.search(err):
        raise ProgramMissing(
            f"{argv[0]} is installed on this machine but finds no slurm.conf", why=err.strip(), way_out=_ELSEWHERE
        )
    return Answer(tuple(argv), code, out, err)


def _listen(
    program: subprocess.Popen[bytes],
    deadline: float,
    patience: Callable[[str], float | None] | None,
    doubt: Callable[[], None] | None,
) -> tuple[str, str, int | None]:
    """Reads both streams until they end or the deadline comes; stdout, stderr, exit code."""
    heard = {stream: bytearray() for stream in (program.stdout, program.stderr) if stream}
    told = 0
    doubtful = monotonic() + _PROMPT
    with selectors.DefaultSelector() as waiting:
        for stream in heard:
            waiting.register(stream, selectors.EVENT_READ)
        while waiting.get_map() and (left := deadline - monotonic()) > 0:
            if doubt and monotonic() >= doubtful:
                doubt()
                doubt = None
            for key, _ in waiting.select(min(left, _PROMPT) if doubt else left):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    waiting.unregister(key.fileobj)
                    continue
                buffer = next(buffer for stream, buffer in heard.items() if stream is key.fileobj)
                buffer += chunk
                whole = buffer.rfind(b"\n") + 1
                if patience and key.fileobj is program.stderr and whole > told:
                    for line in _text(buffer[told:whole]).splitlines():
                        left_now = patience(line)
                        deadline = deadline if left_now is None else monotonic() + left_now
                    told = whole
    with suppress(subprocess.TimeoutExpired):
        program.wait(max(deadline - monotonic(), 0.0))
    out, err = (_text(buffer) for buffer in heard.values())
    return out, err, program.poll()


def _text(heard: bytes | bytearray) -> str:
    return heard.decode("utf-8", "replace")
