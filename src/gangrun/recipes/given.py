"""What a recipe is given: `@ FILE` overlays in their order, then `--key.path VALUE` flags over them all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gangrun.errors import Problem, SpecError, UsageError
from gangrun.spec import toml
from gangrun.spec.load import Source, merge, nested, refuse_circle
from gangrun.spec.toml import Key, Table

_BASES = ("extends", "toml_files")
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Given:
    """Values and where each was written."""

    values: Table
    sources: dict[Key, Source]
    file: str
    """The first file, which names the experiment; empty where there is none."""

    def at(self, *key: str, default: Any = None) -> Any:
        """The value at this key, `default` where there is none."""
        here: Any = self.values
        for part in key:
            here = here.get(part, _MISSING) if isinstance(here, dict) else _MISSING
        return default if here is _MISSING else here

    def also(self, key: tuple[str, ...], value: Any, flag: str) -> Given:
        """The same with a value at this key, on behalf of a flag, where there is none."""
        if self.at(*key) is not None:
            return self
        values, sources = merge(self.values, self.sources, nested(key, value), {key: Source(flag)})
        return replace(self, values=values, sources=sources)


def given(words: Sequence[str], paths: Sequence[Key] = ()) -> Given:
    """Reads the words of a command line.

    Flags are dotted keys, in kebab or snake case. Their values are TOML, and text where they are none; a flag without
    one is true. Values at `paths` are paths, relative to the file that says them, or to where one types.
    Raises UsageError, SpecError.
    """
    values: Table = {}
    sources: dict[Key, Source] = {}
    flags: list[tuple[Key, Any, str]] = []
    first = ""
    rest = iter(_split(words))
    for key, word in rest:
        if key is None:
            raise UsageError(f"{word!r} is neither a flag nor a file", way_out="write @ FILE, or --key.path VALUE")
        if word.startswith("@"):
            file = Path(word[1:])
            first = first or ("" if key else str(file))
            own, found = _read(file, (), paths, key)
            values, sources = merge(values, sources, nested(key, own), found)
        else:
            name, _, text = word.partition("=")
            value = toml.value_of(text) if "=" in word else True
            flags.append((key, _absolute(value, Path.cwd()) if key in paths else value, name))
    for key, value, name in flags:
        values, sources = merge(values, sources, nested(key, value), {key: Source(name)})
    return Given(values, sources, first)


def _split(words: Sequence[str]) -> Iterator[tuple[Key | None, str]]:
    """Each file as its key and `@FILE`, each flag as its key and `--KEY=VALUE` or `--KEY`; None for anything else."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("@"):
            yield (), "@" + (word[1:] or _file(rest, "@"))
        elif not word.startswith("--") or word == "--":
            yield None, word
        else:
            name = word.partition("=")[0]
            key: Key = tuple(part.replace("-", "_") for part in name[2:].split("."))
            if not all(key):
                raise UsageError(f"{name} names no key", way_out="write --key.path VALUE")
            if "=" not in word and rest and rest[0].startswith("@"):
                at = rest.pop(0)
                yield key, "@" + (at[1:] or _file(rest, f"{name} @"))
            elif "=" not in word and rest and not rest[0].startswith(("--", "@")):
                yield key, f"{name}={rest.pop(0)}"
            else:
                yield key, word


def _file(rest: list[str], before: str) -> str:
    if not rest or rest[0].startswith("--"):
        raise UsageError(f"there is no file after {before!r}", way_out="write @ FILE")
    return rest.pop(0)


def _read(
    file: Path, stack: tuple[Path, ...], paths: Sequence[Key], under: Key = ()
) -> tuple[Table, dict[Key, Source]]:
    """A file over those that it names as `extends` or `toml_files`; `under` is the key that it stands for."""
    stack = (*stack, file.resolve())
    own, lines = toml.read(file)
    values: Table = {}
    sources: dict[Key, Source] = {}
    for name in _BASES:
        named = own.pop(name, [])
        for base in [named] if isinstance(named, str) else named:
            target, source = file.parent / str(base), Source(str(file), lines.get((name,), 0))
            if not isinstance(base, str) or not target.is_file():
                raise SpecError([Problem(name, f"no such file: {target}", source.file, source.line)])
            refuse_circle(stack, target.resolve(), source)
            values, sources = merge(values, sources, *_read(target, stack, paths, under))
    for key in paths:
        if key[: len(under)] == under:
            _make_absolute(own, key[len(under) :], stack[-1].parent)
    found = {(*under, *key): Source(str(file), line) for key, line in lines.items() if key[0] not in _BASES}
    return merge(values, sources, own, found)


def _make_absolute(values: Table, key: Key, folder: Path) -> None:
    *tables, last = key or ("",)
    here: Any = values
    for part in tables:
        here = here.get(part) if isinstance(here, dict) else None
    if isinstance(here, dict) and last in here:
        here[last] = _absolute(here[last], folder)


def _absolute(value: Any, folder: Path) -> Any:
    return os.path.normpath(folder / Path(value).expanduser()) if isinstance(value, str) and value != "None" else value


def without_nulls(given: Given, *, but: Sequence[str] = ()) -> Given:
    """`"None"` is null, and a key that is null is not given; tables in `but` are left as they are."""

    def known(table: Table) -> Table:
        kept = {key: value for key, value in table.items() if value != "None"}
        return {key: known(value) if isinstance(value, dict) else value for key, value in kept.items()}

    tables = {key: value for key, value in given.values.items() if key in but and value != "None"}
    return replace(given, values={**known(given.values), **tables})
