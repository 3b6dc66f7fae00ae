"""Whatever stands in a file, it becomes a plan and a script, or problems that say where they are."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from gangrun.errors import InputError, Problem, SpecError
from gangrun.explain import explain
from gangrun.resolve import resolve
from gangrun.script.render import render
from gangrun.spec.load import load
from gangrun.spec.model import Profile
from gangrun.spec.profile import Cluster
from gangrun.views.plan import as_data, draw

WHOLE: dict[str, Any] = {
    "seed": 3,
    "grace": "1m",
    "workdir": ".",
    "allocation": {
        "nodes": 2,
        "gpus": 4,
        "cpus": 16,
        "mem": "10G",
        "time": "1:00:00",
        "partition": "p",
        "sbatch": {"comment": "x", "mem": False},
    },
    "env": {"A": "{run.dir}"},
    "setup": {"modules": ["m"], "lines": ["true"]},
    "container": {"runtime": "charliecloud", "image": "i", "mounts": ["/a:/b"]},
    "roles": {
        "server": {
            "kind": "service",
            "replicas": 2,
            "gpus": 2,
            "ports": ["http"],
            "command": ["serve", "{self.port.http}"],
            "ready": {"http": "http://{self.host}:{self.port.http}", "within": 60},
        },
        "trainer": {
            "nodes": 1,
            "gpus": 4,
            "cpus": 12,
            "launcher": {"type": "torchrun", "max_restarts": 1},
            "command": ["train.py", "{seed}", "{server.addresses.http}"],
            "after": "server",
            "restarts": 1,
            "env": {"B": "{index}"},
        },
        "watch": {"kind": "sidecar", "command": ["w"], "beside": "trainer"},
    },
}


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, below in inner:
        yield (*at, part)
        yield from paths(below, (*at, part))


PATHS = list(paths(WHOLE))
junk = st.recursive(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=6),
        st.sampled_from(["{", "{x}", "{a.b}", "0", "shared", "trainer", "server", "torchrun", "-1", "1:00:00"]),
        st.integers(-2, 40),
        st.booleans(),
        st.floats(),
        st.dates(),
        st.times(),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "clusters").mkdir()
    return folder


@given(st.lists(st.tuples(st.sampled_from(PATHS), junk | st.none()), max_size=3))
@settings(max_examples=150)
def test_any_file(project: Path, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    spec = copy.deepcopy(WHOLE)
    for path, value in changes:
        table = spec
        try:
            for part in path[:-1]:
                table = table[part]
            if isinstance(table, dict) and not isinstance(path[-1], str):
                continue  # a list that an earlier change made a table
            if value is None:
                del table[path[-1]]
            else:
                table[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    file = project / "step.toml"
    file.write_text(tomli_w.dumps(spec), encoding="utf-8")
    cluster = Cluster("site", Profile())
    problems: tuple[Problem, ...] = ()
    try:
        experiment = load(file)
        plan = resolve(experiment, cluster)
    except SpecError as error:
        problems = error.problems
    if problems:
        assert all(problem.what and problem.file == str(file) for problem in problems)
        assert all(problem.key or problem.line for problem in problems)
        return
    as_data(plan, explain(experiment, cluster, plan, plan.replicas))
    draw(plan, 80)
    try:
        script = render(plan, "e_s_1", str(project / "out"))
    except InputError:
        return
    if spec.get("setup") == WHOLE["setup"]:
        assert subprocess.run(["bash", "-n"], input=script.encode(), check=False).returncode == 0
