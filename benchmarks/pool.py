"""What a pool costs over the least that is possible, with arrays and plain Ray beside it.

    python benchmarks/pool.py                     all of it, three rounds (root; a lab of four hosts)
    python benchmarks/pool.py makespan rates 1    only these, once

The least that 20 items of known length on 4 GPUs can take is max(sum / GPUs, longest). Every way sleeps for the same
times on a lab; the ways take turns within a round, and the table shows medians.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gangrun.lab import Lab
from gangrun.node.pool.journal import Fold
from gangrun.record import pools
from gangrun.record.rundir import RunDir

GPUS = 4
LENGTHS = [(1.3 + 15.1 * step / 19) / 4 for step in range(20)]
"""Those of the 20 residual networks that the demo of Slurm with Ray trains, a quarter of each: 44.25 s together."""
LEAST = max(sum(LENGTHS) / GPUS, *LENGTHS)

SWEEP = """
command = ["sleep", "{{nap}}"]
[allocation]
nodes = {nodes}
gpus = {gpus}
cpus = {cpus}
mem = "1G"
time = "00:10:00"
[sweep]
{sweep}
[pool]
{pool}
"""
NAPS = f"nap = {[round(length, 4) for length in LENGTHS]}"

PLAIN_RAY = """
import os, time, ray
ray.init(num_gpus={gpus}, num_cpus={gpus}, include_dashboard=False, _temp_dir={folder!r})
@ray.remote(num_gpus=1)
def nap(seconds):
    time.sleep(seconds)
began = time.time()
ray.get([nap.remote(seconds) for seconds in sorted({lengths}, reverse=True)])
print(time.time() - began)
"""

WARM = "import time\n\ndef nap(nap):\n    time.sleep(0.001)\n"


class Bench:
    """A project on a lab of its own."""

    def __init__(self, lab: Lab, here: Path) -> None:
        self.lab = lab
        self.here = here
        self.env = {**os.environ, **lab.env(), "GANGRUN_CLUSTER": "bench"}

    def run(self, name: str, text: str, meanwhile: Callable[[RunDir], None] = lambda _: None) -> RunDir:
        """Submits it, and gives its run when it has ended."""
        (self.here / f"{name}.toml").write_text(text)
        before = set(self.here.glob(f"outputs/*/{name}/[0-9]*_*"))
        waiting = subprocess.Popen(
            ["gangrun", "submit", "--wait", f"{name}.toml"],
            cwd=self.here,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while not (found := set(self.here.glob(f"outputs/*/{name}/[0-9]*_*")) - before):
            if waiting.poll() is not None:
                sys.exit(f"{name}: {waiting.communicate()[0]}")
            time.sleep(0.1)
        run = RunDir(found.pop())
        meanwhile(run)
        told, _ = waiting.communicate()
        if waiting.returncode:
            sys.exit(f"{run.path}: {told}")
        return run

    def steps(self) -> dict[str, float]:
        """From the job's start to the last item's end."""
        run = self.run("steps", SWEEP.format(nodes=2, gpus=2, cpus=2, sweep=NAPS, pool='estimate = "{nap}"'))
        return {"steps": _last(pools.journal(run)) - _began(run)}

    def ray(self) -> dict[str, float]:
        """From when both nodes are there, and until then from the job's start."""
        pool = 'estimate = "{nap}"\nengine = "ray"'
        run = self.run("ray", SWEEP.format(nodes=2, gpus=2, cpus=2, sweep=NAPS, pool=pool))
        fold = pools.journal(run)
        up = max(node["t"] for node in fold.nodes.values())
        return {"ray": _last(fold) - up, "ray up": up - _began(run)}

    def array(self) -> dict[str, float]:
        sweep = f'mode = "array"\nmax_parallel = {GPUS}\n{NAPS}'
        text = SWEEP.format(nodes=1, gpus=1, cpus=1, sweep=sweep, pool="").replace("[pool]", "")
        run = self.run("array", text)
        items = [RunDir(path) for path in run.path.glob("items/*")]
        ends = [(item.attempt(1).status / "run.exit").stat().st_mtime for item in items]
        return {"array": max(ends) - min(map(_began, items))}

    def plain_ray(self) -> dict[str, float]:
        """Ray as one would use it without gangrun, on one node with all GPUs, longest first; without its start."""
        program, out = self.here / "plain.py", self.here / "plain.out"
        out.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="bench-ray-") as folder:
            program.write_text(PLAIN_RAY.format(gpus=GPUS, folder=folder, lengths=LENGTHS))
            command = f"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 {sys.executable} {program}"
            words = ["--wait", "-N1", "-n1", "-c4", "--gres=gpu:4", f"--output={out}", f"--wrap={command}"]
            subprocess.run(["sbatch", *words], cwd=self.here, env=self.env, check=True, capture_output=True)
        return {"plain ray": float(out.read_text().split()[-1])}

    def short(self) -> dict[str, float]:
        """500 items of 0.1 s on 8 slots, in items per second."""
        sweep = "nap = [0.1]\nnumber = { from = 1, to = 500, step = 1 }"
        text = SWEEP.format(nodes=2, gpus=4, cpus=4, sweep=sweep, pool="")
        return {"short": _rate(pools.journal(self.run("short", text)))}

    def warm(self) -> dict[str, float]:
        """5,000 items of 1 ms on 8 slots, in items per second."""
        (self.here / "warm.py").write_text(WARM)
        sweep = "nap = { from = 1, to = 5000, step = 1 }"
        text = SWEEP.format(nodes=2, gpus=4, cpus=4, sweep=sweep, pool='call = "warm:nap"')
        return {"warm": _rate(pools.journal(self.run("warm", text.replace("command", "# command"))))}

    def many(self) -> dict[str, float]:
        """10,000 items: the most memory that the driver had, in MB."""
        (self.here / "warm.py").write_text(WARM)
        most = [0.0]

        def watch(run: RunDir) -> None:
            while not (run.attempt(1).status / "run.exit").exists():
                most.append(_memory(run))
                time.sleep(0.5)

        sweep = "nap = { from = 1, to = 10000, step = 1 }"
        text = SWEEP.format(nodes=2, gpus=4, cpus=4, sweep=sweep, pool='call = "warm:nap"')
        self.run("many", text.replace("command", "# command"), watch)
        return {"memory": max(most)}


def _began(run: RunDir) -> float:
    """When the job, or the task of an array, wrote its first file."""
    return (run.attempt(1).status / "run.start").stat().st_mtime


def _last(fold: Fold) -> float:
    return max(span.ended or 0.0 for history in fold.items.values() for span in history.spans)


def _rate(fold: Fold) -> float:
    spans = [span for history in fold.items.values() for span in history.spans]
    return len(spans) / (_last(fold) - min(span.started for span in spans))


def _memory(run: RunDir) -> float:
    """The most that the driver has held so far, in MB; 0 where there is none."""
    most = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"node/pool\0drive" not in (folder / "cmdline").read_bytes():
                continue
            if f"GANGRUN_RUN_DIR={run.path}\0".encode() in (folder / "environ").read_bytes():
                held = re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())
                most = max(most, int(held[1]) / 1024 if held else 0.0)
        except OSError:
            continue
    return most


@contextmanager
def bench() -> Iterator[Bench]:
    here = Path(tempfile.mkdtemp(prefix="gangrun-bench-"))
    lab = Lab("poolbench")
    try:
        lab.up(nodes=4, gpus=8)
        (here / "clusters").mkdir()
        assert lab.profile is not None
        shutil.copy(lab.profile, here / "clusters" / "bench.toml")
        yield Bench(lab, here)
    finally:
        lab.down()
        shutil.rmtree(here)


GROUPS = {"makespan": ("steps", "ray", "array", "plain_ray"), "rates": ("short", "warm"), "memory": ("many",)}
ROWS = {
    "steps": ("20 items on 4 GPUs, `steps`: from the job's start to the last end", LEAST, "≤ 1.05 ×"),
    "ray": ("the same, `ray`, from when its cluster is up", LEAST, "≤ 1.10 ×"),
    "plain ray": ("the same, Ray by hand on one node, without its start", LEAST, ""),
    "array": ("the same as an array of 4 at once", LEAST, ""),
    "ray up": ("the Ray cluster is up after", None, "≤ 8 s"),
    "short": ("500 items of 0.1 s on 8 GPUs, per second", 80.0, "≥ 64"),
    "warm": ("5,000 warm items of 1 ms on 8 GPUs, per second", None, "≥ 1,000"),
    "memory": ("memory of the driver of 10,000 items, MB", None, "< 200"),
}


def main() -> int:
    words = sys.argv[1:]
    rounds = int(words.pop()) if words and words[-1].isdigit() else 3
    if unknown := set(words) - set(GROUPS):
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    # Nobody installs Python packages without their compiled bytecode.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    found: dict[str, list[float]] = {}
    with bench() as here:
        for _ in range(rounds):
            for way in (way for group in words or GROUPS for way in GROUPS[group]):
                figures: dict[str, float] = getattr(here, way)()
                for name, figure in figures.items():
                    found.setdefault(name, []).append(figure)
                print(json.dumps(figures), file=sys.stderr, flush=True)
    print("| what | gangrun | ideal | ratio | aim |\n|---|---|---|---|---|")
    for name, (what, ideal, aim) in ROWS.items():
        if name in found:
            figure = statistics.median(found[name])
            ratio = f"{figure / ideal:.2f} ×" if ideal else "–"
            print(f"| {what} | {figure:.2f} | {f'{ideal:.2f}' if ideal else '–'} | {ratio} | {aim} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
