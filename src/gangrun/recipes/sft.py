"""SFT from one TOML: a trainer by torchrun. What is not a key of the job is the trainer's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gangrun.errors import SpecError
from gangrun.recipes.components import Components, as_text
from gangrun.recipes.given import Given, given, without_nulls
from gangrun.recipes.training import TEMPLATES, Config, Job, Own, Setting, Training, by_torchrun, command
from gangrun.spec.load import dotted, locate, nearest, validated
from gangrun.spec.model import Command, Positive

TRAINER = "trainer"
COMMAND = ("uv", "run", "sft", "@", "{config}")


class Commands(Config):
    """What starts the trainer."""

    trainer: Command | None = None
    """In place of `uv run sft @ {config}`; torchrun starts it once for each GPU."""


class SFT(Training):
    """The keys of an SFT configuration. Every other key is the trainer's."""

    num_nodes: Positive = 1
    """Nodes for training."""
    commands: Commands = Commands()
    """What starts the trainer."""
    trainer: Own
    """Everything else."""


def job(words: Sequence[str], *, resume: bool = False) -> Job:
    """The job that these words of a command line mean. Raises UsageError, or SpecError with every problem found."""
    told = without_nulls(_sorted_out(given(words, TEMPLATES)), but=(TRAINER,))
    told = told.also((TRAINER, "ckpt", "resume_step"), -1, "--resume") if resume else told
    config = validated(SFT, told.values, told.sources, told.file)
    setting = Setting(config, told, "sft")
    components = Components(told, (TRAINER,))
    components.groups(config.num_nodes, config.nodes_per_fsdp_group, "num_nodes", (TRAINER, "model", "dp_replicate"))
    components.set((TRAINER, "output_dir"), setting.path, "the job's own output directory")
    start = config.commands.trainer or COMMAND
    logs = {"trainer.0": "train_node_rank_0"}
    trainer = {"nodes": config.num_nodes, "launcher": by_torchrun(start), "command": command(start, TRAINER)}
    values = {
        "allocation": setting.allocation(config.num_nodes),
        "setup": setting.setup(logs),
        "variables": setting.variables(num_nodes=config.num_nodes),
        "files": {f"configs/{TRAINER}.toml": as_text(components.tables[TRAINER])},
        "roles": {TRAINER: trainer},
    }
    setting.going_on(values, components.tables, TRAINER)
    experiment = setting.experiment(values, ("num_nodes",), components.problems)
    return Job(experiment, "sft.sh", setting.output_dir, tuple(logs.values()), config.dry_run)


def _sorted_out(told: Given) -> Given:
    """The keys of the job at the top, all others below `trainer`. Raises SpecError for one that was meant for the job:
    the trainer would refuse it only once the job runs."""
    ours = SFT.model_fields.keys() - {TRAINER}
    values: dict[str, Any] = {key: value for key, value in told.values.items() if key in ours}
    values[TRAINER] = {key: value for key, value in told.values.items() if key not in ours}
    sources = {}
    for key, source in told.sources.items():
        if key[0] in ours:
            sources[key] = source
        else:
            sources[(TRAINER, *key)] = replace(source, written=dotted(key))
    close = {key: hint for key in values[TRAINER] if (hint := nearest(key, ours, cutoff=0.85))}
    if close:
        raise SpecError([locate(told.sources, told.file, (key,), "unknown key", hint) for key, hint in close.items()])
    return Given(values, sources, told.file)
