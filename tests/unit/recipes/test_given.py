"""What a recipe is given: files over one another, flags over them all, the place of every value."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gangrun.errors import GangrunError
from gangrun.recipes.given import given, without_nulls

Write = Callable[..., Path]


def test_later_files_overlay_and_flags_beat_them_wherever_they_stand(write: Write) -> None:
    write("a = 1\nlist = [1, 2]\n[t]\nx = 1\ny = 1\n", "one.toml")
    write("list = [3]\n[t]\ny = 2\nz = 2\n", "two.toml")
    told = given(["--t.z", "9", "@", "one.toml", "@two.toml"])
    assert told.values == {"a": 1, "list": [3], "t": {"x": 1, "y": 2, "z": 9}}
    assert told.file == "one.toml"
    places = [str(told.sources[key]) for key in (("t", "x"), ("t", "y"), ("t", "z"))]
    assert places == ["one.toml:4", "two.toml:3", "--t.z"]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("--max-steps 5", {"max_steps": 5}),
        ("--max_steps=5", {"max_steps": 5}),
        ("--trainer.optim.weight-decay -0.1", {"trainer": {"optim": {"weight_decay": -0.1}}}),
        ("--slurm.template-path=a=b", {"slurm": {"template_path": "a=b"}}),
        ("--flag --other true", {"flag": True, "other": True}),
        ("--name text --empty=", {"name": "text", "empty": ""}),
        ("--list [1,2] --lr 1e-5", {"list": [1, 2], "lr": 1e-5}),
        ("--a.b 1 --a.c 2 --a.b 3", {"a": {"b": 3, "c": 2}}),
        ("--x None", {"x": "None"}),
    ],
)
def test_flags(words: str, values: dict[str, Any]) -> None:
    assert given(words.split()).values == values


def test_a_file_for_one_section(write: Write) -> None:
    write("lr = 1\n", "optim.toml")
    told = given(["--trainer.optim", "@", "optim.toml", "--trainer.optim.lr", "2"])
    assert told.values == {"trainer": {"optim": {"lr": 2}}}
    assert given(["--trainer.optim", "@optim.toml"]).sources["trainer", "optim", "lr"].line == 1


def test_files_build_on_others_relative_to_themselves(write: Write) -> None:
    write("a = 0\nb = 0\nc = 0\nd = 0\n", "base/root.toml")
    write('toml_files = ["root.toml"]\nb = 1\nc = 1\n', "base/more.toml")
    write('extends = "base/more.toml"\nc = 2\n', "top.toml")
    told = given(["@", "top.toml"])
    assert told.values == {"a": 0, "b": 1, "c": 2, "d": 0}
    assert str(told.sources["b",]) == "base/more.toml:2"


def test_paths_are_relative_to_the_file_that_says_them_or_to_here(write: Write, tmp_path: Path) -> None:
    write('[slurm]\ntemplate_path = "t.j2"\n', "conf/a.toml")
    paths = [("slurm", "template_path")]
    assert given(["@", "conf/a.toml"], paths).at("slurm", "template_path") == str(tmp_path / "conf/t.j2")
    flag = ["@", "conf/a.toml", "--slurm.template-path", "t.j2"]
    assert given(flag, paths).at("slurm", "template_path") == str(tmp_path / "t.j2")


def test_none_is_null_but_for_what_is_passed_on(write: Write) -> None:
    write('a = 1\nb = "None"\n[t]\nx = "None"\ny = 1\n[own]\nx = "None"\n', "a.toml")
    told = without_nulls(given(["@", "a.toml", "--a", "None"]), but=["own"])
    assert told.values == {"t": {"y": 1}, "own": {"x": "None"}}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["@"], "there is no file after '@'"),
        (["@", "--a"], "there is no file after '@'"),
        (["--a", "@"], "there is no file after '--a @'"),
        (["a.toml"], "'a.toml' is neither a flag nor a file"),
        (["-x"], "'-x' is neither a flag nor a file"),
        (["--a..b", "1"], "--a..b names no key"),
        (["@", "none.toml"], "none.toml: cannot be read: No such file or directory"),
        (["@", "bad.toml"], "bad.toml:1: is not TOML"),
        (["@", "lost.toml"], "lost.toml:2: toml_files: no such file: gone.toml"),
        (["@", "one.toml"], "two.toml:1: extends: files extend each other in a circle: one.toml → two.toml → one.toml"),
    ],
)
def test_what_cannot_be_read(words: list[str], what: str, write: Write) -> None:
    write("a = \n", "bad.toml")
    write("a = 1\ntoml_files = ['gone.toml']\n", "lost.toml")
    write("extends = 'two.toml'\n", "one.toml")
    write("extends = 'one.toml'\n", "two.toml")
    with pytest.raises(GangrunError, match=re.escape(what)) as caught:
        given(words)
    assert caught.value.exit_code == 2
