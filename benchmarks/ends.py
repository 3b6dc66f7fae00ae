"""What a job leaves on its hosts, however it ends: nothing.

    python benchmarks/ends.py             200 jobs on a lab of four hosts (root)
    python benchmarks/ends.py 20 limit    so many, and only those that end so

Every job has a service, and a worker on each of two hosts that has forked a daemon into a session of its own. When all
jobs of a wave have ended, whatever is in the process tables of the hosts besides Slurm itself counts as left, and so do
ports of gangrun's range that somebody still listens on and half-written files in the records.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gangrun.lab import Lab

JOBS, AT_ONCE = 200, 12
WORKER = """
(setsid sleep 7654 &) # a daemon: its parent is gone, its session its own
case $1 in stubborn) trap '' TERM ;; *) trap 'echo bye; exit 3' TERM ;; esac
echo here
case $2 in
  finish) sleep 1; exit 0 ;;
  fail) if ((RANK)); then sleep 1; exit 7; fi ;;
  crash) if ((RANK)); then sleep 1; kill -SEGV $$; fi ;;
esac
for i in {{1..3000}}; do sleep 0.2; done
"""
SERVER = """
case $1 in dies) sleep 2; exit 0 ;; esac
exec python3 -m http.server "$2"
"""


def experiment(temper: str = "", ends: str = "", server: str = "", time: str = "00:10:00", where: str = "") -> str:
    """A job of two hosts."""

    def command(text: str, *words: str) -> str:
        return f"command = {json.dumps(['bash', '-c', text, '-', *words])}"

    return f"""
grace = 3
[allocation]
nodes = 2
cpus = 2
mem = "500M"
time = "{time}"
sbatch = {{ requeue = true{where} }}
[roles.worker]
nodes = 2
cpus = 1
tasks = 1
launcher = "srun"
{command(WORKER, temper, ends)}
[roles.server]
kind = "service"
beside = "worker"
cpus = 1
ports = ["http"]
{command(SERVER, server, "{self.port.http}")}
"""


@dataclass
class Bench:
    """A project on a lab of its own."""

    lab: Lab
    here: Path

    def call(self, *argv: str) -> str:
        env = {**self.lab.env(), "GANGRUN_CLUSTER": "bench"}
        done = subprocess.run(argv, cwd=self.here, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{argv}: {done.stdout}{done.stderr}")
        return done.stdout

    def show(self, run: str) -> dict[str, Any]:
        return dict(json.loads(self.call("gangrun", "show", run, "--json")))

    def runs(self) -> dict[str, dict[str, Any]]:
        return {run["run"]: run for run in json.loads(self.call("gangrun", "ls", "--json"))}

    def left(self) -> dict[str, list[str]]:
        """What jobs have running on the hosts, by the run that is in its environment; empty for whoever has none."""
        found: dict[str, list[str]] = {}
        for host in (node.name for node in self.lab.status().nodes if node.power):
            for pid, command in self.lab.processes(host):
                try:
                    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                run = next((word[17:].decode() for word in words if word.startswith(b"GANGRUN_RUN_NAME=")), "")
                found.setdefault(run, []).append(f"{host}: {command}")
        return found

    def open_ports(self) -> list[str]:
        """Ports in the range that scripts choose from on which somebody listens: state 0A in the table of a host."""
        found = []
        for host in (node.name for node in self.lab.status().nodes if node.power):
            argv = [*self.lab.enter(host), "cat", "/proc/net/tcp"]
            table = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
            rows = [line.split() for line in table.splitlines()[1:]]
            ports = [int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"]
            found += [f"{host}: port {port}" for port in ports if 10_000 <= port < 32_000]
        return found

    def kill(self, run: dict[str, Any], *words: str) -> None:
        """KILL for one process of the run whose command line has all these words."""
        for folder in Path("/proc").iterdir():
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            mine = any(f"{key}={run['run']}".encode() in environment for key in ("GANGRUN_RUN_NAME", "SLURM_JOB_NAME"))
            if mine and all(word in command for word in words):
                os.kill(int(folder.name), signal.SIGKILL)
                return
        raise RuntimeError(f"nothing of {run['run']} has {words} in its command line")


Act = Callable[[Bench, dict[str, Any]], object]


def _preempt(bench: Bench, run: dict[str, Any]) -> None:
    hosts = ",".join(run["hosts"])
    words = ("--partition=debug", "-N2", "--exclusive", f"--nodelist={hosts}", "--time=1", "--output=/dev/null")
    bench.call("sbatch", *words, "--wrap=true")
    until(lambda: bench.show(run["run"])["state"] != "RUNNING" or bench.show(run["run"])["attempt"] > 1, 60)
    bench.call("gangrun", "cancel", run["run"])


def _power(bench: Bench, run: dict[str, Any]) -> None:
    if bench.show(run["run"])["state"] == "RUNNING" and not _dark(bench):
        bench.lab.kill(run["hosts"][1])


def _dark(bench: Bench) -> list[str]:
    return [node.name for node in bench.lab.status().nodes if not node.power]


@dataclass(frozen=True)
class Way:
    """How a job ends: what it does by itself, or what is done to it when it runs."""

    text: str
    act: Act | None = None
    apart: str = ""
    """Jobs with the same word here share waves with nobody else: they take longer, or what ends them befalls hosts."""


WAYS: dict[str, Way] = {
    "finish": Way(experiment(ends="finish")),
    "a worker fails": Way(experiment(ends="fail")),
    "a worker crashes": Way(experiment(ends="crash")),
    "fails, others ignore TERM": Way(experiment("stubborn", "fail")),
    "the service dies": Way(experiment(server="dies")),
    "gangrun cancel": Way(experiment(), lambda bench, run: bench.call("gangrun", "cancel", run["run"])),
    "cancel, ignores TERM": Way(experiment("stubborn"), lambda bench, run: bench.call("gangrun", "cancel", run["run"])),
    "scancel": Way(experiment(), lambda bench, run: bench.call("scancel", run["job"])),
    "scancel --signal=KILL": Way(experiment(), lambda bench, run: bench.call("scancel", "--signal=KILL", run["job"])),
    "scancel --batch": Way(
        experiment(), lambda bench, run: bench.call("scancel", "--batch", "--signal=TERM", run["job"])
    ),
    "scancel --full --signal=INT": Way(
        experiment(), lambda bench, run: bench.call("scancel", "--full", "--signal=INT", run["job"])
    ),
    "limit": Way(experiment(time="00:01:00"), apart="limit"),
    "limit, ignores TERM": Way(experiment("stubborn", time="00:01:00"), apart="limit"),
    "preempted": Way(experiment(), _preempt, "preempted"),
    "kill -9 of the script": Way(experiment(), lambda bench, run: bench.kill(run, "slurm_script")),
    "kill -9 of an srun": Way(experiment(), lambda bench, run: bench.kill(run, "srun ", "--job-name=worker.0")),
    "kill -9 of a step's shell": Way(experiment(), lambda bench, run: bench.kill(run, "task.sh worker.0")),
    "kill -9 of a program": Way(experiment(), lambda bench, run: bench.kill(run, "trap 'echo bye")),
    "a host loses its power": Way(experiment(where=', nodelist = "node3,node4"'), _power, "power"),
}


def until(what: Callable[[], object], limit: float = 300) -> None:
    deadline = time.monotonic() + limit
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit} s")
        time.sleep(0.5)


@dataclass
class Ended:
    """What became of the jobs that ended in one way."""

    states: Counter[str] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """From the last job's end to a clean process table, at the most."""


def wave(bench: Bench, names: Sequence[str]) -> dict[str, Ended]:
    """Runs one job of each of these ways side by side, and looks at the hosts when all have ended."""
    found: dict[str, Ended] = {}
    files = []
    for number, name in enumerate(names):
        files.append(bench.here / "experiments" / f"{number}" / "run.toml")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_text(WAYS[name].text)
    sent_all = json.loads(bench.call("gangrun", "submit", *map(str, files), "--json"))
    runs: list[tuple[str, dict[str, Any]]] = list(zip(names, sent_all, strict=True))
    ids = [sent["run"] for _, sent in runs]

    def begun(run: str) -> bool:
        shown = bench.show(run)
        log = Path(shown["dir"], "attempts/001/logs/worker.0.log")
        return shown["exit_code"] is not None or (log.is_file() and log.read_text().count("here") == 2)

    for run in ids:
        until(lambda run=run: begun(run))  # type: ignore[misc]
    for name, sent in runs:
        if act := WAYS[name].act:
            act(bench, bench.show(sent["run"]))
    alive = {"PENDING", "RUNNING", "COMPLETING", "SUBMITTING"}
    until(lambda: not any(bench.runs()[run]["state"] in alive for run in ids))
    ended = time.monotonic()
    with suppress(TimeoutError):
        until(lambda: not bench.left(), 60)
    seconds, left = time.monotonic() - ended, bench.left()
    listed, strange = bench.runs(), [*left.get("", []), *bench.open_ports()]
    for name, sent in runs:
        one = found.setdefault(name, Ended())
        one.states[listed[sent["run"]]["state"]] += 1
        one.seconds = max(one.seconds, seconds)
        drafts = [path.name for path in Path(sent["dir"]).rglob("*.new")]
        one.left += [*left.get(sent["run"], []), *drafts, *strange]
    for host in _dark(bench):
        bench.lab.start(host)
        until(lambda: all(node.slurm == "idle" for node in bench.lab.status().nodes))
    return found


def measure(bench: Bench, names: Sequence[str], *, at_once: int) -> dict[str, Ended]:
    """One job for each of the names, so many at once."""
    total: dict[str, Ended] = {}
    words = dict.fromkeys(WAYS[name].apart for name in names)
    alike = [[name for name in names if WAYS[name].apart == word] for word in words]
    batches = [group[start : start + at_once] for group in alike for start in range(0, len(group), at_once)]
    for batch in batches:
        for name, one in wave(bench, batch).items():
            known = total.setdefault(name, Ended())
            known.states += one.states
            known.left += one.left
            known.seconds = max(known.seconds, one.seconds)
    return total


def bench_on(lab: Lab, here: Path) -> Bench:
    """A project in this folder on a lab that is up and idle."""
    (here / "clusters").mkdir(parents=True)
    assert lab.profile
    shutil.copy(lab.profile, here / "clusters" / "bench.toml")
    return Bench(lab, here)


def main() -> None:
    jobs = next((int(word) for word in sys.argv[1:] if word.isdigit()), JOBS)
    chosen = [name for name in WAYS if any(word in name for word in sys.argv[1:])] or list(WAYS)
    lab = Lab("ends")
    here = Path(tempfile.mkdtemp(prefix="gangrun-ends-"))
    try:
        lab.up(nodes=4, gpus=0)
        began = time.monotonic()
        names = [chosen[number % len(chosen)] for number in range(jobs)]
        total = measure(bench_on(lab, here), names, at_once=AT_ONCE)
        print("| ended by | jobs | their states | processes left |\n|---|---|---|---|")
        for name in chosen:
            one = total[name]
            states = ", ".join(f"{state} {count}" for state, count in one.states.most_common())
            print(f"| {name} | {one.states.total()} | {states} | {len(one.left)} |")
        left = sorted({line for one in total.values() for line in one.left})
        print(f"\n{jobs} jobs in {time.monotonic() - began:.0f} s; left: {left or 'nothing'}")
    finally:
        lab.down()
        shutil.rmtree(here)
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
