"""Experiment files in Python: what they mean, and what is said of mistakes in them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gangrun
from gangrun.errors import SpecError
from gangrun.spec.load import Experiment, load
from gangrun.spec.sweep import expand

Write = Callable[..., Path]
BASE = """\
command = ["train.py", "{lr}", "{steps}", "{seed}", "{file.dir}"]
[allocation]
nodes = 2
[parameters]
steps = 10
"""


@pytest.fixture
def read(write: Write) -> Callable[..., Experiment]:
    """`read(code, *overrides)` is the experiment of a Python file beside `base.toml`."""

    def one(code: str, *overrides: str) -> Experiment:
        write(BASE, "exp/base.toml")
        return load(write(code, "exp/000_scan_3.py"), overrides)

    return one


@pytest.fixture
def wrong(read: Callable[..., Experiment]) -> Callable[..., str]:
    """`wrong(code)` is what is said of it."""

    def words(code: str) -> str:
        with pytest.raises(SpecError) as caught:
            expand(read(code))
        return str(caught.value)

    return words


def test_it_means_the_file_that_lists_its_items(read: Callable[..., Experiment], tmp_path: Path) -> None:
    found = read("""\
from pathlib import Path
from gangrun import load

STEPS = {"small": 100, "large": 400}

def experiments():
    base = load("base.toml")
    low = base.vary(lr=0.1)
    for model, steps in STEPS.items():
        yield low.vary(model=model, steps=steps * base.spec.allocation.nodes)
    yield base.vary({"allocation.nodes": 4}, lr=0.3, name="wide", seed=7)
""")
    assert (found.experiment, found.step, found.seed) == ("exp", "000_scan_3", 3), "named after the Python file"
    items = expand(found)
    assert [item.name for item in items] == ["lr=0.1_model=small_steps=200", "lr=0.1_model=large_steps=800", "wide"]
    assert items[2].values == {"lr": 0.3, "seed": 7, "allocation.nodes": 4}
    assert found.spec.roles["main"].command == ("train.py", "{lr}", "{steps}", "{seed}", f"{tmp_path}/exp")
    assert str(found.origin("sweep", "list", 2)) == "exp/000_scan_3.py:11"


def test_the_command_line_goes_over_the_base_and_what_is_computed_from_it(read: Callable[..., Experiment]) -> None:
    found = read(
        "import gangrun\ndef experiments():\n base = gangrun.load('base.toml')\n"
        " return [base.vary(lr=base.spec.allocation.nodes)]",
        "allocation.nodes=5",
        "sweep.mode=array",
    )
    assert (found.spec.allocation.nodes, found.spec.sweep and found.spec.sweep.mode) == (5, "array")
    assert expand(found)[0].values == {"lr": 5}


def test_numbers_of_other_libraries_and_paths_become_plain(read: Callable[..., Experiment]) -> None:
    pytest.importorskip("numpy")
    found = read("""\
from fractions import Fraction
from pathlib import Path
import numpy as np
from gangrun import load

def experiments():
    for lr in np.linspace(0.1, 0.3, 3):
        yield load("base.toml").vary(lr=lr, n=np.int64(3), half=Fraction(1, 2), data=Path("/a/b"))
""")
    first, second, _ = expand(found)
    assert (first.values, second.name) == ({"lr": 0.1, "n": 3, "half": 0.5, "data": "/a/b"}, "lr=0.2")
    assert {type(value) for value in first.values.values()} == {float, int, str}


MISTAKES = {
    "an error of its own": (
        "def half(x):\n return 1 / x\ndef experiments():\n yield half(0)",
        "exp/000_scan_3.py:2: half: ZeroDivisionError: division by zero",
    ),
    "an error in a library": (
        'import json\ndef experiments():\n yield json.loads("{")',
        "exp/000_scan_3.py:3: experiments: JSONDecodeError",
    ),
    "it ends the program": (
        "import sys\ndef experiments():\n sys.exit(3)",
        "exp/000_scan_3.py:3: experiments: SystemExit: 3",
    ),
    "no Python": ("def experiments(:\n pass", "exp/000_scan_3.py:1: is not Python: "),
    "a module that is not there": ("\nimport nowhere", "exp/000_scan_3.py:2: <module>: ModuleNotFoundError"),
    "no function": ("x = 1", "exp/000_scan_3.py: experiments: is missing"),
    "gives nothing": ("\ndef experiments():\n pass", "exp/000_scan_3.py:2: experiments: gives nothing"),
    "yields something else": (
        "def experiments():\n x = 1\n yield x",
        "exp/000_scan_3.py:3: experiments: yields 1, which is no experiment",
    ),
    "yields no item": (
        "def experiments():\n yield from ()",
        "exp/000_scan_3.py: experiments: yields nothing, so there is no item",
    ),
    "no such base": (
        'from gangrun import load\ndef experiments():\n yield load("bse.toml")',
        "exp/000_scan_3.py:3: load: no such file: exp/bse.toml",
    ),
    "a base in Python, such as itself": (
        'from gangrun import load\ndef experiments():\n yield load("000_scan_3.py")',
        "exp/000_scan_3.py:3: load: 000_scan_3.py makes items of its own, and a base is one experiment",
    ),
    "a value that no file could hold": (
        'from gangrun import load\ndef experiments():\n yield load("base.toml").vary(\n  lr=None)',
        "exp/000_scan_3.py:3: experiments: None is no value of an experiment",
    ),
    "a name twice": (
        'from gangrun import load\ndef experiments():\n for x in 1, 2:\n  yield load("base.toml").vary(x=x, name="a")',
        "exp/000_scan_3.py:4: sweep.list[1].name: a second item is named 'a'",
    ),
    "the same twice": (
        'from gangrun import load\ndef experiments():\n for lr in 1, 1:\n  yield load("base.toml").vary(lr=lr)',
        "items 0 and 1 are the same: lr = 1",
    ),
    "a key that is none": (
        'from gangrun import load\ndef experiments():\n\n yield load("base.toml").vary({"alocation.nodes": 2})',
        "exp/000_scan_3.py:4: sweep.list[0].alocation.nodes: 'alocation' is no key",
    ),
}


@pytest.mark.parametrize(("code", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_the_users_own_line(wrong: Callable[..., str], code: str, words: str) -> None:
    assert words in wrong(code)


def test_two_bases_are_refused(wrong: Callable[..., str], write: Write) -> None:
    write(BASE, "exp/other.toml")
    said = wrong("""\
from gangrun import load
def experiments():
    yield load("base.toml").vary(lr=1)
    yield load("other.toml").vary(lr=1)
""")
    assert "exp/000_scan_3.py:4: experiments: builds on other.toml, others on base.toml" in said


def test_it_may_import_what_lies_beside_it_and_prints_go_to_stderr(
    read: Callable[..., Experiment], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("STEPS = 5", "exp/steps_of_scan.py")
    found = read(
        "from gangrun import load\nfrom steps_of_scan import STEPS\nprint('here')\n"
        "def experiments():\n yield load('base.toml').vary(steps=STEPS)"
    )
    assert expand(found)[0].values == {"steps": 5}
    assert capsys.readouterr() == ("", "here\n")
    assert str(Path("exp").absolute()) not in sys.path


def test_outside_of_such_a_file_paths_start_here(write: Write) -> None:
    write(BASE, "exp/base.toml")
    assert gangrun.load("exp/base.toml").vary(lr=2).spec.allocation.nodes == 2
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        gangrun.lod  # noqa: B018


def test_importing_gangrun_is_cheap() -> None:
    code = "import sys, gangrun; assert not {'pydantic', 'typing', 'gangrun.spec'} & set(sys.modules); gangrun.load"
    subprocess.run([sys.executable, "-c", code], check=True)
