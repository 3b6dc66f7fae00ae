"""Where every value of a plan comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gangrun.explain import Row, explain
from gangrun.resolve import resolve
from gangrun.spec.load import load
from gangrun.spec.profile import load_cluster
from gangrun.sweeps import plan_sweep

Write = Callable[..., Path]

PROFILE = """\
setup = ["ulimit -c 0"]
env = { NCCL_DEBUG = "WARN", A = "site" }
[defaults]
partition = "gpu"
qos = "normal"
sbatch = { nice = 5, comment = "site" }
[qos.normal]
mem = "100G"
[container]
runtime = "charliecloud"
image = "site"
"""
BASE = """\
grace = "1m"
[allocation]
gpus = 4
[roles.trainer]
command = ["train.py"]
launcher = "torchrun"
"""
SPEC = """\
extends = "../base.toml"
[allocation]
cpus = 16
sbatch = { mail_type = "END", comment = false }
[env]
A = "own"
[setup]
modules = ["cuda"]
lines = ["one", "two"]
[roles.trainer]
restarts = 2
env = { B = "x" }
[roles.server]
kind = "service"
gpus = 0
command = ["serve"]
container = { runtime = "charliecloud", image = "own" }
"""


@pytest.fixture
def rows(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, list[Row]]]:
    """The rows of one experiment by key, sources without the temporary directory."""
    monkeypatch.setenv("VIRTUAL_ENV", "/active")

    def by_key(spec: str = SPEC, *overrides: str, cluster: str = "site") -> dict[str, list[Row]]:
        write(PROFILE, "clusters/site.toml")
        write(BASE, "base.toml")
        experiment = load(write(spec), overrides)
        chosen = load_cluster(cluster, tmp_path, {})
        found: dict[str, list[Row]] = {}
        plan = resolve(experiment, chosen)
        for row in explain(experiment, chosen, plan, plan.replicas):
            clean = Row(row.key, row.value, row.source.replace(f"{tmp_path}/", ""))
            found.setdefault(row.key, []).append(clean)
        return found

    return by_key


def test_where_each_value_comes_from(rows: Callable[..., dict[str, list[Row]]]) -> None:
    found = {key: (row.value, row.source) for key, (row, *_) in rows().items()}
    profile = "profile site (clusters/site.toml:{})".format
    expected = {
        "experiment": ("exp", "name of the folder"),
        "step": ("step", "name of the file"),
        "cluster": ("site", "--cluster, GANGRUN_CLUSTER, or found here"),
        "grace": (60, "exp/../base.toml:1"),
        "allocation.nodes": (1, "default"),
        "allocation.gpus": (4, "exp/../base.toml:3"),
        "allocation.cpus": (16, "exp/step.toml:3"),
        "allocation.mem": ("100G", profile(8)),
        "allocation.partition": ("gpu", profile(4)),
        "allocation.qos": ("normal", profile(5)),
        "allocation.sbatch.nice": ("5", profile(6)),
        "allocation.sbatch.comment": (False, "exp/step.toml:4"),
        "allocation.sbatch.mail-type": ("END", "exp/step.toml:4"),
        "env.NCCL_DEBUG": ("WARN", profile(2)),
        "env.A": ("own", "exp/step.toml:6"),
        "setup.modules": ("cuda", "exp/step.toml:8"),
        "roles.trainer.command": (["train.py"], "exp/../base.toml:5"),
        "roles.trainer.launcher": ("torchrun", "exp/../base.toml:6"),
        "roles.trainer.restarts": (2, "exp/step.toml:11"),
        "roles.trainer.replicas": (1, "default"),
        "roles.trainer.kind": ("main", "default"),
        "roles.trainer.nodes": (1, "placement"),
        "roles.trainer.gpus": (4, "placement"),
        "roles.trainer.cpus": (15, "placement"),
        "roles.trainer.tasks": (1, "launcher torchrun"),
        "roles.trainer.env.B": ("x", "exp/step.toml:12"),
        "roles.trainer.container": ({"runtime": "charliecloud", "image": "site"}, profile(9)),
        "roles.server.kind": ("service", "exp/step.toml:14"),
        "roles.server.gpus": (0, "exp/step.toml:15"),
        "roles.server.container": ({"runtime": "charliecloud", "image": "own"}, "exp/step.toml:17"),
    }
    assert {key: found.get(key) for key in expected} == expected
    # What nobody says and nothing decides has no row.
    assert not {"allocation.time", "seed", "template", "roles.trainer.beside", "setup.venv"} & found.keys()


def test_lines_of_setup_each_have_their_own(rows: Callable[..., dict[str, list[Row]]]) -> None:
    assert [(row.value, row.source) for row in rows()["setup.lines"]] == [
        ("ulimit -c 0", "profile site (clusters/site.toml:1)"),
        ("one", "exp/step.toml:9"),
        ("two", "exp/step.toml:9"),
    ]


def test_the_command_line(rows: Callable[..., dict[str, list[Row]]]) -> None:
    overrides = ["allocation.gpus=2", "roles.server.env.C=x", "env={ A = 'set' }", "cluster=site", "seed=4"]
    found = {key: (row.value, row.source) for key, (row, *_) in rows(SPEC, *overrides).items()}
    for key, value in (("allocation.gpus", 2), ("roles.server.env.C", "x"), ("env.A", "set"), ("seed", 4)):
        assert found[key] == (value, "--set")
    assert found["cluster"] == ("site", "--set")


def test_the_short_form_and_no_profile(rows: Callable[..., dict[str, list[Row]]]) -> None:
    found = {
        key: (row.value, row.source)
        for key, (row, *_) in rows("command = ['x']\ntasks = 2\nlauncher = 'srun'\n", cluster="slurm").items()
    }
    assert found["roles.main.command"] == (["x"], "exp/step.toml:1")
    assert found["roles.main.tasks"] == (2, "exp/step.toml:2")


def test_what_the_site_forbids_is_not_sent(rows: Callable[..., dict[str, list[Row]]], write: Write) -> None:
    write("forbid = ['mem']\n", "clusters/strict.toml")
    found = rows("command = ['x']\n[allocation]\nmem = '1G'\ntime = '1:00:00'\n", cluster="strict")
    assert found["allocation.mem"][0].source == "exp/step.toml:3, but not sent"
    assert found["allocation.time"][0] == ("allocation.time", "01:00:00", "exp/step.toml:4")


def test_the_environment_is_the_one_of_the_plan(write: Write) -> None:
    write("env = { NCCL_DEBUG = 'WARN' }", "clusters/site.toml")
    text = "command = ['x']\ndebug = true\nwandb = { entity = 'lab' }\n[dotlist.CONFIG]\nlr = 0.1\nmodel.depth = 4\n"
    experiment = load(write(text, "exp/step.toml"))
    cluster = load_cluster("site", Path(), {})
    plan = resolve(experiment, cluster)
    found = {row.key: row for row in explain(experiment, cluster, plan, plan.replicas)}
    assert [f"env.{name}" for name, _ in plan.env] == [key for key in found if key.startswith("env.")]
    assert found["env.PYTHONFAULTHANDLER"].source == "exp/step.toml:2"
    assert found["env.NCCL_DEBUG"].source == "profile site (clusters/site.toml:1)"
    assert found["env.WANDB_ENTITY"].source == "exp/step.toml:3"
    assert found["env.CONFIG"] == ("env.CONFIG", "lr=0.1 model.depth=4", "exp/step.toml:4")


@pytest.mark.parametrize(("name", "more"), [("local", ""), ("slurm", ""), ("slurm", "[pool]\n")])
def test_the_roles_of_a_sweep_are_those_of_its_items(write: Write, name: str, more: str) -> None:
    text = f"[roles.eval]\ncommand = ['x', '{{lr}}']\n[allocation]\ncpus = 2\n{more}[sweep]\nlr = [1, 2]\n"
    experiment, cluster = load(write(text, "exp/step.toml")), load_cluster(name, Path(), {})
    sweep = plan_sweep(experiment, cluster)
    rows = {row.key: row for row in explain(experiment, cluster, sweep.shown, sweep.items[0].plan.replicas)}
    assert rows["roles.eval.command"] == ("roles.eval.command", ["x", "{lr}"], "exp/step.toml:2")
    assert rows["roles.eval.nodes"].source == "placement"
    assert not [key for key in rows if key.startswith(("roles.main", "roles.agent"))]


def test_rows_can_be_json(rows: Callable[..., dict[str, list[Row]]]) -> None:
    everything = [list(row) for group in rows().values() for row in group]
    assert json.loads(json.dumps(everything)) == everything
