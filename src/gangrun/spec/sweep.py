"""A sweep to its items: the values of each parameter, combined, looked up and named.

Pure: the files that `glob` means were found when the experiment was loaded.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gangrun.errors import Problem, SpecError
from gangrun.spec.load import Experiment, dotted, nearest
from gangrun.spec.model import MOST_ITEMS, RoleKeys, Spec, Sweep, Value, parameter_name, text
from gangrun.spec.toml import Key, Table

LONGEST = 80
"""Characters of an item's name, which is a directory."""
_LONGEST_VALUE = 32
_LONGEST_NUMBER = 10
_OWN = frozenset(Sweep.model_fields)
_SETTABLE = (frozenset(Spec.model_fields) | frozenset(RoleKeys.model_fields)) - {
    "extends", "experiment", "step", "cluster", "sweep", "parameters",
}  # fmt: skip
"""What a key with dots may begin with."""
_RANGE = frozenset({"from", "to", "step", "count", "log"})
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._=+-]+")
_NAME = re.compile(r"[A-Za-z0-9_=+][A-Za-z0-9._=+-]*")


@dataclass(frozen=True, slots=True)
class Item:
    """One combination of a sweep."""

    index: int
    name: str
    """Unique in its sweep, and a directory's name: letters, digits and `. _ = + -`."""
    parameters: Mapping[str, Value]
    """What references may name, looked-up values included; `seed` among them is the item's seed."""
    keys: Mapping[str, Any]
    """Keys of the file that this item sets otherwise, such as `allocation.nodes`."""

    @property
    def values(self) -> dict[str, Any]:
        """Parameters and keys together, as one would write them."""
        return {**self.parameters, **self.keys}


def expand(experiment: Experiment) -> tuple[Item, ...]:
    """The items of an experiment with a `[sweep]`, in order. Raises SpecError with every problem found."""
    return _Expansion(experiment).items()


@dataclass
class _Combination:
    values: dict[str, Any]
    name: str = ""
    told: frozenset[str] = frozenset()
    """The parameters that the name, which was given, stands for."""
    derived: dict[str, Any] = field(default_factory=dict)
    """What tables gave."""


class _Expansion:
    """One pass over `[sweep]`, which notes problems on the way."""

    def __init__(self, experiment: Experiment) -> None:
        assert experiment.spec.sweep is not None  # noqa: S101 - for the type checker; who calls has looked
        self.experiment = experiment
        self.sweep = experiment.spec.sweep
        self.written: Table = experiment.values["sweep"]
        self.problems: list[Problem] = []
        self.origin: dict[str, Key] = {}
        """Where each parameter is written."""

    def items(self) -> tuple[Item, ...]:
        axes = [axis for name in self.written for axis in self._axes(name)]
        self._stop()
        total = 1
        for axis in axes:
            total *= len(axis)
        if total > MOST_ITEMS:
            sizes = " × ".join(str(len(axis)) for axis in axes)
            self._wrong((), f"makes {total} items ({sizes}), more than {MOST_ITEMS}", "leave values out")
            self._stop()
        combined = [self._joined(parts) for parts in itertools.product(*axes)] if axes else []
        self._excluded_names()
        self._stop()
        left = [one for one in combined if not self._excluded(one.values)]
        if not left:
            what = (
                "leaves no item: exclude takes all of them out" if combined else "has no parameter, so there is no item"
            )
            self._wrong((), what, "" if combined else "lr = [0.1, 0.2]")
            self._stop()
        for one in left:
            self._look_up(one)
        self._stop()
        self._same(left)
        names = self._names(left)
        self._stop()
        return tuple(_item(index, name, one) for index, (one, name) in enumerate(zip(left, names, strict=True)))

    # ---- values

    def _axes(self, name: str) -> Iterator[list[_Combination]]:
        """What one key of the table adds: an axis, or with `zip` several."""
        if name == "zip":
            for number, group in enumerate(self.sweep.zip):
                yield self._zipped(group, ("zip", number))
        elif name == "list":
            yield [self._listed(entry, ("list", number)) for number, entry in enumerate(self.sweep.list)]
            self._named_once()
        elif name == "seeds":
            self._claim("seed", ("seeds",))
            yield [_Combination({"seed": seed}) for seed in self.sweep.seeds]
        elif name not in _OWN:
            yield from self._axis(name, self.written[name], (name,))

    def _axis(self, name: str, written: Any, at: Key) -> Iterator[list[_Combination]]:
        if isinstance(written, dict) and not (_RANGE & written.keys()):
            for inner, value in written.items():
                yield from self._axis(f"{name}.{inner}", value, (*at, inner))
            return
        self._claim(name, at)
        if isinstance(written, dict):
            values = self._range(written, at)
        else:
            values = written if isinstance(written, list) else [written]
            for number, value in enumerate(values):
                self._check(name, value, (*at, number) if isinstance(written, list) else at)
            if not values:
                self._wrong(at, "has no value, so there would be no item")
        yield [_Combination({name: value}) for value in values]

    def _zipped(self, group: Mapping[str, Any], at: Key) -> list[_Combination]:
        columns: dict[str, list[Any]] = {}
        for name, written in group.items():
            columns[name] = []
            for axis in self._axis(name, written, (*at, name)):
                columns[name] += [value for one in axis for value in one.values.values()]
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            self._wrong(at, f"lists that go together are equally long, but {told}")
            return []
        rows = zip(*columns.values(), strict=True)
        return [_Combination(dict(zip(columns, row, strict=True))) for row in rows]

    def _listed(self, entry: Mapping[str, Any], at: Key) -> _Combination:
        values = {name: value for name, value in entry.items() if name != "name"}
        for name, value in values.items():
            if at[-1] == 0 or name not in self.origin:
                self._claim(name, (*at, name), again=at[-1] != 0)
            self._check(name, value, (*at, name))
        name = entry.get("name", "")
        if "name" in entry and not (isinstance(name, str) and len(name) <= LONGEST and _NAME.fullmatch(name)):
            what = (
                f"{name!r} cannot name an item: letters, digits and . _ = + -, at most {LONGEST}, not . or - in front"
            )
            self._wrong((*at, "name"), what)
        return _Combination(values, str(name), frozenset(values) if name else frozenset())

    def _named_once(self) -> None:
        seen: dict[str, int] = {}
        for number, entry in enumerate(self.sweep.list):
            name = str(entry.get("name", ""))
            if name and (first := seen.setdefault(name, number)) != number:
                way_out = f"see {dotted(('sweep', 'list', first))}; without a name it is named after its values"
                self._wrong(("list", number, "name"), f"a second item is named {name!r}", way_out)

    def _range(self, written: Mapping[str, Any], at: Key) -> list[Any]:
        """`{ from, to, step }` with both ends, or `{ from, to, count }`, evenly or with `log = true` by a factor."""
        numbers = {key: value for key, value in written.items() if key != "log"}
        wrong = [f"{key} = {value!r}" for key, value in numbers.items() if key not in _RANGE or not _is_finite(value)]
        if wrong or not {"from", "to"} <= numbers.keys():
            what = f"a range has numbers as from and to, and step or count{', not ' if wrong else ''}{', '.join(wrong)}"
            self._wrong(at, what, "{ from = 0.1, to = 0.5, step = 0.1 }")
            return []
        ends = [written["from"], written["to"]]
        if ("step" in written) == ("count" in written):
            self._wrong(at, "a range has either step or count", "{ from = 0.1, to = 0.5, step = 0.1 }")
            return []
        if "log" in written and (not isinstance(written["log"], bool) or "step" in written):
            self._wrong((*at, "log"), "is true or false, and goes with count", "count = 5, log = true")
            return []
        # As decimals, or 0.1 + 0.2 would be 0.30000000000000004 on the command line.
        first, last = (Decimal(str(value)) for value in ends)
        whole = all(isinstance(value, int) for value in numbers.values())
        if "step" in written:
            step = Decimal(str(written["step"]))
            if not step or (last - first) / step < 0:
                self._wrong(at, f"the step {written['step']} does not lead from {ends[0]} to {ends[1]}")
                return []
            count = int((last - first) / step) + 1
            if count > MOST_ITEMS:
                self._wrong(at, f"has {count} values, more than {MOST_ITEMS}")
                return []
            return [_number(first + number * step, whole=whole) for number in range(count)]
        count = written["count"]
        if not isinstance(count, int) or not 1 < count <= MOST_ITEMS:
            self._wrong((*at, "count"), f"is a whole number from 2 to {MOST_ITEMS}")
            return []
        if written.get("log"):
            if first * last <= 0:
                self._wrong(at, "with log, from and to are both above 0")
                return []
            low, high = float(first), float(last)
            inner = (float(f"{low * (high / low) ** (number / (count - 1)):.6g}") for number in range(1, count - 1))
            return [ends[0], *inner, ends[1]]
        return [_number(first + number * (last - first) / (count - 1), whole=False) for number in range(count)]

    def _joined(self, parts: Sequence[_Combination]) -> _Combination:
        values: dict[str, Any] = {}
        for part in parts:
            values.update(part.values)
        told = frozenset(name for part in parts for name in part.told)
        return _Combination(values, "_".join(part.name for part in parts if part.name), told)

    def _claim(self, name: str, at: Key, *, again: bool = False) -> None:
        """Notes where a parameter stands; twice is a mistake, and so is a name that cannot be one."""
        if name in self.origin and not again:
            self._wrong(at, f"{name} has its values already", f"see {dotted(('sweep', *self.origin[name]))}")
        self.origin.setdefault(name, at)
        first, dot, _ = name.partition(".")
        if dot and first not in _SETTABLE:
            hint = nearest(first, _SETTABLE) or "a range is { from = 0.1, to = 0.5, step = 0.1 }"
            self._wrong(at, f"{first!r} is no key of an experiment that a sweep could set", hint)
        elif not dot:
            try:
                parameter_name(name)
            except ValueError as error:
                self._wrong(at, f"{name!r} {error}")

    def _check(self, name: str, value: Any, at: Key) -> None:
        if "." in name:
            return  # what it may be, the key that it sets says
        if name == "seed" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            self._wrong(at, "a seed is a whole number from 0")
        elif not isinstance(value, (bool, int, float, str)) or (isinstance(value, str) and "\0" in value):
            self._wrong(at, "a parameter is text, a number, true or false")

    # ---- what is left out, and what follows from others

    def _excluded_names(self) -> None:
        for number, entry in enumerate(self.sweep.exclude):
            if not entry:
                self._wrong(("exclude", number), "is empty, which would leave every item out")
            for name in entry:
                if name not in self.origin:
                    what = f"there is no parameter {name!r} that varies"
                    self._wrong(("exclude", number, name), what, nearest(name, self.origin))

    def _excluded(self, values: Mapping[str, Any]) -> bool:
        def meets(name: str, wanted: Any) -> bool:
            return values.get(name) in (wanted if isinstance(wanted, list) else [wanted])

        return any(all(meets(name, wanted) for name, wanted in entry.items()) for entry in self.sweep.exclude)

    def _look_up(self, one: _Combination) -> None:
        for name, lookup in self.sweep.lookup.items():
            values = {**self.experiment.spec.parameters, **one.values, **one.derived}
            at: Key = ("lookup", name)
            here: Any = lookup.table
            path: list[str] = []
            for by in lookup.by:
                if by not in values:
                    self._once((*at, "by"), f"there is no parameter {by!r}", nearest(by, values))
                    return
                value = values[by]
                if not isinstance(here, dict):
                    self._once((*at, "table", *path), f"ends before {by}: nest it as by says: {', '.join(lookup.by)}")
                    return
                if text(value) not in here:
                    wanted = ", ".join(f"{key} = {text(values[key])}" for key in lookup.by[: len(path) + 1])
                    what = f"has no entry for {wanted}; it has {by} = {', '.join(here) or 'nothing'}"
                    self._once((*at, "table", *path), what)
                    return
                path.append(text(value))
                here = here[text(value)]
            found = {f"{name}.{key}": value for key, value in here.items()} if isinstance(here, dict) else {name: here}
            for value in found.values():
                if not isinstance(value, (bool, int, float, str)):
                    self._once((*at, "table", *path), "an entry is text, a number, true or false, or one table of them")
            one.derived.update(found)

    # ---- names

    def _same(self, combined: Sequence[_Combination]) -> None:
        seen: dict[tuple[tuple[str, str], ...], int] = {}
        for number, one in enumerate(combined):
            # By what a program reads, for which 1 and "1" are the same; what a key with dots may be, its key says.
            key = tuple((name, repr(value) if "." in name else text(value)) for name, value in one.values.items())
            if (other := seen.setdefault(key, number)) != number and not one.name:
                told = ", ".join(f"{name} = {text(value)}" for name, value in one.values.items())
                what = f"items {other} and {number} are the same: {told}"
                self._wrong((), what, 'seeds = "0-4" repeats with other seeds')
                return

    def _names(self, combined: Sequence[_Combination]) -> list[str]:
        varying = _varying([one.values for one in combined])
        names = [_full_name(one, varying) for one in combined]
        often = Counter(names)
        taken = {name for name in names if often[name] == 1}
        for index, name in enumerate(names):
            if not name or often[name] > 1:
                fresh = f"{name[: LONGEST - 8]}-{index}" if name else f"{index:0{len(str(len(names) - 1))}}"
                while fresh in taken:
                    fresh += "-"
                taken.add(fresh)
                names[index] = fresh
        return names

    # ---- problems

    def _wrong(self, at: Key, what: str, way_out: str = "") -> None:
        self.problems.append(self.experiment.problem(("sweep", *at), what, way_out))

    def _once(self, at: Key, what: str, way_out: str = "") -> None:
        problem = self.experiment.problem(("sweep", *at), what, way_out)
        if problem not in self.problems:
            self.problems.append(problem)

    def _stop(self) -> None:
        if self.problems:
            raise SpecError(self.experiment.in_order(self.problems))


def _item(index: int, name: str, one: _Combination) -> Item:
    given = {key: value for key, value in one.values.items() if "." not in key}
    return Item(index, name, {**given, **one.derived}, {k: v for k, v in one.values.items() if k not in given})


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Decimal, *, whole: bool) -> int | float:
    return int(value) if whole else float(value)


def _varying(combined: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The parameters that tell items apart, and how each is called in a name; of a single item all."""
    keys = list(dict.fromkeys(key for values in combined for key in values))
    first = combined[0]
    told = [
        key
        for key in keys
        if len(combined) == 1 or any(key not in values or values[key] != first.get(key) for values in combined)
    ]
    short = Counter(key.rpartition(".")[2] for key in told)
    return {key: last if short[last := key.rpartition(".")[2]] == 1 else key for key in told}


def _full_name(one: _Combination, varying: Mapping[str, str]) -> str:
    """The name that was given and what it does not stand for; else what varies."""
    if not one.name:
        return _name(one.values, varying)
    rest = _name({key: value for key, value in one.values.items() if key not in one.told}, varying)
    return f"{one.name}_{rest}"[:LONGEST] if rest else one.name


def _name(values: Mapping[str, Any], varying: Mapping[str, str]) -> str:
    """`lr=0.1_depth=4`, of what a name can say; empty where it can say nothing."""
    parts = []
    for key, label in varying.items():
        value = values.get(key)
        if value is None or isinstance(value, (list, dict)):
            continue
        shown = f"{value:.6g}" if isinstance(value, float) and len(text(value)) > _LONGEST_NUMBER else text(value)
        if isinstance(value, str) and "/" in value:
            shown = value.rstrip("/").rpartition("/")[2].partition(".")[0] or value
        parts.append(f"{label}={_FORBIDDEN.sub('-', shown).strip('.-')[:_LONGEST_VALUE]}")
    return _FORBIDDEN.sub("-", "_".join(parts)).lstrip(".-")[:LONGEST]
