"""From the generator's flags to an experiment: who gets which CPUs, what is asked for, what reaches the program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gangrun.errors import InputError
from gangrun.plan.model import Plan
from gangrun.recipes import generate
from gangrun.recipes.generate import Asked
from gangrun.resolve import resolve
from gangrun.script.quote import shown
from gangrun.spec.load import load
from gangrun.spec.model import Profile
from gangrun.spec.profile import Cluster

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Write = Callable[..., Path]
CONFIG = "config/diloco/muloco.py"
SITE = Cluster(
    "site",
    Profile.model_validate(
        {
            "defaults": {"qos": "normal"},
            "qos": {
                "normal": {"account": "free", "partition": "gpu", "mem": "500G", "cpus": 128},
                "high": {"account": "paid", "partition": "fast", "mem": "1000G", "cpus": 64, "time": "2:00:00"},
            },
        }
    ),
)


@pytest.fixture
def asked(write: Write) -> Callable[..., Asked]:
    """`asked(nodes=4)`: flags beside a configuration that is there."""
    write("", CONFIG)
    return lambda **flags: Asked(CONFIG, **flags)


Ask = Callable[..., Asked]


def planned(asked: Asked, cluster: Cluster = SITE) -> Plan:
    return resolve(generate.experiment(asked, cluster), cluster)


def test_single_node_replicas_share_a_node_as_muloco_does(asked: Ask) -> None:
    plan = planned(asked())
    lighthouse, *groups = plan.replicas
    assert (plan.experiment, plan.step) == ("diloco", "diloco")
    # 128 CPUs among 9 tasks are 14 each, 126 in all.
    assert dict(plan.allocation.flags)["cpus-per-task"] == "126"
    assert [(group.nodes, group.gpus, group.cpus) for group in groups] == [
        ((node,), (gpu,), 14) for node in (0, 1) for gpu in range(8)
    ]
    assert (lighthouse.role, lighthouse.cpus, lighthouse.nodes) == ("lighthouse", 8, (0,))
    assert "--min_replicas 16" in " ".join(shown(word) for word in lighthouse.argv)
    program = [shown(word) for word in groups[3].argv]
    assert program[program.index("-m") :] == [
        *("-m", "torchtitan.train", "--job.config_file", CONFIG, "--cfg_options", "fault_tolerance.enable=True"),
        *("fault_tolerance.replica_id=3", "fault_tolerance.group_size=16"),
    ]


def test_multi_node_replicas_have_their_nodes_to_themselves(asked: Ask) -> None:
    lighthouse, *groups = planned(asked(nodes=4, nodes_per_replica=2)).replicas
    assert [(group.nodes, len(group.gpus), group.cpus) for group in groups] == [((0, 1), 8, 120), ((2, 3), 8, 120)]
    assert lighthouse.cpus == 8


def test_ddp_is_one_role_and_needs_no_options(asked: Ask) -> None:
    plan = planned(asked(use_ddp=True, nodes=4))
    (trainer,) = plan.replicas
    assert (trainer.nodes, len(trainer.gpus), trainer.cpus) == ((0, 1, 2, 3), 8, 128)
    assert shown(trainer.argv[-1]) == CONFIG
    (trainer,) = planned(asked(use_ddp=True, extra_args="a=1")).replicas
    assert [shown(word) for word in trainer.argv][-2:] == ["--cfg_options", "a=1"]


def test_flags_win_over_what_the_qos_brings(asked: Ask) -> None:
    flags = dict(planned(asked(qos="high")).allocation.flags)
    assert (flags["account"], flags["partition"], flags["mem"]) == ("paid", "fast", "1000G")
    assert (flags["cpus-per-task"], flags["time"], flags["gres"]) == ("63", "02:00:00", "gpu:8")
    own = {"account": "mine", "partition": "slow", "mem": "10G", "cpus_per_node": 36, "time": "1:00:00"}
    flags = dict(planned(asked(qos="high", gpus_per_node=4, num_ft_replicas_per_node=4, **own)).allocation.flags)
    assert (flags["account"], flags["partition"], flags["mem"]) == ("mine", "slow", "10G")
    assert (flags["cpus-per-task"], flags["time"], flags["gres"]) == ("35", "01:00:00", "gpu:4")


def test_without_a_profile_the_generator_has_its_own_defaults(asked: Ask) -> None:
    plan = planned(asked(), Cluster("slurm", Profile()))
    flags = dict(plan.allocation.flags)
    assert (flags["nodes"], flags["gres"], flags["time"], flags["requeue"]) == ("2", "gpu:8", "1-12:00:00", None)
    assert "cpus-per-task" not in flags
    assert plan.replicas[1].cpus is None


def test_mail_logs_and_tasks(asked: Ask) -> None:
    flags = dict(planned(asked(mail_user="a@b", output="logs/%j.out", ntasks_per_node=3)).allocation.flags)
    assert (flags["mail-user"], flags["mail-type"]) == ("a@b", "BEGIN,END,FAIL")
    assert flags["output"] == f"{Path.cwd()}/logs/%j.out"
    assert flags["cpus-per-task"] == "126"
    assert dict(planned(asked(mail_type="END")).allocation.flags)["mail-type"] == "END"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  ", []),
        ("a=1\n  b=2", ["a=1", "b=2"]),
        ("reshard='never'", ["reshard='never'"]),
        ("note='two words' b=\"x  y\"z", ["note='two words'", 'b="x  y"z']),
        ("$HOME `id` $(id) a\\ b", ["$HOME", "`id`", "$(id)", "a\\", "b"]),
        ("it's {lr} {{x}} * ~ ;", ["it's", "{lr}", "{{x}}", "*", "~", ";"]),
        ("--flag -- -x", ["--flag", "--", "-x"]),
    ],
)
def test_extra_words_reach_the_program_as_they_stand(text: str, words: list[str], asked: Ask) -> None:
    group = planned(asked(extra_args=text)).replicas[1]
    argv = ["".join(map(str, word.parts)) for word in group.argv]
    assert argv[argv.index("fault_tolerance.group_size=16") + 1 :] == words


def test_the_spec_is_the_same_experiment(asked: Ask, write: Write) -> None:
    import tomli_w

    told: dict[str, Any] = {"extra_args": "a='never' b={x}", "mail_user": "a@b", "nodes_per_replica": 2, "nodes": 4}
    text = tomli_w.dumps(generate.as_spec(asked(**told), SITE))
    assert tomllib.loads(text)["replicas"] == 2
    one, other = planned(asked(**told)), resolve(load(write(text, "diloco/diloco.toml")), SITE)
    assert one == other


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"config_file": "config/nope.py"}, "--config-file: no such file: config/nope.py"),
        (
            {"qos": "hihg"},
            "--qos: allocation.qos: profile site knows no qos 'hihg' (did you mean 'high'? known: normal",
        ),
        ({"qos": "zzz"}, "(known: normal, high)"),
        (
            {"num_ft_replicas_per_node": 3},
            "--num-ft-replicas-per-node: replicas: 8 GPUs of a node do not divide",
        ),
        ({"nodes": 3, "nodes_per_replica": 2}, "--nodes-per-replica: 3 nodes do not divide into replicas of 2"),
        ({"nodes_per_replica": 2, "num_ft_replicas_per_node": 8}, "a replica over 2 nodes has them to itself"),
        ({"use_ddp": True, "num_ft_replicas_per_node": 2}, "--use-ddp trains as one"),
        ({"cpus_per_node": 8}, "--cpus-per-node: 8 CPUs on each node are fewer than the 9 tasks"),
        ({"time": "36"}, "--time: allocation.time: '36' could mean minutes or seconds"),
        ({"mem": "much"}, "--mem: allocation.mem: 'much' is no amount of memory"),
    ],
)
def test_what_cannot_be_meant(flags: dict[str, Any], words: str, asked: Ask) -> None:
    told = asked()
    with pytest.raises(InputError) as caught:
        planned(Asked(**{"config_file": told.config_file, **flags}))
    assert words in str(caught.value)
