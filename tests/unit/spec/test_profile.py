"""Cluster profiles: where they are looked for, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gangrun.errors import InputError, SpecError
from gangrun.spec.profile import known, load_cluster

Write = Callable[..., Path]


def test_local_and_slurm_are_always_there(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write("")
    for name in ("local", "slurm"):
        cluster = load_cluster(name, tmp_path, {})
        assert (cluster.name, cluster.profile.scheduler, cluster.file) == (name, name, "")
        assert str(cluster.origin("env", "A")) == f"profile {name}"


def test_the_projects_profile_wins_over_the_users(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write("env = { A = 'user' }\n", "config/gangrun/clusters/mila.toml")
    write("env = { A = 'user' }\n", "config/gangrun/clusters/other.toml")
    write("scheduler = 'slurm'\n\nenv = { A = 'project' }\n", "clusters/mila.toml")
    mila = load_cluster("mila", tmp_path, {})
    assert mila.profile.env == {"A": "project"}
    assert str(mila.origin("env", "A")) == f"{tmp_path}/clusters/mila.toml:3"
    assert load_cluster("other", tmp_path, {}).profile.env == {"A": "user"}
    assert set(known(tmp_path, {})) == {"mila", "other", "local", "slurm"}


def test_a_profile_from_elsewhere(write: Write, tmp_path: Path) -> None:
    file = write("scheduler = 'slurm'\nslurm_conf = '/lab/slurm.conf'\n", "lab/profile.toml")
    assert load_cluster("lab", tmp_path, {"lab": file}).profile.slurm_conf == "/lab/slurm.conf"


def test_an_unknown_profile_is_told_with_those_that_exist(write: Write, tmp_path: Path) -> None:
    write("", "clusters/galvani.toml")
    with pytest.raises(InputError) as caught:
        load_cluster("galvany", tmp_path, {})
    assert str(caught.value).startswith("no cluster profile is named 'galvany'; did you mean 'galvani'?")
    assert "galvani, local" in str(caught.value)
    assert caught.value.exit_code == 2


def test_problems_of_a_profile_are_at_its_lines(write: Write, tmp_path: Path) -> None:
    write("schedular = 'slurm'\n[defaults]\nnodes = 0\n[qos.high]\nmem = 'x'\n", "clusters/bad.toml")
    with pytest.raises(SpecError) as caught:
        load_cluster("bad", tmp_path, {})
    assert [(problem.line, problem.key) for problem in caught.value.problems] == [
        (1, "schedular"),
        (3, "defaults.nodes"),
        (5, "qos.high.mem"),
    ]
    assert "did you mean 'scheduler'?" in str(caught.value)
