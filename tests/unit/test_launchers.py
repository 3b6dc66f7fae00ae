"""Launchers, and extensions of other packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gangrun.plan import extensions
from gangrun.plan.model import Host, Plan, Port, Replica, Var, Word
from gangrun.script.quote import shown

Resolved = Callable[..., Plan]


def only(plan: Plan) -> Replica:
    (replica,) = plan.replicas
    return replica


def argv(replica: Replica) -> list[str]:
    return [shown(word) for word in replica.argv]


def spec(launcher: str, command: str = "['train.py', '--x']", nodes: int = 1, gpus: int = 0, more: str = "") -> str:
    return f"launcher = {launcher}\ncommand = {command}\n{more}\n[allocation]\nnodes = {nodes}\ngpus = {gpus}\n"


# ---- exec


def test_exec_is_the_command_once(resolved: Resolved) -> None:
    replica = only(resolved(spec("'exec'", nodes=2, gpus=4)))
    assert (argv(replica), replica.nodes, replica.tasks, replica.ranks) == (["train.py", "--x"], (0,), 1, False)
    assert replica.gpus == (0, 1, 2, 3)


def test_exec_says_when_nodes_stay_empty(resolved: Resolved) -> None:
    note = "a replica of main holds 2 nodes, and exec starts its command on the first of them only"
    assert resolved(spec("'exec'", nodes=2)).notes == (note,)
    assert resolved(spec("'exec'")).notes == ()
    assert resolved(spec("'srun'", nodes=2)).notes == ()


def test_exec_starts_a_sidecar_on_each_of_its_nodes(resolved: Resolved) -> None:
    plan = resolved(spec("'torchrun'", nodes=3, gpus=1) + "[roles.watch]\nkind = 'sidecar'\ncommand = ['w']\n")
    assert {replica.role: replica.nodes for replica in plan.replicas}["watch"] == (0, 1, 2)
    assert plan.notes == ()


# ---- srun


def test_srun_starts_one_process_for_each_gpu_and_tells_them_their_ranks(resolved: Resolved) -> None:
    replica = only(resolved(spec("'srun'", nodes=2, gpus=4)))
    assert (argv(replica), replica.nodes, replica.tasks, replica.ranks) == (["train.py", "--x"], (0, 1), 4, True)
    assert replica.ports == (("master", Port(0)),)


def test_srun_starts_as_many_as_are_asked_for(resolved: Resolved) -> None:
    assert only(resolved(spec("'srun'", nodes=2, gpus=4, more="tasks = 2"))).tasks == 2
    assert only(resolved(spec("'srun'"))).tasks == 1
    # The master port may be named, for others to refer to it.
    assert only(resolved(spec("'srun'", more="ports = ['x', 'master']"))).ports == (("x", Port(0)), ("master", Port(1)))


# ---- torchrun


def test_torchrun_on_one_node_needs_no_port(resolved: Resolved) -> None:
    replica = only(resolved(spec("'torchrun'", gpus=4)))
    assert argv(replica) == ["torchrun", "--standalone", "--nproc-per-node=4", "train.py", "--x"]
    assert (replica.tasks, replica.ranks, replica.ports) == (1, False, ())


def test_workers_of_torchrun_share_the_cpus(resolved: Resolved) -> None:
    # torchrun keeps an OMP_NUM_THREADS that it finds; with all CPUs for each worker they would fight for them.
    text = "launcher = {}\ncommand = ['x']\n[allocation]\ngpus = 4\ncpus = 30\n"
    assert [only(resolved(text.format(one))).threads for one in ("'torchrun'", "'srun'", "'exec'")] == [7, 7, 30]


def test_torchrun_on_several_meets_at_the_first(resolved: Resolved) -> None:
    replica = only(resolved(spec("'torchrun'", nodes=2, gpus=4)))
    assert replica.argv == (
        Word.of("torchrun"),
        Word.of("--nnodes=2"),
        Word.of("--rdzv-backend=c10d"),
        Word.of("--rdzv-endpoint=", Host(0), ":", Port(0)),
        Word.of("--rdzv-id=", Var("job"), ".", Var("attempt"), ".main.0"),
        Word.of("--nproc-per-node=4"),
        Word.of("train.py"),
        Word.of("--x"),
    )
    assert (replica.nodes, replica.tasks) == ((0, 1), 1)


def test_replicas_of_torchrun_meet_at_places_of_their_own(resolved: Resolved) -> None:
    plan = resolved(
        "[allocation]\nnodes = 4\ngpus = 1\n[roles.t]\nlauncher = 'torchrun'\ncommand = ['x']\nreplicas = 2\n"
    )
    first, second = ([word for word in replica.argv if "rdzv" in shown(word)] for replica in plan.replicas)
    assert shown(first[1]) == "--rdzv-endpoint=${HOSTS[0]}:${PORTS[0]}"
    assert shown(second[1]) == "--rdzv-endpoint=${HOSTS[2]}:${PORTS[1]}"
    assert shown(second[2]).endswith(".t.1")


def test_options_of_torchrun_are_its_flags(resolved: Resolved) -> None:
    options = "{ type = 'torchrun', max_restarts = 3, no_python = true, tee = '3', run_path = false }"
    words = argv(only(resolved(spec(options, command="['python', 'train.py']"))))
    assert words == [
        "torchrun",
        "--standalone",
        "--nproc-per-node=1",
        "--max-restarts=3",
        "--no-python",
        "--tee=3",
        "python",
        "train.py",
    ]


@pytest.mark.parametrize(
    ("launcher", "command", "what"),
    [
        ("'torchrun'", "['python', 'train.py']", "torchrun starts python by itself: leave 'python' out"),
        ("'torchrun'", "['python3.11', 'train.py']", "leave 'python3.11' out"),
        ("{ type = 'torchrun', nproc_per_node = 3 }", "['x']", "--nproc-per-node follows from tasks, or else gpus"),
        ("{ type = 'torchrun', rdzv-endpoint = 'x' }", "['x']", "--rdzv-endpoint follows from the first node"),
        ("{ type = 'torchrun', tee = [1] }", "['x']", "tee is text, a number, true or false, not [1]"),
        ("{ type = 'srun', ntasks = 3 }", "['x']", "srun has no options, but ntasks is given: launcher = 'srun'"),
        ("{ type = 'exec', a = 1, b = 2 }", "['x']", "exec has no options, but a, b is given"),
        ("'exec'\ntasks = 4", "['x']", 'exec starts one process; launcher = "srun" starts 4 tasks on each node'),
        ("'torchrum'", "['x']", "no launcher is named 'torchrum' (did you mean 'torchrun'?)"),
        ("'zzz'", "['x']", "no launcher is named 'zzz' (there are exec, srun, torchrun)"),
    ],
)
def test_what_a_launcher_refuses(launcher: str, command: str, what: str, refused: Callable[..., list[str]]) -> None:
    (told,) = refused(spec(launcher, command))
    assert told.startswith("exp/step.toml:1: launcher: ")
    assert what in told


def test_tasks_without_a_launcher_are_refused_at_their_line(refused: Callable[..., list[str]]) -> None:
    (told,) = refused("command = ['x']\ntasks = 4\n")
    assert told.startswith("exp/step.toml:2: tasks: exec starts one process; launcher = ")


def test_a_problem_of_many_replicas_is_told_once(refused: Callable[..., list[str]]) -> None:
    text = "[allocation]\nnodes = 4\n[roles.t]\nreplicas = 4\nlauncher = 'torchrun'\ncommand = ['python', '{x}']\n"
    assert [told.split(": ")[0] for told in refused(text)] == ["exp/step.toml:5", "exp/step.toml:6"]


def test_more_processes_than_cpus(refused: Callable[..., list[str]]) -> None:
    (told,) = refused("launcher = 'srun'\ntasks = 8\ncommand = ['x']\n[allocation]\ncpus = 4\n")
    assert told == "exp/step.toml:2: tasks: 8 processes on each node share 4 CPUs (ask for more CPUs or fewer tasks)"


# ---- other packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`package(source)` installs a package with the launcher `ours`, the topology `pair` and the runtime `box`."""

    def install(source: str) -> None:
        site = tmp_path / "site"
        info = site / "gangrun_ours-1.dist-info"
        info.mkdir(parents=True)
        (site / "gangrun_ours.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gangrun-ours\nVersion: 1\n")
        (info / "entry_points.txt").write_text(
            "[gangrun.launchers]\nours = gangrun_ours:launch\n"
            "[gangrun.topologies]\npair = gangrun_ours:expand\n"
            "[gangrun.containers]\nbox = gangrun_ours:contain\n"
        )
        monkeypatch.syspath_prepend(str(site))
        extensions.find.cache_clear()

    return install


SOURCE = """
from gangrun.plan.model import Word
from gangrun.plan.seat import Contained, Launch

def launch(seat):
    if "fail" in seat.options:
        raise {"value": ValueError("not so"), "key": KeyError("bug")}[seat.options["fail"]]
    return Launch((Word.of("ours"), Word.of(seat.host, ":", seat.port("meet")), *seat.command), tasks=seat.processes)

def expand(name, role, allocation):
    if allocation.nodes > 4:
        raise ValueError(f"pair is for 4 nodes, not {allocation.nodes}")
    helper = role.model_copy(update={"topology": None, "kind": "service", "gpus": 0, "ports": ("talk",)})
    return {f"{name}-helper": helper, name: role.model_copy(update={"after": (f"{name}-helper",)})}

def contain(container, argv, seat):
    return Contained((Word.of("box"), *argv), (Word.of("--container-image=", container.image),))
"""


def test_an_installed_launcher_and_runtime(resolved: Resolved, package: Callable[[str], None]) -> None:
    package(SOURCE)
    assert extensions.names("launchers") == ["exec", "ours", "srun", "torchrun"]
    text = spec("'ours'", nodes=2, gpus=2) + "[container]\nruntime = 'box'\nimage = 'i'\n"
    replica = only(resolved(text))
    assert argv(replica) == ["box", "ours", "${HOSTS[0]}:${PORTS[0]}", "train.py", "--x"]
    assert replica.step_flags == (Word.of("--container-image=i"),)
    assert replica.tasks == 2


def test_an_installed_topology_adds_its_companions(
    resolved: Resolved, refused: Callable[..., list[str]], package: Callable[[str], None], write: Any
) -> None:
    package(SOURCE)
    text = spec("'exec'", more="topology = 'pair'")
    plan = resolved(text)
    assert [(replica.name, replica.kind, replica.after) for replica in plan.replicas] == [
        ("main-helper.0", "service", ()),
        ("main.0", "main", ("main-helper",)),
    ]


def test_the_words_of_an_extension_are_told_at_the_role(refused: Callable[..., list[str]], package: Any) -> None:
    package(SOURCE)
    (told,) = refused(spec("{ type = 'ours', fail = 'value' }"))
    assert told == "exp/step.toml:1: launcher: not so"


def test_a_topology_that_refuses(refused: Callable[..., list[str]], package: Any) -> None:
    package(SOURCE)
    (told,) = refused(spec("'exec'", nodes=5, more="topology = 'pair'"))
    assert told == "exp/step.toml:3: topology: pair is for 4 nodes, not 5"


def test_a_bug_in_an_extension_is_not_taken_for_its_absence(resolved: Resolved, package: Any) -> None:
    package(SOURCE)
    with pytest.raises(KeyError, match="bug"):
        resolved(spec("{ type = 'ours', fail = 'key' }"))


def test_an_unknown_topology(refused: Callable[..., list[str]]) -> None:
    (told,) = refused(spec("'exec'", more="topology = 'diloco'"))
    assert told.startswith("exp/step.toml:3: topology: no topology is named 'diloco'")
