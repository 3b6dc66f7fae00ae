"""Describes one node of a job, and tells the time in logs that stay quiet: what `debug = true` adds.

    python3 -IS trace.py [quiet=SECONDS]

Writes `attempts/NNN/nodes/NODE.txt` in the run directory: machine, limits, GPUs and how they are connected, and the
environment. Of variables that are not known to be harmless only the names are written. On the first node it then looks
at the replicas' logs, and adds a line with the time to one in which nothing has come for `quiet` seconds.

Never ends with an error, as nothing that it meets is a reason to end a job.
"""

import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Tuple

QUIET = 600.0
"""Seconds without a line after which a log gets one."""
_COMMANDS = (
    ("nvidia-smi", "-L"),
    ("nvidia-smi", "--query-gpu=driver_version,vbios_version,ecc.errors.uncorrected.volatile.total", "--format=csv"),
    ("nvidia-smi", "topo", "-m"),
    ("ibv_devinfo", "-l"),
    ("python3", "--version"),
)
_HARMLESS = re.compile(
    r"(?:CUDA|NCCL|NVIDIA|ROCR|HIP|ZE|GPU|SLURM|OMP|MKL|KMP|OPENBLAS|NUMEXPR|TORCH|PYTORCH|PYTHON|GANGRUN|FI|UCX|OMPI|PMI"
    r"|PMIX|MASTER|XLA|TF|JAX|HF_HOME|HF_HUB_OFFLINE|TRANSFORMERS|TRITON|WANDB_MODE|WANDB_PROJECT|WANDB_RUN_GROUP)_?.*"
    r"|PATH|LD_LIBRARY_PATH|LD_PRELOAD|VIRTUAL_ENV|CONDA_PREFIX|CONDA_DEFAULT_ENV|LOADEDMODULES|HOME|USER|SHELL|LANG"
    r"|LC_.*|TMPDIR|HOSTNAME|PWD|RANK|LOCAL_RANK|WORLD_SIZE|NODE_RANK"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|PRIVATE|JWT|(?:^|_)KEY", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


def environment(given: Mapping[str, str]) -> Iterator[str]:
    """A line for each variable: with its value where its name is known to be harmless, else its name alone."""
    for name in sorted(given):
        if name == "CUDA_VISIBLE_DEVICES":
            continue  # this program's own; every rank says its own
        if _HARMLESS.fullmatch(name) and not _SECRET.search(name):
            yield f"{name}={_IN_ADDRESS.sub('…@', given[name])!r}"
        else:
            yield f"{name} (not shown)"


def machine() -> Iterator[str]:
    """The node itself."""
    yield f"host     {platform.node()}"
    yield f"kernel   {platform.system()} {platform.release()} {platform.machine()}"
    yield f"cpus     {os.cpu_count()}, of which this job may use {len(os.sched_getaffinity(0))}"
    for line in read("/proc/meminfo").splitlines()[:1]:
        yield f"memory   {line.partition(':')[2].strip()}"
    for name in ("NOFILE", "MEMLOCK", "STACK", "NPROC", "CORE"):
        limits = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        soft, hard = ("unlimited" if each == resource.RLIM_INFINITY else str(each) for each in limits)
        yield f"ulimit   {name.lower()} {soft} of {hard}"


def said(argv: List[str]) -> Iterator[str]:
    """A command and what it printed; nothing where it is not installed."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
        )
    except FileNotFoundError:
        return
    except (OSError, subprocess.TimeoutExpired) as error:
        yield from ("", f"$ {' '.join(argv)}", str(error))
        return
    yield from ("", f"$ {' '.join(argv)}", done.stdout.decode(errors="replace").rstrip())


def read(path: str) -> str:
    """A file, or nothing."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def describe(file: Path) -> None:
    """Writes everything down, by rename."""
    lines = [*machine(), *(line for argv in _COMMANDS for line in said(list(argv))), "", *environment(os.environ)]
    new = file.with_suffix(".new")
    new.parent.mkdir(parents=True, exist_ok=True)
    new.write_text("\n".join(lines) + "\n", errors="surrogateescape")
    new.replace(file)


def stamp(logs: Path, quiet: float, now: float, told: Dict[str, Tuple[int, float]]) -> None:
    """Tells the time in every log of a replica that has been quiet for so long, and again after as long a time.

    `told` holds the size of each log after the last such line and since when it has been quiet, from call to call.
    """
    for log in logs.glob("*.log"):
        if log.name.startswith("_") or log.name.endswith(".step.log"):
            continue
        found = log.stat()
        if now - found.st_mtime >= quiet:
            size, since = told.get(log.name, (-1, 0.0))
            since = since if size == found.st_size else found.st_mtime
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
            with log.open("a") as file:
                file.write(f"gangrun: it is {at}, nothing for {(now - since) / 60:.0f} min\n")
            told[log.name] = log.stat().st_size, since


def main(argv: List[str]) -> None:
    """Until it is ended."""
    quiet = float(dict(word.split("=", 1) for word in argv).get("quiet", QUIET))
    node = int(os.environ["GANGRUN_NODE_RANK"])
    attempt = Path(os.environ["GANGRUN_RUN_DIR"], "attempts", os.environ["GANGRUN_ATTEMPT"])
    try:
        describe(attempt / "nodes" / f"{node}.txt")
    except OSError as error:
        sys.stderr.write(f"this node is not described: {error}\n")
    told: Dict[str, Tuple[int, float]] = {}
    while node == 0:
        time.sleep(min(quiet / 10, 30))
        try:
            stamp(attempt / "logs", quiet, time.time(), told)
        except OSError as error:  # a full disk, or a log that has just gone
            sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
