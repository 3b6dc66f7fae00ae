"""Prints the table of docs/benchmarks.md: each figure beside a bare baseline that was measured in the same minute.

    make bench                     all of them
    python benchmarks/run.py ls    one of them

Machines differ and are noisy, so what counts is the last column. Every figure is the median of several runs, gangrun
and baseline in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
LAB = "bench"


@dataclass(frozen=True)
class Row:
    what: str
    gangrun: str
    baseline: str
    ratio: str
    aim: str


def timed(argv: list[str], cwd: Path, env: dict[str, str] | None = None) -> float:
    began = time.perf_counter()
    subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL, env=env)
    return time.perf_counter() - began


def medians(first: Callable[[], float], second: Callable[[], float], runs: int) -> tuple[float, float]:
    """Both in turn, so that a slow moment of the machine meets both; the first pair only warms up."""
    pairs = [(first(), second()) for _ in range(runs + 1)][1:]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="gangrun-bench-"))
    (path / "clusters").mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def lab(project: Path) -> Iterator[dict[str, str]]:
    """A lab with its profile in the project; gives the environment in which plain sbatch reaches it."""
    from gangrun.lab.state import profile_path

    subprocess.run(["gangrun", "lab", "up", "--name", LAB, "--nodes", "4", "--gpus", "8"], check=True)
    try:
        profile = profile_path(LAB)
        assert profile is not None
        shutil.copy(profile, project / "clusters" / f"{LAB}.toml")
        yield {**os.environ, "SLURM_CONF": str(profile.parent / "slurm.conf"), "GANGRUN_CLUSTER": LAB}
    finally:
        subprocess.run(["gangrun", "lab", "down", "--name", LAB], check=True)


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def start() -> Iterator[Row]:
    with folder() as here:
        ours, bare = medians(
            lambda: timed(["gangrun", "--help"], here), lambda: timed([sys.executable, "-c", "pass"], here), 15
        )
    yield Row("`gangrun --help` against `python -c pass`", ms(ours), ms(bare), f"{ours / bare:.1f} ×", "≤ 6 ×")


def ls() -> Iterator[Row]:
    """Ten thousand ended runs, with empty logs and then with 1 MB (sparse) for every replica."""
    from gangrun.record import events
    from gangrun.record.store import Store

    with folder() as here:
        store = Store(here / "outputs")
        for number in range(10_000):
            run = store.create(
                f"{number % 10:03}_exp",
                f"{number // 10 % 20:03}_step_0",
                spec="",
                script=lambda _: "",
                project=here,
                created=events.Created(gangrun="0", cluster="local"),
            )
            run.append(events.Submitting.here(1, run.run_id))
            run.append(events.Submitted(str(number + 1), "local"))
            run.append(events.Observed(str(number + 1), "COMPLETED", exit_code=0, started=1.0, ended=2.0))
            run.attempt(1).logs.mkdir(parents=True)
        command = ["gangrun", "ls", "--json"]
        bare = [sys.executable, "-c", "pass"]
        empty, baseline = medians(lambda: timed(command, here), lambda: timed(bare, here), 5)
        table, _ = medians(lambda: timed(["gangrun", "ls"], here), lambda: timed(bare, here), 5)
        for run in store.runs():
            with run.attempt(1).log("main.0").open("wb") as log:
                log.truncate(1 << 20)
        full, _ = medians(lambda: timed(command, here), lambda: timed(bare, here), 5)
    yield Row("`ls --json`, 10,000 runs", ms(empty), ms(baseline), f"{empty / baseline:.0f} ×", "≤ 500 ms")
    yield Row("`ls`, the newest 30 of 10,000", ms(table), ms(baseline), f"{table / baseline:.0f} ×", "≤ 500 ms")
    yield Row("`ls --json`, the same with 1 MB of log each", ms(full), ms(empty), f"{full / empty:.2f} ×", "1 ×")


SPREAD = """
command = ["python", "train.py", "--replica", "{index}", "--peers", "{main.host}"]
replicas = 1024
gpus = 1
ports = ["peer"]
[allocation]
nodes = 128
gpus = 8
cpus = 112
time = "1:00:00"
"""


def plan() -> Iterator[Row]:
    with folder() as here:
        (here / "wide.toml").write_text(SPREAD)
        bare = [sys.executable, "-c", "import pydantic, jinja2"]
        total, baseline = medians(
            lambda: sum(
                timed(["gangrun", verb, "--cluster", "slurm", "wide.toml"], here) for verb in ("plan", "script")
            ),
            lambda: timed(bare, here),
            5,
        )
    what = "`plan` and `script`, 128 nodes × 8 replicas, against importing pydantic and jinja2"
    yield Row(what, ms(total), ms(baseline), f"{total / baseline:.1f} ×", "≤ 1 s")


def submit() -> Iterator[Row]:
    """Each round in a lab of its own: a controller that remembers thousands of jobs takes longer for each."""
    names = [f"{number:03}_step_0.toml" for number in range(200)]
    ratios, ours, bares = [], [], []
    for _ in range(5):
        with folder() as here, lab(here) as env:
            for name in names:
                (here / name).write_text('command = ["true"]\n[allocation.sbatch]\nhold = true\n')
            ours.append(timed(["gangrun", "submit", *names], here, env))
            scripts = sorted((here / "outputs").glob("*/*/*_*/script.sh"))
            loop = 'for script; do sbatch --parsable "$script"; done'
            bares.append(timed(["bash", "-c", loop, "bash", *map(str, scripts)], here, env))
            ratios.append(ours[-1] / bares[-1])
            print(f"round: {ours[-1]:.2f} s against {bares[-1]:.2f} s, {ratios[-1]:.2f} ×", file=sys.stderr)
    what = "200 files in one `submit`, against a loop of `sbatch` on the same scripts"
    took, bare = statistics.median(ours), statistics.median(bares)
    yield Row(what, f"{took:.2f} s", f"{bare:.2f} s", f"{statistics.median(ratios):.2f} ×", "≤ 1.3 ×")


HAND = """#!/usr/bin/env bash
#SBATCH --nodes=1 --ntasks-per-node=1 --cpus-per-task=1 --output={out}
date +%s.%N
srun --overlap -N1 -n1 -c1 --mem=0 date +%s.%N
"""


def first_line() -> Iterator[Row]:
    """From the first line of the batch script to the first line of the program, both inside jobs of a real Slurm."""
    with folder() as here, lab(here) as env:
        (here / "date.toml").write_text('command = ["date", "+%s.%N"]\n[allocation]\ncpus = 1\n')

        def ours() -> float:
            subprocess.run(
                ["gangrun", "submit", "--json", "date.toml"], cwd=here, env=env, check=True, capture_output=True
            )
            run = max((here / "outputs").glob("*/date/*_*"))
            script = (run / "script.sh").read_text()
            again = here / "again.sh"
            head, _, rest = script.partition("\n# Run ")
            again.write_text(f"{head}\ndate +%s.%N >>{here}/began\n# Run {rest}")
            again.write_text(again.read_text().replace(str(run), str(here / "again")))
            shutil.rmtree(here / "again", ignore_errors=True)
            (here / "again").mkdir()
            (here / "began").unlink(missing_ok=True)
            subprocess.run(["sbatch", "--wait", str(again)], env=env, check=True, capture_output=True)
            printed = (here / "again/attempts/001/logs/main.0.log").read_text()
            return float(printed) - float((here / "began").read_text())

        def hand() -> float:
            script, out = here / "hand.sh", here / "hand.out"
            out.unlink(missing_ok=True)
            script.write_text(HAND.format(out=out))
            subprocess.run(["sbatch", "--wait", str(script)], env=env, check=True, capture_output=True)
            began, printed = out.read_text().split()
            return float(printed) - float(began)

        took, bare = medians(ours, hand, 7)
    what = "from job start to the program's first line, against a script with one `srun`"
    yield Row(what, ms(took), ms(bare), f"+ {ms(took - bare)}", "≤ + 150 ms")


def watching() -> Iterator[Row]:
    """Slurm commands that `submit --wait` starts while 1 and 20 runs of 8 s go on."""
    with folder() as here, lab(here) as env:
        (here / "bin").mkdir()
        counter = here / "bin" / "squeue"
        counter.write_text(f'#!/bin/sh\necho >>{here}/calls\nexec {shutil.which("squeue")} "$@"\n')
        counter.chmod(0o755)
        env["PATH"] = f"{here}/bin:{env['PATH']}"
        counts = []
        for number in (1, 20):
            names = [f"{index}_step_0.toml" for index in range(number)]
            for name in names:
                (here / name).write_text('command = ["sleep", "8"]\n[allocation]\ncpus = 1\nmem = "1G"\n')
            (here / "calls").write_text("")
            subprocess.run(
                ["gangrun", "submit", "--wait", "--json", *names], cwd=here, env=env, check=True, capture_output=True
            )
            counts.append(len((here / "calls").read_text().splitlines()))
    what = "`squeue` calls of `submit --wait` over runs of 8 s: 20 runs, against 1"
    yield Row(what, str(counts[1]), str(counts[0]), f"{counts[1] / counts[0]:.1f} ×", "1 ×")


BENCHMARKS = {"start": start, "ls": ls, "plan": plan, "submit": submit, "first_line": first_line, "watching": watching}


def main() -> int:
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    # Nobody installs Python packages without their compiled bytecode.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rows = []
    for name in names:
        for row in BENCHMARKS[name]():
            rows.append(row)
            print(json.dumps(row.__dict__, ensure_ascii=False), file=sys.stderr, flush=True)
    print("| what | gangrun | baseline | ratio | aim |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.gangrun} | {row.baseline} | {row.ratio} | {row.aim} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
