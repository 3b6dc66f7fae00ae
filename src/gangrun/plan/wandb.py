"""The run's one name for Weights & Biases, by environment variables alone: gangrun never imports wandb."""

from __future__ import annotations

from gangrun.spec.load import Experiment
from gangrun.spec.profile import Cluster
from gangrun.spec.toml import Key
from gangrun.spec.tree import split


def variables(experiment: Experiment, cluster: Cluster) -> dict[str, tuple[str, Key]]:
    """What `[wandb]` sets: for each variable its text, with references, and the key that decides it."""
    wanted = experiment.spec.wandb
    if wanted is None:
        return {}
    # The seeds of a step are one group.
    group = wanted.group or f"{experiment.experiment}_{split(experiment.step)[0]}"
    mode = wanted.mode or (None if cluster.profile.internet else "offline")
    values = {
        "WANDB_PROJECT": ("project", wanted.project or experiment.experiment),
        "WANDB_ENTITY": ("entity", wanted.entity),
        "WANDB_RUN_GROUP": ("group", group),
        "WANDB_NAME": ("name", "{run.name}"),
        "WANDB_RUN_ID": ("id", "{run.name}"),
        "WANDB_RESUME": ("resume", "allow"),  # every attempt is the same run there
        "WANDB_NOTES": ("notes", wanted.notes if wanted.notes is not None else "{run.dir}"),
        "WANDB_TAGS": ("tags", ",".join(wanted.tags) or None),
        "WANDB_DIR": ("dir", "{run.dir}"),
        "WANDB_MODE": ("mode", mode),
    }
    return {name: (text, ("wandb", key)) for name, (key, text) in values.items() if text is not None}
