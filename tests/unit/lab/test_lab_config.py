from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gangrun.errors import UsageError
from gangrun.lab import config, hosts, packages, state
from gangrun.lab.state import Home, Shape

PLACE = Home(Path("/var/tmp/gangrun-lab-x"))
SHAPE = Shape(
    name="x",
    nodes=3,
    gpus=8,
    cpus=32,
    mem=200_000,
    accounting=False,
    slurmd_timeout=300,
    min_job_age=60,
    subnet=5,
    login="front",
)


def keys(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith(("NodeName", "PartitionName")))


def test_slurm_conf_names_every_node_with_its_address() -> None:
    text = config.slurm_conf(SHAPE, PLACE)
    nodes = [line for line in text.splitlines() if line.startswith("NodeName=")]
    assert nodes == [
        f"NodeName=node{i} NodeAddr=10.77.5.1{i} CPUs=32 RealMemory=200000 Gres=gpu:h100:8" for i in (1, 2, 3)
    ]
    set_to = keys(text)
    assert set_to["SlurmctldHost"] == "front(10.77.5.1)"
    assert set_to["SlurmdTimeout"] == "300"
    assert set_to["MinJobAge"] == "60"
    assert set_to["KillWait"] == "5"
    assert "Nodes=node[1-3] Default=YES" in text


def test_every_path_lies_in_the_lab() -> None:
    text = config.slurm_conf(replace(SHAPE, accounting=True), PLACE)
    paths = [word for line in text.splitlines() for word in line.replace(",", "=").split("=") if word.startswith("/")]
    assert len(paths) > 5
    assert [path for path in paths if not path.startswith(f"{PLACE.root}/")] == ["/bin/true"]


def test_a_single_node_has_no_brackets_and_a_lab_without_gpus_no_gres() -> None:
    text = config.slurm_conf(replace(SHAPE, nodes=1, gpus=0), PLACE)
    assert "Nodes=node1 Default=YES" in text
    assert "gres" not in text.lower()
    assert "File" not in config.gres_conf(replace(SHAPE, gpus=0), PLACE)


@pytest.mark.parametrize(("gpus", "files"), [(1, "nvidia0"), (8, "nvidia[0-7]"), (12, "nvidia[0-11]")])
def test_gres_files(gpus: int, files: str) -> None:
    assert f"File={PLACE.root}/dev/{files}\n" in config.gres_conf(replace(SHAPE, gpus=gpus), PLACE)


def test_slurmdbd_listens_where_slurmctld_looks() -> None:
    shape = replace(SHAPE, accounting=True)
    daemon, cluster = keys(config.slurmdbd_conf(shape, PLACE)), keys(config.slurm_conf(shape, PLACE))
    assert daemon["DbdPort"] == cluster["AccountingStoragePort"]
    assert daemon["DbdHost"] == "front"
    assert "AccountingStorageType" not in keys(config.slurm_conf(SHAPE, PLACE))


def test_labs_on_different_subnets_share_no_port() -> None:
    ports = [port for subnet in range(1, 255) for port in config.ports(subnet)]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize(
    ("said", "version", "disabled"),
    [
        ("slurm 20.11.4", (20, 11), False),
        ("slurm-wlm 22.05.8", (22, 5), False),
        ("slurm-wlm 24.11.5", (24, 11), True),
        ("slurm 26.05.5", (26, 5), True),
    ],
)
def test_cgroups_are_switched_off_where_slurmd_would_want_them(
    said: str, version: tuple[int, int], disabled: bool
) -> None:
    assert config.version_of(said) == version
    assert ("CgroupPlugin=disabled" in config.cgroup_conf(version)) is disabled


def test_nsswitch_keeps_users_and_takes_hosts_from_files_only() -> None:
    machine = "passwd: files sss\n  hosts :  files mdns4_minimal [NOTFOUND=return] dns\n# hosts: old\ngroup: files\n"
    assert config.nsswitch(machine) == "passwd: files sss\n# hosts: old\ngroup: files\nhosts: files\n"


def test_hosts_has_all_nodes_and_the_machine() -> None:
    names = [line.split()[:2] for line in config.hosts(SHAPE).splitlines()]
    assert ["10.77.5.1", "front"] in names
    assert ["10.77.5.13", "node3"] in names


def test_secrets_are_not_readable_by_others() -> None:
    files = config.files(
        replace(SHAPE, accounting=True), PLACE, version=(22, 5), nsswitch_text="", slurmd="/usr/sbin/slurmd"
    )
    assert {path.name for path, (_, mode) in files.items() if not mode & 0o004} == {"slurmdbd.conf"}
    assert PLACE.profile not in files


def test_unknown_node_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="node4") as caught:
        SHAPE.address("node4")
    assert "node1, node2, node3" in str(caught.value)


@pytest.mark.parametrize("name", ["", "Lab", "a-b", "../x", "a" * 13, "1a", "a\n"])
def test_names_that_no_lab_can_have(name: str) -> None:
    with pytest.raises(UsageError):
        state.home(name)
    assert state.profile_path(name) is None


def test_names_fit_an_interface() -> None:
    assert len(hosts.cable("a" * 12)) <= 15


def test_a_directory_of_others_is_not_trusted(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert not state.owned(tmp_path)
    assert not state.owned(tmp_path / "absent")
    link = tmp_path / "link"
    link.symlink_to("/usr")
    assert state.owned(Path("/usr"))
    assert not state.owned(link)


def test_taken_subnets() -> None:
    routes = (
        '[{"dst":"default"},{"dst":"10.0.0.0/8"},{"dst":"10.77.3.0/24"},{"dst":"10.77.8.0/30"},'
        '{"dst":"10.77.16.0/23"},{"dst":"10.77.20.7"}]'
    )
    addresses = (
        '[{"ifname":"lo","addr_info":[{"local":"127.0.0.1","prefixlen":8}]},'
        '{"ifname":"x","addr_info":[{"local":"10.77.9.1","prefixlen":24}]}]'
    )
    assert hosts.taken_subnets(routes, addresses) == {3, 8, 9, 16, 17, 20}
    assert hosts.taken_subnets("", "[]") == set()
    assert hosts.taken_subnets('[{"dst":"10.77.0.0/16"}]', "") == set(range(256))


def test_missing_packages_are_named_with_the_command_that_brings_them() -> None:
    said = str(packages.lack(["slurmctld", "munge"]))
    assert "slurmctld munge" in said
    assert "gangrun lab up --install" in said
    assert "apt-get install --no-install-recommends slurmctld munge" in said
