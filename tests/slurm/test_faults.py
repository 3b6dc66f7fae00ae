"""What goes wrong on a cluster: right state, right exit code, right words, and nothing left on any host.

Three runs take their time: one that reaches its time limit, one that loses a node, one that is put back into the
queue. They are begun before the first test, and the last tests look at what became of them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import HOSTILE, Project, marked, sh, wait_for
from tests.slurm.conftest import project_on

pytestmark = pytest.mark.slurm

DOOMED = "node4"
"""The node that loses its power; other runs stay away from it."""


def left(lab: Lab, run: dict[str, Any]) -> list[str]:
    """What still runs of this run, on any host."""
    nodes = [node.name for node in lab.status().nodes if node.power]
    steps = [line for node in nodes for _, line in lab.processes(node) if f"[{run['job']}." in line]
    return [*marked(f"GANGRUN_RUN_DIR={run['dir']}", f"SLURM_JOB_NAME={run['run']}"), *steps]


def slurm(lab: Lab, *argv: str) -> str:
    done = subprocess.run(argv, env=lab.env(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def project(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One project for all: what a run does to another's record would show."""
    folder = tmp_path_factory.mktemp("faults") / "project"
    with project_on(lab, folder) as project:
        profile = folder / "clusters" / "mine.toml"
        text = profile.read_text()
        profile.write_text(text.replace('mem = "1G"', f'mem = "1G", sbatch = {{ exclude = "{DOOMED}" }}', 1))
        yield project


def submitted(project: Project, name: str, text: str, *words: str) -> str:
    """Queues this experiment and returns its run's id."""
    project.write(f"experiments/{name}/run.toml", text)
    done = project.ok("submit", f"experiments/{name}/run.toml", *words)
    return done.out.split()[0]


def running(project: Project, run: str) -> dict[str, Any]:
    """Waits until every replica has written its first line."""
    shown: dict[str, Any] = {}

    def started() -> bool:
        shown.update(project.run(run))
        logs = Path(shown["dir"], "attempts", "latest", "logs")
        names = [name for name in shown.get("replicas", {}) if logs.joinpath(f"{name}.log").is_file()]
        return bool(names) and all(logs.joinpath(f"{name}.log").stat().st_size for name in names)

    wait_for(started)
    return shown


def ended(project: Project, run: str, limit: float = 60) -> dict[str, Any]:
    """The run once it is over."""

    def over() -> dict[str, Any] | None:
        listed = next(one for one in project.runs() if one["run"] == run)
        return None if listed["state"] in {"PENDING", "RUNNING", "COMPLETING"} else listed

    wait_for(over, limit, every=0.5)
    return project.run(run)


PATIENT = """
grace = 3
[allocation]
nodes = 2
cpus = 2
time = "00:01:00"
[roles.main]
nodes = 2
launcher = "srun"
tasks = 1
command = ["bash", "-c", '''
trap 'echo "bye from $RANK"; exit 3' TERM
echo "here is $RANK"
for i in $(seq 900); do sleep 0.2; done''']
"""
"""Two hosts, three minutes, a time limit of one, and a program that says goodbye.

It sleeps in front, not by `wait`: Slurm signals the processes of a step one after another, and a `wait` for one that
was signalled first would be over before the trap."""


@pytest.fixture(scope="module", autouse=True)
def slow(project: Project, lab: Lab) -> Iterator[dict[str, tuple[str, float]]]:
    """By fault, the run that meets it and when that was (`time.monotonic()`)."""
    here = "allocation.sbatch.exclude=false"
    runs = {
        "limit": submitted(project, "limit", PATIENT),
        "power": submitted(project, "power", PATIENT, "--set", here, "--", f"--nodelist=node3,{DOOMED}", "--time=10"),
        "requeue": submitted(project, "requeue", PATIENT, "--set", "allocation.time=10m"),
    }
    for run in runs.values():
        running(project, run)
    begun = {"limit": (runs["limit"], time.monotonic())}
    lab.kill(DOOMED)
    begun["power"] = (runs["power"], time.monotonic())
    slurm(lab, "scontrol", "requeue", project.run(runs["requeue"])["job"])
    begun["requeue"] = (runs["requeue"], time.monotonic())
    yield begun
    project.ok("cancel", *runs.values())
    if DOOMED in (node.name for node in lab.status().nodes if not node.power):
        lab.start(DOOMED)
    wait_for(lambda: {node.slurm for node in lab.status().nodes} == {"idle"}, 60)


def test_a_main_that_dies(project: Project, lab: Lab) -> None:
    text = """
grace = 3
[allocation]
nodes = 2
cpus = 2
[roles.good]
nodes = 1
command = ["bash", "-c", "trap 'echo flushed; exit 0' TERM; echo here; for i in {{1..300}}; do sleep 0.2; done"]
[roles.bad]
nodes = 1
command = ["bash", "-c", "for i in {{1..30}}; do echo line $i; done; echo 'oh no' >&2; sleep 1; exit 7"]
"""
    project.write("experiments/dies/run.toml", text)
    done = project.gangrun("submit", "experiments/dies/run.toml", "--wait")
    assert done.code == 7, done.out + done.err
    run = project.run("dies/run")
    assert (run["state"], run["exit_code"], run["cause"]) == ("FAILED", 7, "main")
    second = run["hosts"][1]
    assert run["failed"] == {"replica": "bad.0", "code": 7, "rank": 0, "host": second}
    assert {name: replica["exit"] for name, replica in run["replicas"].items()} == {"good.0": 0, "bad.0": 7}
    assert "flushed" in Path(run["dir"], "attempts/001/logs/good.0.log").read_text()
    shown = project.ok("show", "dies/run").out
    assert f"first to fail: bad.0, rank 0 on {second} with exit code 7" in shown
    assert "| line 30\n" in shown
    assert "| oh no\n" in shown
    assert "| line 20\n" not in shown
    why = project.ok("why", "dies/run").out
    assert "bad.0 ended with exit code 7" in why
    assert "| oh no\n" in why
    assert re.search(r"dies_run_\S+ +FAILED .* bad\.0 exit 7", project.ok("ls", "dies").out)
    assert wait_for(lambda: not left(lab, run))


SERVED = """
grace = 2
[allocation]
cpus = 2
[roles.server]
kind = "service"
gpus = 0
ports = ["http"]
ready = {{ port = "http", within = "2s" }}
command = ["bash", "-c", "{server}"]
[roles.client]
gpus = 0
{after}
command = ["bash", "-c", "echo asking; for i in {{{{1..300}}}}; do sleep 0.2; done"]
"""


def test_a_service_that_dies_early(project: Project, lab: Lab) -> None:
    text = SERVED.format(server="echo serving; sleep 1; echo full >&2; exit 0", after="").replace("ready = ", "# ")
    project.write("experiments/early/run.toml", text)
    done = project.gangrun("submit", "experiments/early/run.toml", "--wait")
    assert done.code == 1, "a job whose service is gone has failed, although the service said 0"
    run = project.run("early/run")
    assert (run["state"], run["exit_code"], run["cause"]) == ("FAILED", 1, "service")
    assert run["failed"]["replica"] == "server.0"
    why = project.ok("why", "early/run").out
    assert "the service server.0 ended with exit code 0 before the mains were done" in why
    assert "the program said so itself" not in why, "no program ended with 1"
    assert "| full\n" in why
    assert wait_for(lambda: not left(lab, run))


def test_a_service_that_never_gets_ready(project: Project, lab: Lab) -> None:
    project.write(
        "experiments/unready/run.toml", SERVED.format(server="echo loading; sleep 60", after='after = "server"')
    )
    done = project.gangrun("submit", "experiments/unready/run.toml", "--wait")
    assert done.code == 1
    run = project.run("unready/run")
    assert (run["state"], run["exit_code"], run["cause"]) == ("FAILED", 1, "unready")
    assert "client.0" not in run["replicas"], "it was never started"
    why = project.ok("why", "unready/run").out
    assert "server.0 was not ready within 2s" in why
    assert "the program said so itself" not in why
    assert "| loading\n" in why
    assert re.search(r"FAILED .* server\.0 not ready", project.ok("ls", "unready").out)
    assert wait_for(lambda: not left(lab, run))


def test_setup_that_fails(project: Project) -> None:
    text = 'setup = ["echo preparing", "false", "echo never"]\n' + sh("echo unreachable")
    project.write("experiments/setup/run.toml", text)
    done = project.gangrun("submit", "experiments/setup/run.toml", "--wait")
    assert done.code == 1
    assert "unreachable" not in done.out
    why = project.ok("why", "setup/run").out
    assert "the setup lines ended with exit code 1, so nothing was started" in why
    assert "| preparing\n" in why
    assert "never" not in why


def test_hostile_words_arrive_unchanged(project: Project) -> None:
    dump = "import json, os, sys; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], 'w'))"
    values = {f"VALUE_{index}": word for index, word in enumerate(HOSTILE)}
    text = (
        f"command = {json.dumps(['python', '-c', dump, '{run.dir}/words.json', *HOSTILE], ensure_ascii=False)}\n"
        "[env]\n"
        + "".join(f"{name} = {json.dumps(word, ensure_ascii=False)}\n" for name, word in values.items())
        + "[roles.main.env]\n"
        + "".join(f"OF_ROLE_{name} = {json.dumps(word, ensure_ascii=False)}\n" for name, word in values.items())
    )
    project.write("experiments/hostile/run.toml", text)
    done = project.gangrun("submit", "experiments/hostile/run.toml", "--wait")
    assert done.code == 0, done.out + done.err
    run = project.run("hostile/run")
    argv, environment = json.loads(Path(run["dir"], "words.json").read_text())
    assert argv == HOSTILE
    assert [environment[name] for name in values] == HOSTILE
    assert [environment[f"OF_ROLE_{name}"] for name in values] == HOSTILE
    assert not list(project.dir.rglob("x")), "something was run as shell"


NAMES = [
    'it\'s a "dir"',
    "$(touch x) `touch x`",
    "50% %x %j %%",
    "ünï日本",
    "back\\slash %x",
    " lead and trail ",
    "-dash",
    "a;b&c|d",
    "#hash",
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_directory_names(lab: Lab, tmp_path: Path, name: str) -> None:
    with project_on(lab, tmp_path / name) as project:
        file = project.write(
            "my exp's/a run.toml",
            "command = ['bash', '-c', 'echo \"in $PWD\"; touch \"$1\"', '-', '{run.dir}/seen']",
        )
        done = project.gangrun("submit", str(file.relative_to(project.dir)), "--wait")
        assert done.code == 0, done.out + done.err
        run = project.run()
        assert run["run"].startswith("my-exp-s_a-run_")
        assert Path(run["dir"]).is_relative_to(project.dir)
        assert f"in {project.dir}" in done.out
        assert Path(run["dir"], "seen").is_file()
        assert Path(run["dir"], "job.log").is_file(), "#SBATCH --output names the file"
        assert not list(tmp_path.rglob("x")), "something was run as shell"


def test_a_directory_name_that_sbatch_cannot_carry(lab: Lab, tmp_path: Path) -> None:
    with project_on(lab, tmp_path / "a\ntouch x") as project:
        project.write("e/run.toml", sh("true"))
        done = project.gangrun("submit", "e/run.toml")
        assert done.code == 2, done.out + done.err
        assert "control character" in done.err
        assert not (project.dir / "outputs").exists()


def test_cancelling_what_runs_and_what_waits(project: Project, lab: Lab) -> None:
    runs = [
        submitted(project, "runs", PATIENT.replace('"00:01:00"', '"10m"')),
        submitted(project, "waits", PATIENT, "--", "--begin=now+1hour"),
    ]
    one = running(project, runs[0])
    wait_for(lambda: project.run(runs[1])["reason"] == "BeginTime")
    assert "its begin time has not come" in project.ok("why", runs[1]).out
    project.ok("cancel", *runs)
    for run in runs:
        assert ended(project, run)["state"] == "CANCELLED"
        why = project.ok("why", run).out
        assert "is CANCELLED" in why
        assert "it was cancelled" in why
    assert wait_for(lambda: not left(lab, one))
    shown = project.ok("show", runs[0]).out
    assert not re.search(r"main\.0 +runs", shown), "nothing runs in a run that has ended"
    assert "bye from 0" in Path(one["dir"], "attempts/001/logs/main.0.log").read_text(), "it got TERM first"
    again = project.ok("cancel", *runs)
    assert again.out.count("nothing to cancel, it is CANCELLED") == 2


def test_some_of_several_fail(project: Project) -> None:
    project.write("experiments/some/good.toml", sh("exit 0"))
    project.write("experiments/some/bad.toml", sh("exit 9"))
    both = project.gangrun("submit", "experiments/some/good.toml", "experiments/some/bad.toml", "--wait")
    assert both.code == 3
    assert len(project.ok("ls", "some", "--state", "failed", "--json").data) == 1
    all_bad = project.gangrun("submit", "experiments/some/bad.toml", "--seeds", "0,1", "--wait")
    assert all_bad.code == 1


def test_the_batch_script_is_killed(project: Project, lab: Lab) -> None:
    run = running(project, submitted(project, "shot", PATIENT.replace('"00:01:00"', '"10m"')))
    scripts = [line for line in marked(f"SLURM_JOB_NAME={run['run']}") if "slurm_script" in line]
    assert scripts
    os.kill(min(int(line.partition(":")[0]) for line in scripts), signal.SIGKILL)
    run = ended(project, run["run"])
    assert (run["state"], run["exit_code"]) == ("FAILED", 137)
    assert "its batch script could not be started or was killed from outside" in project.ok("why", run["run"]).out
    assert wait_for(lambda: not left(lab, run))


def test_a_node_that_loses_power(project: Project, lab: Lab, slow: dict[str, tuple[str, float]]) -> None:
    name, when = slow["power"]
    run = ended(project, name, 150)
    assert (run["state"], run["exit_code"], run["cause"]) == ("FAILED", 1, "lost")
    assert run["failed"]["host"] == DOOMED
    assert run["ended"] - (time.time() - (time.monotonic() - when)) < 120, "Slurm by itself takes 4 minutes"
    assert f"the node {DOOMED} was lost, and main.0 with it" in project.ok("why", name).out
    assert f"{DOOMED} lost" in project.ok("ls", "power").out
    assert wait_for(lambda: not left(lab, run))
    lab.start(DOOMED)


def test_a_requeued_run_keeps_the_logs_of_its_first_life(
    project: Project, lab: Lab, slow: dict[str, tuple[str, float]]
) -> None:
    name, _ = slow["requeue"]
    # Slurm holds a requeued job back for a while; it is then the same run in another attempt.
    wait_for(lambda: (project.run(name)["attempt"], project.run(name)["state"]) == (2, "RUNNING"), 90, every=0.5)
    run = running(project, name)
    first, second = (Path(run["dir"], "attempts", number, "logs", "main.0.log") for number in ("001", "002"))
    assert first.read_text().count("here is") == 2
    assert second.read_text().count("here is") == 2
    assert Path(run["dir"], "attempts", "latest").readlink() == Path("002")
    assert "attempt   2" in project.ok("show", name).out
    assert "bye" not in project.ok("logs", name).out
    assert "here is" in project.ok("logs", name, "--attempt", "1").out
    project.ok("cancel", name)
    assert ended(project, name)["state"] == "CANCELLED"
    assert wait_for(lambda: not left(lab, run))


def test_the_controller_is_away_while_a_job_runs(project: Project, lab: Lab) -> None:
    flag = project.dir / "go"
    name = submitted(project, "alone", sh(f"echo up; while [ ! -e {flag} ]; do sleep 0.1; done; echo done"))
    running(project, name)
    watcher = project.start("logs", name, "-f")
    lab.stop_slurmctld()
    try:
        began = time.monotonic()
        states = {run["run"]: run for run in project.runs()}
        assert time.monotonic() - began < 5, "ls must not hang on a controller that is known to be down"
        assert (states[name]["state"], states[name]["stale"]) == ("RUNNING", True)
        assert "Unable to contact slurm controller" in states[name]["note"]
        table = project.ok("ls").out
        assert re.search(rf"{name} +RUNNING\?", table)
        assert "(as last known)" in project.ok("why", name).out
        done = [run for run in states.values() if run["state"] == "FAILED"]
        assert done
        assert not any(run["stale"] for run in done), "an end on record needs no controller"
        refused = project.gangrun("cancel", name)
        assert refused.code == 1
        assert "Unable to contact slurm controller" in refused.err
        flag.touch()
        wait_for(lambda: Path(states[name]["dir"], "attempts/001/status/run.exit").is_file(), 60)
    finally:
        lab.start_slurmctld()
    run = ended(project, name)
    assert (run["state"], run["exit_code"], run["stale"]) == ("COMPLETED", 0, False)
    heard = watcher.done(60)
    assert heard.code == 0, heard.err
    assert "| done" in heard.out


def test_a_controller_that_hangs(project: Project, lab: Lab) -> None:
    name = submitted(project, "hung", sh("echo up; sleep 60"))
    running(project, name)
    pid = int(Path(re.findall(r"SlurmctldPidFile *= (\S+)", slurm(lab, "scontrol", "show", "config"))[0]).read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        states = {run["run"]: run for run in project.runs()}
        assert time.monotonic() - began < 15
        assert (states[name]["state"], states[name]["stale"]) == ("RUNNING", True)
    finally:
        os.kill(pid, signal.SIGCONT)
    project.ok("cancel", name)
    assert ended(project, name)["state"] == "CANCELLED"


def test_submitting_while_the_controller_comes_back(project: Project, lab: Lab) -> None:
    project.write("experiments/back/run.toml", sh("echo made it"))
    lab.stop_slurmctld()
    try:
        waiting = project.start("submit", "experiments/back/run.toml", "--wait")
        assert waiting.process.stderr
        assert "trying again" in waiting.process.stderr.readline()
        assert {run["state"] for run in project.ok("ls", "back", "--json").data} == {"SUBMITTING"}
    finally:
        lab.start_slurmctld()
    done = waiting.done(60)
    assert done.code == 0, done.err
    assert "made it" in done.out
    assert len(project.ok("ls", "back", "--json").data) == 1


def test_a_time_limit(project: Project, lab: Lab, slow: dict[str, tuple[str, float]]) -> None:
    name, _ = slow["limit"]
    run = ended(project, name, 150)
    assert (run["state"], run["exit_code"] in (None, 143)) == ("TIMEOUT", True)
    assert not run["failed"], "the limit is the reason and no replica is to blame"
    why = project.ok("why", name).out
    assert "it reached its time limit" in why
    assert "raise `time`" in why
    assert re.search(r"limit_run_\S+ +TIMEOUT", project.ok("ls", "limit").out)
    assert wait_for(lambda: not left(lab, run))
