"""From an RL configuration to resolved components and a plan of three roles."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gangrun.errors import SpecError
from gangrun.plan.model import Plan, Word
from gangrun.recipes import rl
from gangrun.recipes.training import FABRIC, Job
from gangrun.resolve import resolve
from gangrun.script.quote import known_text, shown
from gangrun.script.render import render
from gangrun.spec.model import Profile
from gangrun.spec.profile import Cluster

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Write = Callable[..., Path]

DENSE = """
job_name = "hendrycks-math"

num_train_nodes = 1
num_infer_nodes = 1

max_steps = 500
seq_len = 2048

[wandb]
project = "hendrycks-math"
name = "hendrycks-math"

[model]
name = "Qwen/Qwen3-4B-Instruct-2507"

[orchestrator]
batch_size = 128
rollouts_per_example = 16

[orchestrator.sampling]
max_tokens = 2048

[[orchestrator.env]]
id = "math-env"
name = "hendrycks-math"
args = { dataset_name = "PrimeIntellect/Hendrycks-Math", dataset_subset = "default" }

[inference.parallel]
tp = 1
dp = 8
"""
"""The dense example of the rl_slurm documentation, as it is printed there."""

MOE = """
job_name = "hendrycks-math-moe"

num_train_nodes = 1
num_infer_nodes = 1

max_steps = 500
seq_len = 2048

[weight_broadcast]
type = "nccl"

[model]
name = "Qwen/Qwen3-30B-A3B-Thinking-2507"

[trainer.model]
impl = "custom"
attn = "flash_attention_3"
optim_cpu_offload = true

[trainer.model.ac_offloading]
max_inflight_activations = 5

[trainer.model.ac]
freq = 1

[orchestrator]
batch_size = 512
rollouts_per_example = 16

[orchestrator.sampling]
max_tokens = 2048

[[orchestrator.env]]
id = "math-env"
name = "hendrycks-math"
args = { dataset_name = "PrimeIntellect/Hendrycks-Math", dataset_subset = "default" }

[inference.parallel]
tp = 4
dp = 2
"""
"""The same for the mixture of experts."""

SMALL = "num_train_nodes = 1\nnum_infer_nodes = 1\n[inference]\n"


@pytest.fixture
def job(write: Write) -> Callable[..., Job]:
    """`job(text, *flags)` is the job of a file with this text."""
    return lambda text, *flags: rl.job(["@", str(write(text, "exp/a.toml")), *flags])


@pytest.fixture
def refused(job: Callable[..., Job]) -> Callable[..., list[str]]:
    """The words of every problem of a configuration."""

    def words(*args: str) -> list[str]:
        with pytest.raises(SpecError) as caught:
            plan_of(job(*args))
        return [str(problem) for problem in caught.value.problems]

    return words


def plan_of(job: Job, **profile: Any) -> Plan:
    return resolve(job.experiment, Cluster("site", Profile.model_validate(profile)))


def configs(plan: Plan, folder: str = "configs") -> dict[str, Any]:
    """The components' files, by name, once the run is at /out."""
    return {
        Path(name).stem: tomllib.loads(known_text(word, "e_s_1", "/out"))
        for name, word in plan.files
        if Path(name).parent == Path(folder)
    }


def command(plan: Plan, role: str) -> str:
    return " ".join(shown(word) for replica in plan.replicas if replica.role == role for word in replica.argv)


def again(plan: Plan, role: str) -> str:
    """The command in an attempt that goes on; empty where it is the same."""
    return " ".join(shown(word) for replica in plan.replicas if replica.role == role for word in replica.again)


def test_the_dense_example_as_it_is_printed(job: Callable[..., Job]) -> None:
    plan = plan_of(job(DENSE))
    assert configs(plan) == {
        "trainer": {
            "max_steps": 500,
            "output_dir": "/out",
            "model": {"name": "Qwen/Qwen3-4B-Instruct-2507", "seq_len": 2048},
            "tokenizer": {"name": "Qwen/Qwen3-4B-Instruct-2507"},
            "wandb": {"project": "hendrycks-math", "name": "hendrycks-math-trainer"},
        },
        "orchestrator": {
            "batch_size": 128,
            "rollouts_per_example": 16,
            "seq_len": 2048,
            "max_steps": 500,
            "num_train_workers": 8,
            "output_dir": "/out/run_default",
            "model": {"name": "Qwen/Qwen3-4B-Instruct-2507"},
            "sampling": {"max_tokens": 2048},
            "wandb": {"project": "hendrycks-math", "name": "hendrycks-math-orchestrator"},
            "env": [
                {
                    "id": "math-env",
                    "name": "hendrycks-math",
                    "args": {"dataset_name": "PrimeIntellect/Hendrycks-Math", "dataset_subset": "default"},
                }
            ],
        },
        "inference": {"model": {"name": "Qwen/Qwen3-4B-Instruct-2507"}, "parallel": {"tp": 1, "dp": 8}},
    }
    assert (plan.experiment, plan.step) == ("exp", "hendrycks-math")
    assert plan.allocation.nodes == 2
    assert dict(plan.allocation.flags) == {"nodes": "2", "ntasks-per-node": "1", "gres": "gpu:8", "exclusive": None}
    roles = {replica.role: replica for replica in plan.replicas}
    assert [(role.nodes, role.kind, role.gpus) for role in roles.values()] == [
        ((0,), "service", tuple(range(8))),
        ((1,), "main", tuple(range(8))),
        ((1,), "main", ()),
    ]
    assert roles["orchestrator"].after == ("inference",)
    assert (
        command(plan, "inference") == "uv run inference @ ${RUN_DIR}/configs/inference.toml --server.port ${PORTS[0]}"
    )
    assert command(plan, "trainer") == (
        "torchrun --standalone --nproc-per-node=8 --no-python uv run trainer @ ${RUN_DIR}/configs/trainer.toml"
    )
    urls = '["http://${HOSTS[0]}:${PORTS[0]}/v1"]'
    config = "${RUN_DIR}/configs/orchestrator.toml"
    assert command(plan, "orchestrator") == f"uv run orchestrator @ {config} --client.base-url {urls}"


def test_an_attempt_that_goes_on_has_configurations_of_its_own(job: Callable[..., Job]) -> None:
    plan = plan_of(job(DENSE, "--ckpt.interval", "10", "--ckpt.resume-step", "20"))
    assert plan.checkpoint
    assert plan.checkpoint.own == "checkpoints/step_*"
    first, later = configs(plan), configs(plan, "configs/resumed")
    assert later == {
        name: {**first[name], "ckpt": {"interval": 10, "resume_step": -1}} for name in ("trainer", "orchestrator")
    }
    for role in later:
        assert again(plan, role) == command(plan, role).replace("/configs/", "/configs/resumed/")
    assert again(plan, "inference") == ""
    # A command in [gangrun.roles] is the user's whole word.
    plan = plan_of(job(DENSE, "--gangrun.roles.trainer.command", '["mine"]'))
    assert (again(plan, "trainer"), set(configs(plan, "configs/resumed"))) == ("", {"orchestrator"})
    assert "ln -sfn -- /elsewhere/checkpoints" in "".join(plan_of(job(DENSE, "--output-dir", "/elsewhere")).setup)
    assert "/checkpoints" not in "".join(plan.setup)


def test_nccl_has_a_host_a_free_port_and_the_right_world_size(job: Callable[..., Job]) -> None:
    plan = plan_of(job(MOE, "--num-infer-nodes", "3"))
    told = configs(plan)
    assert told["trainer"]["weight_broadcast"] == {"type": "nccl", "host": "0.0.0.0", "inference_world_size": 24}
    assert [told[name]["weight_broadcast"] for name in ("orchestrator", "inference")] == [{"type": "nccl"}] * 2
    assert told["trainer"]["model"]["ac_offloading"] == {"max_inflight_activations": 5}
    assert command(plan, "trainer").endswith("--weight_broadcast.port ${PORTS[3]}")
    assert command(plan, "orchestrator").endswith(
        '--client.base-url ["http://${HOSTS[0]}:${PORTS[0]}/v1", "http://${HOSTS[1]}:${PORTS[1]}/v1", '
        '"http://${HOSTS[2]}:${PORTS[2]}/v1"] --weight_broadcast.host ${HOSTS[3]} --weight_broadcast.port ${PORTS[3]}'
    )


def test_ports_that_are_said_stay(job: Callable[..., Job]) -> None:
    flags = ("--inference.server.port", "8000", "--weight-broadcast.port", "29501", "--weight_broadcast.timeout", "60")
    plan = plan_of(job(MOE, *flags))
    told = configs(plan)
    assert told["inference"]["server"] == {"port": 8000}
    assert told["orchestrator"]["weight_broadcast"] == {"type": "nccl", "port": 29501, "timeout": 60}
    assert plan.ports == 0
    assert command(plan, "orchestrator").endswith('["http://${HOSTS[0]}:8000/v1"] --weight_broadcast.host ${HOSTS[1]}')
    assert shown(plan.replicas[0].ready.target) == "http://${HOSTS[0]}:8000/health"  # type: ignore[union-attr]


def test_no_host_for_a_broadcast_through_files(job: Callable[..., Job]) -> None:
    plan = plan_of(job(SMALL, "--weight_broadcast.type", "filesystem"))
    assert all(told["weight_broadcast"] == {"type": "filesystem"} for told in configs(plan).values())
    assert "weight_broadcast" not in command(plan, "orchestrator") + command(plan, "trainer")


def test_every_shared_key_reaches_every_component_that_has_it(job: Callable[..., Job]) -> None:
    told = configs(
        plan_of(
            job(
                """
num_train_nodes = 2
num_infer_nodes = 1
max_async_level = 2
max_model_len = 4096
[log]
level = "debug"
file = false
json_logging = true
[ckpt]
interval = 10
resume_step = 20
keep_last = 3
keep_interval = 100
[wandb]
offline = true
[inference]
"""
            )
        )
    )
    for name in ("trainer", "orchestrator"):
        assert told[name]["max_async_level"] == 2
        assert told[name]["log"] == {"level": "debug", "file": False, "json_logging": True}
        assert told[name]["ckpt"] == {"interval": 10, "resume_step": 20, "keep_last": 3, "keep_interval": 100}
        assert told[name]["wandb"] == {"offline": True}
    assert told["orchestrator"]["num_train_workers"] == 16
    assert told["inference"] == {"model": {"max_model_len": 4096}, "parallel": {"dp": 8}}


def test_fsdp_groups(job: Callable[..., Job]) -> None:
    plan = plan_of(job(SMALL, "--num_train_nodes", "4", "--nodes-per-fsdp-group", "2"))
    assert configs(plan)["trainer"]["model"] == {"dp_replicate": 2}


def test_components_own_keys_pass_untouched(job: Callable[..., Job]) -> None:
    told = configs(plan_of(job(SMALL + 'x = "None"\n[trainer]\nnull = "None"\nodd = "{run.name} {{x}} $y"\n')))
    assert told["inference"]["x"] == "None"
    assert told["trainer"]["null"] == "None"
    assert told["trainer"]["odd"] == "{run.name} {{x}} $y"


def test_a_tokenizer_of_its_own_stays(job: Callable[..., Job]) -> None:
    told = configs(plan_of(job(SMALL, "--model.name", "a", "--trainer.tokenizer.name", "b")))
    assert (told["trainer"]["model"]["name"], told["trainer"]["tokenizer"]["name"]) == ("a", "b")


def test_no_inference_of_our_own(job: Callable[..., Job]) -> None:
    plan = plan_of(job("num_train_nodes = 1\nnum_infer_nodes = 0\n"))
    assert [replica.role for replica in plan.replicas] == ["trainer", "orchestrator"]
    assert command(plan, "orchestrator") == "uv run orchestrator @ ${RUN_DIR}/configs/orchestrator.toml"


def test_commands_of_ones_own(job: Callable[..., Job]) -> None:
    text = (
        SMALL
        + """
[commands]
inference = ["serve", "{config}", "--port", "{port}", "--at", "{self.host}"]
trainer = ["-m", "train", "{config}"]
orchestrator = ["orchestrate", "{urls}", "{inference.addresses.http}"]
"""
    )
    plan = plan_of(job(text, "--num-infer-nodes", "2", "--gpus-per-node", "4"))
    assert command(plan, "inference").startswith("serve ${RUN_DIR}/configs/inference.toml --port ${PORTS[0]} --at")
    assert (
        command(plan, "trainer") == "torchrun --standalone --nproc-per-node=4 -m train ${RUN_DIR}/configs/trainer.toml"
    )
    assert command(plan, "orchestrator").endswith("] ${ADDRESSES[inference.http]}")
    assert again(plan, "orchestrator") == "", "it reads no configuration"


def test_places(job: Callable[..., Job], tmp_path: Path) -> None:
    done = job(SMALL, "--project-dir", "src", "--output-dir", "out/{x}", "--hf-hub-offline")
    assert done.output_dir == tmp_path / "src/out/{x}"
    plan = plan_of(done)
    assert plan.workdir == str(tmp_path / "src")
    told = configs(plan)
    assert told["trainer"]["output_dir"] == f"{tmp_path}/src/out/{{x}}"
    assert told["orchestrator"]["output_dir"] == f"{tmp_path}/src/out/{{x}}/run_default"
    offline = {replica.role for replica in plan.replicas if "HF_HUB_OFFLINE" in dict(replica.env)}
    assert offline == {"trainer", "orchestrator"}
    assert f"mkdir -p -- '{tmp_path}/src/out/{{x}}'/slurm" in render(plan, "n", "/out")
    assert plan_of(job(SMALL)).step == "a"


def test_what_is_asked_of_slurm(job: Callable[..., Job]) -> None:
    more = ("--slurm.partition", "big", "--slurm.time", "2h", "--slurm.cpus", "64", "--slurm.sbatch.nice", "100")
    flags = dict(plan_of(job(SMALL, *more)).allocation.flags)
    assert {key: flags[key] for key in ("partition", "time", "cpus-per-task", "nice")} == {
        "partition": "big", "time": "02:00:00", "cpus-per-task": "64", "nice": "100",
    }  # fmt: skip
    assert "exclusive" not in flags
    assert "exclusive" not in dict(plan_of(job(SMALL, "--slurm.sbatch.exclusive", "false")).allocation.flags)


def test_any_key_of_an_experiment_can_be_laid_over(job: Callable[..., Job]) -> None:
    text = (
        SMALL
        + """
[gangrun]
grace = "2m"
env = { NCCL_DEBUG = "WARN" }
roles.inference.ready.within = "5s"
roles.watch = { kind = "sidecar", command = ["nvidia-smi", "dmon"] }
"""
    )
    plan = plan_of(job(text))
    assert plan.grace == 120
    assert [replica.ready.within for replica in plan.replicas if replica.ready] == [5]
    assert "watch" in {replica.role for replica in plan.replicas}


# ---- a template of one's own


TEMPLATE = """#!/bin/bash
#SBATCH --job-name={{ job_name }}
cd {{ project_dir }} {{ output_dir }} {{ orchestrator_output_dir }} {{ config_dir }}
{{ num_train_nodes }} {{ num_infer_nodes }} {{ gpus_per_node }} {{ hf_hub_offline }} {{ plan.allocation.nodes }}
"""


@pytest.mark.parametrize("flag", ["--slurm.template-path", "--template-path", "--slurm_template"])
def test_a_template_gets_the_variables_and_the_plan(
    flag: str, job: Callable[..., Job], write: Write, tmp_path: Path
) -> None:
    write(TEMPLATE, "mine.sh.j2")
    assert render(plan_of(job(SMALL, flag, "mine.sh.j2")), "exp_a_1", "/out") == (
        f"#!/bin/bash\n#SBATCH --job-name=a\ncd {tmp_path} /out /out/run_default /out/configs\n1 1 8 False 2\n"
    )


def test_a_template_in_the_file_is_relative_to_it(job: Callable[..., Job], write: Write) -> None:
    write(TEMPLATE, "exp/mine.sh.j2")
    assert plan_of(job(f'template_path = "mine.sh.j2"\n{SMALL}')).template == str(Path.cwd() / "exp/mine.sh.j2")


def test_a_template_that_is_not_there_or_said_twice(refused: Callable[..., list[str]], write: Write) -> None:
    write("", "a.j2")
    (missing,) = refused(f'template_path = "no.j2"\n{SMALL}')
    assert missing == f"exp/a.toml:1: template_path: there is no file {Path.cwd()}/exp/no.j2"
    twice = refused(SMALL, "--template-path", "a.j2", "--slurm.template-path", "no.j2")
    assert any("conflicts with slurm.template_path" in problem for problem in twice)


@pytest.mark.parametrize("text", ["{{ nodes }}", "{% for x in %}", "{{ ''.__class__.__mro__ }}", "{{ 1 / 0 }}"])
def test_a_template_that_fails(text: str, job: Callable[..., Job], write: Write) -> None:
    write(text, "bad.j2")
    plan = plan_of(job(SMALL, "--template-path", "bad.j2"))
    with pytest.raises(SpecError, match=r"bad\.j2"):
        render(plan, "n", "/out")


# ---- problems


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        (
            SMALL + "[wandb]\nfoo = 1\n",
            "",
            ["exp/a.toml:5: wandb.foo: unknown key in wandb (there are name, offline, project)"],
        ),
        (SMALL, "--wandb.nme x", ["--wandb.nme: wandb.nme: unknown key in wandb (did you mean 'name'?)"]),
        ("num_train_node = 1\n" + SMALL, "", ["exp/a.toml:1: num_train_node: unknown key at the top (did you mean"]),
        ("max_steps = 1\n", "", ["exp/a.toml: num_train_nodes: is missing", "exp/a.toml: num_infer_nodes: is missing"]),
        (
            "max_steps = 500\n" + SMALL + "[trainer]\nmax_steps = 5\n",
            "",
            ["exp/a.toml:6: trainer.max_steps: 5 conflicts with max_steps = 500 (exp/a.toml:1) (keep"],
        ),
        (
            SMALL + "[trainer]\nmax_steps = 5\n[orchestrator]\nmax_steps = 6\n",
            "",
            ["exp/a.toml:7: orchestrator.max_steps: 6 conflicts with trainer.max_steps = 5 (exp/a.toml:5) (give"],
        ),
        (
            SMALL + '[trainer.model]\nname = "a"\n',
            "--model.name b",
            ["exp/a.toml:5: trainer.model.name: 'a' conflicts with model.name = 'b' (--model.name)"],
        ),
        (
            SMALL + "[trainer]\nmodel.seq_len = 8\n[orchestrator]\nseq_len = 9\n",
            "",
            ["exp/a.toml:5: trainer.model.seq_len: 8 is less than orchestrator.seq_len = 9 (exp/a.toml:7):"],
        ),
        (
            "num_train_nodes = 1\nnum_infer_nodes = 2\n",
            "",
            ["exp/a.toml:2: num_infer_nodes: 2 nodes, but there is no [inference] to run on them (write"],
        ),
        (
            SMALL,
            "--num-infer-nodes 0",
            ["exp/a.toml:3: inference: has no nodes: num_infer_nodes = 0 (give it nodes, or leave it out)"],
        ),
        (
            "nodes_per_fsdp_group = 2\n" + SMALL,
            "--num-train-nodes 3",
            ["exp/a.toml:1: nodes_per_fsdp_group: 3 nodes do not divide into groups of 2 (choose a divisor of"],
        ),
        (
            SMALL + "parallel = { tp = 3 }\n",
            "",
            ["exp/a.toml:4: inference.parallel.tp: 8 GPUs of a node do not divide into groups of 3 (choose a divisor"],
        ),
        (
            SMALL + 'parallel = { tp = "4", dp = 0 }\n',
            "",
            [
                "exp/a.toml:4: inference.parallel.tp: should be a whole number from 1, not '4'",
                "exp/a.toml:4: inference.parallel.dp: should be a whole number from 1, not 0",
            ],
        ),
        (
            SMALL + "parallel = 4\n",
            "",
            ["exp/a.toml:4: inference.parallel: 4 leaves no room for inference.parallel.dp"],
        ),
        (
            SMALL + "parallel = { tp = 4, dp = 4 }\n",
            "",
            ["exp/a.toml:4: inference.parallel: tp x dp = 16 GPUs, and a node has gpus_per_node = 8"],
        ),
        (
            SMALL + "[orchestrator]\nnum_train_workers = 4\n",
            "",
            ["exp/a.toml:5: orchestrator.num_train_workers: 4 conflicts with num_train_nodes x"],
        ),
        (
            SMALL + '[trainer]\noutput_dir = "x"\n',
            "",
            ["exp/a.toml:5: trainer.output_dir: 'x' conflicts with the output directory, which the job's output_dir"],
        ),
        (
            SMALL + '[ckpt]\ninterval = 5\n[trainer]\nckpt = "None"\n',
            "",
            ["exp/a.toml:7: trainer.ckpt: 'None' leaves no room for trainer.ckpt.interval"],
        ),
        (SMALL, "--gangrun.pool.gpus 1", ["--gangrun.pool.gpus: gangrun.pool.gpus: is about many items, and this is"]),
        (SMALL, "--slurm.time 90", ["--slurm.time: slurm.time: 90 could mean minutes or seconds"]),
        (SMALL, "--slurm.sbatch.array 1-3", ["--slurm.sbatch.array: slurm.sbatch.array: --array is gangrun's own"]),
        (
            SMALL,
            "--gangrun.gracee 3",
            ["--gangrun.gracee: gangrun.gracee: unknown key at the top (did"],
        ),
        (
            SMALL + '[commands]\ntrainer = ["t.py", "{nothing}"]\n',
            "",
            ["exp/a.toml: roles.trainer.command[1]: unknown reference {nothing}"],
        ),
    ],
)
def test_problems_name_their_keys_and_places(
    text: str, flags: str, words: list[str], refused: Callable[..., list[str]]
) -> None:
    found = refused(text, *shlex.split(flags))
    assert len(found) == len(words), found
    for one, start in zip(found, words, strict=True):
        assert one.startswith(start), one


# ---- what the job prepares


def test_infiniband_is_found_where_it_is_up(tmp_path: Path) -> None:
    for name, state, layer in (
        ("mlx5_0/ports/1", "4: ACTIVE", "InfiniBand"),
        ("mlx5_1/ports/1", "1: DOWN", "InfiniBand"),
        ("mlx5_2/ports/1", "4: ACTIVE", "Ethernet"),
        ("mlx5_3/ports/2", "4: ACTIVE", "InfiniBand"),
    ):
        port = tmp_path / "class/infiniband" / name
        port.mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
        (port / "link_layer").write_text(f"{layer}\n")
    there = FABRIC.replace("infiniband /sys", f"infiniband {shlex.quote(str(tmp_path))}")
    said = 'echo "${NCCL_IB_HCA-none}"'
    for text, env, found in (
        (there, {}, "=mlx5_0:1,mlx5_3:2"),
        (there, {"NCCL_IB_HCA": "mine"}, "mine"),
        (there.replace(str(tmp_path), f"{tmp_path}/none"), {}, "none"),
    ):
        done = subprocess.run(["bash", "-ec", f"{text}\n{said}"], env=env, capture_output=True, text=True, check=False)
        assert (done.stdout.strip(), done.stderr) == (found, "")


def test_words_stay_words(job: Callable[..., Job]) -> None:
    plan = plan_of(job(SMALL, "--output-dir", "a b/$c"))
    assert all(isinstance(word, Word) for _, word in plan.files)
    subprocess.run(["bash", "-n"], input=render(plan, "n", "/out x"), text=True, check=True)
