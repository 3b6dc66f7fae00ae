"""Scripts: valid bash, clean for shellcheck, and each verb is given exactly what the plan says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gangrun.errors import InputError, SpecError
from gangrun.plan.model import Allocation, Host, Part, Plan, Port, Ready, Replica, Var, Word
from gangrun.script.parts import prelude
from gangrun.script.quote import literal
from gangrun.script.render import render, template

Resolved = Callable[..., Plan]

RECORDER = """\
told() { printf '%s\\0' "$#" "$@"; }
begin() { told begin "$@"; }
start() { told start "$@"; }
ready() { told ready "$@"; }
await() { told await "$@"; }
finish_when_mains_end() { told finish; }
HOSTS=(host0 host1 host2) PORTS=(20000 20001 20002 20003) JOB=7 ATTEMPT=001
RUN_NAME={{ run_name }}
RUN_DIR=${GANGRUN_RUN_DIR:-{{ run_dir }}}
roles() {
:
{% for line in body %}
{{ line }}
{% endfor %}
}
begin {{ begin }}
roles
finish_when_mains_end
"""


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A user's template whose verbs print what they are given."""
    file = tmp_path_factory.mktemp("template") / "recorder.sh.j2"
    file.write_text(RECORDER)
    return str(file)


def verbs(plan: Plan, run_dir: str = "/out/x") -> list[list[str]]:
    """The verbs of a script that was made from the recorder, as they were called."""
    script = render(plan, "e_s_1", run_dir)
    run = subprocess.run(["bash"], input=script.encode(), capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    words = run.stdout.decode().split("\0")[:-1]
    found: list[list[str]] = []
    while words:
        number = int(words[0])
        found.append(words[1 : 1 + number])
        words = words[1 + number :]
    return found


def plan_of(*replicas: Replica, **more: Any) -> Plan:
    values: dict[str, Any] = {
        "experiment": "e",
        "step": "s",
        "seed": None,
        "cluster": "site",
        "scheduler": "slurm",
        "allocation": Allocation(3, 4, 16, None, None),
        "ports": 4,
        "setup": (),
        "env": (),
        "workdir": "/w",
        "grace": 30,
    }
    return Plan(**{**values, **more}, replicas=replicas)


def replica(role: str = "a", index: int = 0, **more: Any) -> Replica:
    values: dict[str, Any] = {
        "count": 1,
        "kind": "main",
        "nodes": (0,),
        "gpus": (),
        "cpus": None,
        "tasks": 1,
        "ranks": False,
        "argv": (Word.of("x"),),
    }
    return Replica(role=role, index=index, **{**values, **more})


# ---- the verbs


def test_a_start_says_everything_about_its_replica(recorder: str) -> None:
    plan = plan_of(
        replica(
            "trainer",
            3,
            kind="service",
            nodes=(0, 2),
            gpus=(1, 3),
            cpus=14,
            tasks=2,
            ranks=True,
            argv=(Word.of("train it.py"), Word.of(Host(2), ":", Port(1)), Word.of(Var("run_dir"), "/o")),
            env=(("A", Word.of("$x 'y'")), ("B", Word.of(Var("attempt")))),
            ports=(("other", Port(0)), ("master", Port(3))),
            restarts=2,
            step_flags=(Word.of("--container-image=a b"), Word.of("--container-workdir=", Var("run_dir"))),
            alone=False,
        ),
        template=recorder,
    )
    assert verbs(plan, "/out put/'x'") == [
        ["begin", "3", "4", "0:0,0:3"],
        [
            *(
                "start",
                "trainer",
                "3",
                "service",
                "nodes=0,2",
                "gpus=1,3",
                "cpus=14",
                "tasks=2",
                "restarts=2",
                "ranks=1",
            ),
            *("master=20003", "alone=0", "node_cpus=16", "flags=2"),
            *("--container-image=a b", "--container-workdir=/out put/'x'", "--"),
            *("env", "A=$x 'y'", "B=001", "train it.py", "host2:20001", "/out put/'x'/o"),
        ],
        ["finish"],
    ]


def test_what_is_not_known_or_as_always_is_left_out(recorder: str) -> None:
    plan = plan_of(replica(), allocation=Allocation(1, 0, None, None, None), ports=0, template=recorder)
    assert verbs(plan) == [
        ["begin", "1", "0"],
        ["start", "a", "0", "main", "nodes=0", "--", "x"],
        ["finish"],
    ]


def order(plan: Plan) -> list[str]:
    """`start a.0`, `ready a.0 port`, `await a.0`."""
    return [f"start {verb[1]}.{verb[2]}" if verb[0] == "start" else " ".join(verb[:3]) for verb in verbs(plan)[1:-1]]


def test_roles_are_waited_for_once_and_right_before_who_needs_them(recorder: str) -> None:
    port = Ready("port", Word.of(Host(0), ":", Port(0)), 60)
    plan = plan_of(
        replica("server", 0, kind="service", ready=port),
        replica("server", 1, kind="service", ready=port),
        replica("prepare"),
        replica("quiet", kind="service"),
        replica("first", after=("server", "prepare", "quiet")),
        replica("second", after=("prepare", "server")),
        template=recorder,
    )
    assert order(plan) == [
        "start server.0",
        "start server.1",
        "start prepare.0",
        "start quiet.0",
        "ready server.0 port",
        "ready server.1 port",
        "await prepare.0",
        "start first.0",
        "start second.0",
    ]


def test_a_replica_that_nobody_waits_for_must_become_ready_all_the_same(recorder: str) -> None:
    plan = plan_of(
        replica("server", kind="service", ready=Ready("http", Word.of("http://", Host(1), "/a?b&c"), 60)),
        replica("main", ready=Ready("file", Word.of(Var("run_dir"), "/a b"), 5)),
        template=recorder,
    )
    assert verbs(plan)[3:5] == [
        ["ready", "server.0", "http", "http://host1/a?b&c", "60"],
        ["ready", "main.0", "file", "/out/x/a b", "5"],
    ]


texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=10)
parts: st.SearchStrategy[Part] = st.one_of(
    texts,
    st.sampled_from(["'", '"', "\\", "$x", "`y`", "\n", "#", "{{ x }}", "{% raw %}", "*"]),
    st.sampled_from([Host(0), Host(2), Port(0), Port(3), Var("run_dir"), Var("job")]),
)
words = st.lists(parts, max_size=4).map(lambda found: Word.of(*found))
VALUES: dict[Part, str] = {
    Host(0): "host0",
    Host(2): "host2",
    Port(0): "20000",
    Port(3): "20003",
    Var("run_dir"): "/out/x",
    Var("job"): "7",
}


def value(word: Word) -> str:
    return "".join(part if isinstance(part, str) else VALUES[part] for part in word.parts)


@given(
    st.lists(
        st.tuples(
            st.lists(words, min_size=1, max_size=4),
            st.dictionaries(st.from_regex("[A-Z_]{1,4}", fullmatch=True), words, max_size=2),
            st.lists(words, max_size=2),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=25)
def test_every_word_arrives_as_it_is_whatever_it_holds(
    recorder: str, drawn: list[tuple[list[Word], dict[str, Word], list[Word]]]
) -> None:
    replicas = [
        replica(index=index, argv=tuple(argv), env=tuple(env.items()), step_flags=tuple(flags))
        for index, (argv, env, flags) in enumerate(drawn)
    ]
    for call, (argv, env, flags) in zip(verbs(plan_of(*replicas, template=recorder))[1:], drawn, strict=False):
        at = call.index(f"flags={len(flags)}") + 1 if flags else call.index("--")
        assert call[at : at + len(flags)] == [value(word) for word in flags]
        assert call[at + len(flags)] == "--"
        given = ["env", *(f"{name}={value(word)}" for name, word in env.items())] if env else []
        assert call[at + len(flags) + 1 :] == [*given, *(value(word) for word in argv)]


# ---- header and setup


def header(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_the_header_names_the_run_and_where_its_log_goes() -> None:
    flags = (("nodes", "2"), ("exclusive", None), ("comment", "for #5"))
    plan = plan_of(replica(), allocation=Allocation(2, 0, None, None, None, flags))
    assert header(render(plan, "e_s_1", "/a b/100%")) == [
        "--job-name=e_s_1",
        "--nodes=2",
        "--exclusive",
        '--comment="for #5"',
        '--output="/a b/100%%/job.log"',
        "--open-mode=append",
    ]
    assert header(render(plan_of(replica()), "e_s_1", "/r")) == [
        "--job-name=e_s_1",
        "--comment=e_s_1",
        "--output=/r/job.log",
        "--open-mode=append",
    ]


def test_directives_stand_before_the_first_command() -> None:
    script = render(plan_of(replica()), "e_s_1", "/r")
    lines = script.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])


def test_a_local_script_has_no_directives() -> None:
    assert header(render(plan_of(replica(), scheduler="local"), "e_s_1", "/r")) == []


def test_a_directory_that_no_directive_can_hold() -> None:
    with pytest.raises(InputError, match="control character"):
        render(plan_of(replica()), "e_s_1", "/a\nb")
    render(plan_of(replica(), scheduler="local"), "e_s_1", "/a\nb")


def ran(script: str, then: str) -> str:
    """What bash prints when it runs the script's `setup`, then more."""
    function = re.search(r"^setup\(\) \{\n.*?^\}\n", script, re.MULTILINE | re.DOTALL)
    assert function
    lines = f"RUN_DIR=/out; {function[0]}setup; {then}"
    return subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=True).stdout


def test_setup_is_run_as_it_was_written(tmp_path: Path) -> None:
    directory = tmp_path / "it's a $dir"
    directory.mkdir()
    plan = plan_of(
        replica(),
        setup=("cat <<X\n  two\nX\n", "A='1\n 2' # last", "echo \x0c\u2028"),
        env=(("B", Word.of("a 'b'\n$c")), ("C", Word.of(Var("run_dir"), "/x"))),
        workdir=str(directory),
    )
    found = ran(render(plan, "e_s_1", "/r"), 'printf "[%s]" "$A" "$B" "$C" "$PWD"')
    assert found == f"  two\n\x0c\u2028\n[1\n 2][a 'b'\n$c][/out/x][{directory}]"


def test_constants_of_the_run() -> None:
    script = render(plan_of(replica(), grace=7), "e_s_1", "/a b", first_attempt=4)
    assert "\nRUN_NAME='e_s_1'\nRUN_DIR=${GANGRUN_RUN_DIR:-'/a b'}\nFIRST_ATTEMPT=4\n" in script
    assert "\nGRACE=7 " in script


# ---- whole scripts

SHAPES = {
    "one": "command = ['python', 'x.py']\n",
    "ddp": "launcher = 'torchrun'\ncommand = ['x']\n[allocation]\nnodes = 2\ngpus = 8\ncpus = 16\nmem = '1G'\n",
    "ranks": "launcher = 'srun'\ntasks = 4\ncommand = ['x']\n[roles.watch]\nkind = 'sidecar'\ncommand = ['w']\n",
    "groups": "[allocation]\nnodes = 4\ngpus = 4\n[roles.l]\nkind = 'service'\ngpus = 0\nports = 'p'\ncommand = ['l']\n"
    "ready = { port = 'p' }\n[roles.t]\nreplicas = 8\ngpus = 2\nafter = 'l'\nlauncher = 'torchrun'\n"
    "command = ['x', '{l.addresses.p}', '{index}']\nrestarts = 3\nenv = { A = \"it's {run.dir}\" }\n",
    "setup": "command = ['bash', '-c', 'echo \"$A\" `b` $(c) ~ *']\nsetup = ['module load x', 'source a/b']\n"
    "[env]\nA = '$HOME and ~'\n",
    "container": "command = ['x']\ncontainer = { runtime = 'charliecloud', image = '/i m', mounts = ['/a:/b'] }\n",
}


@pytest.mark.parametrize("scheduler", ["slurm", "local"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_valid_bash(shape: str, scheduler: str, resolved: Resolved) -> None:
    script = render(resolved(SHAPES[shape], profile={"scheduler": scheduler}), "e_s_1", "/out/it's/e/s/1")
    run = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def shellcheck(*files: Path) -> str:
    # Beside python in the environment, whether that is active or not.
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program
    run = subprocess.run([program, "--shell=bash", *map(str, files)], capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


@pytest.mark.slow
def test_shellcheck_finds_nothing_in_any_shape(resolved: Resolved, tmp_path: Path) -> None:
    """The prelude, which is the same in all and takes half a second, is checked in one of them for each scheduler."""
    files = []
    for shape, text in SHAPES.items():
        for scheduler in ("slurm", "local"):
            script = render(resolved(text, profile={"scheduler": scheduler}), "e_s_1", "/out/it's/e/s/1")
            assert prelude(scheduler) in script
            if shape != "groups":
                script = script.replace(prelude(scheduler), "set -e")
            files.append(tmp_path / f"{shape}-{scheduler}.sh")
            files[-1].write_text(script)
    assert shellcheck(*files) == ""


def test_shellcheck_would_find_something(tmp_path: Path) -> None:
    file = tmp_path / "x.sh"
    file.write_text("echo $x\n")
    assert "SC2086" in shellcheck(file)


def test_a_list_of_addresses_stands_in_a_script_once(resolved: Resolved) -> None:
    text = "replicas = 1024\ngpus = 1\nports = 'peer'\ncommand = ['x', '--peers', '{main.addresses.peer}']\n"
    script = render(resolved(f"{text}[allocation]\nnodes = 128\ngpus = 8\n"), "e_s_1", "/out/e/s/1")
    assert script.count('--peers "${ADDRESSES[main.peer]}"') == 1024
    (line,) = re.findall(r"ADDRESSES\[main\.peer\]=(.*)", script)
    assert line.strip('"').split(",")[-1] == "${HOSTS[127]}:${PORTS[1023]}"
    assert len(script) < 250_000  # Slurm takes 4 MB


def test_the_same_plan_gives_the_same_script(resolved: Resolved) -> None:
    plan = resolved(SHAPES["groups"])
    assert render(plan, "e_s_1", "/r") == render(plan, "e_s_1", "/r")


def test_what_gangrun_adds_starts_after_all_that_can_start_at_once(recorder: str) -> None:
    ready = Ready("file", Word.of("/f"), 5)
    first, second, last = replica("a", ready=ready), replica("b"), replica("c", after=("a",))
    plan = plan_of(first, second, last, own=(replica("_own", kind="sidecar"),), template=recorder)
    assert [words[:2] for words in verbs(plan) if words[0] in {"start", "ready"}] == [
        ["start", "a"], ["start", "b"], ["start", "_own"], ["ready", "a.0"], ["start", "c"],
    ]  # fmt: skip
    plan = plan_of(second, own=(replica("_own", kind="sidecar"),), template=recorder)
    assert [words[1] for words in verbs(plan) if words[0] == "start"] == ["b", "_own"]


# ---- templates of users


def test_a_template_of_the_users_own(resolved: Resolved, tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{{ run_name }} {{ plan.allocation.nodes }}\n{{ body | length }}\n")
    plan = resolved("command = ['x']\ntemplate = '../t.j2'\nmonitor = false\n")
    assert render(plan, "e_s_1", "/r") == "e_s_1 1\n2\n"


def test_the_printed_template_is_the_one_that_is_used(resolved: Resolved, tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text(template())
    plain, own = (resolved(f"command = ['x']\n{more}") for more in ("", "template = '../t.j2'\n"))
    assert render(own, "e_s_1", "/r") == render(plain, "e_s_1", "/r")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a\n{% for x in body %}\n", 2, "Unexpected end of template"),
        ("{{ nothing }}", 0, "'nothing' is undefined"),
        ("{{ plan.nothing }}", 0, "no attribute 'nothing'"),
        ("{{ grace + 'x' }}", 0, "unsupported operand"),
        ("{{ 1 / 0 }}", 0, "division by zero"),
        ("{{ ''.__class__.__mro__ }}", 0, "unsafe"),
    ],
)
def test_a_broken_template_is_told(text: str, line: int, what: str, tmp_path: Path) -> None:
    file = tmp_path / "t.j2"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        render(plan_of(replica(), template=str(file)), "e_s_1", "/r")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(file), line)
    assert what in problem.what
    assert "gangrun script --template" in problem.way_out


def test_no_template_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        render(plan_of(replica(), template=str(tmp_path / "none")), "e_s_1", "/r")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="cannot be read"):
        render(plan_of(replica(), template=str(tmp_path / "binary")), "e_s_1", "/r")


def test_words_are_never_taken_for_a_template() -> None:
    script = render(plan_of(replica(argv=(Word.of("{{ plan }}"), Word.of("{% x %}")))), "e_s_1", "/r")
    assert f"{literal('{{ plan }}')} {literal('{% x %}')}" in script


def test_a_template_of_ones_own_gets_its_variables(resolved: Resolved, tmp_path: Path) -> None:
    (tmp_path / "mine.sh.j2").write_text("cd {{ output_dir }}; srun -N{{ nodes }} {{ plan.step }}")
    text = "command = ['x']\ntemplate = '../mine.sh.j2'\nvariables = { output_dir = '{run.dir}/o', nodes = 2 }"
    assert render(resolved(text), "name", "/out/x") == "cd /out/x/o; srun -N2 step"


def test_a_variable_cannot_take_the_place_of_what_every_template_gets(resolved: Resolved) -> None:
    plan = resolved("command = ['x']\nvariables = { setup = 'x' }")
    with pytest.raises(SpecError, match=r"variables\.setup: is what every template gets"):
        render(plan, "name", "/out/x")
