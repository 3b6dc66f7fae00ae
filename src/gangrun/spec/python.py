"""Experiment files in Python: `experiments()` yields variants of a base file, for whatever is calculated.

Such a file means the same as a TOML file that extends the base and lists its items one by one under `[sweep] list`; so
names, errors, plans and the record are those of any other sweep.
"""

from __future__ import annotations

import inspect
import numbers
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from gangrun.errors import GangrunError, Problem, SpecError
from gangrun.spec.model import MOST_ITEMS, Spec
from gangrun.spec.toml import Key, Table

if TYPE_CHECKING:
    from gangrun.spec.load import Experiment

SUFFIX = ".py"


@dataclass(frozen=True, slots=True)
class _Reading:
    """The file that is being read, and what the command line says on top."""

    file: Path
    overrides: Sequence[str]


_reading: ContextVar[_Reading | None] = ContextVar("_reading", default=None)


@dataclass(frozen=True, slots=True)
class Variant:
    """A base file, and what is otherwise: what `load` gives and `experiments()` yields."""

    base: Experiment
    values: Mapping[str, Any]
    """As an entry of `[sweep] list`: parameters, keys of the file with dots, and `name`."""
    line: int = 0
    """Where it was made in the file that is being read; 0 elsewhere."""

    @property
    def spec(self) -> Spec:
        """The base file by itself, to read from: `spec.allocation.nodes`, `spec.parameters["lr"]`."""
        return self.base.spec

    def vary(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Variant:
        """The same with these values on top: `vary(lr=0.1, name="low")`, `vary({"allocation.nodes": 2}, lr=0.1)`.

        A name without dots is a parameter, `{lr}` in strings; one with dots is a key of the file; `seed` is the seed
        and `name` names the item.
        """
        return Variant(self.base, {**self.values, **(values or {}), **more}, _line())


def load(path: str | Path) -> Variant:
    """An experiment file to build on. In an experiment file in Python a relative path starts in that file's folder.

    Raises SpecError with every problem of the file.
    """
    from gangrun.spec import load as files

    reading = _reading.get()
    if reading is None:
        return Variant(files.load(path), {})
    target = reading.file.parent / Path(path).expanduser()
    if not target.is_file():
        raise SpecError([Problem("load", f"no such file: {target}", str(reading.file), _line())])
    if target.suffix == SUFFIX:
        what = f"{target.name} makes items of its own, and a base is one experiment"
        raise SpecError([Problem("load", what, str(reading.file), _line(), "import what they share")])
    return Variant(files.load(target, reading.overrides), {}, _line())


def read(file: Path, overrides: Sequence[str] = ()) -> tuple[Table, dict[Key, int]]:
    """What the file means, as the values of a TOML file, and the line of each item.

    `overrides` are those of the command line, which what it loads then follows. Raises SpecError; an error of the
    user's code is told with the last of the user's own lines.
    """
    variants = list(_yielded(file, overrides))
    if not variants:
        problem = Problem("experiments", "yields nothing, so there is no item", str(file), 0)
        raise SpecError([problem])
    base = variants[0].base.file
    if other := next((one for one in variants if one.base.file != base), None):
        what = f"builds on {other.base.file.name}, others on {base.name}: the items of a sweep have one base"
        way_out = "write a file for each base; further differences are keys with dots"
        raise SpecError([Problem("experiments", what, str(file), other.line, way_out)])
    lines: dict[Key, int] = {("sweep", "list", number): one.line for number, one in enumerate(variants)}
    return {
        "extends": os.path.relpath(base, file.absolute().parent),
        "sweep": {"list": [_entry(one, file) for one in variants]},
    }, {("extends",): variants[0].line, **lines}


def _yielded(file: Path, overrides: Sequence[str]) -> Iterator[Variant]:
    try:
        code = compile(file.read_bytes(), str(file), "exec")
    except OSError as error:
        raise SpecError([Problem("", f"cannot be read: {error.strerror}", str(file))]) from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", 0) or 0
        raise SpecError([Problem("", f"is not Python: {getattr(error, 'msg', error)}", str(file), line)]) from error
    module = ModuleType(f"gangrun experiments {file.stem}")
    module.__file__ = str(file)
    with _as_script(file, module), _own_lines(file):
        token = _reading.set(_Reading(file, overrides))
        try:
            exec(code, module.__dict__)  # noqa: S102 - the user's own file, which is what was asked for
            function = getattr(module, "experiments", None)
            if not callable(function):
                way_out = "def experiments(): yield load('base.toml').vary(lr=0.1)"
                raise SpecError([Problem("experiments", "is missing: a function that yields", str(file), 0, way_out)])
            made = function()
            if not isinstance(made, (Iterator, list, tuple)):
                raise _not_a_variant(made, "gives", file, _first_line(function))
            for number, one in enumerate(made, 1):
                if not isinstance(one, Variant):
                    raise _not_a_variant(one, "yields", file, _paused(made) or _first_line(function))
                if number > MOST_ITEMS:
                    raise SpecError([Problem("experiments", f"yields more than {MOST_ITEMS}", str(file), one.line)])
                yield one
        finally:
            _reading.reset(token)


def _not_a_variant(found: object, does: str, file: Path, line: int) -> SpecError:
    shown = "nothing" if found is None else repr(found)
    what = f"{does} {shown if len(shown) <= 60 else shown[:57] + '…'}, which is no experiment"
    return SpecError([Problem("experiments", what, str(file), line, "yield load('base.toml').vary(lr=0.1)")])


def _first_line(function: object) -> int:
    return function.__code__.co_firstlineno if isinstance(function, FunctionType) else 0


def _paused(made: object) -> int:
    """The line at which a generator waits."""
    return made.gi_frame.f_lineno if inspect.isgenerator(made) and made.gi_frame else 0


def _line() -> int:
    """The innermost line of the file that is being read; 0 where none is."""
    reading = _reading.get()
    frame = sys._getframe(1) if reading else None
    while reading and frame:
        if frame.f_code.co_filename == str(reading.file):
            return frame.f_lineno
        frame = frame.f_back
    return 0


@contextmanager
def _as_script(file: Path, module: ModuleType) -> Iterator[None]:
    """What `python FILE` would give it: modules beside it can be imported. Its prints go to stderr, as `--json` prints
    on stdout."""
    folder = str(file.absolute().parent)
    sys.path.insert(0, folder)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        del sys.modules[module.__name__]
        sys.path.remove(folder)


@contextmanager
def _own_lines(file: Path) -> Iterator[None]:
    """An error of the user's code as a problem of the file, at its own line; what our own code says stays."""
    try:
        yield
    except GangrunError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == str(file)]
        line = (own[-1].lineno if own else None) or 0
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        deeper = frames[-1] if own and frames[-1] is not own[-1] else None
        way_out = f"raised in {deeper.filename}:{deeper.lineno}" if deeper else ""
        raise SpecError([Problem(own[-1].name if own else "", words, str(file), line, way_out)]) from error


def _entry(one: Variant, file: Path) -> Table:
    try:
        return {name: _plain(value) for name, value in one.values.items()}
    except TypeError as error:
        raise SpecError([Problem("experiments", str(error), str(file), one.line)]) from error


def _plain(value: Any) -> Any:
    """The value as TOML has it: numbers of other libraries as Python's, paths as text. Raises TypeError."""
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    raise TypeError(f"{value!r} is no value of an experiment: text, a number, true or false, a list or a table")
