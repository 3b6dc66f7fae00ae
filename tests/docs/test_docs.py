"""What the pages say is so: files load, commands run and print what is shown, tables hold every key, links lead on."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import jsonschema
import pytest
from pydantic import BaseModel, TypeAdapter

import gangrun
from gangrun import clusters
from gangrun.cli import COMMANDS
from gangrun.lab import Lab, packages
from gangrun.plan import extensions
from gangrun.recipes import rl, sft, training
from gangrun.record import events, state
from gangrun.resolve import resolve
from gangrun.scheduler.model import FINAL_STATES
from gangrun.script.render import render
from gangrun.spec import model, toml
from gangrun.spec.load import load
from gangrun.sweeps import SweepPlan, plan_of
from tests.docs.pages import PAGES, REPOSITORY, Block, Page, all_pages, code
from tests.docs.session import install, play, project_of

EVERY_PAGE = all_pages()
KINDS = {
    "toml",
    "toml experiment",
    "toml fragment",
    "toml profile",
    "toml package",
    "toml rl",
    "console",
    "console run",
    "console slurm",
    "python",
    "python extension",
    "bash",
    "text",
}


def page(name: str) -> Page:
    return next(one for one in EVERY_PAGE if one.name == name)


def blocks(*kinds: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for one in EVERY_PAGE for block in one.blocks if block.kind in kinds]


def pages_with(kind: str) -> list[Page]:
    return [one for one in EVERY_PAGE if any(block.kind == kind for block in one.blocks)]


def home_of(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes the block among the other files of its page, whose extensions can be imported, and returns its path."""
    own = page(block.page)
    project = project_of(own, folder)
    monkeypatch.syspath_prepend(folder / "site")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return project.write(block.file or "experiments/001_page/000_block_0.toml", block.text)


def test_every_page_is_there() -> None:
    assert [path.name for path in PAGES if not path.is_file()] == []
    assert len(blocks("toml experiment")) >= 15
    assert len(blocks("console run")) >= 15


@pytest.mark.parametrize("one", EVERY_PAGE, ids=str)
def test_every_block_says_what_it_is(one: Page) -> None:
    assert [f"{block}: {block.kind}" for block in one.blocks if block.kind not in KINDS] == []


# ---- files


@pytest.mark.parametrize("block", blocks("toml experiment"))
def test_experiment_becomes_a_script(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home_of(block, tmp_path, monkeypatch)
    experiment = load(file)
    planned = plan_of(experiment, clusters.named(experiment.spec.cluster or "slurm", experiment.project))
    plan = planned.items[0].plan if isinstance(planned, SweepPlan) else planned
    script = render(plan, "name", str(experiment.project / "outputs"))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    jsonschema.validate(toml.read(file)[0], model.Spec.model_json_schema())


@pytest.mark.parametrize("block", blocks("toml rl"))
def test_rl_configuration_becomes_a_job(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home_of(block, tmp_path, monkeypatch)
    job = rl.job(["@", str(file)])
    render(resolve(job.experiment, clusters.named("slurm", job.experiment.project)), "name", str(tmp_path))


@pytest.mark.parametrize("block", blocks("toml fragment"))
def test_fragment_is_a_part_of_an_experiment(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home_of(block, tmp_path, monkeypatch)
    load(file)
    jsonschema.validate(toml.read(file)[0], model.Spec.model_json_schema())


@pytest.mark.parametrize("block", blocks("toml profile"))
def test_profile_loads(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home_of(block, tmp_path, monkeypatch)
    assert clusters.named(file.stem, file.parents[1]).file == str(file)
    jsonschema.validate(toml.read(file)[0], model.Profile.model_json_schema())


@pytest.mark.parametrize("block", blocks("python", "python extension"))
def test_python_compiles_and_names_what_exists(block: Block) -> None:
    tree = ast.parse(block.text, str(block))
    modules: dict[str, ModuleType] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gangrun"):
            for name in node.names:
                found = getattr(import_module(str(node.module)), name.name, None)
                found = found or import_module(f"{node.module}.{name.name}")
                if isinstance(found, ModuleType):
                    modules[name.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("block", blocks("python extension"))
def test_extension_is_short(block: Block) -> None:
    assert block.text.count("\n") < 30


@pytest.mark.parametrize("group", ["launchers", "topologies", "containers"])
def test_there_is_an_example_of_every_extension(
    group: extensions.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(page("docs/topologies-and-launchers.md"), tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    added = set(extensions.names(group)) - set(extensions.BUILT_IN[group])
    assert added, f"no page shows how to add to the {group}"
    for name in added:
        assert callable(extensions.find(group, name))


# ---- commands


@pytest.mark.parametrize("one", pages_with("console run"), ids=str)
def test_commands_do_what_the_page_shows(one: Page, tmp_path: Path) -> None:
    project = project_of(one, tmp_path)
    project.env["GANGRUN_CLUSTER"] = "local"
    wrong = [words for block in one.blocks if block.kind == "console run" for words in play(project, block)]
    assert not wrong, "\n\n".join(wrong)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    if absent := packages.missing(accounting=False):
        pytest.skip(f"packages are absent: {' '.join(absent)}")
    lab = Lab(f"docs{os.environ.get('PYTEST_XDIST_WORKER', '')}")
    lab.down()
    lab.up(nodes=4, gpus=8)
    yield lab
    lab.down()


@pytest.mark.slurm
@pytest.mark.parametrize("one", pages_with("console slurm"), ids=str)
def test_commands_do_on_a_cluster_what_the_page_shows(one: Page, tmp_path: Path, lab: Lab) -> None:
    project = project_of(one, tmp_path)
    project.write("clusters/lab.toml", lab.profile.read_text(encoding="utf-8"))
    project.env.update(SLURM_CONF=str(lab.slurm_conf), GANGRUN_CLUSTER="lab")
    wrong = [words for block in one.blocks if block.kind == "console slurm" for words in play(project, block)]
    assert not wrong, "\n\n".join(wrong)


def said(one: Page) -> Iterator[tuple[str, str]]:
    """Where and how a page speaks of a gangrun command."""
    for number, line in one.prose:
        yield from ((f"{one.name}:{number}", span) for span in re.findall(r"`(gangrun [^`]+)`", line))
    for block in one.blocks:
        if block.language in ("console", "bash"):
            for line in block.text.splitlines():
                start = r"\$ " if block.language == "console" else ""
                found = re.match(start + r"(?:sudo )?(?:eval \"\$\()?(gangrun [^#>|)]+)", line)
                if found:
                    yield str(block), found[1]


@pytest.mark.parametrize("one", EVERY_PAGE, ids=str)
def test_commands_and_flags_exist(one: Page) -> None:
    known = {name for group in COMMANDS.values() for name in group}
    wrong = []
    for where, text in said(one):
        words = shlex.split(text.replace("…", ""))[1:]
        words = words[: words.index("--")] if "--" in words else words
        if words and words[0] in known:
            parser = argparse.ArgumentParser()
            import_module(f"gangrun.cli.{words[0]}").add_arguments(parser)
            usage = parser.format_help()
            for action in parser._actions:
                if isinstance(action, argparse._SubParsersAction) and len(words) > 1:
                    for choice in words[1].split("|"):
                        if choice in action.choices:
                            usage += action.choices[choice].format_help()
                        elif choice.islower():
                            wrong.append(f"{where}: {text}")
            flags = [word.partition("=")[0] for word in words if word.startswith("-")]
            if words[0] in ("rl", "sft"):  # their other flags are keys, and told by the tables
                flags = []
            wrong += [f"{where}: {text}: {flag}" for flag in flags if not re.search(rf"{flag}\b", usage)]
        elif words and words[0] not in ("--help", "--version", "COMMAND"):
            wrong.append(f"{where}: {text}")
    assert wrong == []


# ---- what is listed


TABLES: list[tuple[str, str, type[BaseModel], set[str]]] = [
    ("docs/experiment-file.md", "The file", model.Spec, set(model.RoleKeys.model_fields)),
    ("docs/experiment-file.md", "Roles", model.Role, set()),
    ("docs/experiment-file.md", "`ready`", model.Ready, set()),
    ("docs/experiment-file.md", "`[allocation]`", model.Allocation, set()),
    ("docs/experiment-file.md", "`[sweep]`", model.Sweep, set()),
    ("docs/experiment-file.md", "`[pool]`", model.Pool, set()),
    ("docs/experiment-file.md", "`[campaign]`", model.Campaign, set()),
    ("docs/experiment-file.md", "`verdict`", model.Verdict, set()),
    ("docs/experiment-file.md", "`hang`", model.Hang, set()),
    ("docs/experiment-file.md", "`merge`", model.Merge, set()),
    ("docs/experiment-file.md", "`[setup]`", model.Setup, set()),
    ("docs/experiment-file.md", "`[monitor]`", model.Monitor, set()),
    ("docs/experiment-file.md", "`[container]`", model.Container, set()),
    ("docs/experiment-file.md", "`[load]`", model.Load, set()),
    ("docs/experiment-file.md", "`[resume]`", model.Resume, set()),
    ("docs/experiment-file.md", "`[code]`", model.Code, set()),
    ("docs/experiment-file.md", "`[wandb]`", model.Wandb, set()),
    ("docs/rl-and-sft.md", "Keys of both", training.Training, set()),
    ("docs/rl-and-sft.md", "RL's own keys", rl.RL, set(training.Training.model_fields)),
    ("docs/rl-and-sft.md", "SFT's own keys", sft.SFT, set(training.Training.model_fields)),
    ("docs/rl-and-sft.md", "`[slurm]`", training.Slurm, set()),
    ("docs/profiles.md", "Every key", model.Profile, set()),
    ("docs/profiles.md", "`[qos.NAME]`", model.Qos, set()),
]


@pytest.mark.parametrize(
    ("name", "heading", "kind", "elsewhere"), TABLES, ids=[f"{row[0]}-{row[2].__name__}" for row in TABLES]
)
def test_table_holds_every_key_with_its_default_and_an_example(
    name: str, heading: str, kind: type[BaseModel], elsewhere: set[str]
) -> None:
    rows = {code(row[0]): row for row in page(name).table(heading)}
    fields = {field.alias or key: field for key, field in kind.model_fields.items()}
    assert set(rows) == set(fields) - elsewhere
    for key, (_, _, default, example, meaning) in rows.items():
        field = fields[key]
        assert meaning, key
        adapter: TypeAdapter[Any] = TypeAdapter(
            Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        )
        table = toml.tomllib.loads(code(example).replace("\\|", "|"))
        assert list(table) == [key], example
        adapter.validate_python(table[key])
        if default == "required":
            assert field.is_required(), key
        elif default == "–":
            assert not field.is_required(), key
            value = field.get_default(call_default_factory=True)
            assert not value or value == type(value)(), f"{key} has the default {value}"
        else:
            assert adapter.validate_python(toml.value_of(code(default))) == field.default, key


def test_every_reference_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a_0.toml").write_text('command = ["x", "{nonsense}"]')
    with pytest.raises(gangrun.errors.SpecError) as error:
        resolve(load(tmp_path / "a_0.toml"), clusters.named("slurm", tmp_path))
    known = set(re.findall(r"\{([a-z.]+)\}", str(error.value))) - {"nonsense"}
    listed = {code(row[0]).strip("{}") for row in page("docs/experiment-file.md").table("References")}
    assert {"seed", "run.dir"} <= known
    assert known <= listed
    of_roles = {"ROLE.host", "ROLE.port.NAME", "ROLE.1.host", "ROLE.1.port.NAME", "ROLE.addresses.NAME"}
    assert {*of_roles, "self.host", "self.port.NAME"} == listed - known


def test_every_event_is_listed_with_its_fields() -> None:
    rows = {code(row[0]): row for row in page("docs/record.md").table("Events")}
    kinds = {kind.__name__: kind for kind in events.Event.__subclasses__()}
    del kinds["Unknown"]
    assert set(rows) == set(kinds)
    for name, kind in kinds.items():
        assert set(re.findall(r"`(\w+)`", rows[name][1])) == {field.name for field in fields(kind)} - {"t"}, name


def test_every_state_is_listed() -> None:
    listed = {code(row[0]) for row in page("docs/record.md").table("States")}
    own = {value for name, value in vars(state.State).items() if name.isupper()}
    assert listed == own | FINAL_STATES | {"COMPLETING"}


def test_every_built_in_extension_is_listed() -> None:
    text = page("docs/topologies-and-launchers.md").text
    for group, names in extensions.BUILT_IN.items():
        for name in names:
            assert f"`{name}`" in text, f"{name} of the {group}"


def test_every_layer_is_in_the_architecture() -> None:
    text = page("docs/architecture.md").text
    parts = {path.stem for path in (REPOSITORY / "src/gangrun").iterdir() if not path.name.startswith("_")}
    assert {part for part in parts - {"py"} if not re.search(rf"\b{part}\b", text)} == set()


# ---- the rest


@pytest.mark.parametrize(
    "one",
    [*EVERY_PAGE, *(Page(path) for path in sorted(REPOSITORY.glob("examples/*/README.md")))],
    ids=str,
)
def test_links_lead_somewhere(one: Page) -> None:
    wrong = []
    for number, link in one.links():
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (one.path.parent / name).resolve() if name else one.path
        if not target.exists() or (anchor and anchor not in Page(target).anchors()):
            wrong.append(f"{one.name}:{number}: {link}")
    assert wrong == []


def test_readme_shows_a_shipped_example() -> None:
    block = next(block for block in page("README.md").blocks if block.kind == "toml experiment")
    assert toml.tomllib.loads(block.text) == toml.read(REPOSITORY / block.file)[0]


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {word for one in EVERY_PAGE for word in re.findall(r"(?:`|\n|\$ )make ([a-z]+)\b", one.text)}
    assert {"demo", "test", "quick", "check", "bless", "bench"} <= named
    assert named <= targets


def test_changelog_ends_at_this_version() -> None:
    newest = next(heading for heading in page("CHANGELOG.md").headings(2))
    assert re.fullmatch(r"\[(.+)\] - (Unreleased|\d{4}-\d\d-\d\d)", newest)[1] == gangrun.__version__  # type: ignore[index]


def test_json_examples_are_json() -> None:
    for one in EVERY_PAGE:
        for block in one.blocks:
            if block.language == "json":
                json.loads(block.text)
