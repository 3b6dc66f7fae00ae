"""The command line on one machine: what it does with good input, and what it says of bad."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gangrun_cli import HOSTILE, PROGRAMS, Done, Project, marked, sh, wait_for

FILE = "experiments/try/run.toml"


def refused(project: Project, done: Done, *words: str, code: int = 2) -> None:
    """One clear message, nothing written."""
    assert done.code == code, done.out + done.err
    assert "Traceback" not in done.err
    assert done.err.startswith(("gangrun", "usage: gangrun"))
    assert done.out == ""
    for word in words:
        assert word in done.err
    assert not (project.dir / "outputs").exists()


# --- bad input -------------------------------------------------------------------------------------------------------

BAD_FILES = {
    "unknown key": (
        "\ncomand = ['x']\n",
        f"{FILE}:2: comand: unknown key",
        "did you mean 'command'?",
    ),
    "unknown key in a table": (
        "command = ['x']\n[allocation]\nnode = 1\n",
        f"{FILE}:3: allocation.node: unknown key",
        "did you mean 'nodes'?",
    ),
    "wrong type": (
        "command = ['x']\n[allocation]\ngpus = 'two'\n",
        f"{FILE}:3: allocation.gpus: should be a whole number",
        "'two'",
    ),
    "a command that is a line": ("command = 'python x.py'\n", f"{FILE}:1: command: ", "list of words"),
    "no command": ("seed = 1\n", "command: is missing", 'command = ["python", "train.py"]'),
    "does not fit": (
        "command = ['x']\nreplicas = 3\ngpus = 2\n[allocation]\ngpus = 4\n",
        f"{FILE}:3: gpus: replica 2 of 3 needs 2 GPUs",
    ),
    "GPUs do not divide": (
        """
[allocation]
nodes = 2
gpus = 8
[roles.a]
gpus = 3
replicas = 4
command = ['x']
[roles.b]
beside = 'a'
replicas = 5
command = ['y']
""",
        f"{FILE}:11: roles.b.replicas: 5 ",
        "do not divide",
    ),
    "replica groups that do not divide the nodes": (
        "command = ['x']\ntopology = 'torchft'\nreplicas = 2\n[allocation]\nnodes = 3\ngpus = 8\n",
        f"{FILE}:3: replicas: 3 nodes do not divide among 2 replicas",
    ),
    "replica groups that do not divide the GPUs": (
        "command = ['x']\ntopology = 'torchft'\nreplicas = 3\n[allocation]\ngpus = 8\n",
        f"{FILE}:3: replicas: 8 GPUs of a node do not divide among 3 replicas",
    ),
    "more groups needed than there are": (
        "command = ['x']\ntopology = 'torchft'\nreplicas = 2\nmin_replicas = 3\n[allocation]\ngpus = 8\n",
        f"{FILE}:4: min_replicas: 3 are needed, but there are 2 replicas",
    ),
    "unknown reference": (
        "command = ['x', '{nobody.host}']\n",
        f"{FILE}:1: command[1]: unknown reference {{nobody.host}}",
    ),
    "no such port": ("command = ['x', '{self.port.web}']\n", f"{FILE}:1: command[1]: ", 'ports = ["web"]'),
    "no seed": ("command = ['x', '{seed}']\n", f"{FILE}:1: command[1]: ", "seed = 0"),
    "cycle in after": (
        "[roles.a]\ngpus = 0\nafter = 'b'\ncommand = ['x']\n[roles.b]\ngpus = 0\nafter = 'a'\ncommand = ['x']\n",
        f"{FILE}:3: roles.a.after: ",
        "a → b → a",
    ),
    "unknown role": (
        "[roles.trainer]\ngpus = 0\nafter = 'sever'\ncommand = ['x']\n[roles.server]\ngpus = 0\ncommand = ['x']\n",
        f"{FILE}:3: roles.trainer.after: ",
        "did you mean 'server'?",
    ),
    "unknown launcher": (
        "command = ['x']\nlauncher = 'torchrn'\n",
        f"{FILE}:2: launcher: no launcher is named 'torchrn'",
        "torchrun",
    ),
    "not TOML": ("command = ['x'\n[allocation]\n", f"{FILE}:", "is not TOML"),
    "not UTF-8": (b"command = ['x']\n# caf\xe9\n", f"{FILE}:2: is not UTF-8 (byte 0xe9)"),
    "NUL": ("command = ['a\\u0000b']\n".replace("'", '"'), f"{FILE}:1: command[0]: ", "NUL"),
    "extends nothing": ("extends = 'gone.toml'\n", f"{FILE}:1: extends: no such file: "),
    "extends itself": ("seed = 1\nextends = 'run.toml'\n", f"{FILE}:2: extends: ", "in a circle: "),
    "variable of the scheduler": (
        "command = ['x']\n[env]\nCUDA_VISIBLE_DEVICES = '0'\n",
        f"{FILE}:3: env.CUDA_VISIBLE_DEVICES",
    ),
    "line break in a flag": (
        'command = ["x"]\n[allocation]\naccount = "a\\nb"\n',
        f"{FILE}:3: allocation.account: ",
        "line breaks",
    ),
    "template that is absent": (
        "command = ['x']\ntemplate = 'mine.sh.j2'\n",
        f"{FILE}:2: template: no such file: ",
        "/mine.sh.j2 (gangrun script",
    ),
    "two at once": ("comand = 1\nseed = 'x'\n", f"{FILE}:1: comand", f"{FILE}:2: seed"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_bad_file(project: Project, said: Callable[..., Done], name: str, command: str) -> None:
    text, *words = BAD_FILES[name]
    project.write(FILE, text)
    refused(project, said(command, FILE), *map(str, words))


@pytest.mark.parametrize("command", ["check", "plan", "script"])
def test_commands_that_only_look_say_the_same(project: Project, said: Callable[..., Done], command: str) -> None:
    project.write(FILE, BAD_FILES["cycle in after"][0])
    refused(project, said(command, FILE), f"{FILE}:3: roles.a.after: ")


def test_a_circle_over_three_files(project: Project, said: Callable[..., Done]) -> None:
    for name, base in {"a": "b", "b": "c", "c": "a"}.items():
        project.write(f"experiments/try/{name}.toml", f"# {name}\n\nextends = '{base}.toml'\n")
    place = "experiments/try/"
    chain = " → ".join(f"{place}{name}.toml" for name in "abca")
    refused(project, said("run", f"{place}a.toml"), f"{place}c.toml:3: extends: ", chain)


def test_a_mistake_in_what_is_extended_is_told_where_it_stands(project: Project, said: Callable[..., Done]) -> None:
    project.write("base.toml", "[allocation]\n\ncpus = -1\n")
    project.write(FILE, "extends = '../../base.toml'\n" + sh("true"))
    refused(project, said("run", FILE), "base.toml:3: allocation.cpus: ")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for %}\n", ["mine.sh.j2:1: template: "]),
        ("#!/bin/bash\n\n{{ nonsense }}\n", ["mine.sh.j2", "'nonsense' is undefined"]),
        (b"\xff\xfe", ["mine.sh.j2", "cannot be read"]),
    ],
    ids=["syntax", "unknown name", "not UTF-8"],
)
@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_broken_template(
    project: Project, said: Callable[..., Done], command: str, template: str | bytes, words: list[str]
) -> None:
    project.write("experiments/try/mine.sh.j2", template)
    project.write(FILE, "template = 'mine.sh.j2'\n" + sh("true"))
    refused(project, said(command, FILE), "template", *words)


BAD_LINES = {
    "no command": ((), ("usage: gangrun COMMAND",)),
    "unknown command": (("frobnicate",), ("no command is named 'frobnicate'",)),
    "nearly a command": (("sumbit", FILE), ("did you mean 'submit'?",)),
    "no file": (("run",), ("the following arguments are required: FILE",)),
    "absent file": (("run", "gone.toml"), ("gone.toml: cannot be read: No such file or directory",)),
    "a folder": (("run", "experiments"), ("experiments: cannot be read: Is a directory",)),
    "unknown flag": (("run", "--bogus", FILE), ("unrecognized arguments: --bogus",)),
    "flag cut short": (("submit", "--see=1", FILE), ("unrecognized arguments: --see=1",)),
    "--set without a value": (("run", FILE, "--set", "nonsense"), ("--set 'nonsense' is not KEY=VALUE",)),
    "--set without a key": (("run", FILE, "--set", "=1"), ("--set '=1' is not KEY=VALUE",)),
    "--set of the wrong type": (
        ("run", FILE, "--set", "allocation.nodes=two"),
        ("--set: allocation.nodes: should be a whole number",),
    ),
    "--set of an unknown table": (
        ("run", FILE, "--set", "alocation.nodes=2"),
        ("--set: alocation: unknown key", "did you mean 'allocation'?"),
    ),
    "--set of an unknown key": (("run", FILE, "--set", "allocation.node=2"), ("--set: allocation.node: unknown key",)),
    "--seeds of letters": (("submit", FILE, "--seeds", "a-b"), ("--seeds 'a-b' is no list of seeds", "0-4")),
    "--seeds backwards": (("submit", FILE, "--seeds", "5-1"), ("--seeds '5-1' is no list of seeds",)),
    "--seeds of nothing": (("submit", FILE, "--seeds", ""), ("--seeds '' is no list of seeds",)),
    "--seeds below zero": (("submit", FILE, "--seeds=-1"), ("--seeds '-1' is no list of seeds",)),
    "unknown profile": (("submit", FILE, "--cluster", "locl"), ("no cluster profile is named 'locl'", "'local'")),
    "flags for no sbatch": (("submit", FILE, "--", "--nice=1"), ("no sbatch to take flags",)),
    "no such run": (("show", "nobody"), ("no run 'nobody'",)),
    "no run yet": (("logs",), ("there is no run yet",)),
    "a limit that is no number": (("ls", "-n", "few"), ("'few' is no number",)),
    "a file without a name": (("check", ""), ("argument FILE: the name is empty",)),
    "a role that only --set has": (
        ("plan", FILE, "--set", "roles.x.gpus=1"),
        ("--set: roles.x.command: is missing: the file has no role 'x' (it has main)",),
    ),
    "init of a file that cannot be": (
        ("init", "/proc/x.toml"),
        ("/proc/x.toml: cannot be written", "No such file or directory", "way out: name another file"),
    ),
    "init under a file": (("init", f"{FILE}/x.toml"), (f"gangrun: {FILE} is there already",)),
    "init of a file beside bash": (("init", "--bash", "x.toml"), ("--bash does not write x.toml", "leave FILE out")),
    "a command without --": (("exec", "latest", "ls"), ("[RUN] -- COMMAND", "unrecognized arguments: ls")),
    "a limit of none": (("ls", "-n", "0"), ("'0' is no number from 1",)),
    "a limit below none": (("ls", "-n", "-1"), ("'-1' is no number from 1",)),
    "cancel nothing": (("cancel",), ("the following arguments are required: RUN",)),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_command_line(project: Project, said: Callable[..., Done], name: str) -> None:
    project.write(FILE, sh("true"))
    words, told = BAD_LINES[name]
    refused(project, said(*words), *told)


@pytest.mark.parametrize(
    ("target", "why", "way_out"),
    [
        (".", "Is a directory", "name another file"),
        ("", "Is a directory", "name another file"),
        ("/proc/x.sh", "No such file or directory", "name another file"),
        ("no/dir/x.sh", "there is no folder no/dir", "mkdir -p no/dir"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--as-spec"]])
def test_a_script_that_cannot_be_written_leaves_no_run(
    project: Project, said: Callable[..., Done], target: str, why: str, way_out: str, more: list[str]
) -> None:
    project.write("c.py", "")
    asked = ("generate", "--config-file", "c.py", "--output", "logs/%j", "--output-file", target, *more)
    refused(project, said(*asked), f"--output-file {target or '.'}: the script cannot be written", why, way_out)
    assert not (project.dir / "no").exists()
    assert not (project.dir / "logs").exists()


def test_a_script_goes_where_links_and_pipes_lead(project: Project, said: Callable[..., Done]) -> None:
    project.write("c.py", "")
    (project.dir / "link.sh").symlink_to("there.sh")
    refused(project, said("generate", "--config-file", "c.py", "--qos", "a\nb", "--output-file", "link.sh"), "--qos")
    assert not (project.dir / "there.sh").exists()
    assert said("generate", "--config-file", "c.py", "--output-file", "link.sh").code == 0
    assert (project.dir / "link.sh").is_symlink()
    os.mkfifo(project.dir / "pipe")
    reader = project.spawn("cat", "pipe")
    assert said("generate", "--config-file", "c.py", "--output-file", "pipe").code == 0
    assert reader.done().out.startswith((project.dir / "there.sh").read_text()[:20])


def test_a_script_for_no_slurm_says_so(project: Project, said: Callable[..., Done]) -> None:
    project.write("c.py", "")
    done = said("generate", "--config-file", "c.py", "--output-file", "x.sh")
    assert done.code == 0
    assert "the cluster is local, so nothing is asked of Slurm; --cluster NAME chooses another" in done.err
    assert "the cluster is" not in said("generate", "--config-file", "c.py", "--cluster", "local").err
    assert said("ls", "--state", "bogus").out == "no run is like that; they are CREATED\n"
    mail = ("--mail-user", "a@b.example", "--mail-type", "END,SOMETIMES")
    done = said("generate", "--config-file", "c.py", *mail)
    assert (done.code, done.out) == (2, "")
    assert "c.py" not in done.err.partition(":")[0]
    assert "--mail-type knows no 'SOMETIMES': there are NONE, BEGIN, END, FAIL" in done.err
    assert said("generate", "--config-file", "c.py", *mail[:-1], "begin,TIME_LIMIT_90").code == 0


def test_a_name_that_no_run_can_have(project: Project, said: Callable[..., Done]) -> None:
    long = f"experiments/{'x' * 60}/run.toml"
    project.write(long, sh("true"))
    project.write(FILE, sh("true"))
    words = ("characters, 14 too many", "shorten the name of the experiment (now 60 characters)")
    refused(project, said("run", long), *words)
    refused(project, said("submit", FILE, long), *words)
    refused(project, said("check", long), *words)
    project.write("experiments/---/run.toml", sh("true"))
    refused(project, said("run", "experiments/---/run.toml"), "leaves nothing that a run could be called")


def test_an_unknown_profile_is_told_where_it_was_named(project: Project, said: Callable[..., Done]) -> None:
    project.write(FILE, "# one\ncluster = 'nowhere'\n" + sh("true"))
    del project.env["GANGRUN_CLUSTER"]
    refused(project, said("submit", FILE), f"{FILE}:2: no cluster profile is named 'nowhere'", "clusters")
    done = said("submit", FILE, GANGRUN_CLUSTER="mars")
    refused(project, done, "GANGRUN_CLUSTER: no cluster profile is named 'mars'")


def test_a_profile_with_a_mistake(project: Project, said: Callable[..., Done]) -> None:
    project.write("clusters/site.toml", "scheduler = 'slurm'\ndefualts = {}\n")
    project.write(FILE, sh("true"))
    done = said("submit", FILE, "--cluster", "site")
    refused(project, done, "clusters/site.toml:2: defualts: unknown key", "did you mean 'defaults'?")


def test_no_sbatch_here(project: Project, said: Callable[..., Done], tmp_path: Path) -> None:
    project.write(FILE, sh("true"))
    # A PATH on which there is the system's bash and git, and no Slurm.
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "git", "env"):
        folder.joinpath(name).symlink_to(f"/usr/bin/{name}")
    done = said("submit", FILE, "--cluster", "slurm", PATH=f"{PROGRAMS}:{folder}")
    refused(project, done, "no sbatch on this machine's PATH", "--cluster local")


# --- records that cannot be written ----------------------------------------------------------------------------------


def test_outputs_is_a_file(project: Project) -> None:
    project.write(FILE, sh("true"))
    project.write("outputs", "mine")
    done = project.gangrun("run", FILE)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "outputs" in done.err
    assert "a file" in done.err
    assert (project.dir / "outputs").read_text() == "mine"


@pytest.fixture
def mounted(project: Project) -> Iterator[Callable[[str], None]]:
    """Mounts a small file system on the project's outputs."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    outputs = project.dir / "outputs"

    def mount(options: str) -> None:
        outputs.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(outputs)]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no mounting here: {done.stderr}")

    yield mount
    if os.path.ismount(outputs):
        subprocess.run(["umount", "--lazy", str(outputs)], check=True)


@pytest.mark.parametrize("command", ["run", "submit"])
def test_outputs_on_a_read_only_file_system(project: Project, mounted: Callable[[str], None], command: str) -> None:
    mounted("ro")
    project.write(FILE, sh("true"))
    done = project.gangrun(command, FILE)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "read-only" in done.err
    assert "way out: " in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_outputs_without_permission(project: Project) -> None:
    project.write(FILE, sh("true"))
    (project.dir / "outputs").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    done = project.gangrun("run", FILE)
    assert done.code == 1
    assert "permission" in done.err


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_full_disk(project: Project, mounted: Callable[[str], None], command: str) -> None:
    mounted("size=64k")
    (project.dir / "outputs" / "big").write_bytes(b"x" * 61440)
    project.write(FILE, sh("true"))
    done = project.gangrun(command, FILE)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "the disk is full" in done.err
    assert list((project.dir / "outputs").iterdir()) == [project.dir / "outputs" / "big"], "half a run was left"
    assert project.runs() == []


def test_a_disk_that_fills_up_makes_no_failure_a_success(project: Project, mounted: Callable[[str], None]) -> None:
    mounted("size=1m")
    project.write(FILE, "command = ['bash', '-c', 'cat /dev/zero >\"$1\"; exit 3', '-', '{run.dir}/zeros']\n")
    done = project.gangrun("run", FILE)
    assert done.code == 3
    (run,) = project.runs()
    assert run["state"] in {"FAILED", "LOST"}
    assert run["exit_code"] != 0


# --- good input ------------------------------------------------------------------------------------------------------


def finished(project: Project, done: Done) -> str:
    """The text of the one run that `gangrun run` made and that ended well."""
    assert done.code == 0, done.out + done.err
    (run,) = project.runs()
    assert (run["state"], run["exit_code"], run["cluster"]) == ("COMPLETED", 0, "local")
    shown = project.run(run["run"])
    assert {replica["exit"] for replica in shown["replicas"].values()} == {0}
    assert re.search(rf"{run['run']} +COMPLETED +{run['job']} +local", project.ok("ls").out)
    assert "all mains exited 0" in project.ok("why").out
    why = project.ok("why", "--json").data
    assert (why["state"], why["why"][-1]) == ("COMPLETED", "all mains exited 0")
    printed = sorted(line.partition(" | ")[2] for line in done.out.splitlines())
    logged = project.ok("logs").out
    lines = project.ok("logs", "--json").data
    assert [f"{line['replica']} | {line['text']}" for line in lines] == logged.splitlines()
    assert sorted(line.partition(" | ")[2] for line in logged.splitlines()) == printed
    return logged


def test_quickstart(project: Project) -> None:
    text = finished(project, project.gangrun("run", project.example("quickstart")))
    assert float(re.findall(r"epoch 20/20  loss \S+  accuracy (\S+)", text)[0]) > 0.9
    assert json.loads((project.dir / "outputs/quickstart/quickstart/latest/metrics.json").read_text())["epoch"] == 20


def test_server_and_client(project: Project) -> None:
    text = finished(project, project.gangrun("run", project.example("server-client")))
    assert "all equal to this side's model" in text


@pytest.mark.torch
def test_ddp(project: Project) -> None:
    text = finished(project, project.gangrun("run", project.example("ddp"), limit=200))
    assert "all 4 ranks hold the same weights" in text


@pytest.mark.torch
def test_one_task_per_rank(project: Project) -> None:
    text = finished(project, project.gangrun("run", project.example("ranks"), limit=200))
    assert "the all-reduce is right" in text
    assert {f"RANK={rank} " for rank in range(8)} == set(re.findall(r"(?<!_)RANK=\d ", text))


@pytest.mark.torch
def test_a_pool_of_warm_trainings(project: Project) -> None:
    folder = Path(project.example("pool")).parent
    done = project.gangrun("run", f"{folder}/warm.toml", "--set", "sweep.blocks=[4, 40, 8, 12, 16, 20]", limit=200)
    assert done.code == 0, done.out + done.err
    assert "pool: 6 done, 0 failed, 0 left" in done.out
    rows = project.ok("results", "latest", "--json").data
    assert [row["state"] for row in rows] == ["COMPLETED"] * 6
    assert all(0 < row["metrics"]["accuracy"] <= 1 for row in rows)


def test_a_recorded_spec_runs_again(project: Project) -> None:
    project.write("experiments/again/000_try_3.toml", sh("echo seed {seed} in $PWD"))
    first = project.ok("run", "experiments/again/000_try_3.toml").out
    spec = Path(project.run()["dir"], "spec.toml")
    assert project.ok("run", str(spec)).out == first == f"main.0 | seed 3 in {project.dir}\n"
    assert {run["run"].rsplit("_", 2)[0] for run in project.runs()} == {"again_000_try_3"}


def test_the_exit_code_of_run_is_the_programs(project: Project) -> None:
    project.write(FILE, sh("echo one; exit 7"))
    assert project.gangrun("run", FILE).code == 7
    quiet = project.gangrun("run", FILE, "--quiet")
    assert (quiet.code, quiet.out) == (7, "")
    assert {(run["state"], run["exit_code"]) for run in project.runs()} == {("FAILED", 7)}
    shown = project.ok("show").out
    assert "first to fail: main.0, rank 0" in shown
    assert "| one\n" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_run_ends_everything(project: Project, number: signal.Signals) -> None:
    project.write(FILE, sh("trap 'echo bye; exit 0' TERM; echo up; for i in {{1..300}}; do sleep 0.2; done"))
    started = project.start("run", FILE)
    assert started.process.stdout
    assert "up" in started.process.stdout.readline()
    run = project.runs()[0]
    assert run["state"] == "RUNNING"
    os.kill(started.process.pid, number)
    done = started.done(20)
    assert done.code == 128 + number
    assert "bye" in done.out
    assert "stopping, Ctrl-C again kills" in done.err
    assert wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"))
    run = project.runs()[0]
    assert (run["state"], run["exit_code"]) == ("CANCELLED", 128 + number)
    assert "CANCELLED" in project.ok("why").out


def test_a_second_interrupt_kills(project: Project) -> None:
    project.write(FILE, "grace = 60\n" + sh("trap '' TERM; echo up; for i in {{1..600}}; do sleep 0.1; done"))
    started = project.start("run", FILE)
    assert started.process.stdout
    assert started.process.stderr
    assert "up" in started.process.stdout.readline()
    run = project.runs()[0]
    os.kill(started.process.pid, signal.SIGINT)
    assert "stopping" in started.process.stderr.readline()
    os.kill(started.process.pid, signal.SIGINT)
    assert started.done(20).code == 137
    assert wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"))
    assert project.runs()[0]["state"] == "CANCELLED"


def test_a_run_goes_on_when_gangrun_is_killed(project: Project) -> None:
    flag = project.dir / "go"
    project.write(FILE, sh(f"echo up; while [ ! -e {flag} ]; do sleep 0.1; done"))
    started = project.start("run", FILE)
    assert started.process.stdout
    assert "up" in started.process.stdout.readline()
    os.kill(started.process.pid, signal.SIGKILL)
    started.process.wait(10)
    assert project.runs()[0]["state"] == "RUNNING"
    flag.touch()
    assert wait_for(lambda: project.runs()[0]["state"] == "COMPLETED")


def test_hostile_words_arrive_unchanged(project: Project) -> None:
    dump = "import json, os, sys; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], 'w'))"
    words = json.dumps(["python", "-c", dump, "{run.dir}/words.json", *HOSTILE], ensure_ascii=False)
    values = {f"VALUE_{index}": word for index, word in enumerate(HOSTILE)}
    lines = (f"{name} = {json.dumps(word, ensure_ascii=False)}\n" for name, word in values.items())
    project.write(FILE, f"command = {words}\n[env]\n{''.join(lines)}")
    project.ok("run", FILE)
    argv, environment = json.loads(Path(project.run()["dir"], "words.json").read_text())
    assert argv == HOSTILE
    assert [environment[name] for name in values] == HOSTILE
    assert not list(project.dir.rglob("x")), "something was run as shell"


def test_a_project_is_found_from_within(project: Project) -> None:
    project.write(FILE, sh("echo in $PWD"))
    inside = Project(project.dir / "experiments" / "try", project.env)
    assert inside.ok("run", "run.toml").out == f"main.0 | in {project.dir}\n"
    assert inside.runs() == project.runs() != []
    assert (project.dir / "outputs").is_dir()


def test_submit_to_this_machine(project: Project) -> None:
    project.write(FILE, sh("echo {seed}; [ {seed} != 1 ] || exit 5"))
    done = project.gangrun("submit", FILE, "--seeds", "0-2", "--wait", "--json")
    assert done.code == 3
    codes = {run["run"].split("_")[2]: run["exit_code"] for run in done.data}
    assert codes == {"0": 0, "1": 5, "2": 0}
    assert project.gangrun("submit", FILE, "--seeds", "1", "--wait").code == 5


def test_submitted_runs_outlive_gangrun_and_are_cancelled(project: Project) -> None:
    project.write(FILE, sh("echo up; for i in {{1..300}}; do sleep 0.2; done"))
    project.ok("submit", FILE)
    run = project.runs()[0]
    assert run["state"] == "RUNNING"
    wait_for(lambda: "up" in project.ok("logs").out)
    assert "cancelling" in project.ok("cancel", "try/run").out
    assert wait_for(lambda: project.runs()[0]["state"] == "CANCELLED")
    assert wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"))


def test_plan_check_and_script_write_nothing(project: Project) -> None:
    project.write(FILE, sh("true"))
    assert "fine for local (1 replica on 1 node × 0 GPUs)" in project.ok("check", FILE).out
    plan = project.ok("plan", FILE, "--json").data
    assert plan["replicas"][0]["argv"] == ["bash", "-c", "true"]
    script = project.ok("script", FILE).out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "# would be sent by: bash " in project.ok("submit", FILE, "--dry-run").out
    assert not (project.dir / "outputs").exists()


def test_ones_own_template(project: Project) -> None:
    template = project.ok("script", "--template").out
    project.write(
        "experiments/try/mine.sh.j2", template.replace("# The roles of this run", "# MINE\n# The roles of this run")
    )
    project.write(FILE, "template = 'mine.sh.j2'\n" + sh("echo made"))
    assert "made" in project.ok("run", FILE).out
    assert "# MINE\n" in Path(project.run()["dir"], "script.sh").read_text()


def test_init_starts_a_file_that_is_fine(project: Project) -> None:
    done = project.ok("init")
    file = done.out.partition(":")[0]
    project.ok("check", file)
    again = project.gangrun("init")
    assert again.code == 2
    assert "is there already" in again.err


def test_every_replica_is_told_the_addresses_of_all(project: Project) -> None:
    text = "[allocation]\nnodes = 3\n[env]\nALL = 'all={main.addresses.peer}'\n[roles.main]\nreplicas = 3\n"
    words = "'echo $0 $1 $ALL', '{self.addresses.peer}', '{main.addresses.peer}'"
    text += f"ports = 'peer'\ncommand = ['bash', '-c', {words}]\n"
    project.write(FILE, text)
    lines = [line.split(" | ")[1].split() for line in project.ok("run", FILE).out.splitlines()]
    (everybody,) = {addresses for _, addresses, _ in lines}
    assert sorted(own for own, _, _ in lines) == sorted(everybody.split(","))
    assert len({address.rpartition(":")[2] for address in everybody.split(",")}) == 3
    assert {told for _, _, told in lines} == {f"all={everybody}"}


def test_a_reader_that_goes_away_is_no_error(project: Project) -> None:
    project.write(FILE, sh("seq 100000"))
    project.ok("run", FILE, "--quiet")
    environment = project.environment()
    line = "gangrun logs | head -1; echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", line], cwd=project.dir, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "main.0 | 1"
    assert done.stderr == ""


def test_help_imports_nothing_heavy(project: Project) -> None:
    code = "import sys; from gangrun.cli import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    assert not [name for name in ("pydantic", "jinja2", "rich", "argparse") if f"'{name}'" in loaded]


def test_a_ctrl_c_that_is_ignored_stays_ignored(project: Project) -> None:
    """As for a command in the background of a script."""
    project.write("experiments/x/run.toml", sh("until [[ -e go ]]; do sleep 0.1; done"))
    started = project.spawn("sh", "-c", 'trap "" INT; exec gangrun run experiments/x/run.toml')
    wait_for(lambda: [run["state"] for run in project.runs()] == ["RUNNING"])
    os.kill(started.process.pid, signal.SIGINT)
    project.write("go", "")
    done = started.done()
    assert (done.code, "stopping" in done.err) == (0, False), done.err


def test_a_working_directory_that_is_gone_is_no_fault_of_the_setup(project: Project) -> None:
    project.write(FILE, "command = ['false']\nworkdir = 'work'\n")
    work = project.dir / "experiments/try/work"
    work.mkdir()
    assert project.gangrun("run", FILE).code == 1
    work.rmdir()
    assert project.gangrun("resume", "latest", "--wait").code == 1
    why = project.gangrun("why", "latest").out
    assert "the working directory (workdir) does not exist there or cannot be entered, so nothing was started" in why
    assert "setup" not in why
    assert f"{work}: No such file or directory" in why
