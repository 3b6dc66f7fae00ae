"""From files and command line to one validated `Experiment`, with the origin of every value."""

from __future__ import annotations

import difflib
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from gangrun.errors import Problem, SpecError, UsageError
from gangrun.project import project_root
from gangrun.spec import python, toml, tree
from gangrun.spec.copy import Copy
from gangrun.spec.model import RoleKeys, Spec, description, verbatim
from gangrun.spec.toml import Key, Table

_FILE_DIR = re.compile(r"(\{\{|\}\})|\{file\.dir\}")
_PATHS = (("workdir",), ("template",), ("load", "path"))
_REFERRING = frozenset({"env", "files", "variables", "dotlist", "wandb", "campaign"})
"""Tables whose texts hold references, besides those of roles."""
_CHOICES = ("launcher", "topology")
"""Keys whose value may be a name, or a table with the name as `type` and options beside it."""
RANDOM = "random"
"""The seed that is drawn when the file is read."""
_SEEDS = 1 << 31
"""What every library takes for a seed is below that."""
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from."""

    file: str = ""
    line: int = 0
    written: str = ""
    """The key as it was written, where that differs from where it ended up."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment file as it is meant: everything that it extends and the command line folded in."""

    spec: Spec
    values: Table
    """The same as plain values, for the record."""
    sources: Mapping[Key, Source]
    """Where each key was written; the empty key is the file, as the user named it."""
    file: Path
    project: Path
    """The project's root, which holds `outputs/` and `clusters/`."""
    experiment: str
    step: str
    seed: int | None
    venv: Path | None = None
    """The project's virtual environment, where it has one and none is active here."""
    copy: Copy | None = None
    """The copy of the code that its runs use, where `[code]` asks for one and it was looked up."""

    def problem(self, key: Key, what: str, way_out: str = "") -> Problem:
        """A problem at a key, with the file and line of the nearest enclosing key that was written somewhere."""
        return locate(self.sources, self.sources[()].file, key, what, way_out)

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """The problems in the order of the file; those of files that it extends and of the profile come last."""
        own = self.sources[()].file
        return sorted(problems, key=lambda problem: (problem.file != own, problem.file, problem.line))

    def origin(self, *key: str | int) -> Source:
        """Where the value at this key was written: there, or in the nearest enclosing table that was given as one."""
        return nearest_source(self.sources, key) or self.sources[()]

    def with_seed(self, seed: int) -> Experiment:
        """The same experiment under another seed, which its step's name then ends with."""
        name, written = tree.split(self.step)
        step = f"{name if written == self.seed else self.step}_{seed}"
        values = {**self.values, "seed": seed, "step": step}
        sources = {**self.sources, ("seed",): Source("--seeds"), ("step",): Source("--seeds")}
        spec = self.spec.model_copy(update={"seed": seed, "step": step})
        return replace(self, spec=spec, values=values, sources=sources, seed=seed, step=step)

    def with_partition(self, partition: str) -> Experiment:
        """The same experiment in this partition, chosen in place of `auto`."""
        allocation = {**self.values.get("allocation", {}), "partition": partition}
        spec = self.spec.model_copy(
            update={"allocation": self.spec.allocation.model_copy(update={"partition": partition})}
        )
        return replace(self, spec=spec, values={**self.values, "allocation": allocation})

    def alone(self, parameters: Mapping[str, Any], keys: Mapping[str, Any]) -> Experiment:
        """The experiment of one item of its sweep: `[sweep]` gone, these parameters set, and these keys with dots.

        Raises SpecError where a key cannot have that value.
        """
        seed = parameters.get("seed", self.seed)
        named = {**self.spec.parameters, **{name: parameters[name] for name in parameters if name != "seed"}}
        values = {key: value for key, value in self.values.items() if key != "sweep"}
        values["parameters"] = named
        if "seed" in parameters:
            values["seed"] = seed
        if not keys:
            # Validating again would triple the time that a plan of 10,000 items takes.
            spec = self.spec.model_copy(update={"sweep": None, "parameters": named, "seed": values.get("seed")})
            return replace(self, spec=spec, values=values, seed=seed)
        sources = dict(self.sources)
        for name, value in keys.items():
            key: Key = tuple(name.split("."))
            origin = self.sources.get(("sweep", name)) or self.origin("sweep", *key)
            given = {key: replace(origin, written=f"sweep.{name}")}
            own = _absolute(nested(key, value), Path(origin.file).absolute().parent)
            values, sources = merge(values, sources, *_spread(own, given))
        spec = validated(Spec, values, sources, sources[()].file)
        return replace(self, spec=spec, values=values, sources=sources, seed=seed)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads an experiment file, in TOML or Python, what it extends, and `KEY=VALUE` overrides, which win.

    Raises SpecError with every problem found, each with file, line and key.
    """
    file = Path(path)
    values, lines = python.read(file, overrides) if file.suffix == python.SUFFIX else toml.read(file)
    return experiment_of(values, file, {key: Source(str(file), line) for key, line in lines.items()}, overrides)


def experiment_of(
    values: Table,
    file: str | Path,
    sources: Mapping[Key, Source] | None = None,
    overrides: Sequence[str] = (),
    *,
    project: Path | None = None,
) -> Experiment:
    """The experiment of values that stand in no experiment file, or not as such: what a recipe ends in.

    `values` are what an experiment file would hold. `file` stands for it: what the user named, for errors and the
    record; its name and folder name the step and the experiment where the values do not, and relative paths start in
    that folder. `sources` says where each key was written, `Source("--flag")` or a file's line; a problem of a key that
    is not there is told with the nearest enclosing one, else with `file`. `project` is the root, where that is not the
    one around `file`. Raises SpecError with every problem found.
    """
    file = Path(file)
    values, found = _with_bases(values, dict(sources or {}), file, (file.resolve(),))
    for override in overrides:
        key, given = _override(override)
        # A table that only the command line has is its own, too, should it be one that nobody knows.
        ends = [end for end in range(1, len(key)) if not _holds(values, key[:end])]
        origins = {key[:end]: Source("--set") for end in (*ends, len(key))}
        values, found = merge(values, found, *_spread(anchored(nested(key, given), Path.cwd()), origins))
    found[()] = Source(str(file))
    _find_files(values, found)
    absolute = _without_dots(file)
    values = _settled(values, str(absolute.parent))
    if values.get("seed") == RANDOM:
        values = {**values, "seed": secrets.randbelow(_SEEDS)}
    spec = validated(Spec, values, found, str(file))
    seed = spec.seed if spec.seed is not None else tree.split(file.stem)[1]
    if seed is None and spec.step is None and (words := tree.seed_problem(file.stem)):
        way_out = "say seed = 0 in the file, or join the name by dashes"
        raise SpecError([Problem("", words, str(file), 0, way_out)])
    project = project or project_root(absolute.parent)
    return Experiment(
        spec=spec,
        values=values,
        sources=found,
        file=absolute,
        project=project,
        experiment=spec.experiment or absolute.resolve().parent.name,
        step=spec.step or file.stem,
        seed=seed,
        venv=idle_venv(project),
    )


def _without_dots(file: Path) -> Path:
    """The absolute path without `..`, which gave the project a second name; kept where a link makes it another."""
    absolute = file.absolute()
    plain = Path(os.path.normpath(absolute))
    return plain if os.path.realpath(plain.parent) == os.path.realpath(absolute.parent) else absolute


def idle_venv(project: Path) -> Path | None:
    """The virtual environment of a directory, unless one is active here."""
    folder = project / ".venv"
    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    return folder if not active and (folder / "bin" / "activate").is_file() else None


def validated(model: type[Model], values: Table, sources: Mapping[Key, Source], file: str) -> Model:
    """The model of these values. Raises SpecError with all problems, in the order of the file."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = list(_problems(error, model, values, sources, file))
    problems.sort(key=lambda problem: (problem.file != file, problem.file, problem.line))
    raise SpecError(problems)


def locate(sources: Mapping[Key, Source], file: str, key: Key, what: str, way_out: str = "") -> Problem:
    """A problem at the line of the key, or of the nearest enclosing key that has one."""
    for end in range(len(key), -1, -1):
        if source := sources.get(key[:end]):
            shown = source.written + dotted(key[end:], start=".") if source.written else dotted(key)
            return Problem(shown, what, source.file, source.line, way_out)
    return Problem(dotted(key), what, file, 0, way_out)


def nearest_source(sources: Mapping[Key, Source], key: Key) -> Source | None:
    """The source of the key, or of the nearest enclosing key that has one."""
    return next((sources[key[:end]] for end in range(len(key), -1, -1) if key[:end] in sources), None)


def refuse_circle(stack: tuple[Path, ...], target: Path, source: Source) -> None:
    """Raises SpecError where the source names one of the files by which one came to it."""
    if target in stack:
        chain = " → ".join(_shown(one) for one in (*stack[stack.index(target) :], target))
        what = f"files extend each other in a circle: {chain}"
        raise SpecError([Problem("extends", what, source.file, source.line)])


def dotted(key: Key, start: str = "") -> str:
    """`roles.main.command[2]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text or start else part
    return text


def nested(key: Key, value: Any) -> Table:
    """The table that holds nothing but this value, at this key."""
    for part in reversed(key):
        value = {part: value}
    table: Table = value
    return table


def nearest(word: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """`did you mean 'launcher'?` or nothing."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else ""


def _with_bases(
    own: Table, own_sources: dict[Key, Source], file: Path, stack: tuple[Path, ...]
) -> tuple[Table, dict[Key, Source]]:
    """The values of a file over those of the files that it extends; `stack` is how one came here, this file last."""
    folder = stack[-1].parent
    for table in _globs(own):
        table["glob"] = os.path.normpath(folder / _home(table["glob"]))
    own = _absolute(own, folder)
    named = own.get("extends", [])
    bases = [named] if isinstance(named, str) else named
    values: Table = {}
    sources: dict[Key, Source] = {}
    for base in bases if isinstance(bases, list) else []:
        if not isinstance(base, str):
            continue  # validation says what is wrong with it
        target = file.parent / _home(base)
        line = own_sources.get(("extends",), Source()).line
        if not target.is_file():
            raise SpecError([Problem("extends", f"no such file: {target}", str(file), line)])
        again = target.resolve()
        refuse_circle(stack, again, Source(str(file), line))
        below, lines = toml.read(target)
        found = {key: Source(str(target), line) for key, line in lines.items()}
        values, sources = merge(values, sources, *_with_bases(below, found, target, (*stack, again)))
    return merge(values, sources, *_spread(own, own_sources))


def _globs(values: Any) -> Iterator[Table]:
    """The tables of `[sweep]` that hold a `glob`, itself included."""
    table = values.get("sweep") if isinstance(values, dict) else None
    for one in [table, *table.values()] if isinstance(table, dict) else []:
        if isinstance(one, dict) and isinstance(one.get("glob"), str):
            yield one


def _find_files(values: Table, sources: dict[Key, Source]) -> None:
    """Puts the files that each `glob` of `[sweep]` matches in its place, in the order in which people count.

    `[sweep] glob` is short for `path = { glob = … }`. Raises SpecError where none matches.
    """
    if not any(_globs(values)):
        return
    sweep: Table = {}
    for name, value in values["sweep"].items():
        key = ("sweep", name) if name == "glob" else ("sweep", name, "glob")
        pattern = value if name == "glob" else value.get("glob") if isinstance(value, dict) else None
        if not isinstance(pattern, str) or (name != "glob" and len(value) > 1):
            sweep[name] = value
            continue
        found = sorted(glob(pattern, recursive=True), key=_counting)  # noqa: PTH207 - a pattern with a path in front
        if not found:
            problem = locate(sources, sources[()].file, key, f"no file matches {pattern}")
            raise SpecError([problem])
        sweep["path" if name == "glob" else name] = found
    values["sweep"] = sweep


def _counting(path: str) -> list[tuple[int, str]]:
    """`route9` before `route10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]


def _absolute(values: Table, folder: Path) -> Table:
    """The values with the paths in them as absolute ones, which start in `folder` where they are relative."""
    for key in _PATHS:
        values = _with_path(values, key, folder)
    return anchored(values, folder)


def _with_path(values: Table, key: Key, folder: Path) -> Table:
    """The values with the path at this key, if there is one, as an absolute one that starts in `folder`."""
    first, *rest = key
    value = values.get(str(first))
    if isinstance(value, dict) and rest:
        return {**values, str(first): _with_path(value, tuple(rest), folder)}
    if isinstance(value, str) and not rest:
        return {**values, str(first): os.path.normpath(folder / _home(value))}
    return values


def _settled(values: Table, folder: str) -> Table:
    """`{file.dir}` as the folder itself, as the values go into the record, and a copy of them lies elsewhere."""
    plain = verbatim(folder)

    def settle(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: settle(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [settle(inner) for inner in value]
        return _FILE_DIR.sub(lambda found: found[1] or plain, value) if isinstance(value, str) else value

    def container(owner: Any) -> Any:
        """The table with its container's environment settled: images and mounts hold no references."""
        inner = owner.get("container") if isinstance(owner, dict) else None
        if not isinstance(inner, dict) or "env" not in inner:
            return owner
        return {**owner, "container": {**inner, "env": settle(inner["env"])}}

    def swept(value: Any) -> Any:
        """Keys of the file that items set otherwise; a parameter's own value is no text with references."""
        if isinstance(value, dict):
            of_file = {key for key in value if "." in key or key in _REFERRING or key == "roles"}
            return {key: (settle if key in of_file else swept)(inner) for key, inner in value.items()}
        return [swept(inner) for inner in value] if isinstance(value, list) else value

    def role(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return container({key: inner if key == "container" else settle(inner) for key, inner in value.items()})

    values = {key: settle(value) if key in _REFERRING else value for key, value in values.items()}
    if isinstance(roles := values.get("roles"), dict):
        values["roles"] = {name: role(value) for name, value in roles.items()}
    if "sweep" in values:
        values["sweep"] = swept(values["sweep"])
    return dict(container(values))


def anchored(values: Table, folder: Path) -> Table:
    """The values with paths of containers that begin with `./`, `../` or `~/` made absolute, from this folder."""

    def path(text: Any) -> Any:
        relative = isinstance(text, str) and text.startswith(("./", "../", "~"))
        return os.path.normpath(folder / _home(text)) if relative else text

    def mount(text: Any) -> Any:
        if not isinstance(text, str) or ":" not in text:
            return path(text)
        source, _, rest = text.partition(":")
        return f"{path(source)}:{rest}"

    def table(owner: Table) -> Table:
        container = owner.get("container")
        if not isinstance(container, dict):
            return owner
        container = {**container, **({"image": path(container["image"])} if "image" in container else {})}
        if isinstance(container.get("mounts"), list):
            container["mounts"] = [mount(one) for one in container["mounts"]]
        return {**owner, "container": container}

    values = table(values)
    if isinstance(roles := values.get("roles"), dict):
        roles = {name: table(role) if isinstance(role, dict) else role for name, role in roles.items()}
        values = {**values, "roles": roles}
    return values


def _home(text: str) -> Path:
    """The path with `~` as the home directory, where it means one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~somebody who is nobody here
        return Path(text)


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _spread(values: Table, sources: dict[Key, Source]) -> tuple[Table, dict[Key, Source]]:
    """Moves role keys at the top into `roles.main`."""
    short = [key for key in values if key in RoleKeys.model_fields]
    if not short:
        return values, sources
    roles = values.get("roles", {})
    main = roles.get("main", {}) if isinstance(roles, dict) else {}
    if not isinstance(roles, dict) or not isinstance(main, dict):
        return values, sources  # validation says what is wrong with it
    if twice := [key for key in short if key in main]:
        place = sources.get((twice[0],), Source())
        what = "is said twice: at the top of a file it means roles.main"
        raise SpecError([Problem(f"roles.main.{twice[0]}", what, place.file, place.line, "keep one of the two")])
    rest = {key: value for key, value in values.items() if key not in short and key != "roles"}
    # First, as it stands at the top.
    rest["roles"] = {"main": {**{key: values[key] for key in short}, **main}, **_without(roles, "main")}
    moved: dict[Key, Source] = {}
    for key, source in sources.items():
        if key[0] in short:
            moved[("roles", "main", *key)] = replace(source, written=dotted(key))
        else:
            moved[key] = source
    return rest, moved


def _without(table: Table, key: str) -> Table:
    return {name: value for name, value in table.items() if name != key}


def merge(
    below: Table, below_sources: dict[Key, Source], above: Table, above_sources: dict[Key, Source]
) -> tuple[Table, dict[Key, Source]]:
    """Tables merge deeply; everything else, lists included, is replaced together with its origins."""
    gone: set[Key] = set()

    def join(low: Table, high: Table, at: Key) -> Table:
        joined = dict(low)
        for name, value in high.items():
            old = low.get(name)
            if name in _CHOICES and isinstance(old, str) and isinstance(value, dict) and "type" not in value:
                joined[name] = {"type": old, **value}  # options for the launcher that is already chosen
            elif isinstance(value, dict) and isinstance(old, dict):
                joined[name] = join(old, value, (*at, name))
            else:
                joined[name] = value
                if name in low:
                    gone.add((*at, name))
        return joined

    values = join(below, above, ())
    kept = {
        key: source
        for key, source in below_sources.items()
        if not (gone and any(key[:end] in gone for end in range(1, len(key) + 1)))
    }
    return values, {**kept, **above_sources}


def _override(text: str) -> tuple[Key, Any]:
    name, equals, value = text.partition("=")
    parts = tuple(name.strip().split("."))
    if not equals or not all(parts):
        raise UsageError(f"--set {text!r} is not KEY=VALUE", way_out="write --set allocation.nodes=2")
    given = toml.value_of(value)
    if parts in _PATHS and isinstance(given, str):
        return parts, os.path.normpath(_home(given).absolute())
    if (parts[0] == "env" or (parts[0] == "roles" and parts[2:3] == ("env",))) and parts[-1] != "env":
        return parts, given if isinstance(given, str) else value  # true and 1e-4 go through as they were typed
    return parts, given


def _problems(
    error: ValidationError, model: type[BaseModel], values: Table, sources: Mapping[Key, Source], file: str
) -> Iterable[Problem]:
    seen: dict[Key, tuple[list[str], str]] = {}
    places: set[Key] = set()
    branches: set[Key] = set()
    for one in error.errors(include_url=False):
        *above, last = one["loc"]
        key = _in_values(above, values)
        if one["type"] == "missing" or last in _names(values, key):
            key = (*key, last)
        else:
            branches.add(key)
        places.add(key)
        if one["type"] == "extra_forbidden":
            hint = _elsewhere(str(key[-1]), model) if len(key) == 1 else ""
            known = _fields(model, key[:-1])
            hint = hint or nearest(str(key[-1]), known) or (f"there are {', '.join(sorted(known))}" if known else "")
            where = f"in {dotted(key[:-1])}" if len(key) > 1 else "at the top"
            yield locate(sources, file, key, f"unknown key {where}", hint)
            continue
        if one["type"] == "missing":
            yield locate(sources, file, key, "is missing", _meaning(model, key))
            continue
        told, _ = seen.setdefault(key, ([], _not(one["type"], one["input"])))
        told.append(_words(one["type"], one["msg"]))
    for key, (told, suffix) in seen.items():
        # What is wrong deeper in one branch of a union says more than that the others are of another type.
        if key in branches and any(other[: len(key)] == key for other in places if other != key):
            continue
        yield locate(sources, file, key, ", or ".join(dict.fromkeys(told)) + suffix)


_SHOULD = {
    "model_type": "should be a table",
    "model_attributes_type": "should be a table",
    "dict_type": "should be a table",
    "tuple_type": "should be a list",
    "string_type": "should be text, in quotes",
    "int_type": "should be a whole number, without quotes",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "too_short": "should hold at least one item",
}
"""pydantic's words where they speak of Python rather than of TOML."""


def _words(kind: str, message: str) -> str:
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    words = re.sub(r"^input should be", "should be", message[0].lower() + message[1:])
    return _SHOULD.get(kind) or words.replace("False", "false")


def _not(kind: str, given: object) -> str:
    if kind == "value_error":
        return ""
    shown = str(given).lower() if isinstance(given, bool) else repr(given)
    return f", not {shown if len(shown) <= 60 else shown[:57] + '…'}"


def _in_values(place: Iterable[str | int], values: Any) -> Key:
    """The place without what is not in the values: unions put the name of each branch into it."""
    key: Key = ()
    for part in place:
        if part in _names(values, key):
            key = (*key, part)
    return key


def _holds(values: Any, key: Key) -> bool:
    for part in key:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _names(values: Any, key: Key) -> Collection[str | int]:
    """What can follow this key, which is in the values."""
    for part in key:
        values = values[part]
    return range(len(values)) if isinstance(values, list) else values if isinstance(values, dict) else ()


def _fields(model: type[BaseModel], key: Key) -> set[str]:
    """The names that a table at this place may hold."""
    here = _model_at(model, key)
    return {field.alias or name for name, field in here.model_fields.items()} if here else set()


def _meaning(model: type[BaseModel], key: Key) -> str:
    """What a key is, in one sentence."""
    here = _model_at(model, key[:-1])
    sentence = description(here, str(key[-1])).partition(". ")[0].rstrip(".") if here else ""
    return sentence[:1].lower() + sentence[1:]


def _model_at(model: type[BaseModel], key: Key) -> type[BaseModel] | None:
    """The model of the table at this place."""
    here: Any = model
    for part in key:
        if isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = _table_of(here.model_fields[str(part)].annotation)
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _elsewhere(name: str, model: type[BaseModel]) -> str:
    """`did you mean allocation.time?` for a key at the top that belongs into a table."""
    for table, field in model.model_fields.items():
        inner = _table_of(field.annotation)
        if inner is not None and name in inner.model_fields:
            return f"did you mean {table}.{name}?"
    return ""


def _table_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _table_of(inner))), None)
