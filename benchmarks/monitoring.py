"""What watching a job costs, and how long its report takes. Prints the rows of docs/benchmarks.md, "Monitoring".

    python benchmarks/monitoring.py report sidecar    without a Slurm; `sidecar` takes two minutes
    python benchmarks/monitoring.py delay             on a lab, as root

`report`: a day of 32 nodes with 8 GPUs and 8 replicas each, a sample every 15 s, written line by line by the monitor's
own `Writer`, in numbers that repeat as little as real ones. Processor time is given beside the wall clock, as machines
are shared. `sidecar`: the real program at its usual pace, beside what nvidia-smi there is, else beside one that prints
8 rows and sleeps; its children's time counts separately. `delay`: jobs that print the time, with a monitor and without
in turn.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gangrun.node import monitor
from gangrun.record import events
from gangrun.record.rundir import RunDir
from gangrun.record.store import Store

NODES, GPUS, HOURS, EVERY = 32, 8, 24, 15
BEGIN = 1_795_200_000.0
STAND_IN = """#!/bin/bash
# As nvidia-smi --query-gpu=… --format=csv,nounits -l SECONDS on a node with 8 GPUs.
echo "index, uuid, name, memory.total [MiB], utilization.gpu [%], utilization.memory [%], memory.used [MiB], \\
temperature.gpu, power.draw [W]"
while :; do
  for gpu in {0..7}; do echo "$gpu, GPU-6f00000$gpu, NVIDIA H100 80GB HBM3, 81559, 97, 41, 60211, 64, 655.20"; done
  sleep "${@: -1}"
done
"""


def day(path: Path, node: int) -> None:
    """A node's file."""
    dice = random.Random(node)
    names = [f"trainer.{node * GPUS + index}" for index in range(GPUS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = monitor.Writer(str(path))
    writer.write(v=1, t=BEGIN, host=f"node{node}", every=float(EVERY), gpus=GPUS, cpus=112, mem=512_000, asked=True)
    devices = [[str(gpu), f"GPU-{node:08x}-{gpu:04}-0000-0000-000000000000", "H100", 81559] for gpu in range(GPUS)]
    writer.write(t=BEGIN, devices=devices)
    writer.write(t=BEGIN, given={name: [str(gpu)] for gpu, name in enumerate(names)})
    for sample in range(1, HOURS * 3600 // EVERY + 1):
        use = {
            name: [round(dice.uniform(0, 12), 2), dice.randrange(3000, 80000), round(dice.uniform(0, 300), 1), 0.1]
            for name in names
        }
        rows = [
            [dice.randrange(101), dice.randrange(80), dice.randrange(40_000, 80_000), dice.randrange(40, 80),
             round(dice.uniform(80, 700), 1)]
            for _ in range(GPUS)
        ]  # fmt: skip
        job = [round(dice.uniform(2, 90), 2), dice.randrange(30_000, 60_000)]
        writer.write(t=BEGIN + sample * EVERY, job=job, r=use, g=rows)


def large_run(folder: Path) -> RunDir:
    """A run that ended after a day."""
    (folder / "clusters").mkdir()
    store = Store(folder / "outputs")
    created = events.Created(gangrun="0", cluster="local")
    run = store.create("exp", "step_0", spec="", script=lambda _: "", project=folder, created=created)
    hosts = " ".join(f"node{node}" for node in range(NODES))
    attempt = run.attempt(1)
    attempt.status.mkdir(parents=True)
    attempt.run_start.write_text(f"{BEGIN}\n7\n{hosts}\n\n")
    for replica in range(NODES * GPUS):
        attempt.lives(f"trainer.{replica}").write_text(f"{BEGIN} start\n{BEGIN + 60} ready\n{BEGIN + 86400} exit 0\n")
    for node in range(NODES):
        day(attempt.path / "usage" / f"{node}.jsonl", node)
    run.append(events.Submitting.here(1, run.run_id))
    run.append(events.Submitted("local-1-1", "local"))
    run.append(events.Observed("local-1-1", "COMPLETED", exit_code=0, started=BEGIN, ended=BEGIN + 86400))
    return run


def report() -> Iterator[tuple[str, str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="gangrun-bench-"))
    try:
        run = large_run(folder)
        sizes = [path.stat().st_size for path in run.attempt(1).usage().values()]
        yield "monitoring of 8 GPUs × 24 h on a node", f"{max(sizes) / 1e6:.1f} MB", "≤ 20 MB"
        took = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            subprocess.run(["gangrun", "report"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            took.append((time.perf_counter() - began, spent))
        wall, spent = (statistics.median(each) for each in zip(*took, strict=True))
        what = f"{wall:.1f} s, {spent:.1f} s of a processor, a page of {run.report.stat().st_size / 1e3:.0f} kB"
        yield f"`report` of a day of {NODES} nodes with {GPUS} GPUs", what, "≤ 10 s"
    finally:
        shutil.rmtree(folder)


def sidecar(seconds: float = 120) -> Iterator[tuple[str, str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="gangrun-bench-"))
    real = shutil.which("nvidia-smi")
    if not real:
        stand_in = folder / "nvidia-smi"
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "GANGRUN_RUN_DIR": str(folder),
        "GANGRUN_ATTEMPT": "001",
        "GANGRUN_RUN_NAME": "bench",
        "GANGRUN_JOB": "1",
        "GANGRUN_NODE_RANK": "0",
        "GANGRUN_REPLICA": "_monitor.0",
    }
    mine = {**env, "GANGRUN_TASK": "bench/1/001/main.0/0/"}
    watched = [subprocess.Popen(["sleep", "1000"], env=mine) for _ in range(16)]
    words = ["python3", "-IS", str(Path(monitor.__file__)), f"every={EVERY}", "gpus=8", "cpus=8"]
    program = subprocess.Popen(words, env=env)
    try:
        time.sleep(seconds)
        fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        own = (int(fields[11]) + int(fields[12])) / ticks
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{program.pid}/status").read_text().splitlines() if ":" in line
        )
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        theirs = 0.0
        for child in children:
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            theirs += sum(map(int, fields[11:15])) / ticks
    finally:
        for process in (program, *watched):
            process.terminate()
            process.wait()
    processes = sum(folder.name.isdigit() for folder in Path("/proc").iterdir())
    beside = "nvidia-smi" if real else "the stand-in for nvidia-smi"
    yield (
        f"the monitor of a node over {seconds:.0f} s, among {processes} processes",
        f"{100 * own / seconds:.2f} % of a CPU, {beside} {100 * theirs / seconds:.2f} %",
        "≤ 1 %",
    )
    yield "its memory at most", f"{int(status['VmHWM'].split()[0]) / 1024:.1f} MB", "≤ 30 MB"
    shutil.rmtree(folder)


def delay(pairs: int = 8) -> Iterator[tuple[str, str, str]]:
    """From the script's `run.start` to the program's first line, and from its last to the script's `run.exit`."""
    from run import folder, lab

    with folder() as here, lab(here) as env:
        line = "date +%s.%N; sleep 2; date +%s.%N"
        text = f'command = ["bash", "-c", "{line}"]\nlauncher = "srun"\n[allocation]\nnodes = 2\ncpus = 2\nmem = "1G"\n'
        (here / "watched.toml").write_text(text)
        (here / "bare.toml").write_text("monitor = false\n" + text)
        starts: dict[str, list[float]] = {"watched": [], "bare": []}
        ends: dict[str, list[float]] = {"watched": [], "bare": []}
        for name in ["watched", "bare"] * (pairs + 1):
            subprocess.run(
                ["gangrun", "submit", "--wait", "--json", f"{name}.toml"],
                cwd=here, env=env, check=True, capture_output=True,
            )  # fmt: skip
            run = RunDir(max((here / "outputs").glob(f"*/{name}/*_*")))
            attempt = run.attempt(1)
            printed = sorted(map(float, attempt.log("main.0").read_text().split()))
            starts[name].append(printed[0] - attempt.run_start.stat().st_mtime)
            ends[name].append(attempt.run_exit.stat().st_mtime - printed[-1])
    for what, found in (("start", starts), ("end", ends)):
        with_it, without = (statistics.median(found[name][1:]) for name in ("watched", "bare"))
        aim = "none that shows" if what == "start" else "≤ 1 s"
        told = f"{1000 * with_it:.0f} ms, without a monitor {1000 * without:.0f} ms"
        yield f"delay of a job's {what}, 2 nodes, median of {pairs}", told, aim


BENCHMARKS = {"report": report, "sidecar": sidecar, "delay": delay}


def main() -> int:
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    rows = [row for name in names for row in BENCHMARKS[name]()]
    print("| what | measured | aim |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
