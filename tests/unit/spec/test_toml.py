"""Lines of keys in TOML, values of the command line, and files that are none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from gangrun.errors import SpecError
from gangrun.spec import toml
from gangrun.spec.toml import Key


def lines_of(text: str, tmp_path: Path) -> dict[Key, int]:
    file = tmp_path / "x.toml"
    file.write_bytes(text.encode())
    return toml.read(file)[1]


def test_every_kind_of_key_has_its_line(tmp_path: Path) -> None:
    text = '''# comment = 1
plain = 1  # [not.a.table]
"quoted = ]#" = 2
'literal' = 3
a . b."c.d" = 4
inline = { x = 1, y = { z = [ 1, 2 ] }, "w=" = "}" }
list = [
  "one", # ]
  [ "two", "three" ],

  { k = "v" },
]
multi = """
fake = 1
[fake]
\\""" ""
"""
raw = \'\'\'
[fake2]
\'\'\'\'
date = 1979-05-27T07:32:00Z
after = 5

[ table . "x]y" ]
k = 1
[[roles]]
n = 1
[[roles]]
[roles.sub]
m = 2
[[roles.deep]]
d = 1
[[roles.deep]]
d = 2
'''
    found = lines_of(text, tmp_path)
    expected: dict[Key, int] = {
        ("plain",): 2,
        ("quoted = ]#",): 3,
        ("literal",): 4,
        ("a",): 5,
        ("a", "b", "c.d"): 5,
        ("inline", "y", "z", 1): 6,
        ("inline", "w="): 6,
        ("list",): 7,
        ("list", 0): 8,
        ("list", 1, 1): 9,
        ("list", 2, "k"): 11,
        ("multi",): 13,
        ("raw",): 18,
        ("date",): 21,
        ("after",): 22,
        ("table", "x]y"): 24,
        ("table", "x]y", "k"): 25,
        ("roles", 0, "n"): 27,
        ("roles", 1): 28,
        ("roles", 1, "sub", "m"): 30,
        ("roles", 1, "deep", 0, "d"): 32,
        ("roles", 1, "deep", 1, "d"): 34,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert not any("fake" in str(part) for key in found for part in key)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_line_ends_of_either_kind(ending: str, tmp_path: Path) -> None:
    text = ending.join(["a = 1", "", 'b = """', "x", '"""', "[t]", "c = true", "d = 12"])
    found = lines_of(text, tmp_path)
    assert [found[key] for key in (("a",), ("b",), ("t",), ("t", "c"), ("t", "d"))] == [1, 3, 6, 7, 8]


def test_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    assert lines_of("\ufeffa = 1\n", tmp_path) == {("a",): 1}


BARE = re.compile(r"[A-Za-z0-9_-]{1,8}")
names = st.one_of(st.from_regex(BARE, fullmatch=True), st.text(st.characters(codec="utf-8"), max_size=6))
scalars = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12),
    st.integers(-(2**60), 2**60),
    st.booleans(),
    st.floats(allow_nan=False),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=12
)


def paths(value: Any, at: Key = ()) -> set[Key]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {key for part, below in inner for key in ({(*at, part)} | paths(below, (*at, part)))}


@given(table=st.dictionaries(names, values, max_size=5), multiline=st.booleans())
def test_every_key_and_no_other_is_found_whatever_is_written(table: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(table, multiline_strings=multiline)
    found = toml._Scan(text).lines()
    assert set(found) == paths(toml.tomllib.loads(text))
    written = text.split("\n")
    for key, line in found.items():
        if isinstance(key[-1], str) and BARE.fullmatch(key[-1]):
            assert key[-1] in written[line - 1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("true", True),
        ("0.5", 0.5),
        ('"4"', "4"),
        ("four", "four"),
        ("", ""),
        ("a b", "a b"),
        ('["a", "b"]', ["a", "b"]),
        ("{ port = 'x' }", {"port": "x"}),
        ("12:00:00", "12:00:00"),
        ("36:00:00", "36:00:00"),
        ("2024-01-01", "2024-01-01"),
        ("1\nextends = 2", "1\nextends = 2"),
        ("#fff", "#fff"),
        ("[unclosed", "[unclosed"),
    ],
)
def test_value_of_the_command_line(text: str, value: object) -> None:
    assert toml.value_of(text) == value
    assert type(toml.value_of(text)) is type(value)


@pytest.mark.parametrize(
    ("raw", "line", "words"),
    [
        (b"a = 1\nb = '\xe9t\xe9'\n", 2, "is not UTF-8 (byte 0xe9)"),
        (b"\xff\xfea\x00", 1, "is not UTF-8 (byte 0xff)"),
        (b"a = 1\nb = hello\n", 2, "text stands in quotes"),
        (b"a = 1\na = 2\n", 2, "Cannot overwrite a value (a key stands in a file once: keep one of the two)"),
        (b"a = 1\na = 2", 2, "(a key stands in a file once: keep one of the two)"),
        (b"[a]\nb = 1\n[a]\n", 3, "twice (a table stands in a file once: keep one of the two)"),
        (b"a = 1\n[b\n", 2, "is not TOML"),
        (b"a = [1,\n", 2, "is not TOML"),
        (b"a = 'x' y\n", 1, "text stands in quotes"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(raw: bytes, line: int, words: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(raw)
    with pytest.raises(SpecError) as caught:
        toml.read(file)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(file), line)
    assert words in str(problem)


def test_absent_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        toml.read(tmp_path / "none.toml")
    with pytest.raises(SpecError, match="Is a directory"):
        toml.read(tmp_path)
