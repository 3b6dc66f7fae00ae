"""Sweeps to items: what combines, what is left out, what follows from a table, and what items are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gangrun.errors import SpecError
from gangrun.spec.load import load
from gangrun.spec.sweep import Item, expand


def items(folder: Path, sweep: str) -> tuple[Item, ...]:
    file = folder / "step_0.toml"
    file.write_text(f'command = ["x", "{{seed}}"]\n[sweep]\n{sweep}\n')
    return expand(load(file))


def values(folder: Path, sweep: str) -> list[dict[str, Any]]:
    return [item.values for item in items(folder, sweep)]


def test_lists_make_a_grid_and_the_first_varies_slowest(tmp_path: Path) -> None:
    found = items(tmp_path, 'lr = [0.1, 0.2]\nopt = ["adam", "muon"]')
    assert [item.name for item in found] == [
        "lr=0.1_opt=adam",
        "lr=0.1_opt=muon",
        "lr=0.2_opt=adam",
        "lr=0.2_opt=muon",
    ]
    assert [item.index for item in found] == [0, 1, 2, 3]


def test_groups_combinations_seeds_and_what_is_left_out(tmp_path: Path) -> None:
    assert values(tmp_path, "zip = [{ lr = [0.1, 0.2], warmup = [1, 2] }]") == [
        {"lr": 0.1, "warmup": 1},
        {"lr": 0.2, "warmup": 2},
    ]
    assert values(tmp_path, 'seeds = "0-1,4"') == [{"seed": 0}, {"seed": 1}, {"seed": 4}]
    assert [item.name for item in items(tmp_path, 'list = [{ a = 1 }, { a = 2, name = "wild" }]')] == ["a=1", "wild"]
    named = items(tmp_path, 'list = [{ a = 1, name = "low" }, { a = 2 }]\nseeds = "0-1"')
    assert [item.name for item in named] == ["low_seed=0", "low_seed=1", "a=2_seed=0", "a=2_seed=1"]
    assert values(tmp_path, "a = [1, 2]\nb = [1, 2]\nexclude = [{ a = 1, b = [1, 2] }]") == [
        {"a": 2, "b": 1},
        {"a": 2, "b": 2},
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{ from = 0.1, to = 0.5, step = 0.1 }", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("{ from = 8, to = 2, step = -3 }", [8, 5, 2]),
        ("{ from = 0, to = 1, count = 3 }", [0.0, 0.5, 1.0]),
        ("{ from = 0.001, to = 0.1, count = 3, log = true }", [0.001, 0.01, 0.1]),
    ],
)
def test_ranges_hold_both_ends_and_no_crumbs(tmp_path: Path, written: str, meant: list[float]) -> None:
    assert [one["a"] for one in values(tmp_path, f"a = {written}")] == meant


def test_tables_give_what_follows_from_others(tmp_path: Path) -> None:
    table = """model = ["small", "large"]
batch = [256]
[sweep.lookup.steps]
by = ["model", "batch"]
table = { small = { 256 = 10 }, large = { 256 = 40 } }
[sweep.lookup.arch]
by = "model"
table = { small = { layers = 2 }, large = { layers = 8 } }
"""
    found = items(tmp_path, table)
    assert [(item.parameters["steps"], item.parameters["arch.layers"]) for item in found] == [(10, 2), (40, 8)]
    assert [item.name for item in found] == ["model=small", "model=large"]


def test_files_are_items_in_the_order_in_which_people_count(tmp_path: Path) -> None:
    for number in (10, 9):
        (tmp_path / f"route{number}.xml").touch()
    found = items(tmp_path, 'glob = "*.xml"')
    assert [item.name for item in found] == ["path=route9", "path=route10"]
    assert found[0].parameters["path"] == str(tmp_path / "route9.xml")


def test_keys_with_dots_are_set_in_the_file(tmp_path: Path) -> None:
    first, second = items(tmp_path, "allocation.nodes = [1, 2]")
    assert (first.keys, second.keys) == ({"allocation.nodes": 1}, {"allocation.nodes": 2})
    assert second.name == "nodes=2"


def test_paths_among_them_start_in_the_files_folder(tmp_path: Path) -> None:
    text = '"load.path" = ["a.pth"]\ncontainer.image = ["./x.sif"]\n"container.runtime" = ["apptainer"]'
    file = tmp_path / "exp" / "step_0.toml"
    file.parent.mkdir()
    file.write_text(f'command = ["x"]\n[sweep]\n{text}\n')
    experiment = load(file)
    (item,) = expand(experiment)
    spec = experiment.alone(item.parameters, item.keys).spec
    assert spec.load is not None
    assert spec.container is not None
    assert (spec.load.path, spec.container.image) == (f"{file.parent}/a.pth", f"{file.parent}/x.sif")


@pytest.mark.parametrize(
    "odd", ['["a/b c", "a/b  c"]', '["é", "ü"]', f'["{"x" * 90}", "{"x" * 91}"]', '[".", ".."]', '["-", "--"]']
)
def test_odd_values_give_safe_names_that_differ(tmp_path: Path, odd: str) -> None:
    names = [item.name for item in items(tmp_path, f"value = {odd}")]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) <= 90
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789.=+_-")
        assert name[0] not in ".-"


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ("", "has no parameter, so there is no item"),
        ("a = []", "has no value"),
        ("a = [1]\nexclude = [{ a = 1 }]", "leaves no item"),
        ("a = [1, 1]", "items 0 and 1 are the same: a = 1"),
        ("a = [1, 1.0, '1']", "items 0 and 2 are the same: a = 1"),
        ('list = [{ a = 1, name = "n" }, { a = 2, name = "n" }]', "a second item is named 'n'"),
        ('list = [{ a = 1, name = "../n" }]', "cannot name an item"),
        ("a = [1]\nzip = [{ a = [1] }]", "a has its values already"),
        ("zip = [{ a = [1], b = [1, 2] }]", "a has 1, b has 2"),
        ("a = { from = 1, to = 2 }", "either step or count"),
        ("a = { from = 1, to = 2, step = -1 }", "does not lead from 1 to 2"),
        ("a = { from = 0, to = 1, step = 0.0000001 }", "more than 100000"),
        ("a = { from = 1, step = 1 }", "a range has numbers as from and to, and step or count ({"),
        ("a = { from = 1, to = inf, step = 1 }", "a range has numbers as from and to, and step or count, not to = inf"),
        (
            "a = { from = 1, to = nan, count = 3 }",
            "a range has numbers as from and to, and step or count, not to = nan",
        ),
        ("a = { from = 1, to = 3, count = 3, log = 'yes' }", "a.log: is true or false, and goes with count"),
        ("a = { from = 1, to = 3, step = 1, log = true }", "a.log: is true or false, and goes with count"),
        ('seeds = "0-99999999999"', "makes more than 100000 items"),
        ("alocation.nodes = [1]", "did you mean 'allocation'?"),
        ("a = [1]\nexclude = [{ b = 1 }]", "there is no parameter 'b'"),
        ('glob = "*.none"', "no file matches"),
        ('seeds = "4-0"', "is no list of seeds"),
        ('m = ["x"]\nlookup = { s = { by = "m", table = { y = 1 } } }', "has no entry for m = x; it has m = y"),
        ('m = ["x"]\nlookup = { s = { by = "n", table = { y = 1 } } }', "there is no parameter 'n'"),
    ],
)
def test_what_cannot_be_meant_is_said_with_its_line(tmp_path: Path, sweep: str, words: str) -> None:
    with pytest.raises(SpecError) as error:
        items(tmp_path, sweep)
    assert words in str(error.value)
    assert "step_0.toml:" in str(error.value)
