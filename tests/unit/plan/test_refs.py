"""References in strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gangrun.plan.model import Addresses, Host, Port, Var, Word
from gangrun.plan.refs import Address, Scope, UnknownReferenceError, word

SERVERS = [Address(Host(node), {"http": Port(2 * node), "a.b": Port(9)}) for node in (0, 1)]
SCOPE = Scope(
    {"server": SERVERS, "lone-role": [Address(Host(3), {})]},
    {"run.dir": Var("run_dir"), "seed": "7", "index": "1", "count": "2"},
    SERVERS[1],
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", ("plain",)),
        ("", ()),
        ("{seed}", ("7",)),
        ("s={seed}/{count}", ("s=7/2",)),
        ("{run.dir}/x", (Var("run_dir"), "/x")),
        ("{self.host}:{self.port.http}", (Host(1), ":", Port(2))),
        ("{server.host}", (Host(0),)),
        ("{server.port.http}", (Port(0),)),
        ("{server.port.a.b}", (Port(9),)),
        ("{server.addresses.http}", (Addresses("server", "http"),)),
        ("{server.1.addresses.http}", (Host(1), ":", Port(2))),
        ("{self.addresses.http}", (Host(1), ":", Port(2))),
        ("{server.1.host}:{server.1.port.http}", (Host(1), ":", Port(2))),
        ("{lone-role.host}", (Host(3),)),
        ("{{seed}}", ("{seed}",)),
        ("{{{seed}}}", ("{7}",)),
        ('{{"a": {{}}}}', ('{"a": {}}',)),
        ("$HOME `x` \\", ("$HOME `x` \\",)),
    ],
)
def test_references(text: str, parts: tuple[object, ...]) -> None:
    assert word(text, SCOPE).parts == parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{lr}", "unknown reference {lr}; there are {run.dir} {seed} {index} {count} and host"),
        ("{}", "unknown reference {}"),
        ("{ seed }", "unknown reference { seed }"),
        ("{servr.host}", "did you mean 'server'? there are"),
        ("{run.dri}", "did you mean 'run.dir'?"),
        ("{nobody.host}", "of self, server, lone-role; for a brace"),
        ("{server.hots}", "{server.hots}: a role has host, port.NAME and addresses.NAME"),
        ("{server}", "{server}: a role has host, port.NAME and addresses.NAME"),
        ("{server.port.x}", "{server.port.x}: 'server' has no port named 'x'; name it in ports = [\"x\"]"),
        ("{server.addresses.x}", "'server' has no port named 'x'"),
        ("{server.2.host}", "{server.2.host}: 'server' has 2 replicas, numbered from 0"),
        ("{server.1}", "{server.1}: a role has host, port.NAME and addresses.NAME"),
        ("{self.port.x}", "'self' has no port named 'x'"),
        ("{", "a lone '{'; for a brace itself write {{ or }}"),
        ("}", "a lone '}'"),
        ("a{b{c}", "a lone '{'"),
        ('{"a": 1}', "for a brace itself write {{ or }}"),
    ],
)
def test_what_is_no_reference_is_told_with_what_would_be(text: str, words: str) -> None:
    with pytest.raises(UnknownReferenceError) as caught:
        word(text, SCOPE)
    assert words in str(caught.value)


def test_a_run_without_a_seed_says_how_to_give_one() -> None:
    with pytest.raises(UnknownReferenceError, match="say seed = 0 or end the file's name with _0"):
        word("{seed}", Scope({}, {}))


def test_strings_of_the_whole_experiment_have_no_self() -> None:
    with pytest.raises(UnknownReferenceError) as caught:
        word("{self.host}", Scope({"server": SERVERS}, {"seed": "1"}))
    assert "addresses.NAME of server;" in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "known"), [({"seed": "1", "lr": "2"}, "there are {seed} {lr}"), ({}, "there are none here")]
)
def test_where_there_are_no_roles_none_are_spoken_of(facts: dict[str, str], known: str) -> None:
    with pytest.raises(UnknownReferenceError) as caught:
        word("{steps}", Scope({}, facts))
    assert str(caught.value) == f"unknown reference {{steps}}; {known}; for a brace itself write {{{{ or }}}}"


@given(st.text())
def test_doubled_braces_are_the_text_itself(text: str) -> None:
    assert word(text.replace("{", "{{").replace("}", "}}"), SCOPE) == Word.of(text)


@given(st.lists(st.sampled_from(["", "a", "b", Host(0), Host(1), Port(0)]), max_size=8))
def test_equal_words_compare_equal_however_they_are_put_together(parts: list[str | Host | Port]) -> None:
    joined = Word.of(*parts)
    assert Word.of(*joined.parts) == joined
    assert "" not in joined.parts
    assert not any(
        isinstance(a, str) and isinstance(b, str) for a, b in zip(joined.parts, joined.parts[1:], strict=False)
    )
