"""The experiment tree: names and seeds from paths, and the files that make no step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gangrun.errors import InputError, SpecError
from gangrun.spec import tree
from gangrun.spec.load import load

Write = Callable[..., Path]


def problems(*folders: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        tree.read([Path(folder) for folder in folders])
    return [str(problem) for problem in caught.value.problems]


def test_steps_in_the_order_of_their_ids_and_seeds(write: Write) -> None:
    names = ["010_eval_0.sh", "002_post_10.toml", "002_post_9.toml", "000_pre_train_1_0.py", "base.toml", "notes.md"]
    for name in [*names, "010_eval_0.golden.sh"]:
        write("", f"experiments/001_example/{name}")
    write("", "slurm/experiments/000_first/000_a_0.sh")
    (write("", "experiments/_drafts/000_x_0.toml").parent).joinpath("000_folder_0.toml").mkdir()
    steps = tree.read(tree.spread(tree.places(Path.cwd())))
    assert [(step.experiment, step.name, step.seed, step.file.suffix) for step in steps] == [
        ("000_first", "000_a", 0, ".sh"),
        ("001_example", "000_pre_train_1", 0, ".py"),
        ("001_example", "002_post", 9, ".toml"),
        ("001_example", "002_post", 10, ".toml"),
        ("001_example", "010_eval", 0, ".sh"),
    ]
    assert steps[1].step == "000_pre_train_1_0"


def test_two_files_with_one_identity(write: Write) -> None:
    for name in (
        "experiments/001_a/000_x_0.toml",
        "experiments/001_a/000_x_0.sh",
        "slurm/experiments/001_a/000_x_00.sh",
    ):
        write("", name)
    mend = "(give one of them another name or seed)"
    assert problems("experiments/001_a", "slurm/experiments/001_a") == [
        f"experiments/001_a/000_x_0.toml: is the same step as experiments/001_a/000_x_0.sh: 001_a/000_x_0 {mend}",
        f"slurm/experiments/001_a/000_x_00.sh: is the same step as experiments/001_a/000_x_0.sh: 001_a/000_x_00 {mend}",
    ]


def test_a_seed_that_is_no_number(write: Write) -> None:
    write("", "experiments/001_a/000_x_zero.sh")
    what = "the file's name ends in 'zero', which is no seed: <step id>_<step name>_<seed>"
    assert problems("experiments/001_a") == [
        f"experiments/001_a/000_x_zero.sh: {what} (000_x_zero_0.sh, or join the name by dashes)"
    ]
    file = write("command = ['x']", "experiments/001_a/000_x_one.toml")
    with pytest.raises(SpecError, match="ends in 'one', which is no seed"):
        load(file)
    assert load(file, ["seed=1"]).seed == 1
    assert load(write("command = ['x']", "experiments/001_a/000_x.toml")).seed is None


def test_a_folder_that_is_not_there(write: Write) -> None:
    with pytest.raises(InputError, match="there is no folder experiments/nope"):
        tree.spread([Path("experiments/nope")])


def test_seeds_without_a_file_stand_with_the_step_that_they_were_sent_as() -> None:
    file = Path("experiments/001_a/000_x_0.toml")
    steps = [tree.Step(file, "001_a", "000_x_0", 0), tree.Step(file.with_name("010_y.toml"), "001_a", "010_y", None)]
    made = {"001_a": ["000_x_2", "000_x_0", "000_x_10", "010_y", "010_y_1", "020_gone_0"]}
    found = tree.with_other_seeds(steps, made.__getitem__)
    assert [(one.step, one.seed) for one in found] == [
        ("000_x_0", 0),
        ("000_x_2", 2),
        ("000_x_10", 10),
        ("010_y", None),
        ("010_y_1", 1),
    ]
    assert found[1].file == file
