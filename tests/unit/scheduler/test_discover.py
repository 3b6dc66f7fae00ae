from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_slurm import Down, FakeSlurm, Installed, Unconfigured
from recordings import VERSIONS, refusals, text

from gangrun.errors import SchedulerError
from gangrun.scheduler import discover, scancel, scontrol, sinfo
from gangrun.scheduler.commands import Answer
from gangrun.scheduler.discover import ClusterFacts, Partition
from gangrun.scheduler.model import Submission
from gangrun.scheduler.sinfo import Gpus, Nodes
from gangrun.scheduler.slurm import Slurm
from gangrun.scheduler.text import pairs, seconds


def facts_of(version: str) -> ClusterFacts:
    return discover.facts(
        config=text(version, "config.out"), partitions=text(version, "partition.out"), nodes=text(version, "sinfo.out")
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_cluster(version: str) -> None:
    facts = facts_of(version)
    assert facts.version == version
    assert facts.name == f"v{version.replace('.', '')[:4]}"
    assert (facts.max_array_index, facts.max_jobs, facts.remembered, facts.kill_wait) == (1000, 10000, 300, 5)
    assert (facts.accounting, facts.accounts_enforced, facts.limits_enforced) == (True, False, False)
    assert (facts.memory_managed, facts.devices_constrained) == (True, None)


@pytest.mark.parametrize("version", VERSIONS)
def test_its_partitions(version: str) -> None:
    gpu, short, off, acct = facts_of(version).partitions
    assert (gpu.name, gpu.default, gpu.up, gpu.max_time, gpu.default_time, gpu.max_nodes) == (
        "gpu", True, True, 86400, 3600, None,
    )  # fmt: skip
    assert (short.default, short.max_time, short.default_time, short.max_nodes) == (False, 600, None, 1)
    assert (off.up, off.max_time) == (False, None)
    assert (acct.accounts, acct.groups, acct.qos) == (("proj1",), (), ())
    assert [group.names for group in gpu.nodes] in (["n[1-2]"], ["n1", "n2"])
    assert sum(group.count for group in gpu.nodes) == 2
    for group in gpu.nodes:
        assert (group.cpus, group.memory, group.gpus) == (16, 100000, (Gpus(8, "h100"),))
        assert group.features == ("fast", "ib")
        assert group.state in {"idle", "mixed", "planned", "allocated"}


def test_one_partition_in_full() -> None:
    partition = facts_of("20.11.4").partitions[3]
    nodes = Nodes("acct", False, True, None, 2, "mixed", 16, 100000, (Gpus(8, "h100"),), "n[1-2]", ("fast", "ib"))
    assert partition == Partition("acct", False, True, None, None, None, ("proj1",), (), (), (nodes,))


@pytest.mark.parametrize("nothing", ["accounting_storage/none", "(null)"])
def test_no_accounting_and_strict_sites(nothing: str) -> None:
    config = (
        f"AccountingStorageType = {nothing}\nAccountingStorageEnforce = associations,limits,qos\n"
        "EnforcePartLimits = ALL\nSelectTypeParameters = CR_CORE\nConstrainDevices = yes\nMaxJobCount = x\n"
    )
    facts = discover.facts(config=config, partitions="", nodes="")
    assert (facts.accounting, facts.accounts_enforced, facts.limits_enforced) == (False, True, True)
    assert (facts.memory_managed, facts.devices_constrained, facts.max_jobs) == (False, True, None)
    assert facts.max_array_index is None


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("(null)", ()),
        ("gpu:8", (Gpus(8),)),
        ("gpu:a100:4(S:0-1)", (Gpus(4, "a100"),)),
        ("gpu:h100:8(S:0-1),shard:16,gpu:2g.10gb:2(S:0,1)", (Gpus(8, "h100"), Gpus(2, "2g.10gb"))),
        ("fpga:1,gpu:no_consume:4", (Gpus(4),)),
    ],
)
def test_gres(text: str, gpus: tuple[Gpus, ...]) -> None:
    assert sinfo.gres(text) == gpus


def test_nodes_with_flags_mixed_values_and_noise() -> None:
    text = (
        "debug*|inact|infinite|3|down*|64+|257000+|gpu:4|a[1-3]|a|b,c\n"
        "sinfo: a notice\nx|up|infinite|n/a||||||\n"
        "big|up|2-00:00:00|1|mixed-|8|1000|(null)|b1|(null)\n"
    )
    down, mixed = sinfo.nodes(text)
    assert (down.state, down.up, down.cpus, down.memory) == ("down", False, 64, 257000)
    assert down.features == ("a|b", "c")
    assert (mixed.state, mixed.time_limit, mixed.gpus, mixed.features) == ("mixed", 172800, (), ())


@pytest.mark.parametrize("version", VERSIONS)
def test_ping(version: str) -> None:
    assert scontrol.up(text(version, "ping.out")) is True
    assert scontrol.up(text(version, "ping_down.out")) is False


def test_ping_of_a_pair_and_of_something_else() -> None:
    assert scontrol.up("Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n") is True
    assert scontrol.up("scontrol: command is disabled here\n") is None


def test_small_words() -> None:
    assert pairs("JobId=7 OS=Linux 6.1 #1 SMP Gres=gpu:8(S:0-1) Comment=a=b c") == {
        "JobId": "7", "OS": "Linux 6.1 #1 SMP", "Gres": "gpu:8(S:0-1)", "Comment": "a=b c",
    }  # fmt: skip
    assert [seconds(text) for text in ("1-02:03:04", "10:00", "01:00:00", "UNLIMITED", "")] == [
        93784, 600, 3600, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_scancel_complains_of_what_matters(version: str) -> None:
    code, err = refusals(version)["down_scancel"]
    assert scancel.complaints(Answer((), code, "", err)) == ["Unable to contact slurm controller (connect failure)"]
    ended = "scancel: error: Kill job error on job id 87: Job/step already completing or completed\n"
    assert scancel.complaints(Answer((), 1, "", ended)) == []


@pytest.mark.parametrize(("kind", "expected"), [(FakeSlurm, True), (Down, True), (Unconfigured, False)])
def test_whether_this_machine_belongs_to_a_cluster(
    fake_slurm: Callable[..., Installed], kind: type[FakeSlurm], expected: bool
) -> None:
    fake_slurm(kind)
    assert discover.configured() is expected


def test_without_slurms_commands_it_belongs_to_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert discover.configured() is False


def test_the_name_of_the_cluster(fake_slurm: Callable[..., Installed]) -> None:
    fake_slurm()
    assert discover.cluster_name(Slurm()) == "fake"


def test_collect_asks_three_times(fake_slurm: Callable[..., Installed]) -> None:
    fake = fake_slurm()
    facts = discover.collect(Slurm())
    assert facts.name == "fake"
    assert facts.partitions[0].nodes[0].gpus == (Gpus(8, "h100"),)
    assert len(fake.calls()) == 3


def test_the_name_of_a_cluster_that_does_not_answer_stands_in_its_file(
    fake_slurm: Callable[..., Installed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_slurm(FakeSlurm)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    conf = tmp_path / "slurm.conf"
    conf.write_text("# ClusterName=old\n  clustername = galvani # ours\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    assert discover.cluster_name(Slurm()) == "fake"
    fake_slurm(Down)
    assert discover.cluster_name(Slurm()) == "galvani"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "ours")
    assert discover.cluster_name(Slurm()) == "ours"


def test_another_cluster_than_the_one_that_is_meant_is_neither_asked_nor_sent_to(
    fake_slurm: Callable[..., Installed], tmp_path: Path
) -> None:
    fake_slurm(FakeSlurm)
    for ask in (
        lambda slurm: slurm.status(["7"]),
        lambda slurm: slurm.find(["run"]),
        lambda slurm: slurm.cancel(["7"]),
        lambda slurm: slurm.forecast([], "gpu"),
        lambda slurm: slurm.submit(Submission("run", tmp_path / "script.sh")),
        lambda slurm: slurm.update([["scontrol", "update", "JobId=7"]]),
    ):
        with pytest.raises(SchedulerError, match="the Slurm of this machine is fake, and galvani is meant"):
            ask(Slurm(name="galvani"))
    assert Slurm(name="fake").status(["7"]) == {}
