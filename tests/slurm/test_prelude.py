"""The Slurm prelude on a real Slurm of four hosts.

Jobs that need no help while they run are submitted all at once, and the tests then look at one each; those that
someone has to cancel, kill or cut off are driven by their own tests meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.prelude import Run, start, wait_for, write

pytestmark = pytest.mark.slurm

FOREVER = "while :; do sleep 0.1; done"
DEAF = "trap '' TERM; for _ in {1..600}; do sleep 0.1; done"
FINAL = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY"}


@dataclass
class Job:
    """A submitted run."""

    lab: Lab
    run: Run
    id: str

    def slurm(self, *argv: str) -> str:
        done = subprocess.run(argv, env=self.lab.env(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout

    def facts(self) -> dict[str, str]:
        words = self.slurm("scontrol", "show", "job", "-o", self.id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, limit: float = 60) -> str:
        """Its final state, once it has one."""
        wait_for(lambda: self.facts()["JobState"] in FINAL, limit)
        return self.facts()["JobState"]

    def code(self) -> str:
        """Slurm's `CODE:SIGNAL`."""
        return self.facts()["ExitCode"]

    def job_log(self) -> str:
        return (self.run.dir / "job.log").read_text()


@dataclass
class Script:
    """What a scenario consists of."""

    body: list[str]
    begin: str = "1 0"
    grace: int = 1
    setup: list[str] = field(default_factory=lambda: [":"])
    flags: list[str] = field(default_factory=list)


SMALL = ["--ntasks-per-node=1", "--cpus-per-task=2", "--mem=1000", "--time=10", "--open-mode=append"]


def submit(lab: Lab, run_dir: Path, script: Script) -> Job:
    nodes = [] if any("--nodelist" in flag for flag in script.flags) else ["--exclude=node4"]
    flags = ["--nodes=" + script.begin.split()[0], *SMALL, *nodes, *script.flags, f"--output={run_dir}/job.log"]
    run = write(
        run_dir,
        "slurm",
        "\n".join(script.body),
        begin=script.begin,
        grace=script.grace,
        setup=script.setup,
        sbatch=flags,
    )
    done = subprocess.run(
        ["sbatch", "--parsable", str(run.script)], env=lab.env(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return Job(lab, run, done.stdout.strip())


FLUSH = f"trap 'sleep 0.3; echo flushed; exit 6' TERM; touch $GANGRUN_RUN_DIR/up; {FOREVER}"
AFTER = "until [[ -e $GANGRUN_RUN_DIR/up ]]; do sleep 0.1; done; "
DAEMON = "(setsid bash -c 'trap \"\" TERM HUP; sleep 300' </dev/null >/dev/null 2>&1 &)"
RANKS = 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $NODE_RANK $SLURMD_NODENAME $MASTER_ADDR $MASTER_PORT"'
GPUS = 'echo "$SLURMD_NODENAME [$CUDA_VISIBLE_DEVICES] $SLURM_CPUS_PER_TASK $OMP_NUM_THREADS"; sleep 3'
WORDS = ["--", "-n", "", " ", "a b", "'", '"', "\\", "$(touch x)", "`id`", "$HOME", "*", "a\nb", "Grüße 🚀", "%j %n"]

SCENARIOS: Mapping[str, Script] = {
    "time limit": Script(
        [
            start("svc", "service", FOREVER),
            start("m", "main", f"trap 'echo flushed; exit 0' TERM; {FOREVER}"),
        ],
        flags=["--time=1"],
    ),
    # m.0 silences its own heartbeat for longer than the script believes in it, then asks for a step number.
    "silence": Script(
        [
            start("m.0", "main", "beat=$(pgrep -P $PPID | grep -vx $$); kill -STOP $beat; sleep 45; kill -CONT $beat"),
            start("m.1", "main", "sleep 45"),
            "await m.0",
            start("m.2", "main", "true"),
        ]
    ),
    "mains 0": Script(
        [
            start("svc", "service", f"trap 'echo bye; exit 0' TERM; {FOREVER}"),
            start("gauge", "sidecar", FOREVER).replace("nodes=0", "nodes=0,1"),
            start("m.0", "main", "echo out; echo err >&2; printf 'no newline'"),
            start("m.1", "main", "sleep 1").replace("nodes=0", "nodes=1"),
        ],
        begin="2 2 0:0,1:1",
    ),
    "main fails": Script(
        [
            start("svc", "service", f"trap 'echo svc >>$GANGRUN_RUN_DIR/ends; exit 0' TERM; {FOREVER}", "restarts=3"),
            start("m.0", "main", FLUSH.replace("exit", "echo m.0 >>$GANGRUN_RUN_DIR/ends; exit"), "restarts=3"),
            start("m.1", "main", AFTER + "exit 7"),
        ],
        grace=5,
    ),
    "one rank fails": Script(
        [
            start("m", "main", f"((RANK == 1)) && sleep 1 && exit 3; {FOREVER}", "tasks=2 ranks=1 master=1").replace(
                "nodes=0", "nodes=0,1"
            )
        ],
        begin="2 0",
        flags=["--ntasks-per-node=2", "--cpus-per-task=1"],
    ),
    "service fails": Script([start("svc", "service", "sleep 0.5; exit 0"), start("m", "main", FLUSH)]),
    "unready": Script(
        [
            start("svc", "service", FOREVER),
            "ready svc.0 port ${HOSTS[0]}:${PORTS[0]} 2",
            start("m", "main", "echo started"),
        ],
        begin="1 1 0:0",
    ),
    "ready": Script(
        [
            "start web 0 service nodes=1 flags=0 -- "
            + shlex.join([sys.executable, "-m", "http.server", "--bind", "0.0.0.0"])
            + ' "${PORTS[0]}"',
            "ready web.0 http http://${HOSTS[1]}:${PORTS[0]}/ 30",
            start("m", "main", "echo started"),
        ],
        begin="2 1 1:0",
    ),
    "sidecar": Script([start("gauge", "sidecar", "exit 9"), start("m", "main", "sleep 1")]),
    "restarts": Script(
        [
            start("svc", "service", FOREVER),
            start(
                "m",
                "main",
                "echo life; (($(grep -c start $GANGRUN_RUN_DIR/attempts/001/status/m.0.lives) > 2)) || exit 7",
                "restarts=2",
            ),
        ]
    ),
    "restarts used up": Script([start("m", "main", "exit 7", "restarts=1")]),
    "deaf": Script(
        [
            start("svc", "service", DEAF),
            start("m.0", "main", f"{DAEMON}; touch $GANGRUN_RUN_DIR/up; {DEAF}"),
            start("m.1", "main", AFTER + "exit 5"),
        ]
    ),
    "daemon": Script([start("m", "main", f"{DAEMON}; exit 0")]),
    "setup": Script([start("m", "main", "true")], setup=["false"]),
    "environment": Script(
        [start("m", "main", 'pwd; echo "$A"; env | grep -c ^BASH_FUNC; ulimit -n >/dev/null')],
        setup=["set -eu", "export A='x,y z'", "cd /var", "export SLURM_EXPORT_ENV=NONE"],
        flags=["--export=NONE"],
    ),
    "words": Script(
        [
            "start m 0 main nodes=0 flags=2 --comment='a b' --job-name=mine -- "
            + shlex.join([sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *WORDS])
        ]
    ),
    "ranks": Script(
        [start("m", "main", RANKS, "tasks=4 ranks=1 master=4321").replace("nodes=0", "nodes=1,2")],
        begin="3 0",
        flags=["--ntasks-per-node=4", "--cpus-per-task=1"],
    ),
    "gpus": Script(
        [
            *(start(f"r.{i}", "main", GPUS, f"gpus={2 * i},{2 * i + 1} cpus=3 alone=0 node_cpus=16") for i in range(4)),
            start("svc", "service", f"{GPUS}; {FOREVER}", "cpus=4 alone=0 node_cpus=16"),
        ],
        flags=["--cpus-per-task=16", "--gpus-per-node=8", "--mem=50000"],
    ),
}


@pytest.fixture(scope="module")
def jobs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Job]:
    """All of SCENARIOS, submitted."""
    root = tmp_path_factory.mktemp("runs")
    return {name: submit(lab, root / name.replace(" ", "_"), script) for name, script in SCENARIOS.items()}


@pytest.fixture
def go(lab: Lab, jobs: Mapping[str, Job], tmp_path: Path) -> Callable[[Script], Job]:
    return lambda script: submit(lab, tmp_path / "run", script)


def at_work(job: Job, *names: str) -> None:
    """Waits until these replicas have said `up`."""
    job.run.wait_for(lambda run: all("up" in run.log(name) for name in names), 40)


def test_mains_end_with_0(jobs: Mapping[str, Job]) -> None:
    job = jobs["mains 0"]
    assert job.wait() == "COMPLETED"
    assert job.code() == "0:0"
    run = job.run
    assert run.read("run.exit") == "0"
    assert run.read("run.cause") == ""
    assert (run.read("svc.0.exit"), run.read("gauge.0.exit"), run.read("m.0.exit")) == ("0", "143", "0")
    assert run.log("m.0") == "out\nerr\nno newline"
    assert "bye" in run.log("svc.0")
    assert run.events("m.1") == ["start", "exit 0"]
    assert re.fullmatch(rf"{job.id}\.\d+", run.read("m.0.step"))
    assert (run.read("gauge.0.0.beat"), run.read("gauge.0.1.beat")) == ("exit 143", "exit 143")
    began, number, hosts, base = (run.status / "run.start").read_text().splitlines()
    assert abs(int(began) - time.time()) < 300
    assert (number, hosts.split()) == (job.id, sorted(hosts.split()))
    assert 10000 <= int(base) < 32000
    assert job.job_log() == ""


def test_main_fails(jobs: Mapping[str, Job]) -> None:
    job = jobs["main fails"]
    assert job.wait() == "FAILED"
    assert job.code() == "7:0"
    assert job.run.read("run.cause") == "main m.1 7"
    assert (job.run.read("m.0.exit"), job.run.read("m.1.exit")) == ("6", "7")
    assert "flushed" in job.run.log("m.0")
    # Mains end before the services on which they may lean, and nobody comes back to life.
    assert (job.run.dir / "ends").read_text().split() == ["m.0", "svc"]
    assert job.run.events("m.0") == ["start", "exit 6"]
    assert job.run.events("svc.0") == ["start", "exit 0"]


def test_the_first_failing_rank_gives_the_code(jobs: Mapping[str, Job]) -> None:
    job = jobs["one rank fails"]
    assert job.wait() == "FAILED"
    assert job.code() == "3:0"
    assert job.run.read("run.cause") == "main m.0 3"
    host = (job.run.status / "run.start").read_text().splitlines()[2].split()[0]
    assert job.run.read("m.0.first") == f"3 1 {host}"


def test_service_fails(jobs: Mapping[str, Job]) -> None:
    job = jobs["service fails"]
    assert job.wait() == "FAILED"
    assert job.code() == "1:0"
    assert job.run.read("run.cause") == "service svc.0 0"
    assert job.run.read("m.0.exit") == "6"


def test_unready(jobs: Mapping[str, Job]) -> None:
    job = jobs["unready"]
    assert job.wait() == "FAILED"
    assert job.run.read("run.cause") == "unready svc.0 2"
    assert job.run.log("m.0") == ""


def test_ready_on_another_node(jobs: Mapping[str, Job]) -> None:
    job = jobs["ready"]
    assert job.wait() == "COMPLETED", job.job_log()
    assert job.run.events("web.0")[:2] == ["start", "ready"]


def test_sidecar_dies_unnoticed(jobs: Mapping[str, Job]) -> None:
    job = jobs["sidecar"]
    assert job.wait() == "COMPLETED"
    assert job.run.read("gauge.0.exit") == "9"


def test_restarts(jobs: Mapping[str, Job]) -> None:
    job = jobs["restarts"]
    assert job.wait() == "COMPLETED"
    assert job.run.events("m.0") == ["start", "exit 7", "start", "exit 7", "start", "exit 0"]
    assert job.run.log("m.0") == "life\n" * 3
    assert job.run.events("svc.0") == ["start", "exit 143"]
    job = jobs["restarts used up"]
    assert job.wait() == "FAILED"
    assert job.run.events("m.0") == ["start", "exit 7"] * 2
    assert job.run.read("run.cause") == "main m.0 7"


def test_one_that_ignores_the_request_is_made_to_end(jobs: Mapping[str, Job]) -> None:
    job = jobs["deaf"]
    assert job.wait() == "FAILED"
    assert job.code() == "5:0"
    assert (job.run.read("svc.0.exit"), job.run.read("m.0.exit")) == ("137", "137")
    assert job.run.read("run.exit") == "5"


def test_daemon_of_a_main_does_not_hold_the_job(jobs: Mapping[str, Job]) -> None:
    job = jobs["daemon"]
    assert job.wait() == "COMPLETED"
    began = int(job.run.read("m.0.lives").split()[0])
    assert int(job.run.read("m.0.lives").splitlines()[-1].split()[0]) - began < 5


def test_setup_fails(jobs: Mapping[str, Job]) -> None:
    job = jobs["setup"]
    assert job.wait() == "FAILED"
    assert job.run.read("run.cause") == "setup 1"
    assert job.run.read("m.0.lives") == ""


def test_environment(jobs: Mapping[str, Job]) -> None:
    job = jobs["environment"]
    assert job.wait() == "COMPLETED", job.run.log("m.0.step")
    assert job.run.log("m.0") == "/var\nx,y z\n0\n"


def test_words_arrive_unchanged(jobs: Mapping[str, Job]) -> None:
    job = jobs["words"]
    assert job.wait() == "COMPLETED", job.run.log("m.0.step")
    assert json.loads(job.run.log("m.0")) == WORDS


def test_ranks_over_nodes_and_tasks(jobs: Mapping[str, Job]) -> None:
    job = jobs["ranks"]
    assert job.wait() == "COMPLETED", job.run.log("m.0.step")
    hosts = (job.run.status / "run.start").read_text().splitlines()[2].split()
    rows = sorted(line.split() for line in job.run.log("m.0").splitlines())
    assert rows == [[str(r), str(r % 4), "8", str(r // 4), hosts[1 + r // 4], hosts[1], "4321"] for r in range(8)]


def test_gpu_slices_are_disjoint_and_at_once(jobs: Mapping[str, Job]) -> None:
    job = jobs["gpus"]
    assert job.wait() == "COMPLETED"
    given = [re.search(r"\[(.*)\] (\d) (\d)", job.run.log(f"r.{i}")) for i in range(4)]
    assert [match and match.groups() for match in given] == [(f"{2 * i},{2 * i + 1}", "3", "3") for i in range(4)]
    assert "[] 4 4" in job.run.log("svc.0")
    spans = [[int(line.split()[0]) for line in job.run.read(f"r.{i}.lives").splitlines()] for i in range(4)]
    assert max(began for began, _ in spans) < min(ended for _, ended in spans)


def test_scancel(go: Callable[[Script], Job]) -> None:
    job = go(Script([start("svc", "service", FOREVER), start("m", "main", f"echo up; {FLUSH}")]))
    at_work(job, "m.0")
    job.slurm("scancel", job.id)
    assert job.wait() == "CANCELLED"
    # Slurm signals steps and script together: the signal is the cause, not the step that died first.
    job.run.wait_for(lambda run: run.read("run.cause") == "signal TERM")


def test_scancel_of_the_script_alone_is_graceful(go: Callable[[Script], Job]) -> None:
    job = go(Script([start("svc", "service", FOREVER), start("m", "main", f"echo up; {FLUSH}")]))
    at_work(job, "m.0")
    job.slurm("scancel", "--signal=TERM", "--batch", job.id)
    assert job.wait() == "FAILED"
    assert job.code() == "143:0"
    assert (job.run.read("run.cause"), job.run.read("run.exit")) == ("signal TERM", "143")
    assert "flushed" in job.run.log("m.0")
    assert job.run.read("svc.0.exit") == "143"


def test_user_signal_reaches_the_mains_only(go: Callable[[Script], Job]) -> None:
    job = go(
        Script(
            [
                start("svc", "service", f"echo up; {FOREVER}"),
                start("m", "main", f"trap 'echo got; exit 0' USR1; echo up; {FOREVER}"),
            ]
        )
    )
    at_work(job, "svc.0", "m.0")
    job.slurm("scancel", "--signal=USR1", "--batch", job.id)
    assert job.wait() == "COMPLETED"
    assert "got" in job.run.log("m.0")


def test_preemption_and_the_next_attempt(go: Callable[[Script], Job], tmp_path: Path, lab: Lab) -> None:
    big = ["--nodelist=node3", "--mem=150000"]
    body = [start("m", "main", f"echo up $GANGRUN_ATTEMPT; [[ $GANGRUN_ATTEMPT == 002 ]] || {{ {FOREVER}; }}")]
    job = go(Script(body, flags=[*big, "--requeue", "--partition=gpu"], setup=["echo begun"]))
    at_work(job, "m.0")
    other = submit(lab, tmp_path / "other", Script([start("m", "main", "true")], flags=[*big, "--partition=debug"]))
    assert other.wait() == "COMPLETED"
    assert job.wait(90) == "COMPLETED"
    attempts = job.run.dir / "attempts"
    assert sorted(path.name for path in attempts.iterdir()) == ["001", "002", "latest"]
    assert (attempts / "001" / "status" / "run.cause").read_text() == "signal TERM\n"
    assert (attempts / "001" / "logs" / "m.0.log").read_text() == "up 001\n"
    assert job.run.log("m.0") == "up 002\n"
    assert job.job_log().count("begun") == 2


def script_of(job: Job, node: str) -> int:
    """The process id on this machine of the job's batch shell."""
    return min(pid for pid, line in job.lab.processes(node) if f"job{int(job.id):05}/slurm_script" in line)


def test_kill_9_of_the_batch_shell(go: Callable[[Script], Job], lab: Lab) -> None:
    job = go(Script([start("m", "main", f"echo up; {FLUSH}")], flags=["--nodelist=node3"]))
    at_work(job, "m.0")
    subprocess.run(["kill", "-KILL", str(script_of(job, "node3"))], check=True)
    assert job.wait() == "FAILED"
    assert job.run.read("run.exit") == ""
    wait_for(lambda: not [line for _, line in lab.processes("node3") if str(job.run.dir) in line], 20)


def test_a_daemon_is_gone_even_where_slurm_kills_and_no_script_is_left(go: Callable[[Script], Job], lab: Lab) -> None:
    """Slurm's own KILL misses it, as its parent is the node's first process; the script, which would not, is dead."""
    deaf = f"{DAEMON}; touch $GANGRUN_RUN_DIR/up; ((GANGRUN_LOCAL_RANK)) || exec sleep 600; {DEAF}"
    job = go(Script([start("m", "main", deaf, "tasks=2").replace("nodes=0", "nodes=0,1")], begin="2 0", flags=TWO))
    job.run.wait_for(lambda run: (run.dir / "up").exists() and len(daemons(lab)) == 4)
    subprocess.run(["kill", "-KILL", str(script_of(job, "node3"))], check=True)
    assert job.wait() == "FAILED"
    wait_for(lambda: not daemons(lab), 20)


TWO = ["--nodelist=node[3-4]", "--ntasks-per-node=2", "--cpus-per-task=1"]


def daemons(lab: Lab) -> list[int]:
    return [pid for node in ("node3", "node4") for pid, line in lab.processes(node) if line.startswith("sleep 300")]


def kill_9_srun(job: Job, name: str, node: str) -> None:
    """srun is two processes, of which one may be gone with the other."""
    found = [pid for pid, line in job.lab.processes(node) if line.startswith("srun ") and f" {name} " in line]
    assert found
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_kill_9_of_an_srun(go: Callable[[Script], Job], lab: Lab) -> None:
    job = go(Script([start("m", "main", f"echo up; {FLUSH}")], flags=["--nodelist=node3"]))
    at_work(job, "m.0")
    kill_9_srun(job, "m.0", "node3")
    assert job.wait() == "FAILED"
    assert job.run.read("run.cause") == "main m.0 137"


def test_the_step_of_a_killed_srun_does_not_meet_its_successor(go: Callable[[Script], Job], lab: Lab) -> None:
    job = go(Script([start("m", "main", f"echo up; {FOREVER}", "restarts=1")], flags=["--nodelist=node3"]))
    at_work(job, "m.0")
    kill_9_srun(job, "m.0", "node3")
    job.run.wait_for(lambda run: run.log("m.0").count("up") == 2)
    wait_for(lambda: len([pid for pid, line in lab.processes("node3") if line.startswith("bash -c echo up")]) == 1)
    job.slurm("scancel", job.id)
    assert job.run.events("m.0")[:3] == ["start", "exit 137", "start"]


def test_ports_avoid_what_is_in_use_on_another_node(lab: Lab, jobs: Mapping[str, Job], tmp_path: Path) -> None:
    script = Script([start("m", "main", "true")], begin="2 2 0:0,1:1", flags=["--hold", "--nodelist=node1,node2"])
    job = submit(lab, tmp_path / "run", script)
    first = 10000 + int(job.id) * 101 % (22000 - 2)
    listen = (
        f"import socket, sys; s = socket.create_server(('', {first + 1})); print('up', flush=True); sys.stdin.read()"
    )
    argv = [*lab.enter("node2"), sys.executable, "-c", listen]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"up\n"
        job.slurm("scontrol", "release", job.id)
        assert job.wait() == "COMPLETED"
        server.communicate()
    assert job.run.read("run.start").splitlines()[3] == str(10000 + (int(job.id) * 101 + 1009) % (22000 - 2))


def test_a_node_that_loses_its_power_is_noticed(go: Callable[[Script], Job], lab: Lab) -> None:
    job = go(
        Script(
            [
                start("m.0", "main", f"echo up; {FLUSH}"),
                start("m.1", "main", f"echo up; {FOREVER}").replace("nodes=0", "nodes=1"),
                start("m.2", "main", f"echo up; {FOREVER}").replace("nodes=0", "nodes=0,1"),
            ],
            begin="2 0",
            flags=["--nodelist=node3,node4"],
        )
    )
    at_work(job, "m.0", "m.1")
    job.run.wait_for(lambda run: run.log("m.2").count("up") == 2)
    lab.kill("node4")
    try:
        job.run.wait_for(lambda run: run.read("run.cause") != "", 60)
        assert job.run.read("run.cause") in {"lost node4 m.1", "lost node4 m.2"}
        job.run.wait_for(lambda run: run.read("run.exit") == "1", 30)
        assert "flushed" in job.run.log("m.0")
        wait_for(lambda: not [line for _, line in lab.processes("node3") if str(job.run.dir) in line], 20)
    finally:
        job.slurm("scancel", job.id)
        lab.start("node4")


def test_slurmctld_goes_away_for_a_while(go: Callable[[Script], Job], lab: Lab) -> None:
    job = go(Script([start("svc", "service", FOREVER), start("m", "main", "echo up; sleep 5")]))
    at_work(job, "m.0")
    lab.stop_slurmctld()
    time.sleep(3)
    lab.start_slurmctld()
    assert job.wait() == "COMPLETED"
    assert job.run.read("svc.0.exit") == "143"


def test_a_silent_replica_that_is_alive_is_left_alone(jobs: Mapping[str, Job]) -> None:
    job = jobs["silence"]
    assert job.wait(120) == "COMPLETED", job.job_log()
    # Steps 0 and 1 are m.0 and m.1; that there were others before m.2 shows that the script has asked.
    assert int(job.run.read("m.2.step").split(".")[1]) > 2


def test_time_limit(jobs: Mapping[str, Job]) -> None:
    job = jobs["time limit"]
    assert job.wait(120) == "TIMEOUT"
    assert job.run.read("run.cause") == "signal TERM"
    assert "flushed" in job.run.log("m.0")


def work(lab: Lab) -> list[str]:
    return [f"{node}: {line}" for node in lab.nodes for _, line in lab.processes(node)]


def test_nothing_is_alive_on_any_host(jobs: Mapping[str, Job], lab: Lab) -> None:
    for job in jobs.values():
        job.wait(120)
    with suppress(AssertionError):
        wait_for(lambda: not work(lab), 20)
    assert work(lab) == []
