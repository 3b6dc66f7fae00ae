"""Quoting: whatever a word holds, bash gives it to the program as one argument, and expands only our references."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gangrun.errors import InputError
from gangrun.plan.model import Host, Option, Part, Port, Var, Word
from gangrun.script.quote import bash, directive, literal, shown

# What bash could take for its own, more often than plain chance has it.
HOSTILE = [
    "'",
    '"',
    "\\",
    "$",
    "`",
    "!",
    "\n",
    "\r",
    "\t",
    " ",
    "*",
    "~",
    "{a,b}",
    "$(x)",
    "${HOSTS[0]}",
    "&",
    ";",
    "#",
    "-n",
    "=",
    "\x7f",
]
texts = st.lists(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8) | st.sampled_from(HOSTILE), max_size=5
).map("".join)
parts = st.one_of(
    texts,
    st.sampled_from([Host(0), Host(11), Port(0), Port(3), Var("run_dir"), Var("run_name"), Var("job"), Var("attempt")]),
)
CONTROL = {*map(chr, range(32)), "\x7f"}
HOSTS = {0: "node 'a'", 11: "n11"}
PORTS = {0: "20000", 3: "20003"}
FACTS = {"run_dir": "/out puts/$x", "run_name": "e_s_1", "job": "7", "attempt": "001"}


def expected(part: Part) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Host):
        return HOSTS[part.node]
    return PORTS[part.offset] if isinstance(part, Port) else FACTS[part.name]


def arguments(words: list[Word], directory: str | None = None) -> list[str]:
    """What a program is given when bash runs a line of these words, with the script's variables set."""
    values = [
        *(("HOSTS", node, text) for node, text in HOSTS.items()),
        *(("PORTS", i, text) for i, text in PORTS.items()),
    ]
    lines = [f"{name}[{index}]={literal(text)}" for name, index, text in values]
    lines += [f"{name.upper()}={literal(text)}" for name, text in FACTS.items()]
    lines.append("printf '%s\\0' " + " ".join(bash(word) for word in words))
    run = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        capture_output=True,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": "/home/x", "LC_ALL": "C.UTF-8"},
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    return run.stdout.decode().split("\0")[:-1]


@given(st.lists(texts, min_size=1, max_size=40))
@settings(max_examples=40)
def test_any_text_is_one_argument(batch: list[str]) -> None:
    # A name that begins with a dash is an option to printf only where it stands first.
    assert arguments([Word.of("first"), *map(Word.of, batch)])[1:] == batch


@given(st.lists(st.lists(parts, max_size=5), min_size=1, max_size=40))
@settings(max_examples=40)
def test_only_our_references_are_expanded(batch: list[list[Part]]) -> None:
    found = arguments([Word.of("first"), *(Word.of(*word) for word in batch)])[1:]
    assert found == ["".join(map(expected, word)) for word in batch]


@given(texts, texts)
@settings(max_examples=40)
def test_what_depends_on_a_fact_is_there_with_it_and_gone_without(before: str, inside: str) -> None:
    given_word = Word.of(before, Option(Var("job"), (inside, Var("job"), inside)), "z")
    absent = Word.of(before, Option(Var("load"), (inside, Var("load"))), "z")
    found = arguments([Word.of("first"), given_word, absent])[1:]
    assert found == [f"{before}{inside}{FACTS['job']}{inside}z", f"{before}z"]


def test_no_file_name_is_matched(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    assert arguments([Word.of("*"), Word.of("?.py"), Word.of(Port(0), "*"), Word.of("~")], str(tmp_path)) == [
        "*",
        "?.py",
        "20000*",
        "~",
    ]


@given(texts)
@settings(max_examples=25)
def test_any_directory_survives_as_a_default_value(text: str) -> None:
    """The script says RUN_DIR=${GANGRUN_RUN_DIR:-'…'}."""
    line = f"RUN_DIR=${{GANGRUN_RUN_DIR:-{literal(text)}}}; printf '%s\\0' \"$RUN_DIR\""
    run = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, env={"LC_ALL": "C.UTF-8"}, check=True)
    assert run.stdout.decode() == text + "\0"


@pytest.mark.parametrize("plain", ["train.py", "--lr=0.1", "a/b:c,d@e%f+g", "-", "0", "A=b"])
def test_what_bash_leaves_alone_stays_bare(plain: str) -> None:
    assert bash(Word.of(plain)) == plain


@pytest.mark.parametrize(
    ("word", "source"),
    [
        (Word.of(), "''"),
        (Word.of("a b"), "'a b'"),
        (Word.of("it's"), "'it'\\''s'"),
        (Word.of("{a}"), "'{a}'"),
        (Word.of(Host(0), ":", Port(2)), '"${HOSTS[0]}:${PORTS[2]}"'),
        (Word.of(Var("run_dir"), '/"$x"'), '"${RUN_DIR}/\\"\\$x\\""'),
    ],
)
def test_how_it_reads(word: Word, source: str) -> None:
    assert bash(word) == source


def test_for_a_person_there_are_no_quotes() -> None:
    assert (
        shown(Word.of("it's ", Host(0), ":", Port(1), " in ", Var("job"))) == "it's ${HOSTS[0]}:${PORTS[1]} in ${JOB}"
    )


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (None, "--x"),
        ("2", "--x=2"),
        ("gpu:a100:4,nvme", "--x=gpu:a100:4,nvme"),
        ("a b", '--x="a b"'),
        ("a#b", '--x="a#b"'),
        ('say "x" \\', '--x="say \\"x\\" \\\\"'),
        ("", '--x=""'),
        ("[a|b]&c", '--x="[a|b]&c"'),
    ],
)
def test_directives(value: str | None, line: str) -> None:
    assert directive("x", value) == line


@given(texts)
def test_a_directive_never_spans_lines(text: str) -> None:
    if any(letter in CONTROL for letter in text):
        with pytest.raises(InputError, match="control character"):
            directive("comment", text)
    else:
        line = directive("comment", text)
        assert "\n" not in line
        assert unquoted(line.removeprefix("--comment=")) == text


def unquoted(text: str) -> str:
    """As sbatch reads a value: a backslash escapes, double quotes group, a blank or # outside of them ends it."""
    result, quoted, escaped = "", False, False
    for letter in text:
        if escaped or letter not in '\\" #' or (quoted and letter in " #"):
            result, escaped = result + letter, False
        elif letter == "\\":
            escaped = True
        elif letter == '"':
            quoted = not quoted
        else:
            break
    return result
