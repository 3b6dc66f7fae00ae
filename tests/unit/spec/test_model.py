"""Fields of experiment files and profiles: durations, memory, variables, flags, names; and the schema for editors."""

from __future__ import annotations

from datetime import time
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from gangrun.plan.batch import clock
from gangrun.spec.model import Allocation, Profile, Ready, Role, Spec


def words(model: type[BaseModel], **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return " | ".join(error["msg"] for error in caught.value.errors())


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("36:00:00", 129_600),
        ("00:10:00", 600),
        ("1-12:00:00", 129_600),
        ("2-00", 172_800),
        ("2-06:30", 196_200),
        ("90s", 90),
        ("10m", 600),
        ("2h", 7_200),
        ("1d", 86_400),
        (time(12, 30), 45_000),
    ],
)
def test_durations(written: object, seconds: int) -> None:
    assert Allocation.model_validate({"time": written}).time == seconds
    assert Spec.model_validate({"grace": written}).grace == seconds


@pytest.mark.parametrize(
    "written", ["1:00", "half an hour", "", "5 m", "-1:00:00", "1w", 1.5, True, [], time(0, 0, 1, 5)]
)
def test_what_is_no_duration(written: object) -> None:
    assert "duration" in words(Spec, grace=written)


def test_a_bare_number_is_seconds_but_never_a_time_limit() -> None:
    assert Spec.model_validate({"grace": 45}).grace == 45
    assert "negative" in words(Spec, grace=-1)
    # For sbatch it would be minutes.
    assert words(Allocation, time=3600).endswith("minutes or seconds: write '3600m' or '3600s'")
    assert [Allocation.model_validate({"time": one}).time for one in ("3600m", "3600s")] == [216_000, 3600]
    assert "minutes or seconds" in words(Allocation, time="90")
    assert "longer than nothing" in words(Allocation, time="00:00:00")
    assert "longer than nothing" in words(Allocation, time=0)
    assert "negative" in words(Allocation, time=-5)
    assert "is no duration" in words(Allocation, time=True)


@given(st.integers(1, 10**7))
def test_the_clock_that_is_sent_to_slurm_says_the_same(seconds: int) -> None:
    assert Allocation.model_validate({"time": clock(seconds)}).time == seconds


@pytest.mark.parametrize(
    ("written", "sent"), [("500G", "500G"), ("500g", "500G"), ("500GB", "500G"), ("64000M", "64000M"), (64000, "64000")]
)
def test_memory(written: object, sent: str) -> None:
    assert Allocation.model_validate({"mem": written}).mem == sent


@pytest.mark.parametrize("written", ["lots", "1.5G", "-1G", "500 G", "", "٣G", True, 1.5, ["1G"]])
def test_what_is_no_memory(written: object) -> None:
    assert "is no amount of memory: write '500G'" in words(Allocation, mem=written)


def test_variables_are_text() -> None:
    assert Spec.model_validate({"env": {"A": "x y", "B": 3, "C": 0.5}}).env == {"A": "x y", "B": "3", "C": "0.5"}
    for value in (True, ["x"], {"x": "y"}):
        assert "in quotes" in words(Spec, env={"A": value})
    assert "NUL" in words(Spec, env={"A": "a\0b"})
    for name in ("1A", "A-B", "", "Ä", "A\n"):
        assert "is no name for an environment variable" in words(Spec, env={name: "x"})
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "CUDA_VISIBLE_DEVICES", "GANGRUN_RUN_DIR"):
        assert "is set by the launcher or the scheduler" in words(Role, env={name: "x"})
    Spec.model_validate({"env": {"CUDA_VISIBLE_DEVICES_X": "1", "CUDA_LAUNCH_BLOCKING": "1"}})


def test_all_wrong_variables_are_told_at_once() -> None:
    told = words(Spec, env={"1A": "x", "B": True, "SLURM_X": "1", "FINE": "1"})
    assert told.count("|") == 2


def test_flags_have_one_spelling() -> None:
    flags = Allocation.model_validate(
        {"sbatch": {"mail_type": "END", "--exclusive": True, "mem": False, "nice": 5}}
    ).sbatch
    assert flags == {"mail-type": "END", "exclusive": True, "mem": False, "nice": "5"}
    for name in ("n", "-N", "Mail", "a b", ""):
        assert "is no long flag of sbatch" in words(Allocation, sbatch={name: "1"})
    assert "is text, a number, true" in words(Allocation, sbatch={"comment": ["x"]})
    profile = Profile.model_validate({"forbid": ["--mem", "mem_per_cpu"], "require": "account"})
    assert (profile.forbid, profile.require) == (("mem", "mem-per-cpu"), ("account",))


@pytest.mark.parametrize("key", ["partition", "qos", "account"])
def test_nothing_that_becomes_a_directive_breaks_its_line(key: str) -> None:
    assert "line breaks" in words(Allocation, **{key: "gpu\n#SBATCH --account=other"})
    assert "line breaks" in words(Allocation, sbatch={"comment": "a\nb"})


@pytest.mark.parametrize("name", ["self", "run", "1st", "a b", "a.b", "", "ä", "a\n"])
def test_names_that_no_role_can_have(name: str) -> None:
    assert "cannot name a role" in words(Spec, roles={name: {"command": ["x"]}})


def test_a_command_is_a_list_of_words() -> None:
    assert Role.model_validate({"command": ["a", 1, 0.5, "{x}"]}).command == ("a", "1", "0.5", "{x}")
    assert '["bash", "-c", "…"] for a line of shell' in words(Role, command="python train.py | tee log")
    for wrong in ([], [True], [["a"]], ["a\0b"]):
        words(Role, command=wrong)


def test_readiness_is_exactly_one_thing() -> None:
    assert Ready.model_validate({"port": "http", "within": "2m"}).within == 120
    assert "not none" in words(Ready, within=3)
    assert "not port and file" in words(Ready, port="a", file="b")


def test_a_launcher_by_name_or_with_options() -> None:
    assert Role.model_validate({"launcher": "torchrun"}).launcher.options == {}
    role = Role.model_validate({"launcher": {"type": "torchrun", "max_restarts": 3}})
    assert (role.launcher.type, role.launcher.options) == ("torchrun", {"max_restarts": 3})


def test_setup_as_a_list_is_its_lines() -> None:
    assert (
        Spec.model_validate({"setup": ["a", "b"]}).setup == Spec.model_validate({"setup": {"lines": ["a", "b"]}}).setup
    )


@pytest.mark.parametrize(
    ("model", "key", "most"),
    [(Allocation, "nodes", 100_000), (Role, "nodes", 100_000), (Role, "replicas", 10_000)],
)
def test_there_are_not_more_than_can_be_meant(model: type[BaseModel], key: str, most: int) -> None:
    assert getattr(model.model_validate({key: most}), key) == most
    assert f"less than or equal to {most}" in words(model, **{key: most + 1})


def test_numbers_are_not_guessed_from_text() -> None:
    for key, value in (("nodes", "2"), ("nodes", 2.0), ("nodes", True), ("nodes", 0), ("gpus", -1)):
        words(Allocation, **{key: value})
    words(Role, gpus="some")
    assert Role.model_validate({"gpus": "shared"}).gpus == "shared"


def models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    def inner(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            models(annotation, seen)
        for one in get_args(annotation):
            inner(one)

    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            inner(field.annotation)
    return seen


def test_every_key_says_what_it_is() -> None:
    found = models(Profile, models(Spec, set()))
    assert len(found) > 8
    silent = [
        f"{model.__name__}.{name}"
        for model in found
        for name, field in model.model_json_schema(ref_template="{model}")["properties"].items()
        if not field.get("description")
    ]
    assert silent == []


SPEC: dict[str, Any] = {
    "extends": "../base.toml",
    "cluster": "mila",
    "launcher": {"type": "torchrun", "max_restarts": 1},
    "command": ["train.py", 1, 0.5],
    "grace": "2m",
    "allocation": {"nodes": 2, "gpus": 8, "mem": 1000, "time": "1:00:00", "sbatch": {"mem": False, "comment": "x"}},
    "env": {"A": "x", "B": 1},
    "setup": ["module load x"],
    "container": {"runtime": "pyxis", "image": "x", "mounts": ["/a:/b"]},
    "roles": {
        "server": {"gpus": "shared", "ready": {"http": "x:1", "within": 3}, "ports": "http", "after": ["a", "b"]},
    },
}


def test_the_schema_takes_what_the_model_takes() -> None:
    Spec.model_validate(SPEC)
    validator = jsonschema.Draft202012Validator(Spec.model_json_schema())
    validator.check_schema(validator.schema)
    validator.validate(SPEC)
    validator.validate({**SPEC, "setup": {"modules": ["cuda"], "venv": False}})
    jsonschema.Draft202012Validator.check_schema(Profile.model_json_schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"comand": ["x"]},
        {"command": "x"},
        {"command": []},
        {"allocation": {"gpu": 1}},
        {"allocation": {"nodes": 0}},
        {"env": {"A": ["x"]}},
        {"roles": {"a": {"kind": "srvice"}}},
        {"roles": {"a": {"gpus": "some"}}},
        {"launcher": {"max_restarts": 1}},
    ],
)
def test_the_schema_refuses_what_the_model_refuses(wrong: dict[str, Any]) -> None:
    words(Spec, **wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, Spec.model_json_schema())


def test_a_file_of_the_run_is_no_directory_of_another() -> None:
    assert "'a' cannot be both a file and the directory of 'a/b.toml'" in words(Spec, files={"a": "x", "a/b.toml": "y"})
    assert Spec.model_validate({"files": {"a.toml": "x", "a/b.toml": "y"}}).files
