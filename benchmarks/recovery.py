"""What replica groups cost: their start, and when something dies how long the others pause and the lost one is away.

    python benchmarks/recovery.py             all of it, five times each (root; a lab of five hosts)
    python benchmarks/recovery.py group 1     one kind of death, once

`examples/diloco` trains four groups, one on each of four hosts of a lab; the fifth is spare. Something is killed, and
the groups' journals say when the others agreed on an outer step again and when the lost one was back. `start` is the
time from the job's start to the first outer step of all, in turn with a script by hand that starts the same commands.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gangrun.lab import Lab

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[1]
GROUPS, VICTIM = 4, 2
# Two inner steps to an outer one, or what is measured is how long the others take to the next meeting.
TRAIN = ["train.py", "--steps", "100000", "--batch", "4", "--sync-every", "2", "--out"]
SETTINGS = (
    *("replicas=4", "nodes=1", "gpus=1", "min_replicas=2", "restarts=100", "allocation.nodes=5"),
    *("allocation.gpus=1", "allocation.cpus=2", "allocation.time=01:00:00", "allocation.mem=1G"),
    f"command={json.dumps([*TRAIN, '{run.dir}/checkpoints'])}",
)
BY_HAND = f"""#!/bin/bash
#SBATCH --nodes=5 --ntasks-per-node=1 --gres=gpu:1 --cpus-per-task=2 --mem=1G --time=10 --output=/dev/null
date +%s.%N >$OUT/began
mapfile -t hosts < <(scontrol show hostnames)
export TORCHFT_LIGHTHOUSE=http://${{hosts[0]}}:29510 NUM_REPLICA_GROUPS={GROUPS} RUST_LOG=warn OMP_NUM_THREADS=2
start() {{ srun --overlap --mem=0 -N1 -n1 -w "$@" >/dev/null 2>&1 & }}
start ${{hosts[0]}} torchft_lighthouse --bind '[::]:29510' --min_replicas 2 --quorum_tick_ms 100 \
    --join_timeout_ms 10000 --heartbeat_timeout_ms 2000
for group in {{0..{GROUPS - 1}}}; do
    REPLICA_GROUP_ID=$group start ${{hosts[group]}} torchrun --standalone --nproc-per-node=1 \
        --local-addr=${{hosts[group]}} {" ".join(TRAIN)} $OUT
done
wait
"""


@dataclass
class Bench:
    """A run that trains on a lab of its own."""

    lab: Lab
    here: Path
    run: Path = Path()

    def gangrun(self, *words: str) -> str:
        env = {**os.environ, "SLURM_CONF": str(self.lab.slurm_conf), "GANGRUN_CLUSTER": "bench"}
        done = subprocess.run(
            ["gangrun", *words], cwd=self.here, env=env, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    def begin(self) -> float:
        """Submits it; seconds from the job's start to the first outer step of all groups."""
        sets = [word for setting in SETTINGS for word in ("--set", setting)]
        (run,) = json.loads(self.gangrun("submit", "examples/diloco/diloco.toml", "--json", *sets))
        self.run = Path(run["dir"])
        first = until(lambda: min((entry["time"] for entry in self.entries(0)), default=0.0))
        return first - float((self.status / "run.start").read_text().split()[0])

    def end(self) -> None:
        self.gangrun("cancel", "latest")
        self.idle()

    def idle(self) -> None:
        until(lambda: all(node.slurm == "idle" for node in self.lab.status().nodes))

    def by_hand(self) -> float:
        """The same groups from a script as one writes it; seconds as of `begin`."""
        out = Path(tempfile.mkdtemp(dir=self.here))
        env = {**self.lab.env(), "OUT": str(out)}
        argv = ["sbatch", "--parsable", "--chdir", str(self.here / "examples" / "diloco")]
        done = subprocess.run(argv, input=BY_HAND, env=env, check=True, stdout=subprocess.PIPE, text=True)
        first = until(lambda: min((entry["time"] for entry in self.entries(0, out)), default=0.0))
        subprocess.run(["scancel", done.stdout.strip()], env=env, check=True)
        self.idle()
        return first - float((out / "began").read_text())

    @property
    def status(self) -> Path:
        return self.run / "attempts" / "latest" / "status"

    def entries(self, group: int, folder: Path | None = None) -> list[dict[str, float]]:
        try:
            text = ((folder or self.run / "checkpoints") / f"group{group}.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1] if line]

    def whole(self) -> None:
        """Waits until all groups have agreed three times."""
        began = time.time()
        until(lambda: all(len([e for e in self.entries(g) if e["time"] > began and e["groups"] == GROUPS]) >= 3
                          for g in range(GROUPS)))  # fmt: skip

    def processes(self, replica: str, *words: str) -> list[int]:
        """Of a replica, those with one of these words in their command line."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = {f"GANGRUN_RUN_DIR={self.run}".encode(), f"GANGRUN_REPLICA={replica}".encode()} <= set(environment)
            if mine and (not words or any(part.rpartition(b"/")[2].decode() in words for part in command[:3])):
                found.append(int(folder.name))
        return found

    def kill(self, replica: str, *words: str) -> float:
        pids = self.processes(replica, *words)
        assert pids, f"nothing of {replica} runs"
        now = time.time()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return now

    def host(self) -> str:
        """Where the victim lives."""
        (pid,) = self.processes(f"main.{VICTIM}", "torchrun")
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return next(part.partition(b"=")[2].decode() for part in environment if part.startswith(b"SLURMD_NODENAME="))


def until(what: Callable[[], T | None], limit: float = 240) -> T:
    """What this gives as soon as it is something."""
    deadline = time.monotonic() + limit
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit} s")
        time.sleep(0.1)
    return found


def died(bench: Bench, when: float) -> tuple[float, float, int]:
    """Seconds until the others agreed again, as a rule without the victim, until it was back, and the outer steps in
    between. A step on which all had agreed before the death may still be written down after it."""
    others = [group for group in range(GROUPS) if group != VICTIM]
    back = until(lambda: next((e for e in bench.entries(VICTIM) if e["time"] > when + 1), None))

    def again(group: int) -> float:
        return next(
            (
                e["time"]
                for e in bench.entries(group)
                if e["time"] > when and (e["groups"] < GROUPS or e["step"] >= back["step"])
            ),
            0.0,
        )

    until(lambda: all(again(group) for group in others))
    without = [e for e in bench.entries(0) if when < e["time"] < back["time"] and e["groups"] < GROUPS]
    return max(again(group) for group in others) - when, back["time"] - when, len(without)


def lighthouse(bench: Bench) -> tuple[float, float, int]:
    """Seconds until all groups agreed again; no group may have died."""
    lives = [(bench.status / f"main.{group}.lives").read_text() for group in range(GROUPS)]
    when = bench.kill("lighthouse.0")
    # What was agreed upon before may still be written down in the first half second.
    again = until(lambda: min((e["time"] for e in bench.entries(0) if e["time"] > when + 0.5), default=0.0))
    until(lambda: [e for e in bench.entries(0) if e["time"] > when + 0.5 and e["groups"] == GROUPS])
    assert lives == [(bench.status / f"main.{group}.lives").read_text() for group in range(GROUPS)]
    return again - when, again - when, 0


def node(bench: Bench) -> tuple[float, float, int]:
    host = bench.host()
    when = time.time()
    bench.lab.kill(host)
    try:
        return died(bench, when)
    finally:
        bench.lab.start(host)
        bench.end()
        bench.begin()


DEATHS: dict[str, Callable[[Bench], tuple[float, float, int]]] = {
    "worker": lambda bench: died(bench, bench.kill(f"main.{VICTIM}", "train.py")),
    "torchrun": lambda bench: died(bench, bench.kill(f"main.{VICTIM}", "torchrun")),
    "group": lambda bench: died(bench, bench.kill(f"main.{VICTIM}")),
    "lighthouse": lighthouse,
    "node": node,
}


def main() -> None:
    kinds = [word for word in sys.argv[1:] if word in DEATHS or word == "start"] or ["start", *DEATHS]
    times = next((int(word) for word in sys.argv[1:] if word.isdigit()), 5)
    lab = Lab("recovery")
    here = Path(tempfile.mkdtemp(prefix="gangrun-recovery-"))
    try:
        lab.up(nodes=5, gpus=1)
        shutil.copytree(REPOSITORY / "examples", here / "examples")
        (here / "clusters").mkdir()
        assert lab.profile
        shutil.copy(lab.profile, here / "clusters" / "bench.toml")
        bench = Bench(lab, here)
        if "start" in kinds:
            kinds.remove("start")
            starts = []
            for _ in range(times):
                ours = bench.begin()
                bench.end()
                starts.append((ours, bench.by_hand()))
                print("  start: {:.1f} s, by hand {:.1f} s".format(*starts[-1]), flush=True)
            ours, theirs = map(statistics.median, zip(*starts, strict=True))
            print(f"| start | {ours:.1f} s, by hand {theirs:.1f} s |", flush=True)
        if kinds:
            bench.begin()
        for kind in kinds:
            rows = []
            for _ in range(times):
                bench.whole()
                rows.append(DEATHS[kind](bench))
                print("  {}: {:.1f} s, back after {:.1f} s, {} steps without it".format(kind, *rows[-1]), flush=True)
            again, back, steps = (statistics.median(row[column] for row in rows) for column in range(3))
            print(f"| {kind} | {again:.1f} s | {back:.1f} s | {steps:g} |", flush=True)
    finally:
        lab.down()
        shutil.rmtree(here)


if __name__ == "__main__":
    main()
