"""A batch script as a file: its lines for sbatch, what runs it, and what it is called."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gangrun.errors import UsageError

SUFFIXES = frozenset({".sh", ".bash", ".sbatch", ".slurm", ".job"})
_NOT_SCRIPTS = frozenset({".toml", ".py"})


@dataclass(frozen=True, slots=True)
class JobScript:
    """One of them."""

    file: Path
    text: str
    interpreter: tuple[str, ...]
    """What its first line names."""
    head: tuple[str, ...]
    """Its `#SBATCH` lines, as they are."""

    @property
    def name(self) -> str:
        """The job's name: what the script asks for, else its file's, as sbatch has it."""
        names = [value for flag, value in words_for_sbatch(self.head) if flag in ("--job-name", "-J")]
        return names[-1] if names else self.file.name


def is_one(name: str) -> bool:
    """Whether this file is meant as a batch script, and not as an experiment."""
    path = Path(name)
    if path.suffix in SUFFIXES:
        return True
    if path.suffix in _NOT_SCRIPTS or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def read(name: str, flags: Sequence[str] = ()) -> JobScript:
    """The script in that file, to be sent with these flags. Raises UsageError for what is none, and for an array."""
    path = Path(name)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: is not UTF-8", way_out="save the file as UTF-8") from error
    if "\r\n" in text:
        raise UsageError(
            f"{name}: has the line ends of Windows, which sbatch refuses", way_out="dos2unix, or tr -d '\\r'"
        )
    first = text.split("\n", 1)[0]
    interpreter = tuple(first[2:].split(maxsplit=1)) if first.startswith("#!") else ()
    if not interpreter:
        raise UsageError(f"{name}:1: a batch script begins with #! and what runs it", way_out="#!/usr/bin/env bash")
    head = tuple(_head(text.splitlines()))
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"#SBATCH\s+(hetjob|packjob)\b", line):
            raise UsageError(f"{name}:{number}: gangrun has no jobs of several components", way_out="sbatch sends it")
    asked = [*words_for_sbatch(head), *words_for_sbatch(["#SBATCH " + shlex.join(flags)])]
    if any(flag in ("--array", "-a") for flag, _ in asked):
        way_out = 'an experiment with [sweep] mode = "array", or sbatch itself'
        raise UsageError(f"{name} is a job array, of which each task would need a record of its own", way_out=way_out)
    return JobScript(path.absolute(), text, interpreter, head)


def asked_for(script: Path, *names: str) -> str:
    """What a batch script asks for by a flag of these names, such as `--time` and `-t`; empty where it does not.

    Raises OSError.
    """
    with script.open(encoding="utf-8", errors="replace") as lines:
        found = [value for flag, value in words_for_sbatch(_head(lines)) if flag in names]
    return found[-1] if found else ""


def _head(lines: Iterable[str]) -> Iterator[str]:
    """sbatch reads up to the first command."""
    for line in lines:
        if line.strip() and not line.startswith("#"):
            return
        if line.startswith("#SBATCH"):
            yield line


def words_for_sbatch(head: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Flags with their values; a flag without one has an empty text."""
    for line in head:
        try:
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        except ValueError:
            words = line.split()[1:]
        while words:
            word = words.pop(0)
            flag, equals, value = word.partition("=")
            if word.startswith("--"):
                if not equals and words and not words[0].startswith("-"):
                    value = words.pop(0)
                yield flag, value
            elif re.match(r"-[A-Za-z]", word):
                if len(word) > 2:
                    value = word[2:].removeprefix("=")
                elif words and not words[0].startswith("-"):
                    value = words.pop(0)
                yield word[:2], value
