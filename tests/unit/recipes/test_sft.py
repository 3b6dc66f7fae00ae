"""From an SFT configuration to the trainer's own and a plan of one role."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gangrun.errors import SpecError
from gangrun.recipes import sft
from gangrun.resolve import resolve
from gangrun.script.quote import known_text, shown
from gangrun.spec.model import Profile
from gangrun.spec.profile import Cluster

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Write = Callable[..., Path]

MOE = """
max_steps = 500

[wandb]
project = "sft-moe-intellect"
name = "sft-moe-math"

[model]
name = "Qwen/Qwen3-30B-A3B-Thinking-2507"
impl = "custom"

[model.compile]

[model.ac]
freq = 1

[data]
type = "sft"
subsets = ["default"]
batch_size = 128
"""


def test_what_is_no_key_of_the_job_is_the_trainers(write: Write) -> None:
    words = ["@", str(write(MOE, "exp/sft_moe.toml")), "--num-nodes", "4", "--nodes-per-fsdp-group", "2"]
    job = sft.job([*words, "--optim.lr", "1e-5", "--ckpt", "None"])
    plan = resolve(job.experiment, Cluster("site", Profile()))
    (one,) = [known_text(word, "n", "/out") for _, word in plan.files]
    given = tomllib.loads(MOE)
    assert tomllib.loads(one) == {
        **given,
        "model": {**given["model"], "dp_replicate": 2},
        "optim": {"lr": 1e-5},
        "ckpt": "None",
        "output_dir": "/out",
    }
    (trainer,) = plan.replicas
    assert plan.step == "sft_moe"
    assert trainer.nodes == (0, 1, 2, 3)
    assert [shown(word) for word in trainer.argv][-5:] == ["uv", "run", "sft", "@", "${RUN_DIR}/configs/trainer.toml"]
    assert job.script == "sft.sh"


def test_an_attempt_that_goes_on_reads_another_configuration(write: Write) -> None:
    job = sft.job(["@", str(write(MOE, "exp/sft_moe.toml")), "--ckpt.interval", "10"])
    plan = resolve(job.experiment, Cluster("site", Profile()))
    files = {name: tomllib.loads(known_text(word, "n", "/out")) for name, word in plan.files}
    first, later = files["configs/trainer.toml"], files["configs/resumed/trainer.toml"]
    assert (first["ckpt"], later) == ({"interval": 10}, {**first, "ckpt": {"interval": 10, "resume_step": -1}})
    (trainer,) = plan.replicas
    assert [shown(word) for word in trainer.again] == [
        shown(word).replace("/configs/", "/configs/resumed/") for word in trainer.argv
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_node = 2\n", "exp/a.toml:1: num_node: unknown key (did you mean 'num_nodes'?)"),
        ("nodes_per_fsdp_group = 2\nnum_nodes = 3\n", "exp/a.toml:1: nodes_per_fsdp_group: 3 nodes do not divide"),
        ("[model]\ndp_replicate = 3\n", "exp/a.toml:2: model.dp_replicate: 3 conflicts with num_nodes / nodes_per"),
        ("[slurm]\nfoo = 1\n", "exp/a.toml:2: slurm.foo: unknown key in slurm (there are account, cpus, mem"),
    ],
)
def test_problems(text: str, words: str, write: Write) -> None:
    flags = ["--num-nodes", "4", "--nodes-per-fsdp-group", "2"] if "dp_replicate" in text else []
    with pytest.raises(SpecError) as caught:
        sft.job(["@", str(write(text, "exp/a.toml")), *flags])
    assert str(caught.value).startswith(words)
