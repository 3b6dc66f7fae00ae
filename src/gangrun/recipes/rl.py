"""RL from one TOML: an inference service, a trainer by torchrun, and an orchestrator beside it, in one job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from gangrun.recipes.components import Components, as_text
from gangrun.recipes.given import given, without_nulls
from gangrun.recipes.training import TEMPLATES, Config, Job, Own, Setting, Training, as_json, by_torchrun, command
from gangrun.spec.load import validated
from gangrun.spec.model import Command, Count, Positive, Text
from gangrun.spec.toml import Table

COMPONENTS = ("trainer", "orchestrator", "inference")
SHARED: tuple[tuple[str, ...], ...] = (
    ("max_steps",),
    ("max_async_level",),
    *(("ckpt", name) for name in ("interval", "resume_step", "keep_last", "keep_interval")),
    *(("wandb", name) for name in ("project", "offline")),
    *(("log", name) for name in ("level", "file", "json_logging")),
)
"""Keys that trainer and orchestrator have under the same names."""


class Model(Config):
    """The model of all components."""

    name: Text | None = None
    """Its name or path; the trainer's tokenizer is of the same name, unless it has its own."""


class Log(Config):
    """Logging of trainer and orchestrator."""

    level: Text | None = None
    """Level."""
    file: bool | None = None
    """Whether to log to a file, too."""
    json_logging: bool | None = None
    """Whether lines are JSON."""


class Checkpoints(Config):
    """Checkpoints of trainer and orchestrator."""

    interval: Positive | None = None
    """Steps between them."""
    resume_step: int | None = None
    """The step to go on from; -1 is the last. `--resume` says -1."""
    keep_last: Positive | None = None
    """How many of the last to keep."""
    keep_interval: Positive | None = None
    """Every so many steps one is kept for good."""


class Wandb(Config):
    """Weights & Biases."""

    project: Text | None = None
    """The project of trainer and orchestrator."""
    name: Text | None = None
    """Their runs are called `NAME-trainer` and `NAME-orchestrator`."""
    offline: bool | None = None
    """Whether to write on disk only."""


class WeightBroadcast(Config):
    """How new weights reach the inference service."""

    type: Literal["filesystem", "nccl"] | None = None
    """Through files, or from GPU to GPU."""
    port: Positive | None = None
    """The port for nccl; by default one that is free."""
    timeout: Positive | None = None
    """Seconds for nccl."""


class Commands(Config):
    """What starts each component: words, in which `{config}` is its configuration."""

    trainer: Command | None = None
    """In place of `uv run trainer @ {config}`; torchrun starts it once for each GPU."""
    orchestrator: Command | None = None
    """In place of `uv run orchestrator @ {config} --client.base-url {urls}`."""
    inference: Command | None = None
    """In place of `uv run inference @ {config} --server.port {port}`."""


class RL(Training):
    """The keys of an RL configuration."""

    num_train_nodes: Positive
    """Nodes for training."""
    num_infer_nodes: Count
    """Nodes for inference, each a server of its own."""
    seq_len: Positive | None = None
    """Longest sequence: `trainer.model.seq_len`, `orchestrator.seq_len`."""
    max_model_len: Positive | None = None
    """Longest sequence that the service takes: `inference.model.max_model_len`."""
    max_steps: Positive | None = None
    """Steps of trainer and orchestrator."""
    max_async_level: Count | None = None
    """By how many steps trainer and orchestrator may be apart."""
    model: Model = Model()
    """The model of all components."""
    log: Log = Log()
    """Logging of trainer and orchestrator."""
    ckpt: Checkpoints | None = None
    """Checkpoints of trainer and orchestrator."""
    wandb: Wandb | None = None
    """Weights & Biases of trainer and orchestrator."""
    weight_broadcast: WeightBroadcast = WeightBroadcast()
    """How new weights reach the inference service."""
    commands: Commands = Commands()
    """What starts each component."""
    trainer: Own
    """The trainer's own configuration."""
    orchestrator: Own
    """The orchestrator's own configuration."""
    inference: dict[str, Any] | None = None
    """The inference service's own configuration."""


def job(words: Sequence[str], *, resume: bool = False) -> Job:
    """The job that these words of a command line mean. Raises UsageError, or SpecError with every problem found."""
    told = without_nulls(given(words, TEMPLATES), but=COMPONENTS)
    told = told.also(("ckpt", "resume_step"), -1, "--resume") if resume else told
    config = validated(RL, told.values, told.sources, told.file)
    setting = Setting(config, told, "rl")
    components = Components(told, tuple(name for name in COMPONENTS if name != "inference" or name in told.values))
    _share(config, setting, components)
    roles = _roles(config, components)
    files = {f"configs/{name}.toml": as_text(table) for name, table in components.tables.items()}
    logs = {f"inference.{index}": f"infer_node_rank_{index}" for index in range(config.num_infer_nodes)}
    logs = {"trainer.0": "train_node_rank_0", "orchestrator.0": "orchestrator", **logs}
    values: Table = {
        "allocation": setting.allocation(config.num_infer_nodes + config.num_train_nodes),
        "setup": setting.setup(logs),
        "variables": setting.variables(num_train_nodes=config.num_train_nodes, num_infer_nodes=config.num_infer_nodes),
        "files": files,
        "roles": roles,
    }
    setting.going_on(values, components.tables, "trainer", "orchestrator")
    experiment = setting.experiment(values, ("num_train_nodes",), components.problems)
    shown = [logs[name] for name in ("trainer.0", "inference.0", "orchestrator.0") if name in logs]
    return Job(experiment, "rl.sh", setting.output_dir, tuple(shown), config.dry_run)


def _share(config: RL, setting: Setting, components: Components) -> None:
    """Takes every shared key to the components that have it, and derives what follows from the numbers of nodes."""
    share, put = components.share, components.set
    share(("model", "name"), *((name, "model", "name") for name in COMPONENTS))
    name = components.get("trainer", "model", "name")
    if name is not None and components.get("trainer", "tokenizer", "name") is None:
        put(("trainer", "tokenizer", "name"), name, components.said(("model", "name"), name))
    share(("seq_len",), ("trainer", "model", "seq_len"), ("orchestrator", "seq_len"), agree=False)
    share(("max_model_len",), ("inference", "model", "max_model_len"))
    for section in ("ckpt", "wandb"):
        if getattr(config, section) is not None:
            for name in ("trainer", "orchestrator"):
                components.tables[name].setdefault(section, {})
    for key in SHARED:
        share(key, ("trainer", *key), ("orchestrator", *key), agree=key[0] != "log")
    if config.wandb is not None and (name := config.wandb.name) is not None:
        for role in ("trainer", "orchestrator"):
            put((role, "wandb", "name"), f"{name}-{role}", components.said(("wandb", "name"), name))
    _lengths(components)
    _broadcast(components)
    _sizes(config, components)
    out = "the output directory, which the job's output_dir decides"
    put(("trainer", "output_dir"), setting.path, out)
    put(("orchestrator", "output_dir"), f"{setting.path}/run_default", out)


def _lengths(components: Components) -> None:
    longest, wanted = components.get("trainer", "model", "seq_len"), components.get("orchestrator", "seq_len")
    if isinstance(longest, int) and isinstance(wanted, int) and longest < wanted:
        key = ("trainer", "model", "seq_len")
        said = components.said(("orchestrator", "seq_len"), wanted)
        components.problem(key, f"{longest} is less than {said}: the trainer could not take its sequences")


def _broadcast(components: Components) -> None:
    """The weight broadcast: all know its type; port and time limit matter to nccl alone, which has its ends here."""
    everyone = tuple((name, "weight_broadcast", "type") for name in components.tables)
    components.share(("weight_broadcast", "type"), *everyone)
    if components.get("trainer", "weight_broadcast", "type") == "nccl":
        for key in (("weight_broadcast", "port"), ("weight_broadcast", "timeout")):
            components.share(key, ("trainer", *key), ("orchestrator", *key))
        components.set(("trainer", "weight_broadcast", "host"), "0.0.0.0", "the trainer listens for the service")  # noqa: S104


def _sizes(config: RL, components: Components) -> None:
    """Worker counts and world sizes."""
    gpus, put = config.gpus_per_node, components.set
    workers = config.num_train_nodes * max(gpus, 1)
    follows = f"num_train_nodes x gpus_per_node = {workers}"
    put(("orchestrator", "num_train_workers"), workers, follows, "leave it out")
    components.groups(
        config.num_train_nodes, config.nodes_per_fsdp_group, "num_train_nodes", ("trainer", "model", "dp_replicate")
    )
    if config.inference is None:
        if config.num_infer_nodes:
            what = f"{config.num_infer_nodes} nodes, but there is no [inference] to run on them"
            components.problem(("num_infer_nodes",), what, "write [inference], or num_infer_nodes = 0")
        return
    if not config.num_infer_nodes:
        components.problem(("inference",), "has no nodes: num_infer_nodes = 0", "give it nodes, or leave it out")
        return
    said = {name: components.get("inference", "parallel", name) for name in ("tp", "dp")}
    wrong = [name for name, value in said.items() if value is not None and (type(value) is not int or value < 1)]
    for name in wrong:
        key = ("inference", "parallel", name)
        components.problem(key, f"should be a whole number from 1, not {said[name]!r}")
    if wrong:
        return
    tp, dp = said["tp"] or 1, said["dp"]
    if gpus and dp is None:
        if gpus % tp:
            what = f"{gpus} GPUs of a node do not divide into groups of {tp}"
            components.problem(("inference", "parallel", "tp"), what, "choose a divisor of gpus_per_node")
            return
        dp = gpus // tp
        put(("inference", "parallel", "dp"), dp, f"gpus_per_node / tp = {dp}", "leave it out")
    if gpus and tp * dp > gpus:
        what = f"tp x dp = {tp * dp} GPUs, and a node has gpus_per_node = {gpus}"
        components.problem(("inference", "parallel"), what)
    if components.get("trainer", "weight_broadcast", "type") == "nccl":
        size = config.num_infer_nodes * tp * (dp or 1)
        key = ("trainer", "weight_broadcast", "inference_world_size")
        put(key, size, f"num_infer_nodes x tp x dp = {size}", "leave it out")


def _roles(config: RL, components: Components) -> Table:
    """The roles, in the order in which they take their nodes: first inference, then training."""
    nccl = components.get("trainer", "weight_broadcast", "type") == "nccl"
    free = nccl and components.get("trainer", "weight_broadcast", "port") is None
    roles: Table = {}
    urls: list[str] = []
    if config.inference is not None:
        given_port = components.get("inference", "server", "port")
        port = "{self.port.http}" if given_port is None else str(given_port)
        words = config.commands.inference or ("uv", "run", "inference", "@", "{config}", "--server.port", "{port}")
        roles["inference"] = {
            "kind": "service",
            "replicas": max(config.num_infer_nodes, 1),
            "nodes": 1,
            "command": command(words, "inference", port=port),
            "ready": {"http": f"http://{{self.host}}:{port}/health", "within": "30m"},
            **({"ports": ["http"]} if given_port is None else {}),
        }
        for index in range(config.num_infer_nodes):
            of = f"inference.{index}"
            own = f"{{{of}.port.http}}" if given_port is None else port
            urls.append(f"http://{{{of}.host}}:{own}/v1")
    broadcast = ("--weight_broadcast.port", "{trainer.port.broadcast}") if free else ()
    words = config.commands.trainer or ("uv", "run", "trainer", "@", "{config}", *broadcast)
    roles["trainer"] = {
        "nodes": config.num_train_nodes,
        "launcher": by_torchrun(words),
        "command": command(words, "trainer"),
        "env": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
        **({"ports": ["broadcast"]} if free else {}),
    }
    host = ("--weight_broadcast.host", "{trainer.host}") if nccl else ()
    service = ("--client.base-url", "{urls}") if urls else ()
    words = config.commands.orchestrator or ("uv", "run", "orchestrator", "@", "{config}", *service, *host, *broadcast)
    roles["orchestrator"] = {
        "beside": "trainer",
        "nodes": 1,
        "command": command(words, "orchestrator", urls=as_json(urls)),
        **({"after": ["inference"]} if urls else {}),
    }
    return roles
