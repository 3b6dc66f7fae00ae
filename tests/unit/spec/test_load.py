"""Experiment files: every problem at its line, extends, overrides, the short form of one role, names and seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gangrun.errors import SpecError, UsageError
from gangrun.spec.load import Source, experiment_of, load, project_root

Write = Callable[..., Path]


def problems(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(file, overrides)
    return [str(problem) for problem in caught.value.problems]


# ---- problems


def test_every_problem_of_a_file_at_once_each_with_line_and_key(write: Write) -> None:
    file = write("""\
comand = ["x"]
grace = "soon"

[allocation]
nodes = "2"
gpu = 8
mem = "lots"

[env]
A = true
GANGRUN_X = "1"

[roles.trainer]
command = []
kind = "srvice"
replicas = 0
ready = { port = "a", htpp = "b" }

[roles."a b"]
""")
    assert problems(file) == [
        "exp/step.toml:1: comand: unknown key at the top (did you mean 'command'?)",
        "exp/step.toml:2: grace: 'soon' is no duration: write '36:00:00', '1-12:00:00', '90s', '10m', '2h' or '1d'",
        "exp/step.toml:5: allocation.nodes: should be a whole number, without quotes, not '2'",
        "exp/step.toml:6: allocation.gpu: unknown key in allocation (did you mean 'gpus'?)",
        "exp/step.toml:7: allocation.mem: 'lots' is no amount of memory: write '500G' or '64000M'",
        "exp/step.toml:10: env.A: is text: write what the program should read in quotes, such as '1' or 'true'",
        "exp/step.toml:11: env.GANGRUN_X: is set by the launcher or the scheduler; gpus, tasks and launcher decide it",
        "exp/step.toml:14: roles.trainer.command: should hold at least one item, not []",
        "exp/step.toml:15: roles.trainer.kind: should be 'main', 'service' or 'sidecar', not 'srvice'",
        "exp/step.toml:16: roles.trainer.replicas: should be greater than or equal to 1, not 0",
        "exp/step.toml:17: roles.trainer.ready.htpp: unknown key in roles.trainer.ready (did you mean 'http'?)",
        "exp/step.toml:19: roles.a b: cannot name a role: letters, digits, - and _, and neither 'self' nor 'run'",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("allocation = 3", "1: allocation: should be a table, not 3"),
        ("roles = ['x']", "1: roles: should be a table, not ['x']"),
        ("[roles]\nx = 1", "2: roles.x: should be a table, not 1"),
        ("command = 'python x.py'", "1: command: a command is a list of words, so that nothing is split or expanded"),
        ("command = ['a',\n true]", "2: command[1]: should be text, in quotes, not true"),
        ("env = 'A=1'", "1: env: should be a table, not 'A=1'"),
        ("ports = 80", "1: ports: should be a list, not 80"),
        ("ports = ['a b']", "1: ports[0]: 'a b' cannot name a port: letters, digits, - and _, such as 'http'"),
        (
            "container = { image = 'x' }",
            "1: container.runtime: is missing (which runtime starts it: `pyxis`, `charliecloud`, `apptainer`, `podman`",
        ),
        ("[roles.a]\ncontainer = { runtime = 'x' }", "2: roles.a.container.image: is missing (the image: a path, or a"),
        ("launcher = { nodes = 1 }", "1: launcher.type: is missing (its name, such as `torchrun` or `torchft`)"),
        ("setup = 'x'", "1: setup: should be a table, or a list of lines of bash, not 'x'"),
        ("setup = true", "1: setup: should be a table, or a list of lines of bash, not true"),
        ("monitor = 'x'", "1: monitor: should be a table, or true or false, not 'x'"),
        ("requeue = 3", "1: requeue: should be a table, or true or false, not 3"),
        ("launcher = ['srun']", "1: launcher: should be a table, or a name in quotes, not ['srun']"),
        ("bogus = 1", "1: bogus: unknown key at the top (there are "),
        ("setup = { line = [] }", "1: setup.line: unknown key in setup (did you mean 'lines'?)"),
        ("setup = [1]", "1: setup[0]: should be text, in quotes, not 1"),
        ("gpus = 'all'", "1: gpus: should be a whole number, without quotes, or should be 'shared', not 'all'"),
        ("time = '1:00:00'", "1: time: unknown key at the top (did you mean allocation.time?)"),
        ("modules = ['cuda']", "1: modules: unknown key at the top (did you mean setup.modules?)"),
        ("[allocation]\nsbatch = { n = 3 }", "2: allocation.sbatch.n: is no long flag of sbatch"),
        ("extends = 3", "1: extends: should be a list, not 3"),
        ("extends = [3]", "1: extends[0]: should be text, in quotes, not 3"),
        ("seed = 'x'", "1: seed: should be a whole number, without quotes, not 'x'"),
        ("[[roles]]\ncommand = ['x']", "1: roles: should be a table, not"),
        ("[campaign]\nverdict = { file = '/a', where = { x = 1 } }", "2: campaign.verdict.file: '/a' is no path in"),
        ("[campaign]\nverdict = { file = 'a' }", "2: campaign.verdict.where: is missing (path in it = what"),
        ("[campaign]\nverdict = { file = 'a', where = { x = 1 }, wher = 2 }", "2: campaign.verdict.wher: unknown key"),
        ("[campaign]\nmerge = [true]", "2: campaign.merge[0]: should be text, in quotes, not true"),
        ("[campaign]\nmerge = 3", "2: campaign.merge: should be a list, or should be a table, not 3"),
        ("monitor = { on = 'yes' }", "1: monitor.on: should be true or false, not 'yes'"),
        ("[pool]\ncontinue = 1", "2: pool.continue: should be true or false, not 1"),
        ("output = '../../evil'", "1: output: '../../evil' is no folder in outputs: write 'training'"),
        ("output = '/tmp/x'", "1: output: '/tmp/x' is no folder in outputs"),
        ("output = '.'", "1: output: '.' is no folder in outputs"),
        ("step = ''", "1: step: is empty: without the key the name is that of the file"),
        ("experiment = ''", "1: experiment: is empty"),
        ("ready.http = 'notaurl'", "1: ready.http: 'notaurl' is no URL to ask: write 'http://HOST:PORT/PATH'"),
        ("ready.http = 'https://here:80/'", "1: ready.http: 'https://here:80/' is no URL to ask"),
        ("setup.venv = true", "1: setup.venv: should be text, in quotes, or should be false, not true"),
    ],
)
def test_one_problem(text: str, problem: str, write: Write) -> None:
    (told,) = problems(write(text))
    assert told.startswith(f"exp/step.toml:{problem}")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "http://{self.host}:{self.port.http}/health",
        "{self.host}:{self.port.http}",
        "node{index}.cluster:80/{lr}",
        "localhost:8000",
        "{url}",
    ],
)
def test_what_a_server_can_be_asked_by(url: str, write: Write) -> None:
    ready = load(write(f"command = ['x']\nready.http = '{url}'")).spec.roles["main"].ready
    assert ready is not None
    assert ready.http == url


def test_a_file_that_is_no_text(write: Write) -> None:
    file = write("")
    file.write_bytes(b"command = ['x']\nenv = { A = '\xe4' }\n")
    assert problems(file) == ["exp/step.toml:2: is not UTF-8 (byte 0xe4) (save the file as UTF-8)"]


def test_no_such_file(write: Write) -> None:
    write("")
    assert problems(Path("none.toml")) == ["none.toml: cannot be read: No such file or directory"]


# ---- the short form


def test_role_keys_at_the_top_are_the_role_main(write: Write) -> None:
    experiment = load(write("command = ['x']\ngpus = 2\n[roles.watch]\ncommand = ['w']\nkind = 'sidecar'\n"))
    assert list(experiment.spec.roles) == ["main", "watch"]
    assert experiment.spec.roles["main"].gpus == 2
    assert str(experiment.origin("roles", "main", "gpus")) == "exp/step.toml:2"
    # A problem speaks of the key as it was written.
    assert str(experiment.problem(("roles", "main", "command", 0), "x")) == "exp/step.toml:1: command[0]: x"


def test_both_forms_complete_each_other_but_may_not_say_the_same(write: Write) -> None:
    experiment = load(write("command = ['x']\n[roles.main]\ngpus = 2\n"))
    assert experiment.spec.roles["main"].command == ("x",)
    (problem,) = problems(write("gpus = 1\ncommand = ['x']\n[roles.main]\ngpus = 2\n"))
    assert problem.startswith(
        "exp/step.toml:1: roles.main.gpus: is said twice: at the top of a file it means roles.main"
    )


def test_env_and_container_at_the_top_are_those_of_every_role(write: Write) -> None:
    spec = load(write("command = ['x']\n[env]\nA = '1'\n[roles.main.env]\nA = '2'\n")).spec
    assert (spec.env, spec.roles["main"].env) == ({"A": "1"}, {"A": "2"})


# ---- extends


def test_tables_merge_deeply_and_lists_replace(write: Write) -> None:
    write(
        "[allocation]\nnodes = 2\ngpus = 8\nsbatch = { mem = false, nice = 1 }\n[roles.a]\ncommand = ['x', 'y']\n",
        "base.toml",
    )
    experiment = load(
        write("extends = '../base.toml'\n[allocation]\ngpus = 4\nsbatch = { nice = 2 }\n[roles.a]\ncommand = ['z']\n")
    )
    allocation = experiment.spec.allocation
    assert (allocation.nodes, allocation.gpus, allocation.sbatch) == (2, 4, {"mem": False, "nice": "2"})
    assert experiment.spec.roles["a"].command == ("z",)
    assert str(experiment.origin("allocation", "nodes")) == "exp/../base.toml:2"
    assert str(experiment.origin("allocation", "gpus")) == "exp/step.toml:3"
    assert str(experiment.origin("allocation", "sbatch", "mem")) == "exp/../base.toml:4"
    assert str(experiment.origin("roles", "a", "command", 0)) == "exp/step.toml:6"
    # The second word of the base is gone, and so is its line.
    assert str(experiment.origin("roles", "a", "command", 1)) == "exp/step.toml:6"


def test_a_value_of_another_kind_replaces(write: Write) -> None:
    write("launcher = { type = 'torchrun', max_restarts = 3 }\ncommand = ['x']\n", "base.toml")
    experiment = load(write("extends = '../base.toml'\nlauncher = 'srun'\n"))
    assert experiment.spec.roles["main"].launcher.options == {}
    back = load(write("extends = 'step.toml'\nlauncher = { type = 'torchrun' }\n", "exp/other.toml"))
    assert back.spec.roles["main"].launcher.options == {}


def test_options_for_the_launcher_that_is_already_chosen(write: Write) -> None:
    write("launcher = 'torchrun'\ncommand = ['x']\n", "base.toml")
    experiment = load(write("extends = '../base.toml'\nlauncher = { tee = '3' }\n"), ["launcher.max_restarts=2"])
    launcher = experiment.spec.roles["main"].launcher
    assert (launcher.type, launcher.options) == ("torchrun", {"tee": "3", "max_restarts": 2})


def test_later_bases_win_and_bases_have_bases(write: Write) -> None:
    write("grace = 1\n[env]\nA = 'root'\nB = 'root'\nC = 'root'\n", "root.toml")
    write("extends = 'root.toml'\n[env]\nB = 'one'\n", "one.toml")
    write("[env]\nB = 'two'\nC = 'two'\n", "two.toml")
    spec = load(write("extends = ['one.toml', 'two.toml']\ncommand = ['x']\n", "step.toml")).spec
    assert spec.env == {"A": "root", "B": "two", "C": "two"}
    assert spec.grace == 1


def test_a_base_may_use_the_short_form_and_the_file_the_long_one(write: Write) -> None:
    write("command = ['x']\ngpus = 1\n", "base.toml")
    role = load(write("extends = '../base.toml'\n[roles.main]\ngpus = 2\n")).spec.roles["main"]
    assert (role.command, role.gpus) == (("x",), 2)


def test_a_problem_in_a_base_is_told_there(write: Write) -> None:
    write("grace = 1\n[allocation]\nnodez = 1\n", "base.toml")
    assert problems(write("extends = '../base.toml'\ncommand = ['x']\ngpuz = 1\n")) == [
        "exp/step.toml:3: gpuz: unknown key at the top (did you mean 'gpus'?)",
        "exp/../base.toml:3: allocation.nodez: unknown key in allocation (did you mean 'nodes'?)",
    ]


def test_paths_are_relative_to_the_file_that_says_them(write: Write, tmp_path: Path) -> None:
    write("workdir = 'code'\ntemplate = '../t.j2'\n", "shared/base.toml")
    spec = load(write("extends = '../shared/base.toml'\ncommand = ['x']\n")).spec
    assert (spec.workdir, spec.template) == (str(tmp_path / "shared/code"), str(tmp_path / "t.j2"))


def test_paths_may_begin_at_home(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write("grace = 3\n", "home/base.toml")
    spec = load(write("extends = '~/base.toml'\nworkdir = '~/code'\ncommand = ['x']\n"), ["template=~/t.j2"]).spec
    assert (spec.grace, spec.workdir, spec.template) == (3, f"{tmp_path}/home/code", f"{tmp_path}/home/t.j2")
    assert load(write("workdir = '~nobody-here/x'\ncommand = ['x']\n")).spec.workdir == f"{tmp_path}/exp/~nobody-here/x"


def test_files_that_extend_each_other(write: Write) -> None:
    write("extends = 'exp/step.toml'\n", "base.toml")
    (problem,) = problems(write("extends = '../base.toml'\n"))
    assert "files extend each other in a circle: exp/step.toml → base.toml → exp/step.toml" in problem


def test_a_file_that_extends_itself(write: Write) -> None:
    (problem,) = problems(write("extends = 'step.toml'\n"))
    assert "exp/step.toml → exp/step.toml" in problem


def test_the_same_base_twice_is_no_circle(write: Write) -> None:
    write("grace = 7\n", "root.toml")
    write("extends = 'root.toml'\n", "a.toml")
    write("extends = 'root.toml'\n", "b.toml")
    assert load(write("extends = ['a.toml', 'b.toml']\ncommand = ['x']\n", "step.toml")).spec.grace == 7


def test_a_base_that_is_not_there(write: Write) -> None:
    assert problems(write("\nextends = '../none.toml'\n")) == [
        "exp/step.toml:2: extends: no such file: exp/../none.toml"
    ]


# ---- --set


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("allocation.nodes=4", ("allocation", "nodes"), 4),
        ("allocation.time=12:00:00", ("allocation", "time"), 43_200),
        ("allocation.time=36:00:00", ("allocation", "time"), 129_600),
        ("allocation.partition=gpu", ("allocation", "partition"), "gpu"),
        ("allocation.sbatch.mem=false", ("allocation", "sbatch"), {"mem": False}),
        ("gpus=2", ("roles", "main", "gpus"), 2),
        ('command=["a", "b c"]', ("roles", "main", "command"), ("a", "b c")),
        ("roles.main.restarts=3", ("roles", "main", "restarts"), 3),
        ("env.A=true", ("env",), {"A": "true"}),
        ("env.A=1e-4", ("env",), {"A": "1e-4"}),
        ("env.A=a = b # c", ("env",), {"A": "a = b # c"}),
        ('env.A="x"', ("env",), {"A": "x"}),
        ("env.A=", ("env",), {"A": ""}),
        ("roles.main.env.A=007", ("roles", "main", "env"), {"A": "007"}),
        ("env={ B = 'x' }", ("env",), {"B": "x"}),
        (" grace = 5", ("grace",), 5),
    ],
)
def test_set(override: str, key: tuple[str, ...], value: object, write: Write) -> None:
    experiment = load(write("command = ['x']\n[allocation]\nnodes = 1\ntime = '1:00:00'\n"), [override])
    found: object = experiment.spec
    for part in key:
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    written = override.partition("=")[0].strip().split(".")
    assert str(experiment.origin(*(key if len(written) == 1 else written))) == "--set"


def test_set_wins_and_the_last_one_most(write: Write) -> None:
    experiment = load(write("command = ['x']\n[env]\nA = '1'\n"), ["env.A=2", "env.A=3", "env={ B = '4' }"])
    assert experiment.spec.env == {"A": "3", "B": "4"}
    assert experiment.origin("env", "A") == experiment.origin("env", "B") == Source("--set")


def test_paths_of_set_are_relative_to_here(write: Write, tmp_path: Path) -> None:
    file = write("command = ['x']\nworkdir = '.'\n")
    assert load(file, ["workdir=../code"]).spec.workdir == str(tmp_path.parent / "code")
    assert load(file, ['workdir="/a b"']).spec.workdir == "/a b"


def test_problems_of_set_are_told_as_such(write: Write) -> None:
    file = write("command = ['x']\n")
    assert problems(file, "allocation.node=4") == [
        "--set: allocation.node: unknown key in allocation (did you mean 'nodes'?)"
    ]
    assert problems(file, "allocation.nodes=two") == [
        "--set: allocation.nodes: should be a whole number, without quotes, not 'two'"
    ]
    assert problems(file, "roles.x.replicas=0") == [
        "--set: roles.x.replicas: should be greater than or equal to 1, not 0",
    ]
    assert load(file, ["roles.x.gpus=1"]).origin("roles", "x", "command") == Source("--set")
    assert load(file, ["roles.main.gpus=1"]).origin("roles", "main", "command") == Source(str(file), 1, "command")
    assert problems(file, "gpu=1") == ["--set: gpu: unknown key at the top (did you mean 'gpus'?)"]


@pytest.mark.parametrize("override", ["allocation.nodes", "=4", "allocation.=4", ".x=1", ""])
def test_what_is_no_override(override: str, write: Write) -> None:
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        load(write("command = ['x']\n"), [override])


# ---- names and seeds


def test_names_come_from_folder_and_file(write: Write, tmp_path: Path) -> None:
    experiment = load(write("command = ['x']\n", "001_example/000_pretrain_7.toml"))
    assert (experiment.experiment, experiment.step, experiment.seed) == ("001_example", "000_pretrain_7", 7)
    assert experiment.project == tmp_path
    assert experiment.file == tmp_path / "001_example/000_pretrain_7.toml"


def test_names_and_seed_that_are_said_win(write: Write) -> None:
    experiment = load(write("command = ['x']\nexperiment = 'e'\nstep = 's'\nseed = 3\n", "a/b_7.toml"))
    assert (experiment.experiment, experiment.step, experiment.seed) == ("e", "s", 3)
    assert load(write("command = ['x']\n", "a/b.toml")).seed is None


@pytest.mark.parametrize(
    ("name", "text", "step"),
    [
        ("a/train_0.toml", "", "train_5"),
        ("a/train.toml", "", "train_5"),
        ("a/train.toml", "seed = 2", "train_5"),
        ("a/train_9.toml", "seed = 2", "train_9_5"),
        ("a/train_00.toml", "", "train_5"),
    ],
)
def test_another_seed_is_another_step(name: str, text: str, step: str, write: Write) -> None:
    other = load(write(f"command = ['x']\n{text}\n", name)).with_seed(5)
    assert (other.seed, other.step) == (5, step)
    assert (other.spec.seed, other.spec.step, other.values["seed"]) == (5, step, 5)
    assert str(other.origin("seed")) == "--seeds"


def test_the_files_folder_is_settled_in_what_is_recorded(write: Write, tmp_path: Path) -> None:
    text = "command = ['{file.dir}/x', '{{file.dir}}', '{seed}']\n[env]\nA = '{file.dir}'\n"
    experiment = load(write(text, "odd {1}/step.toml"))
    folder = f"{tmp_path}/odd {{{{1}}}}"
    assert experiment.values["roles"]["main"]["command"] == [f"{folder}/x", "{{file.dir}}", "{seed}"]
    assert experiment.spec.env == {"A": folder}


def test_the_files_folder_is_settled_wherever_a_text_may_refer_to_it(write: Write, tmp_path: Path) -> None:
    text = """\
command = ["x"]
resume_flags = ["{file.dir}"]
launcher = { type = "torchrun", log_dir = "{file.dir}" }
wandb = { notes = "{file.dir}" }
dotlist = { C = { d.e = "{file.dir}" } }
campaign = { verdict = ["{file.dir}"] }
container = { runtime = "apptainer", image = "/x", env = { A = "{file.dir}" } }
parameters = { kept = "{file.dir}" }
[sweep]
"env.A" = ["{file.dir}"]
env.B = ["{file.dir}"]
roles.main.command = [["{file.dir}"]]
list = [{ "env.C" = "{file.dir}", kept = "{file.dir}" }]
"""
    experiment = load(write(text, "a/step.toml"))
    assert repr(experiment.values).count("{file.dir}") == 2
    assert repr(experiment.values).count(f"'{tmp_path}/a'") == 10
    assert experiment.values["sweep"]["list"][0]["kept"] == experiment.values["parameters"]["kept"] == "{file.dir}"


def test_dots_in_the_name_of_a_file_give_its_project_no_second_name(write: Write, tmp_path: Path) -> None:
    write("command = ['{file.dir}']\n", "exp/step.toml")
    (tmp_path / "exp/inner").mkdir()
    experiment = load(tmp_path / "exp/inner/../../exp/step.toml")
    assert (experiment.file, experiment.project) == (tmp_path / "exp/step.toml", tmp_path)
    assert experiment.values["roles"]["main"]["command"] == [f"{tmp_path}/exp"]
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    write("command = ['x']\n", "far/step.toml")
    assert load(tmp_path / "link/../step.toml").file == tmp_path / "link/../step.toml"


def test_the_project_is_the_nearest_folder_that_looks_like_one(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/pyproject.toml").touch()
    assert project_root(tmp_path / "a/b/c") == tmp_path / "a"


def test_the_projects_environment_is_taken_where_none_is_active(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("command = ['x']\n")
    write("", ".venv/bin/activate")
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    assert load(file).venv == Path.cwd() / ".venv"
    monkeypatch.setenv("CONDA_PREFIX", "/opt/conda")
    assert load(file).venv is None


# ---- from values


def test_values_with_their_places_are_an_experiment(write: Write, tmp_path: Path) -> None:
    write("[allocation]\ntime = '1h'\n", "job/base.toml")
    values = {"command": ["train"], "extends": "base.toml", "allocation": {"nodes": 2}, "template": "t.j2"}
    sources = {("command",): Source("--command"), ("allocation", "nodes"): Source("job/rl.toml", 7, "num_nodes")}
    experiment = experiment_of(values, "job/rl_3.toml", sources, ["seed=4"], project=tmp_path / "job")
    assert (experiment.experiment, experiment.step, experiment.seed) == ("job", "rl_3", 4)
    assert (experiment.file, experiment.project) == (tmp_path / "job/rl_3.toml", tmp_path / "job")
    assert experiment.spec.roles["main"].command == ("train",)
    assert (experiment.spec.allocation.time, experiment.spec.template) == (3600, str(tmp_path / "job/t.j2"))
    assert str(experiment.origin("roles", "main", "command")) == "--command"
    assert str(experiment.problem(("allocation", "nodes"), "no")) == "job/rl.toml:7: num_nodes: no"


def test_a_problem_of_a_value_is_told_where_it_was_said() -> None:
    values = {"command": "train.py", "seed": -1, "grace": "long"}
    sources = {("command",): Source("--command"), ("seed",): Source("job.sh", 3, "SEED")}
    with pytest.raises(SpecError) as caught:
        experiment_of(values, "job.sh", sources)
    command, grace, seed = sorted(str(problem) for problem in caught.value.problems)
    assert command.startswith("--command: command: a command is a list of words")
    assert grace.startswith("job.sh: grace: 'long' is no duration")
    assert seed == "job.sh:3: SEED: should be greater than or equal to 0, not -1"
