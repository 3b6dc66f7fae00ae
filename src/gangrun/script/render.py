"""Plan to text. Every decision is made here or before; the template only lays lines out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import SandboxedEnvironment

import gangrun
from gangrun.errors import Problem, SpecError
from gangrun.plan.model import Addresses, Checkpoint, Code, Host, Part, Plan, Replica, Requeue, Word
from gangrun.script.parts import prelude
from gangrun.script.quote import bash, directive, known_text, literal

_FOLDER = files("gangrun.script")


def render(plan: Plan, run_name: str, run_dir: str, first_attempt: int = 1) -> str:
    """The batch script of this plan under a run's name and directory. Raises SpecError for a user's broken template."""
    path = plan.template
    try:
        text = Path(path).read_text(encoding="utf-8") if path else template()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SpecError([Problem("template", f"cannot be read: {why}", str(path))]) from error
    values = {
        "header": list(_header(plan, run_name, run_dir)),
        "version": gangrun.__version__,
        "run_name": run_name,
        "run_dir": literal(run_dir),
        "first_attempt": first_attempt,
        "grace": plan.grace,
        "setup": list(_setup(plan)),
        "prelude": prelude(plan.scheduler),
        "begin": " ".join(_begin(plan)),
        "body": list(_body(plan)),
        "plan": plan,
    }
    for name, value in plan.variables:
        if name in values:
            raise SpecError([Problem(f"variables.{name}", "is what every template gets under this name", str(path))])
        values[name] = known_text(value, run_name, run_dir) if isinstance(value, Word) else value
    try:
        return _compiled(text).render(values)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # Whatever an expression in a user's template can run into.
        line = error.lineno if isinstance(error, TemplateSyntaxError) else 0
        way_out = "gangrun script --template prints the one to start from"
        raise SpecError([Problem("template", str(error), str(path), line, way_out)]) from error


def render_array(plan: Plan, name: str, folder: str, items: Sequence[str]) -> str:
    """The batch script of an array under its name and directory: task N hands over to the script of `items[N]`."""
    header = [line for line in _header(plan, name, folder) if not line.startswith("--output=")]
    header.append(directive("output", f"{in_pattern(folder)}/%a.log"))
    lines = [f"#SBATCH {line}" for line in header]
    return f"""#!/usr/bin/env bash
{chr(10).join(lines)}
# A Slurm array, written by gangrun {gangrun.__version__}: each task is the item of its number, with its own script.
ITEMS=(
{chr(10).join(f"  {literal(item)}" for item in items)}
)
item=${{ITEMS[SLURM_ARRAY_TASK_ID]}}
ln -sfn -- {literal(folder)}/"$SLURM_ARRAY_TASK_ID.log" "$item/job.log"
exec bash "$item/script.sh"
"""


@cache
def template() -> str:
    """The template to copy and change."""
    return (_FOLDER / "script.sh.j2").read_text(encoding="utf-8")


@cache
def _compiled(text: str) -> Template:
    # Compiling takes 2 ms, which 200 submissions in one call would pay 200 times.
    return SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True, autoescape=False
    ).from_string(text)


def _header(plan: Plan, run_name: str, run_dir: str) -> Iterator[str]:
    if plan.scheduler != "slurm":
        return
    named = dict(plan.allocation.flags)
    yield directive("job-name", run_name)
    for name, value in plan.allocation.flags:
        yield directive(name, value)
    if plan.requeue and not named.keys() & {"requeue", "no-requeue"}:
        yield directive("requeue", None)
    if "comment" not in named:
        yield directive("comment", run_name)
    if "output" not in named:
        # Appending keeps the log of a requeued job.
        yield directive("output", f"{in_pattern(run_dir)}/job.log")
        yield directive("open-mode", "append")


def in_pattern(path: str) -> str:
    """Slurm replaces %x in file names, and %% is a percent sign; but in a name with a backslash it replaces nothing and
    takes the backslashes away."""
    return path.replace("\\", "\\\\") if "\\" in path else path.replace("%", "%%")


def _setup(plan: Plan) -> Iterator[str]:
    if plan.requeue:
        yield f"requeue {' '.join(_requeue(plan.requeue))}"
    if plan.code:
        yield f"say {literal(f'code: {plan.code.words}; copied to {plan.code.copy}')}"
    if plan.debug:
        yield "export GANGRUN_DEBUG=yes"
        yield "PS4='+ \\t '"
        yield "set -x"
    yield f"cd -- {literal(plan.workdir)} || end workdir 1"
    # Whole, as an indented or split here-document or quoted text would be another one.
    yield from (text.rstrip("\n") for text in plan.setup)
    if plan.waits:
        yield f"needs {' '.join(map(literal, plan.waits))}"
    if plan.checkpoint:
        yield from _load(plan.checkpoint)
    yield from _addresses(plan, [word for _, word in plan.env])
    yield from (f"export {name}={bash(word)}" for name, word in plan.env)
    if plan.code:
        yield from _imports(plan.code)
    if plan.debug:
        yield "set +x"


def _imports(code: Code) -> Iterator[str]:
    """Before any work: no Python imports the project from where it may have changed."""
    named = [f"--package {literal(path)}" for path in code.packages]
    named += [f"--module {literal(path)}" for path in code.modules]
    for one in code.imports if named else ():
        path = f"PYTHONPATH={bash(one.path)} " if one.path else ""
        places = " ".join(map(literal, (code.copy, code.live, code.project, one.first)))
        # A program without Python needs none for this.
        missing = f"! type -P {bash(one.python)} >/dev/null"
        yield f'{missing} || {path}{bash(one.python)} "$RUN_DIR/node/copied.py" {places} {" ".join(named)}'


def _requeue(wanted: Requeue) -> Iterator[str]:
    """First of all, as an attempt that should not have begun is to end before it does anything."""
    counts = {name: getattr(wanted, name) for name in ("limit", "preemption", "node", "before")}
    yield from (f"{name}={value}" for name, value in counts.items() if value)
    if wanted.signal:
        yield f"signal={wanted.signal}"
    if wanted.items:
        yield "items=yes"
    elif wanted.glob:
        yield f"glob={literal(wanted.glob)}"


def _load(checkpoint: Checkpoint) -> Iterator[str]:
    """Before anything takes a GPU: no checkpoint, no start."""
    words = []
    if checkpoint.own:
        words.append(f'--own "$RUN_DIR" {literal(checkpoint.own)}')
    if checkpoint.path:
        words.append(f"--from {literal(checkpoint.path)} {literal(checkpoint.glob)}")
    yield f'LOAD=$(python3 "$RUN_DIR/node/checkpoint.py" {" ".join(words)})'
    yield 'if [[ $LOAD == "$RUN_DIR"/* ]]; then RESUMED=true; else RESUMED=false; fi'


def _addresses(plan: Plan, words: Sequence[Word]) -> Iterator[str]:
    """The lists of addresses that the words refer to, by ROLE.PORT."""
    for used in dict.fromkeys(part for word in words for part in word.parts if isinstance(part, Addresses)):
        parts: list[Part] = []
        for replica in plan.replicas:
            if replica.role == used.role:
                parts += [",", Host(replica.nodes[0]), ":", dict(replica.ports)[used.port]]
        yield f"ADDRESSES[{used.role}.{used.port}]={bash(Word.of(*parts[1:]))}"


def _begin(plan: Plan) -> Iterator[str]:
    """Nodes, ports, `NODE:OFFSET` of every port, which must be free on its replica's first node, and spare nodes."""
    yield str(plan.allocation.nodes)
    yield str(plan.ports)
    checks = [f"{replica.nodes[0]}:{port.offset}" for replica in plan.replicas for _, port in replica.ports]
    spares = plan.spare_nodes
    if checks or spares:
        yield ",".join(checks) or "''"
    if spares:
        yield ",".join(map(str, spares))


def _body(plan: Plan) -> Iterator[str]:
    """A `start` for each replica; roles that others wait for are waited for right before the first of these.

    What gangrun adds starts after all that can start at once, so that nobody's first line comes later for it.
    """
    by_role: dict[str, list[Replica]] = {}
    words: list[Word] = []
    for replica in plan.replicas:
        by_role.setdefault(replica.role, []).append(replica)
        words += [*replica.argv, *replica.again, *replica.step_flags, *(word for _, word in replica.env)]
        words += [replica.ready.target] if replica.ready else []
    yield from _addresses(plan, words)  # here, as hosts change where a spare node takes the place of another
    waited: set[str] = set()
    own = list(plan.own)
    for replicas in by_role.values():
        for other in replicas[0].after:
            if other not in waited:
                yield from (line for replica in own for line in _start(plan, replica))
                own.clear()
                waited.add(other)
                yield from _wait(by_role[other])
        for replica in replicas:
            yield from _start(plan, replica)
    yield from (line for replica in own for line in _start(plan, replica))
    for name, replicas in by_role.items():
        if name not in waited and replicas[0].ready:
            yield from _wait(replicas)


def _wait(replicas: list[Replica]) -> Iterator[str]:
    for replica in replicas:
        if replica.ready:
            yield f"ready {replica.name} {replica.ready.kind} {bash(replica.ready.target)} {replica.ready.within}"
        elif replica.kind == "main":
            yield f"await {replica.name}"


def _start(plan: Plan, replica: Replica) -> Iterator[str]:
    master = next((port for name, port in replica.ports if name == "master"), None) if replica.ranks else None
    # A step that begins inside its container cannot look for what that is made of, and says so itself.
    parts = ":".join(part for part in replica.parts if ":" not in part) if not replica.step_flags else ""
    # Only what differs from the defaults that `start` has in the prelude, so that a person sees what is special.
    keys = {
        "nodes": ",".join(map(str, replica.nodes)),
        "gpus": ",".join(map(str, replica.gpus)),
        "cpus": replica.cpus,
        "tasks": replica.tasks if replica.tasks > 1 else None,
        "threads": replica.threads if replica.cpus and replica.threads != replica.cpus // replica.tasks else None,
        "restarts": replica.restarts,
        "spare": replica.spare,
        "ranks": int(replica.ranks),
        "master": bash(Word((master,))) if master else None,
        "alone": None if replica.alone else "0",
        "node_cpus": None if replica.alone else plan.allocation.cpus,
        "parts": bash(Word.of(parts)) if parts else None,
        "flags": len(replica.step_flags),
    }
    given = [f"{name}={value}" for name, value in keys.items() if value]
    words = [replica.role, str(replica.index), replica.kind, *given, *map(bash, replica.step_flags)]
    environment = [bash(Word.of(f"{name}=", *word.parts)) for name, word in replica.env]

    def lines(argv: Sequence[Word]) -> Iterator[str]:
        yield f"start {' '.join(words)} -- \\"
        yield "  " + " ".join([*(["env", *environment] if environment else []), *map(bash, argv)])

    if not replica.again:
        yield from lines(replica.argv)
        return
    yield "if [[ $RESUMED == true ]]; then"
    yield from (f"  {line}" for line in lines(replica.again))
    yield "else"
    yield from (f"  {line}" for line in lines(replica.argv))
    yield "fi"
