"""What follows `gangrun lab exec`."""

from __future__ import annotations

import argparse

import pytest

from gangrun.cli.lab import add_arguments, split_words
from gangrun.errors import UsageError

NODES = ("node1", "node2")


@pytest.mark.parametrize(
    ("line", "node", "command"),
    [
        (["node2", "--", "ls", "-l"], "node2", ["ls", "-l"]),
        (["node2", "ls", "--name", "x"], "node2", ["ls", "--name", "x"]),
        (["--", "sinfo", "--json"], "", ["sinfo", "--json"]),
        (["--", "sh", "-c", "exit 7"], "", ["sh", "-c", "exit 7"]),
        (["node1", "--", "env", "--", "x"], "node1", ["env", "--", "x"]),
    ],
)
def test_node_and_command(line: list[str], node: str, command: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["exec", "--name", "x", *line])
    assert args.name == "x"
    assert split_words(args.words, NODES) == (node, command)


@pytest.mark.parametrize("words", [[], ["--"], ["node1"], ["node1", "--"], ["node7", "--", "ls"]])
def test_what_cannot_be_meant(words: list[str]) -> None:
    with pytest.raises(UsageError):
        split_words(words, NODES)
