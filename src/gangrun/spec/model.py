"""The experiment file and the cluster profile, field by field.

Many of the strings may hold references, see `gangrun.plan.refs`.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from datetime import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MEMORY = re.compile(r"[0-9]+[KMGT]?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FLAG = re.compile(r"[a-z][a-z0-9-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URL = re.compile(r"\{.*|http://[^\s/:].*|[^\s/:]+:(?:\d+|\{[^\s{}]+\})(?:/.*)?")
"""What the script can ask whether a server answers; behind a reference in front may be any of it."""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_TAKEN = frozenset({"count", "file", "index", "run", "self"})
"""First words of references that mean something else."""
_OWNED = re.compile(r"(?:SLURM|SBATCH|SRUN|GANGRUN)_|CUDA_VISIBLE_DEVICES$")
MOST_ITEMS = 100_000
"""Of one sweep. More is a grid, or a loop, that was not meant."""
MOST_NODES = 100_000
"""Of one job, and of one replica. More is a typing error; 100,000,000 would be planned for more than a minute."""
MOST_REPLICAS = 10_000
"""Of one role: each is a line of the script, and a process that the script's bash looks after."""
RECORD = (
    "attempts", "commit.txt", "diff.patch", "events.jsonl", "items", "items.jsonl", "job.log", "latest", "node",
    "rl.sh", "run", "script.sh", "sft.sh", "slurm", "spec.toml",
)  # fmt: skip
"""Names in the run's directory that are taken."""


def _no_control(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character, which no command line can carry")
    return text


def _seconds(value: object) -> int:
    """`36:00:00`, `1-12:00:00`, `90s`, `10m`, `2h`, `1d`; a number is seconds."""
    if isinstance(value, time) and not value.microsecond:
        value = value.isoformat("seconds")  # TOML takes 12:00:00 without quotes for a time of day
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("is no duration: write '36:00:00', '1-12:00:00', '90s', '10m', '2h' or '1d'")
    if isinstance(value, int):
        seconds = value
    elif match := re.fullmatch(r"(\d+)([smhd])", value):
        seconds = int(match[1]) * _UNITS[match[2]]
    elif match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", value):
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    elif match := re.fullmatch(r"(\d+)-(\d+)(?::(\d\d))?", value):
        days, hours, minutes = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60
    else:
        raise ValueError(f"{value!r} is no duration: write '36:00:00', '1-12:00:00', '90s', '10m', '2h' or '1d'")
    if seconds < 0:
        raise ValueError("a duration cannot be negative")
    return seconds


def _walltime(value: object) -> int:
    bare = not isinstance(value, bool) and isinstance(value, (int, str)) and str(value).isdecimal()
    if bare and int(str(value)):
        raise ValueError(f"{value!r} could mean minutes or seconds: write '{value}m' or '{value}s'")
    seconds = _seconds(value)
    if not seconds:
        raise ValueError("a time limit must be longer than nothing")
    return seconds


def _memory(value: object) -> str:
    text = str(value).upper().removesuffix("B") if isinstance(value, (int, str)) else ""
    if isinstance(value, bool) or not _MEMORY.fullmatch(text):
        raise ValueError(f"{value!r} is no amount of memory: write '500G' or '64000M'")
    return text


def _words(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(
            "a command is a list of words, so that nothing is split or expanded by surprise: "
            '["python", "train.py"], or ["bash", "-c", "…"] for a line of shell'
        )
    if isinstance(value, list):
        return [str(item) if isinstance(item, (int, float)) and not isinstance(item, bool) else item for item in value]
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("is no name for an environment variable (letters, digits and _)")
    if _OWNED.match(name):
        raise ValueError("is set by the launcher or the scheduler; gpus, tasks and launcher decide it")
    return name


def _content(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("is text: write what the program should read in quotes, such as '1' or 'true'")
    return _no_control(str(value))


def text(value: object) -> str:
    """A parameter's value as it stands in a command: `true`, `0.1`, `adam`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def verbatim(text: str) -> str:
    """The text with its braces doubled, so that nothing in it is a reference."""
    return text.replace("{", "{{").replace("}", "}}")


def flag_name(written: str) -> str:
    """`mail_type` and `--mail-type` are `mail-type`."""
    return written.replace("_", "-").removeprefix("--")


def _flag(name: str) -> str:
    flag = flag_name(name)
    if not _FLAG.fullmatch(flag):
        raise ValueError("is no long flag of sbatch; write 'mail-type' for --mail-type")
    return flag


def _flag_value(value: object) -> object:
    if not isinstance(value, (bool, str, int, float)):
        raise ValueError("is text, a number, true (a bare flag) or false (take ours away)")
    return value if isinstance(value, bool) else _one_line(str(value))


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("cannot hold line breaks or other control characters")
    return text


def _role_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name in ("self", "run"):
        raise ValueError("cannot name a role: letters, digits, - and _, and neither 'self' nor 'run'")
    return name


def _port_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a port: letters, digits, - and _, such as 'http'")
    return name


def _file_name(name: str) -> str:
    parts = name.split("/")
    if "" in parts or "." in parts or ".." in parts or _CONTROL.search(name):
        raise ValueError("is no path in the run's directory: write 'configs/model.toml'")
    if parts[0] in RECORD or parts[0].startswith("."):
        raise ValueError(f"is the record's own: {parts[0]!r} in the run's directory; choose another name")
    return name


def _folder(text: str) -> str:
    parts = text.split("/")
    if "" in parts or "." in parts or ".." in parts or _CONTROL.search(text):
        raise ValueError(f"{text!r} is no folder in outputs: write 'training'")
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("is empty: without the key the name is that of the file or folder")
    return text


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ValueError(f"{text!r} is no URL to ask: write 'http://HOST:PORT/PATH'; the host can be {{self.host}}")
    return text


def _files_apart(files: dict[str, str]) -> dict[str, str]:
    for name in files:
        if inside := next((other for other in files if other.startswith(f"{name}/")), None):
            raise ValueError(f"{name!r} cannot be both a file and the directory of {inside!r}")
    return files


def parameter_name(name: str) -> str:
    """The name of a parameter. Raises ValueError."""
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise ValueError(f"cannot name a parameter: letters, digits, - and _, and none of {', '.join(sorted(_TAKEN))}")
    return name


def _scalar(value: object) -> object:
    if not isinstance(value, (str, int, float, bool)):
        raise ValueError("is text, a number, true or false")
    return _no_control(value) if isinstance(value, str) else value


def _seed_list(value: object) -> object:
    """`"0-4"`, `"0,2,5-7"`, or a list of numbers."""
    if not isinstance(value, str):
        return value
    seeds: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ValueError(f"{value!r} is no list of seeds: write '0-4' or '0,2,5'")
        more = range(int(first), int(last if dash else first) + 1)
        if len(seeds) + more.stop - more.start > MOST_ITEMS:
            raise ValueError(f"{value!r} makes more than {MOST_ITEMS} items")
        seeds += more
    return seeds


def _function(text: str) -> str:
    if not _FUNCTION.fullmatch(text):
        raise ValueError(f"{text!r} names no function: write 'module:function'")
    return text


def _condition(value: object) -> object:
    """A value, a list of allowed ones, or a table of `min`, `max` and `not`."""
    if isinstance(value, dict):
        if not value or (unknown := [name for name in value if name not in ("min", "max", "not")]):
            wrong = f"knows no {unknown[0]!r}" if value else "is empty"
            raise ValueError(f"{wrong}: write a value, a list of allowed ones, or a table of min, max and not")
        if bad := [name for name in ("min", "max") if not _is_number(value.get(name, 0))]:
            raise ValueError(f"{bad[0]} is a number")
        return value
    for one in value if isinstance(value, list) else [value]:
        _scalar(one)
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


def _result_name(name: str) -> str:
    parts = name.split("/")
    if "" in parts or "." in parts or ".." in parts or _CONTROL.search(name):
        raise ValueError(f"{name!r} is no path in the directory: write 'result.json'")
    if parts[0] in RECORD or parts[0] == "pool":
        raise ValueError(f"{parts[0]!r} is the record's own; choose another name")
    return name


@cache
def _docstrings() -> dict[str, dict[str, str]]:
    """The text under each field, by model."""
    found: dict[str, dict[str, str]] = {}
    source = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    for model in (node for node in source.body if isinstance(node, ast.ClassDef)):
        for field, below in pairwise(model.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found.setdefault(model.name, {})[name] = inspect.cleandoc(text)
    return found


def description(model: type[BaseModel], field: str) -> str:
    """The text under a field, on one line; empty where it has none."""
    found = (_docstrings().get(base.__name__, {}).get(field) for base in model.__mro__)
    return " ".join(next(filter(None, found), "").split())


def _table_or(other: str, value: object) -> object:
    """The value, unless it is neither a table nor, as its key allows as well, something else."""
    if isinstance(value, (str, int, float, list)):
        raise ValueError(
            f"should be a table, or {other}, not {text(value) if isinstance(value, bool) else repr(value)}"
        )
    return value


def _choice(value: object) -> object:
    return {"type": value} if isinstance(value, str) else _table_or("a name in quotes", value)


def _image(text: str) -> str:
    if not text or text.startswith("-"):
        raise ValueError(f"{text!r} names no image: write a path, or a name as the runtime writes it")
    return text


def _mount(text: str) -> str:
    """`SOURCE:TARGET[:ro]`; a path alone is seen under its own name."""
    source, *rest = text.split(":")
    target, mode = rest[0] if rest else source, rest[1] if len(rest) > 1 else ""
    if len(rest) > 2 or mode not in ("", "ro") or not all(part.startswith("/") for part in (source, target)):
        raise ValueError(f"{text!r} is no mount: write 'SOURCE:TARGET' or 'SOURCE:TARGET:ro', paths that begin with /")
    return ":".join((source, target, *([mode] if mode else [])))


def _inside(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is no directory inside the container: write a path that begins with /")
    return text


_DURATION_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}], "examples": ["36:00:00", "10m"]}

Text = Annotated[str, BeforeValidator(lambda value: _no_control(value) if isinstance(value, str) else value)]
Duration = Annotated[int, BeforeValidator(_seconds), WithJsonSchema(_DURATION_SCHEMA)]
Walltime = Annotated[
    int, BeforeValidator(_walltime), WithJsonSchema({"type": "string", "examples": ["36:00:00", "1-12:00:00", "90m"]})
]
Memory = Annotated[str, BeforeValidator(_memory), WithJsonSchema({"type": ["string", "integer"], "examples": ["500G"]})]
Command = Annotated[
    tuple[Text, ...],
    BeforeValidator(_words),
    Field(min_length=1),
    WithJsonSchema({"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1}),
]
_NAMES_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Names = Annotated[tuple[str, ...], BeforeValidator(_listed), WithJsonSchema(_NAMES_SCHEMA)]
Line = Annotated[str, AfterValidator(_one_line)]
Folder = Annotated[str, AfterValidator(_folder)]
Name = Annotated[str, AfterValidator(_not_empty)]
Url = Annotated[Text, AfterValidator(_url)]
Image = Annotated[str, AfterValidator(_one_line), AfterValidator(_image)]
Mount = Annotated[str, AfterValidator(_one_line), AfterValidator(_mount)]
Inside = Annotated[str, AfterValidator(_one_line), AfterValidator(_inside)]
Flag = Annotated[str, AfterValidator(_flag)]
PortName = Annotated[str, AfterValidator(_port_name)]
PortNames = Annotated[tuple[PortName, ...], BeforeValidator(_listed), WithJsonSchema(_NAMES_SCHEMA)]
FlagNames = Annotated[tuple[Flag, ...], BeforeValidator(_listed), WithJsonSchema(_NAMES_SCHEMA)]
Variables = Annotated[
    dict[Annotated[str, AfterValidator(_variable)], Annotated[str, BeforeValidator(_content)]],
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number"]}}),
]
Flags = Annotated[
    dict[Flag, Annotated[str | bool, BeforeValidator(_flag_value)]],
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}),
]
Variable = Annotated[str | int | float | bool, BeforeValidator(_scalar)]
Files = Annotated[
    dict[Annotated[str, AfterValidator(_file_name)], Text],
    AfterValidator(_files_apart),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]
Value: TypeAlias = "bool | int | float | str"
"""What a parameter can be."""
ParameterName = Annotated[str, AfterValidator(parameter_name)]
Parameters = Annotated[
    dict[ParameterName, Annotated[Any, BeforeValidator(_scalar)]],
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}),
]
SeedList = Annotated[
    tuple[Annotated[int, Field(ge=0, strict=True)], ...],
    BeforeValidator(_seed_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}),
]
Amount = Annotated[float, Field(ge=0)]
Estimate = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, (int, float)) else value),
    WithJsonSchema({"type": ["string", "number"]}),
]
FunctionName = Annotated[str, AfterValidator(_function)]
Conditions = Annotated[
    dict[Annotated[str, Field(min_length=1)], Annotated[Any, BeforeValidator(_condition)]],
    Field(min_length=1),
    WithJsonSchema({"type": "object", "minProperties": 1}),
]
Expression = Annotated[str, AfterValidator(_expression)]
ResultName = Annotated[str, AfterValidator(_result_name)]
Count = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[int, Field(ge=1, strict=True)]
Nodes = Annotated[int, Field(ge=1, le=MOST_NODES, strict=True)]
Replicas = Annotated[int, Field(ge=1, le=MOST_REPLICAS, strict=True)]
Truth = Annotated[bool, Field(strict=True)]
Seed = Annotated[
    int,
    Field(ge=0, strict=True),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"const": "random"}]}),
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The docstring under each field is its description. Read here, where somebody asks for a schema: pydantic's
        use_attribute_docstrings does it at every start, for 11 ms."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        for model in reversed(cls.__mro__):
            for name, text in _docstrings().get(model.__name__, {}).items():
                schema["properties"][cls.model_fields[name].alias or name]["description"] = text
        return schema


class Choice(_Model):
    """A launcher or a topology by name, with options of its own: `"torchrun"` or `{ type = "torchrun", … }`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    """Its name, such as `torchrun` or `torchft`."""

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


@dataclass(frozen=True, slots=True)
class _OrBoolean:
    """In the schema: a table, or yes or no. Made where somebody asks for it: two of them cost every start 15 ms."""

    table: type[BaseModel]

    def __get_pydantic_json_schema__(self, *_: object) -> dict[str, Any]:
        return {"anyOf": [{"type": "boolean"}, self.table.model_json_schema()]}


ChoiceOf = Annotated[
    Choice,
    BeforeValidator(_choice),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "required": ["type"]}]}),
]


class Ready(_Model):
    """When a replica counts as ready. Exactly one of port, http and file."""

    port: str | None = None
    """The name of one of the role's ports: ready when something listens there."""
    http: Url | None = None
    """A URL: ready when it answers with 2xx or 3xx."""
    file: Text | None = None
    """A path: ready when it exists."""
    within: Duration = 600
    """How long it may take; after that the job fails and says so."""

    @model_validator(mode="after")
    def _one(self) -> Ready:
        given = [name for name in ("port", "http", "file") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of port, http and file, not {' and '.join(given) or 'none'}")
        return self


class Container(_Model):
    """A container in which commands run; each step enters it, never the whole script."""

    model_config = ConfigDict(frozen=True, extra="allow")

    runtime: str
    """Which runtime starts it: `pyxis`, `charliecloud`, `apptainer`, `podman`, or an installed one."""
    image: Image
    """The image: a path, or a name as that runtime writes it."""
    mounts: tuple[Mount, ...] = ()
    """What of the node is seen inside, `"SOURCE:TARGET"` or `"SOURCE:TARGET:ro"`; the project's root always is."""
    workdir: Inside | None = None
    """Directory inside in which commands start; by default the experiment's own."""
    writable: Truth | None = None
    """Whether programs may write into the image's files; what they write is gone with the step."""
    remap_root: Truth | None = None
    """Whether the user is root inside."""
    mount_home: Truth | None = None
    """Whether the home directory is seen inside."""
    env: Variables = {}
    """Environment inside, on top of every other and of what the image sets."""

    @property
    def options(self) -> dict[str, Any]:
        """Further keys, which an installed runtime may have."""
        return dict(self.model_extra or {})


class RoleKeys(_Model):
    """What a role may say. At the top of the file these keys mean `roles.main`."""

    command: Command | None = None
    """The program and its arguments, word by word."""
    launcher: ChoiceOf = Choice(type="exec")
    """What starts the processes of one replica: `exec`, `torchrun`, `srun`, or an installed one."""
    topology: ChoiceOf | None = None
    """What adds companion roles around this one."""
    replicas: Replicas = 1
    """How many independent copies run, each a step of its own."""
    nodes: Nodes | None = None
    """Nodes of each replica. Without nodes and gpus the role takes the whole allocation, or one node of an allocation
    without GPUs if it says cpus."""
    gpus: Annotated[int, Field(ge=0, strict=True)] | Literal["shared"] | None = None
    """GPUs of each replica on each of its nodes; `"shared"` uses those of the role it stands beside."""
    tasks: Positive | None = None
    """Processes on each node; the launchers `srun` and `torchrun` take one for each GPU if it is not said."""
    cpus: Positive | None = None
    """CPUs of each replica on each of its nodes; otherwise a fair share of what the others leave."""
    kind: Literal["main", "service", "sidecar"] = "main"
    """`main`: the job ends when all mains are done. `service`: must outlive them. `sidecar`: may die unnoticed."""
    beside: str | None = None
    """The role whose nodes this one shares."""
    after: Names = ()
    """Roles that must be ready (or, as mains, done) before this one starts."""
    ready: Ready | None = None
    """When a replica of this role counts as ready."""
    ports: PortNames = ()
    """Names of TCP ports, each replica gets its own."""
    restarts: Count = 0
    """How often a replica that ends badly is started again while the others go on."""
    min_replicas: Positive | None = None
    """How many replicas the job cannot do without; without it all of them."""
    resume_command: Command | None = None
    """The command in an attempt that goes on from a checkpoint of the run's own, `{load}`."""
    resume_flags: Command | None = None
    """Words behind the command in such an attempt: `["--resume", "{load}"]`."""


class Role(RoleKeys):
    """One `[roles.NAME]` table."""

    env: Variables = {}
    """Environment of this role, on top of the experiment's."""
    container: Container | None = None
    """Container of this role, in place of the experiment's."""


class Allocation(_Model):
    """What is asked of the scheduler."""

    nodes: Nodes = 1
    """Nodes."""
    gpus: Count = 0
    """GPUs on each node."""
    cpus: Positive | None = None
    """CPUs on each node."""
    mem: Memory | None = None
    """Memory on each node, `"500G"`."""
    time: Walltime | None = None
    """Time limit, `"36:00:00"` or `"2-00:00:00"`."""
    partition: Line | None = None
    """Partition, or an alias that the cluster's profile knows; `"auto"` for the one that would start the job soonest,
    which Slurm is asked for at submission."""
    qos: Line | None = None
    """Quality of service; a profile's qos table can bring account, partition, memory and CPUs with it."""
    account: Line | None = None
    """Account to charge, or an alias that the cluster's profile knows."""
    sbatch: Flags = {}
    """Any other sbatch flag by its long name; `true` is a bare flag, `false` takes one of ours away."""


class Setup(_Model):
    """What prepares the environment at the start of the job: `[setup]`, or a list for `lines` alone."""

    modules: tuple[Text, ...] = ()
    """Environment modules, loaded in this order."""
    venv: Text | Literal[False] | None = None
    """Virtual environment to activate. By default the project's `.venv`, if there is one and none is active."""
    lines: tuple[Text, ...] = ()
    """Lines of bash, run last; the first that fails ends the job."""


def _lines(value: object) -> object:
    return {"lines": value} if isinstance(value, list) else _table_or("a list of lines of bash", value)


class _OrLines:
    """The schema of a table that may be written as a list of text."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "array", "items": {"type": "string"}}, handler(core_schema)]}


SetupOf = Annotated[
    Setup,
    BeforeValidator(_lines),
    _OrLines(),
]


class Lookup(_Model):
    """A table that gives a parameter from others: `[sweep.lookup.NAME]`."""

    by: Names
    """The parameters that choose the entry, in the order in which the table is nested."""
    table: dict[str, Any]
    """The entries. One that is a table itself gives `{NAME.KEY}` for each of its keys."""


class Sweep(_Model):
    """`[sweep]`: many items from one file. Every key that is not listed here is a parameter."""

    model_config = ConfigDict(frozen=True, extra="allow")

    mode: Literal["jobs", "array", "pool"] | None = None
    """How items run: each a job of its own, as tasks of Slurm arrays, or side by side in one allocation. By default
    `"pool"` where the file has a `[pool]`, else `"jobs"`."""
    max_parallel: Positive | None = None
    """How many items run at once at the most; `gangrun throttle` changes it."""
    max_nodes: Positive | None = None
    """How many nodes the items may hold at once."""
    seeds: SeedList = ()
    """One item for each seed: `"0-4"`."""
    zip: tuple[dict[str, Any], ...] = ()
    """Groups of parameters whose lists go together, value by value."""
    list: tuple[dict[str, Any], ...] = ()
    """Combinations one by one; `name` in one of them names the item."""
    glob: Text | None = None
    """One item for each file that matches, relative to the file that says it: its path is `{path}`."""
    exclude: tuple[dict[str, Any], ...] = ()
    """Combinations to leave out: items in which all of these values meet."""
    lookup: dict[ParameterName, Lookup] = {}
    """Parameters that follow from others."""

    @property
    def axes(self) -> dict[str, Any]:
        """The parameters by name, as they were written."""
        return dict(self.model_extra or {})


class Pool(_Model):
    """`[pool]`: how the items of a sweep share one allocation."""

    engine: Literal["steps", "ray"] = "steps"
    """What starts the items: Slurm's own steps (processes on this machine), or a Ray cluster of the job's own."""
    gpus: Amount | None = None
    """GPUs of each item, all on one node; a fraction where the engine can share one. One if there are any."""
    cpus: Positive | None = None
    """CPUs of each item; otherwise its share of a node by its GPUs, or one."""
    estimate: Estimate | None = None
    """Seconds that an item will take, or anything proportional to them: longest first. May calculate:
    `"{steps} * {batch} / 100"`."""
    timeout: Duration | None = None
    """How long an item may take before it is ended as failed."""
    retries: Count = 0
    """How often an item that fails is tried again."""
    continue_: Truth = Field(default=False, alias="continue")
    """Whether a further job is queued for what the time limit leaves undone."""
    own_step: Truth = False
    """Whether each item is a Slurm step of its own, which `sacct` and `squeue -s` show by the item's name."""
    call: FunctionName | None = None
    """`"module:function"`, called in workers that stay alive, with the item's parameters, in place of a command."""


class Verdict(_Model):
    """What the result of an item must say for it to count as done: `verdict = { file = …, where = … }`."""

    file: ResultName
    """The JSON file that each attempt writes into the item's directory."""
    where: Conditions
    """Path in it = what must stand there: a value, a list of allowed ones, or a table of `min`, `max` and `not`. Parts
    of a path are joined by dots; `*` is every entry."""


class Hang(_Model):
    """When an attempt hangs: `hang = { silent = "10m" }`."""

    silent: Annotated[Duration, Field(ge=1)] | None = None
    """How long none of the item's mains has printed anything, from their start on."""
    last_line: Expression | None = None
    """A regular expression that the last line of one of their logs matches, and goes on matching for 5 s."""

    @model_validator(mode="after")
    def _any(self) -> Hang:
        if self.silent is None and self.last_line is None:
            raise ValueError("needs silent, last_line, or both")
        return self


class Merge(_Model):
    """What becomes of the results: `merge = { file = …, into = … }`."""

    file: ResultName
    """The JSON file in each item's directory."""
    into: ResultName
    """The one in the run's."""


class Campaign(_Model):
    """`[campaign]`: how the items of a pool are judged, tried again and put together."""

    attempts: Positive = 3
    """How often an item is tried."""
    verdict: Command | Verdict | None = None
    """What decides whether an attempt succeeded, in place of its exit code: a command that ends with 0, or a rule on a
    JSON file."""
    hang: Hang | None = None
    """When an attempt hangs, and is ended as failed."""
    merge: Command | Merge | None = None
    """What is done with the results when all items have ended: a command, or a rule."""


class Monitor(_Model):
    """What watches the nodes: `[monitor]`, or `false` for none."""

    on: Truth = True
    """Whether a small program on each node writes down what the job uses there."""
    every: Annotated[Duration, Field(ge=1)] = 15
    """How long between two samples."""


MonitorOf = Annotated[
    Monitor,
    BeforeValidator(lambda value: {"on": value} if isinstance(value, bool) else _table_or("true or false", value)),
    _OrBoolean(Monitor),
]


_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _switch(value: object) -> bool:
    """Strict, as whoever writes `debug = "nothing"` means none."""
    known = _SWITCH.get(str(value).lower()) if isinstance(value, (bool, int, str)) else None
    if known is None:
        raise ValueError(f"{value!r} is neither yes nor no: write true or false (yes, no, on, off, 1 and 0 do as well)")
    return known


Switch = Annotated[
    bool,
    BeforeValidator(_switch),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": [0, 1, "yes", "no", "on", "off", "true", "false"]}]}),
]


def _pattern(text: str) -> str:
    if text.startswith("/") or ".." in text.split("/"):
        raise ValueError(f"{text!r} leads out of the directory: write a pattern such as 'checkpoints/model_*.pth'")
    return _no_control(text.rstrip("/"))


Pattern = Annotated[str, AfterValidator(_pattern), Field(min_length=1)]


class Load(_Model):
    """The checkpoint that a run begins with, `{load}` in commands. Exactly one of from and path."""

    from_: Text | None = Field(default=None, alias="from")
    """The step that makes it, as in `needs`: its newest run's directory is where to look."""
    path: Text | None = None
    """The file itself, or a directory in which to look; relative to the file that says it."""
    glob: Pattern = "model_*.pth"
    """Which files or directories are checkpoints, relative to the directory; every `*` stands for a number."""
    pick: Literal["newest"] = "newest"
    """Which of them: `newest` is the one with the highest number."""

    @model_validator(mode="after")
    def _one(self) -> Load:
        if (self.from_ is None) is (self.path is None):
            raise ValueError(f"needs exactly one of from and path, not {'none' if self.path is None else 'both'}")
        return self


class Resume(_Model):
    """The checkpoint of its own with which a later attempt of a run goes on, `{load}` in commands."""

    glob: Pattern = "model_*.pth"
    """Which files or directories are checkpoints, relative to the run's directory; every `*` stands for a number."""
    pick: Literal["newest"] = "newest"
    """Which of them: `newest` is the one with the highest number."""


class Code(_Model):
    """`[code]`: which files of the project the run uses."""

    snapshot: Truth = False
    """Whether it uses a copy of what git tracks, with its changes, taken at submission, instead of the files as they
    are when it runs."""


def _entries(value: object, above: str = "") -> dict[str, str]:
    """A table of tables as one of dotted keys, with values as such a list holds them."""
    if not isinstance(value, dict):
        raise ValueError("should be a table: { lr = 0.1, seed = 3 }")
    flat: dict[str, str] = {}
    for name, inner in value.items():
        key = f"{above}{name}"
        if isinstance(inner, dict):
            flat |= _entries(inner, f"{key}.")
        elif isinstance(inner, (str, int, float)):
            flat[key] = text(inner)
        else:
            raise ValueError(f"{key} should be text, a number, true or false")
        for part in (key, flat.get(key, "")):
            if re.search(r"\s", part) or "=" in key:
                raise ValueError(f"{key}={flat.get(key)} cannot stand in it: the program splits it at blanks")
    return flat


Entries = Annotated[
    dict[str, str],
    BeforeValidator(_entries),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "object"]}}),
]
Dotlists = dict[Annotated[str, AfterValidator(_variable)], Entries]


class Requeue(_Model):
    """When a job that did not end by itself is queued again, as the run's next attempt: `[requeue]`, or `true`."""

    limit: Count = 10
    """How often the run goes on after its time limit."""
    preemption: Count = 100
    """How often it goes on after a preemption."""
    node: Count = 5
    """How often it goes on after the loss of a node; the next attempts keep off that node."""
    signal_before: Annotated[Duration, Field(ge=1)] = 120
    """How long before the time limit the program is warned, by the file that `GANGRUN_WARNING` names."""
    signal: Literal["USR1", "USR2", "INT", "HUP"] | None = None
    """A signal by which the mains are warned, too."""


def _requeued(value: object) -> object:
    return ({} if value else None) if isinstance(value, bool) else _table_or("true or false", value)


RequeueOf = Annotated[
    Requeue | None,
    BeforeValidator(_requeued),
    _OrBoolean(Requeue),
]


class Wandb(_Model):
    """The run's name for Weights & Biases: `[wandb]`. Set as environment variables, over which `[env]` wins."""

    project: Text | None = None
    """Project; without it the experiment's name."""
    entity: Text | None = None
    """Team or user whose project it is."""
    group: Text | None = None
    """Group; without it experiment and step without the seed."""
    notes: Text | None = None
    """Notes; without them the run's directory."""
    tags: Names = ()
    """Tags."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """`offline` keeps everything in the run's directory; the default where the cluster's nodes have no internet."""


class Spec(RoleKeys):
    """An experiment file."""

    extends: Names = ()
    """Files that this one builds on, relative to it: tables merge deeply, lists replace, later files win."""
    experiment: Name | None = None
    """Name of the experiment, by default the folder's."""
    step: Name | None = None
    """Name of the step, by default the file's."""
    seed: Seed | None = None
    """Seed of the run, `{seed}` in commands; by default the number that ends the file's name after `_`. `"random"` is
    a number that is drawn when the run is made, and stays the run's."""
    cluster: str | None = None
    """Profile of the cluster; by default the one that is found here, else `local`."""
    workdir: Text | None = None
    """Directory in which commands start, relative to the file that says it; by default the project's root."""
    template: Text | None = None
    """A script template of your own, relative to the file that says it."""
    debug: Switch = False
    """Whether the job tells more about itself: traced setup, stacks of crashes, NCCL's words, which rank runs where."""
    grace: Duration = 30
    """Seconds between asking a replica to stop and making it."""
    allocation: Allocation = Allocation()
    """Nodes, GPUs, CPUs, memory and time to ask for."""
    env: Variables = {}
    """Environment of every role."""
    dotlist: Dotlists = {}
    """Variables that hold a configuration as `a=1 b.c=2`, by name: a table of its keys, with references."""
    output: Folder | None = None
    """A folder in `outputs` where the run is linked, too: `training` is outputs/training/<experiment>/<step>/…"""
    setup: SetupOf = Setup()
    """Modules, virtual environment and lines of bash at the start of the job."""
    monitor: MonitorOf = Monitor()
    """What watches CPUs, memory, disk and GPUs of the nodes while the job runs."""
    container: Container | None = None
    """Container of every role that names none."""
    code: Code = Code()
    """Which files of the project the run uses."""
    files: Files = {}
    """Small text files that the run's directory gets when it is made: path in it = text, with references."""
    variables: dict[str, Variable] = {}
    """Values for a script template of your own, by the names that it uses; text with references."""
    wandb: Wandb | None = None
    """The run's name for Weights & Biases."""
    needs: Names = ()
    """Steps whose newest run must have succeeded before this one starts: `STEP`, or `EXPERIMENT/STEP`."""
    load: Load | None = None
    """The checkpoint to begin with."""
    resume: Resume | None = None
    """The checkpoint of its own with which a later attempt goes on."""
    requeue: RequeueOf = None
    """When the job is queued again and goes on as the next attempt; `true` for the defaults."""
    roles: dict[Annotated[str, AfterValidator(_role_name)], Role] = {}
    """The roles by name."""
    parameters: Parameters = {}
    """Values that strings refer to as `{NAME}`; a sweep's go over them."""
    sweep: Sweep | None = None
    """Many items from this one file."""
    pool: Pool | None = None
    """How the items of a sweep share one allocation."""
    campaign: Campaign | None = None
    """How the items of a pool are judged, tried again and put together."""


class Qos(_Model):
    """What comes with a quality of service on this cluster."""

    account: Line | None = None
    """Account."""
    partition: Line | None = None
    """Partition."""
    mem: Memory | None = None
    """Memory on each node."""
    cpus: Positive | None = None
    """CPUs on each node."""
    time: Walltime | None = None
    """Time limit."""


class Profile(_Model):
    """A cluster: `clusters/NAME.toml`."""

    scheduler: Literal["slurm", "local"] = "slurm"
    """What runs the jobs."""
    cluster_name: Line | None = None
    """Slurm's own name of the cluster, by which the profile is found; without it the profile's name."""
    slurm_conf: str | None = None
    """Path of slurm.conf, where the commands do not find it by themselves."""
    defaults: Allocation = Allocation()
    """Any key of `[allocation]`, used where the experiment says nothing."""
    partitions: dict[str, Line] = {}
    """Alias in experiments → partition here. Where there is such a table, `"auto"` chooses among these."""
    accounts: dict[str, Line] = {}
    """Alias in experiments → account here."""
    qos: dict[str, Qos] = {}
    """What each quality of service brings with it."""
    setup: SetupOf = Setup()
    """Run before the experiment's own."""
    env: Variables = {}
    """Environment of every job here; the experiment's wins."""
    internet: Truth = True
    """Whether the nodes reach the internet; where they do not, `[wandb]` keeps its data for later."""
    container: Container | None = None
    """Container for experiments that name none."""
    require: FlagNames = ()
    """Flags that this site insists on, such as `account`."""
    forbid: FlagNames = ()
    """Flags that this site refuses, such as `mem`; they are left out."""
