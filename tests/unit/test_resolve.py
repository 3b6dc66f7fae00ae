"""From a file and a profile to a plan: every topology, the allocation and its flags, order, problems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gangrun.errors import PlacementError, SpecError
from gangrun.plan.batch import clock
from gangrun.plan.model import Host, Plan, Port, Ready, Replica, Requeue, Var, Word
from gangrun.resolve import resolve
from gangrun.script.quote import known_text, shown
from gangrun.spec.load import load
from gangrun.spec.model import Profile
from gangrun.spec.profile import Cluster, load_cluster
from gangrun.sweeps import SweepPlan, plan_of

Resolved = Callable[..., Plan]
Refused = Callable[..., list[str]]
Write = Callable[..., Path]


def by_name(plan: Plan) -> dict[str, Replica]:
    return {replica.name: replica for replica in plan.replicas}


def seats(plan: Plan) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {replica.name: (replica.nodes, replica.gpus) for replica in plan.replicas}


def command(replica: Replica) -> str:
    return " ".join(map(shown, replica.argv))


ALL = tuple(range(8))

# ---- every topology is a spec


def test_ddp_over_nodes(resolved: Resolved) -> None:
    plan = resolved("""
launcher = "torchrun"
command = ["train.py", "--out", "{run.dir}"]
[allocation]
nodes = 2
gpus = 8
""")
    assert seats(plan) == {"main.0": ((0, 1), ALL)}
    (trainer,) = plan.replicas
    assert (trainer.tasks, trainer.alone, plan.ports) == (1, True, 1)
    assert command(trainer).endswith("--nproc-per-node=8 train.py --out ${RUN_DIR}")


def test_one_task_per_gpu_and_a_monitor_on_every_node(resolved: Resolved) -> None:
    plan = resolved("""
launcher = "srun"
command = ["python", "train.py"]
[allocation]
nodes = 2
gpus = 8
cpus = 112
[roles.monitor]
kind = "sidecar"
command = ["nvidia-smi", "dmon"]
""")
    assert seats(plan) == {"main.0": ((0, 1), ALL), "monitor.0": ((0, 1), ())}
    trainer, monitor = plan.replicas
    assert (trainer.tasks, trainer.ranks, trainer.cpus, trainer.alone) == (8, True, 112, True)
    assert (monitor.tasks, monitor.ranks, monitor.cpus) == (1, False, 1)


DILOCO = """
[allocation]
nodes = {nodes}
gpus = 8
[roles.lighthouse]
kind = "service"
gpus = 0
ports = ["http"]
command = ["torchft_lighthouse", "--bind", "[::]:{{self.port.http}}"]
ready = {{ port = "http", within = "60s" }}
[roles.trainer]
replicas = {replicas}
{size}
launcher = "torchrun"
after = ["lighthouse"]
restarts = 3
command = ["train.py", "--group", "{{index}}/{{count}}"]
env = {{ TORCHFT_LIGHTHOUSE = "http://{{lighthouse.host}}:{{lighthouse.port.http}}" }}
"""


def test_diloco_with_replicas_inside_a_node(resolved: Resolved) -> None:
    plan = resolved(DILOCO.format(nodes=2, replicas=4, size="gpus = 4"))
    assert seats(plan) == {
        "lighthouse.0": ((0,), ()),
        "trainer.0": ((0,), (0, 1, 2, 3)),
        "trainer.1": ((0,), (4, 5, 6, 7)),
        "trainer.2": ((1,), (0, 1, 2, 3)),
        "trainer.3": ((1,), (4, 5, 6, 7)),
    }
    last = by_name(plan)["trainer.3"]
    assert command(last) == "torchrun --standalone --nproc-per-node=4 train.py --group 3/4"
    assert last.env == (("TORCHFT_LIGHTHOUSE", Word.of("http://", Host(0), ":", Port(0))),)
    assert (last.restarts, last.after, last.alone) == (3, ("lighthouse",), False)


def test_diloco_with_replicas_over_nodes(resolved: Resolved) -> None:
    plan = resolved(DILOCO.format(nodes=4, replicas=2, size="nodes = 2"))
    assert seats(plan) == {"lighthouse.0": ((0,), ()), "trainer.0": ((0, 1), ALL), "trainer.1": ((2, 3), ALL)}
    assert "--rdzv-endpoint=${HOSTS[2]}:${PORTS[2]}" in command(by_name(plan)["trainer.1"])


def test_reinforcement_learning(resolved: Resolved) -> None:
    plan = resolved("""
[allocation]
nodes = 2
gpus = 8
cpus = 64
[roles.inference]
kind = "service"
replicas = 8
gpus = 1
ports = ["http"]
command = ["vllm", "serve", "m", "--port", "{self.port.http}"]
ready = { http = "http://{self.host}:{self.port.http}/health" }
[roles.trainer]
nodes = 1
gpus = 8
launcher = "torchrun"
command = ["train.py"]
[roles.orchestrator]
beside = "trainer"
after = ["inference"]
cpus = 4
command = ["python", "-m", "orchestrate", "--servers", "{inference.addresses.http}"]
""")
    replicas = by_name(plan)
    assert [replicas[f"inference.{i}"].gpus for i in range(8)] == [(i,) for i in range(8)]
    assert {replicas[f"inference.{i}"].nodes for i in range(8)} == {(0,)}
    assert (replicas["trainer.0"].nodes, replicas["trainer.0"].gpus, replicas["trainer.0"].cpus) == ((1,), ALL, 60)
    assert (replicas["orchestrator.0"].nodes, replicas["orchestrator.0"].gpus) == ((1,), ())
    assert command(replicas["orchestrator.0"]).endswith("--servers ${ADDRESSES[inference.http]}")
    # What waits for the servers starts last.
    assert plan.replicas[-1].name == "orchestrator.0"


def test_a_simulator_and_its_client_share_gpus(resolved: Resolved) -> None:
    plan = resolved("""
[allocation]
gpus = 1
cpus = 8
[roles.server]
kind = "service"
ports = ["rpc"]
ready = { port = "rpc" }
command = ["serve", "{self.port.rpc}"]
[roles.client]
beside = "server"
gpus = "shared"
after = ["server"]
command = ["ask", "{server.host}:{server.port.rpc}"]
""")
    server, client = plan.replicas
    assert (server.gpus, server.shares_gpus, server.cpus) == ((0,), False, 4)
    assert (client.gpus, client.shares_gpus, client.cpus, client.nodes) == ((0,), True, 4, (0,))
    assert server.ready == Ready("port", Word.of(Host(0), ":", Port(0)), 600)


def test_a_driver_and_its_workers(resolved: Resolved) -> None:
    plan = resolved("""
[allocation]
nodes = 3
gpus = 4
[roles.worker]
kind = "service"
replicas = 3
command = ["ray", "start", "--address", "{head.host}:{head.port.gcs}", "--block"]
after = ["head"]
[roles.head]
kind = "service"
gpus = 0
ports = ["gcs"]
command = ["ray", "start", "--head", "--port", "{self.port.gcs}", "--block"]
ready = { port = "gcs" }
[roles.driver]
beside = "head"
after = ["head"]
command = ["python", "drive.py"]
""")
    assert seats(plan) == {
        "head.0": ((0,), ()),
        "worker.0": ((0,), (0, 1, 2, 3)),
        "worker.1": ((1,), (0, 1, 2, 3)),
        "worker.2": ((2,), (0, 1, 2, 3)),
        "driver.0": ((0,), ()),
    }


def test_one_process(resolved: Resolved) -> None:
    (main,) = resolved("command = ['python', 'x.py']\n").replicas
    assert (main.nodes, main.gpus, main.cpus, main.kind) == ((0,), (), None, "main")


# ---- the allocation and its flags

ASKED = """
command = ["x"]
[allocation]
nodes = 2
gpus = 4
cpus = 16
mem = "64G"
time = "1-12:00:00"
partition = "a100"
sbatch = { mail_type = "END", exclusive = true }
"""


def flags(plan: Plan) -> dict[str, str | None]:
    return dict(plan.allocation.flags)


def test_flags(resolved: Resolved) -> None:
    plan = resolved(ASKED)
    assert plan.allocation.flags == (
        ("nodes", "2"),
        ("ntasks-per-node", "1"),
        ("gres", "gpu:4"),
        ("cpus-per-task", "16"),
        ("mem", "64G"),
        ("time", "1-12:00:00"),
        ("partition", "a100"),
        ("mail-type", "END"),
        ("exclusive", None),
    )
    assert (plan.allocation.mem, plan.allocation.time) == ("64G", 129_600)


def test_a_flag_of_ours_can_be_taken_away(resolved: Resolved) -> None:
    plan = resolved("command = ['x']\n[allocation]\nmem = '1G'\nsbatch = { mem = false, ntasks-per-node = false }\n")
    assert flags(plan) == {"nodes": "1"}
    assert plan.allocation.mem == "1G"


PROFILE: dict[str, Any] = {
    "defaults": {"partition": "a100", "qos": "normal", "time": "2:00:00", "sbatch": {"nice": 5, "comment": "site"}},
    "partitions": {"a100": "a100-mila"},
    "qos": {
        "normal": {"account": "free", "mem": "100G", "cpus": 8},
        "high": {"account": "paid", "partition": "a100", "time": "1:00:00"},
    },
    "env": {"NCCL_DEBUG": "WARN", "A": "site"},
    "setup": {"modules": ["cuda/12"], "lines": ["ulimit -c 0"]},
}


def test_a_profile_fills_in_and_its_qos_brings_more(resolved: Resolved) -> None:
    assert flags(resolved("command = ['x']\n", profile=PROFILE)) == {
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": "8",
        "mem": "100G",
        "time": "02:00:00",
        "partition": "a100-mila",
        "qos": "normal",
        "account": "free",
        "nice": "5",
        "comment": "site",
    }


def test_the_experiment_wins_over_its_qos_and_that_over_defaults(resolved: Resolved) -> None:
    text = "command = ['x']\n[allocation]\nqos = 'high'\naccount = 'mine'\nsbatch = { nice = 1 }\n"
    found = flags(resolved(text, profile=PROFILE))
    assert (found["account"], found["time"], found["partition"]) == ("mine", "01:00:00", "a100-mila")
    assert (found["nice"], found["comment"]) == ("1", "site")
    assert "mem" not in found


def test_an_unknown_qos(refused: Refused) -> None:
    text = "command = ['x']\n[allocation]\nqos = '{}'\n"
    assert refused(text.format("hihg"), profile=PROFILE) == [
        "exp/step.toml:3: allocation.qos: profile site knows no qos 'hihg' (did you mean 'high'? known: normal, high)"
    ]
    assert "known: normal, high" in refused(text.format("zzz"), profile=PROFILE)[0]


def test_a_profile_without_a_qos_table_knows_none_and_takes_all(resolved: Resolved) -> None:
    assert flags(resolved("command = ['x']\n[allocation]\nqos = 'any'\n"))["qos"] == "any"


def test_a_forbidden_flag_of_ours_is_left_out_and_told(resolved: Resolved) -> None:
    plan = resolved(ASKED, profile={"forbid": ["--mem", "ntasks_per_node"]})
    assert not {"mem", "ntasks-per-node"} & flags(plan).keys()
    assert "--mem is not sent: profile site forbids it" in plan.notes


def test_a_forbidden_flag_that_is_asked_for_is_an_error(refused: Refused) -> None:
    text = "command = ['x']\n[allocation]\nsbatch = { exclusive = true }\n"
    assert refused(text, profile={"forbid": ["exclusive"]}) == [
        "exp/step.toml:3: allocation.sbatch.exclusive: profile site forbids --exclusive"
    ]


def test_required_flags(resolved: Resolved, refused: Refused) -> None:
    profile = {"require": ["account", "constraint", "cpus-per-task"]}
    assert refused("command = ['x']\n", profile=profile) == [
        f"exp/step.toml: {key}: profile site requires --{flag}, and nothing sets it (say {key})"
        for key, flag in (
            ("allocation.account", "account"),
            ("allocation.sbatch.constraint", "constraint"),
            ("allocation.cpus", "cpus-per-task"),
        )
    ]
    text = "command = ['x']\n[allocation]\naccount = 'a'\ncpus = 1\nsbatch = { constraint = 'x' }\n"
    assert resolved(text, profile=profile).allocation.flags
    assert resolved("command = ['x']\n", profile={**profile, "scheduler": "local"}).scheduler == "local"


@pytest.mark.parametrize(
    ("sbatch", "what"),
    [
        ("job_name = 'x'", "--job-name is gangrun's own; the record relies on it"),
        ("array = '0-3'", "--array is gangrun's own"),
        ("job_name = false", "--job-name is gangrun's own"),
        ("nodes = 4", "the plan would not know of it: say allocation.nodes"),
        ("cpus_per_task = 4", "the plan would not know of it: say allocation.cpus"),
        ("time = '1:00:00'", "the plan would not know of it: say allocation.time"),
        ("ntasks = 4", "the roles decide how many tasks run: say tasks for each role"),
        ("gres = 'gpu:a100:8'", "--gres=gpu:a100:8 asks for 8 GPUs where allocation.gpus = 4 means 4"),
        ("gres = 'nvme:1'", "--gres=nvme:1 asks for 0 GPUs where allocation.gpus = 4 means 4"),
        ("gpus = 'h100:4'", "--gpus=h100:4 asks for 4 GPUs where allocation.gpus = 4 means 8"),
    ],
)
def test_flags_that_would_go_behind_the_plans_back(sbatch: str, what: str, refused: Refused) -> None:
    (told,) = refused(f"command = ['x']\n[allocation]\nnodes = 2\ngpus = 4\n[allocation.sbatch]\n{sbatch}\n")
    assert told.startswith(f"exp/step.toml:6: allocation.sbatch.{sbatch.split()[0]}: {what}")


@pytest.mark.parametrize(
    ("sbatch", "flag", "value"),
    [
        ("gres = 'gpu:a100:4'", "gres", "gpu:a100:4"),
        ("gres = 'nvme:1,gpu:4(S:0-1)'", "gres", "nvme:1,gpu:4(S:0-1)"),
        ("gres = false\ngpus_per_node = 'h100:4'", "gpus-per-node", "h100:4"),
        ("gres = false\ngpus = 8", "gpus", "8"),
    ],
)
def test_a_type_of_gpu(sbatch: str, flag: str, value: str, resolved: Resolved) -> None:
    plan = resolved(f"command = ['x']\n[allocation]\nnodes = 2\ngpus = 4\n[allocation.sbatch]\n{sbatch}\n")
    assert flags(plan)[flag] == value


def test_a_wrong_flag_of_the_profile_is_told_there(write: Write, tmp_path: Path) -> None:
    write("[defaults]\nnodes = 1\n\nsbatch = { job_name = 'x' }\n[env]\nA = '{nothing}'\n", "clusters/site.toml")
    file = write("command = ['x']\n")
    cluster = load_cluster("site", tmp_path, {})
    with pytest.raises(SpecError) as caught:
        resolve(load(file), cluster)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / "clusters/site.toml"), 4)
    write("[env]\nA = '{nothing}'\n", "clusters/site.toml")
    with pytest.raises(SpecError) as caught:
        resolve(load(file), load_cluster("site", tmp_path, {}))
    assert (caught.value.problems[0].key, caught.value.problems[0].line) == ("env.A", 2)


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "00:00:59"), (3600, "01:00:00"), (86_400, "1-00:00:00"), (131_415, "1-12:30:15")]
)
def test_clock(seconds: int, text: str) -> None:
    assert clock(seconds) == text


# ---- environment, setup, directories


def test_environment_of_profile_experiment_and_role(resolved: Resolved) -> None:
    plan = resolved(
        "command = ['x']\nseed = 3\n[env]\nA = 'own {seed}'\nB = '{run.name}'\n[roles.main.env]\nC = '{index}'\n",
        profile=PROFILE,
    )
    assert plan.env == (("NCCL_DEBUG", Word.of("WARN")), ("A", Word.of("own 3")), ("B", Word.of(Var("run_name"))))
    assert plan.replicas[0].env == (("C", Word.of("0")),)


def test_setup_is_the_profiles_then_the_experiments(resolved: Resolved) -> None:
    text = (
        "command = ['x']\n[setup]\nmodules = ['gcc 1']\nvenv = '/env s'\nlines = ['echo hi', \"cat <<X\\n  a\\nX\"]\n"
    )
    assert resolved(text, profile=PROFILE).setup == (
        "module load cuda/12",
        "module load 'gcc 1'",
        "source '/env s/bin/activate'",
        "ulimit -c 0",
        "echo hi",
        "cat <<X\n  a\nX",
    )


def test_which_virtual_environment(resolved: Resolved, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    write("", ".venv/bin/activate")
    profile = {"setup": {"venv": "/site"}}
    assert resolved("command = ['x']\n").setup == (f"source {Path.cwd()}/.venv/bin/activate",)
    assert resolved("command = ['x']\n", profile=profile).setup == ("source /site/bin/activate",)
    assert resolved("command = ['x']\nsetup = { venv = false }\n", profile=profile).setup == ()


def test_where_commands_start(resolved: Resolved, tmp_path: Path) -> None:
    assert resolved("command = ['x']\n").workdir == str(tmp_path)
    assert resolved("command = ['x']\nworkdir = '.'\n").workdir == str(tmp_path / "exp")
    assert command(resolved("command = ['{file.dir}/x']\n").replicas[0]) == str(tmp_path / "exp/x")


# ---- order, ports, purity


def test_roles_start_after_those_that_they_wait_for_and_else_as_written(resolved: Resolved) -> None:
    text = "[allocation]\ncpus = 8\n" + "".join(
        f"[roles.{name}]\ngpus = 0\ncommand = ['x']\nafter = {after}\n"
        for name, after in (("d", ["c"]), ("b", []), ("c", ["a"]), ("a", []))
    )
    assert [replica.role for replica in resolved(text).replicas] == ["b", "a", "c", "d"]


def test_ports_are_each_replicas_own(resolved: Resolved) -> None:
    text = (
        "[roles.a]\nreplicas = 2\ngpus = 0\nlauncher = 'srun'\nports = ['x', 'y']\ncommand = ['a', '{self.port.y}']\n"
    )
    text += "[roles.b]\ngpus = 0\nports = 'x'\ncommand = ['b', '{self.port.x}', '{a.port.x}', '{a.addresses.y}']\n"
    plan = resolved(text)
    offsets = [port.offset for replica in plan.replicas for _, port in replica.ports]
    assert sorted(offsets) == list(range(plan.ports))
    assert [command(replica) for replica in plan.replicas] == [
        "a ${PORTS[1]}",
        "a ${PORTS[3]}",
        "b ${PORTS[4]} ${PORTS[0]} ${ADDRESSES[a.y]}",
    ]


@pytest.mark.parametrize("name", ["main", "early", "late"])
def test_a_port_that_only_the_launcher_knows_is_nobody_elses(name: str, refused: Refused, resolved: Resolved) -> None:
    # Whichever of the two is composed first.
    text = "command = ['x', '{trainer.port.master}']\n"
    trainer = "[roles.trainer]\ngpus = 0\nlauncher = 'srun'\ncommand = ['y']\n"
    user = f"[roles.{name}]\ngpus = 0\nafter = {['trainer'] if name == 'late' else []}\n{text}"
    (problem,) = refused(user + trainer)
    assert "{trainer.port.master}: 'trainer' has no port named 'master'; name it in ports = [\"master\"]" in problem
    plan = resolved(user + trainer + "ports = 'master'\n")
    assert plan.ports == 1
    assert command(by_name(plan)[f"{name}.0"]) == "x ${PORTS[0]}"


def test_the_same_gives_the_same(resolved: Resolved) -> None:
    text = DILOCO.format(nodes=4, replicas=8, size="gpus = 4")
    assert resolved(text) == resolved(text)


# ---- problems


def test_problems_of_all_stages_before_placement_at_once(refused: Refused) -> None:
    assert refused(
        """
[allocation]
qos = "nope"
sbatch = { array = "1" }
[roles.trainer]
launcher = "torchrum"
after = ["traner", "watch", "trainer"]
beside = "nobody"
ports = ["a", "a"]
ready = { port = "b" }
[roles.watch]
kind = "sidecar"
""",
        profile=PROFILE,
    ) == [
        "exp/step.toml:3: allocation.qos: profile site knows no qos 'nope' (known: normal, high)",
        "exp/step.toml:4: allocation.sbatch.array: --array is gangrun's own; the record relies on it",
        'exp/step.toml:5: roles.trainer.command: is missing (command = ["python", "train.py"])',
        "exp/step.toml:6: roles.trainer.launcher: no launcher is named 'torchrum' (did you mean 'torchrun'?)",
        "exp/step.toml:7: roles.trainer.after: there is no role 'traner' (did you mean 'trainer'?)",
        "exp/step.toml:7: roles.trainer.after: 'watch' is a sidecar, which may die unnoticed, so nothing waits for it",
        "exp/step.toml:7: roles.trainer.after: 'trainer' cannot wait for or stand beside itself",
        "exp/step.toml:8: roles.trainer.beside: there is no role 'nobody' (roles are trainer, watch)",
        "exp/step.toml:9: roles.trainer.ports: names a port twice",
        "exp/step.toml:10: roles.trainer.ready.port: there is no port 'b' (ports = [\"b\"])",
        'exp/step.toml:11: roles.watch.command: is missing (command = ["python", "train.py"])',
    ]


def test_misfits_and_wrong_references_at_once(refused: Refused, resolved: Resolved) -> None:
    text = """
[allocation]
gpus = 2
[env]
A = "{nope}"
[roles.b]
gpus = 0
command = ["x", "{b.host}", "{a.port.http}"]
[roles.a]
gpus = 4
command = ["x", "{lr}"]
"""
    told = refused(text)
    assert [line.partition(": ")[2].partition(":")[0] for line in told] == [
        "env.A",
        "roles.b.command[2]",
        "roles.a.gpus",
        "roles.a.command[1]",
    ]
    with pytest.raises(PlacementError):
        resolved(text)


def test_roles_that_wait_for_each_other(refused: Refused) -> None:
    text = "".join(
        f"[roles.{name}]\ngpus = 0\ncommand = ['x']\nafter = '{after}'\n"
        for name, after in (("late", "a"), ("a", "b"), ("b", "c"), ("c", "a"))
    )
    assert refused(text) == ["exp/step.toml:8: roles.a.after: roles wait for each other: a → b → c → a"]


def test_nothing_to_run(refused: Refused) -> None:
    assert refused("[allocation]\nnodes = 1\n") == [
        'exp/step.toml: command: is missing: there is nothing to run (command = ["python", "train.py"])'
    ]


def test_no_main(refused: Refused) -> None:
    assert refused("command = ['x']\nkind = 'service'\n") == [
        'exp/step.toml:2: kind: no role is a main, so the job would never end (kind = "main")'
    ]


def test_a_role_beside_nothing(refused: Refused) -> None:
    assert refused("command = ['x']\nbeside = ''\n") == [
        "exp/step.toml:2: beside: there is no role '' (roles are main)"
    ]


def test_a_key_at_the_top_of_a_file_with_roles(refused: Refused) -> None:
    (told,) = refused("[roles.trainer]\ncommand = ['x']\n", "restarts=3")
    assert told.startswith("--set: restarts: at the top it means roles.main.restarts, and roles.main has no command")
    assert told.endswith("(did you mean roles.trainer.restarts?)")


def test_a_problem_of_a_base_is_told_there(refused: Refused, write: Write) -> None:
    write("[roles.a]\ncommand = ['x', '{lr}']\n", "base.toml")
    assert refused("extends = '../base.toml'\n")[0].startswith(
        "exp/../base.toml:2: roles.a.command[1]: unknown reference"
    )


# ---- files for the run's directory, values for a template


WITH_FILES = """
command = ["x"]
seed = 3
[files]
"configs/a.toml" = "out = '{run.dir}'\\nseed = {seed}\\nenv = {{ a = 1 }}\\n"
[variables]
job_name = "j{seed}"
output_dir = "{run.dir}"
nodes = 4
offline = false
"""


def test_files_and_variables_know_the_run_and_no_job(resolved: Resolved) -> None:
    plan = resolved(WITH_FILES)
    assert [(name, known_text(word, "e_s_1", "/out/$x")) for name, word in plan.files] == [
        ("configs/a.toml", "out = '/out/$x'\nseed = 3\nenv = { a = 1 }\n")
    ]
    values = [known_text(value, "e", "/out") if isinstance(value, Word) else value for _, value in plan.variables]
    assert values == ["j3", "/out", 4, False]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('files = { a = "{main.host}" }', "1: files.a: unknown reference {main.host}; there are"),
        ('variables = { a = "{index}" }', "1: variables.a: unknown reference {index}; there are"),
        ('files = { "../a" = "" }', "1: files.../a: is no path in the run's directory: write 'configs/model.toml'"),
        ('files = { "/a" = "" }', "1: files./a: is no path in the run's directory"),
        ('files = { "spec.toml" = "" }', "1: files.spec.toml: is the record's own: 'spec.toml' in the run's directory"),
        ("files = { a = 1 }", "1: files.a: should be text, in quotes, not 1"),
        ("variables = { a = [1] }", "1: variables.a: is text, a number, true or false"),
    ],
)
def test_files_and_variables_that_cannot_be(text: str, what: str, refused: Refused) -> None:
    assert refused(f"{text}\ncommand = ['x']\n")[0].startswith(f"exp/step.toml:{what}")


# ---- what gangrun adds


def test_a_monitor_watches_every_node_and_takes_nothing(resolved: Resolved) -> None:
    plan = resolved("command = ['x']\n[allocation]\nnodes = 3\ngpus = 8\ncpus = 32\nmem = '100G'\n")
    [own] = plan.own
    assert (own.name, own.kind, own.nodes, own.gpus, own.cpus) == ("_monitor.0", "sidecar", (0, 1, 2), (), None)
    assert command(own) == "python3 -IS ${RUN_DIR}/node/monitor.py every=15 gpus=8 cpus=32 mem=100G"
    assert plan.programs == ("monitor.py",)
    assert [replica.name for replica in plan.replicas] == ["main.0"]
    assert (plan.replicas[0].cpus, plan.replicas[0].alone) == (32, True)


def test_here_one_monitor_watches_what_plays_every_node(resolved: Resolved) -> None:
    text = "command = ['x']\nmonitor.every = '1m'\n[allocation]\nnodes = 3\ngpus = 2\ncpus = 32\n"
    [own] = resolved(text, profile={"scheduler": "local"}).own
    assert own.nodes == (0,)
    assert command(own).endswith("monitor.py every=60 gpus=6")


@pytest.mark.parametrize("off", ["monitor = false", "monitor = { on = false }", "[monitor]\non = false\nevery = 5"])
def test_without_a_monitor(off: str, resolved: Resolved) -> None:
    plan = resolved(f"command = ['x']\n{off}\n")
    assert (plan.own, plan.programs) == ((), ())


def test_a_monitor_that_makes_no_sense(refused: Refused) -> None:
    for value, words in (
        ("'no'", "monitor"),
        ("{ every = 0 }", "monitor.every"),
        ("{ every = 'often' }", "monitor.every: 'often' is no duration"),
        ("{ evry = '5s' }", "did you mean 'every'?"),
    ):
        assert words in " ".join(refused(f"command = ['x']\nmonitor = {value}\n"))


# ---- configurations in a variable

DOTLIST = """
seed = 0
command = ["train.py"]
[resume]
[dotlist.CONFIG]
optimizer = { lr = 0.1, nesterov = true }
file = "{load}"
seed = "{seed}"
"""


def test_a_dotlist_is_one_variable_without_what_is_not_loaded(resolved: Resolved) -> None:
    words = dict(resolved(DOTLIST + "quotes = \"'a'\"").env)
    assert shown(words["CONFIG"]) == (
        "optimizer.lr=0.1 optimizer.nesterov=true${LOAD:+ file=${LOAD}} seed=0 quotes='a'"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 'b c'", "a=b c cannot stand in it: the program splits it at blanks"),
        ("a = [1]", "a should be text, a number, true or false"),
        ("'a=b' = 1", "cannot stand in it"),
        ("a = '{nothing}'", "dotlist.CONFIG.a: unknown reference {nothing}"),
        ("[env]\nCONFIG = 'x'", "CONFIG stands in env as well (keep one)"),
    ],
)
def test_what_no_dotlist_can_hold(refused: Refused, text: str, words: str) -> None:
    (problem,) = refused(DOTLIST + text)
    assert words in problem


# ---- going on


def test_an_attempt_that_goes_on_may_have_another_command(resolved: Resolved) -> None:
    flags = 'launcher = "torchrun"\nresume_flags = ["--resume", "{load}"]\n'
    plan = resolved(f"{flags}command = ['train.py']\nresume = {{}}\n[allocation]\nnodes = 2\ngpus = 2\n")
    (trainer,) = plan.replicas
    first, again = command(trainer), " ".join(map(shown, trainer.again))
    assert again == f"{first} --resume ${{LOAD}}"
    assert plan.ports == 1
    plan = resolved("command = ['a', 'b']\nresume_command = ['c', '{load}']\nresume = {}\n")
    assert [shown(word) for word in plan.replicas[0].again] == ["c", "${LOAD}"]


def test_requeue_with_its_defaults(resolved: Resolved) -> None:
    plan = resolved("command = ['x']\nrequeue = true\nresume.glob = 'step-*'\n")
    assert plan.requeue == Requeue(limit=10, preemption=100, node=5, before=120, glob="step-*")
    assert plan.programs == ("monitor.py", "checkpoint.py", "requeue.py")
    assert resolved("command = ['x']\nrequeue = true\n", profile={"scheduler": "local"}).requeue is None
    assert resolved("command = ['x']\nrequeue = false\n").requeue is None


def test_each_item_goes_on_with_its_own_parameters(write: Write) -> None:
    text = "command = ['x']\nresume = {}\nresume_flags = ['--lr={lr}']\n[sweep]\nlr = [1, 2]\n"
    plan = plan_of(load(write(text)), Cluster("site", Profile()))
    assert isinstance(plan, SweepPlan)
    assert [shown(item.plan.replicas[0].again[-1]) for item in plan.items] == ["--lr=1", "--lr=2"]


def test_a_pool_has_its_own_way_with_the_limit(write: Write) -> None:
    text = "command = ['x', '{n}']\nrequeue = { preemption = 3 }\n[sweep]\nn = [1, 2]\n"
    slurm, here = (Cluster("site", Profile.model_validate({"scheduler": name})) for name in ("slurm", "local"))
    pool = plan_of(load(write(f"{text}[pool]\n")), slurm)
    assert isinstance(pool, SweepPlan)
    assert pool.job is not None
    assert pool.job.requeue == Requeue(limit=0, preemption=3, node=5, before=0, items=True)
    assert "requeue.py" in pool.job.programs
    assert all(item.plan.requeue is None for item in pool.items)
    limited = write(f"{text}[pool]\n".replace("preemption", "limit"))
    with pytest.raises(SpecError, match="begins no item that does not fit"):
        plan_of(load(limited), slurm)
    jobs = write(text.replace("preemption", "limit"))
    plan = plan_of(load(jobs), slurm)
    assert isinstance(plan, SweepPlan)
    assert {item.plan.requeue.limit for item in plan.items if item.plan.requeue} == {3}
    plan_of(load(jobs), here)  # on a laptop, where nothing is queued, it is no mistake


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("requeue = 'yes'", "requeue: "),
        ("requeue = { limits = 3 }", "did you mean 'limit'?"),
        ("requeue = { limit = -1 }", "requeue.limit"),
        ("requeue = { signal = 'KILL' }", "requeue.signal"),
        ("grace = '1m'\nrequeue = true", "to end a job well takes up to 135 s (twice grace + 15)"),
        ("requeue = true\nallocation.time = '2m'", "120 s before a time limit of 00:02:00 is before the beginning"),
        ("resume_flags = ['--resume']", "resume_flags: means something where there is a [resume]"),
        ("resume_flags = ['{lod}']\nresume = {}", "{lod}"),
    ],
)
@pytest.mark.parametrize("scheduler", ["slurm", "local"])
def test_going_on_that_makes_no_sense(text: str, words: str, scheduler: str, refused: Refused) -> None:
    assert words in " ".join(refused(f"command = ['x']\n{text}\n", profile={"scheduler": scheduler}))
