"""What RL and SFT have in common: the keys of the job, and the experiment that they end in."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from gangrun.errors import Problem, SpecError
from gangrun.recipes.components import RUN_DIR, as_text
from gangrun.recipes.given import Given
from gangrun.script.quote import literal
from gangrun.spec.load import Experiment, Source, dotted, experiment_of, idle_venv, locate, merge
from gangrun.spec.model import Count, Flags, Line, Memory, Positive, Text, Walltime, verbatim
from gangrun.spec.toml import Key, Table

TEMPLATES: tuple[Key, ...] = (("slurm", "template_path"), ("template_path",), ("slurm_template",))
"""The keys that a template of one's own is known by."""


CHECKPOINTS = "checkpoints/step_*"
"""What trainers leave in the output directory."""

Own = Annotated[dict[str, Any], Field(default_factory=dict)]
"""A table that is passed on as it is."""


class Config(BaseModel):
    """Base of the tables here."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, coerce_numbers_to_str=True)


class Slurm(Config):
    """What the job asks for besides nodes and GPUs, and its template."""

    template_path: Text | None = None
    """A Jinja2 template of your own for the job's script, relative to the file that says it."""
    partition: Line | None = None
    """Partition, or an alias that the cluster's profile knows."""
    qos: Line | None = None
    """Quality of service."""
    account: Line | None = None
    """Account to charge."""
    time: Walltime | None = None
    """Time limit."""
    cpus: Positive | None = None
    """CPUs on each node; without it the job has its nodes to itself, with all of their CPUs."""
    mem: Memory | None = None
    """Memory on each node."""
    sbatch: Flags = {}
    """Any other sbatch flag by its long name; `false` takes one of ours away."""


class Training(Config):
    """The keys that RL and SFT share."""

    job_name: Text | None = None
    """Name of the job, by default the first file's: the step in the run's name."""
    output_dir: Text | None = None
    """Directory for outputs, relative to `project_dir`; by default the run's own directory."""
    project_dir: Text | None = None
    """Where commands start, and where `.env` and `.venv` are looked for; by default where you type."""
    gpus_per_node: Count = 8
    """GPUs on each node."""
    nodes_per_fsdp_group: Positive | None = None
    """Training nodes in each FSDP group; sets the trainer's `dp_replicate`."""
    template_path: Text | None = None
    """The same as `slurm.template_path`."""
    slurm_template: Text | None = None
    """The same as `slurm.template_path`."""
    dry_run: bool = False
    """Write everything, send nothing."""
    hf_hub_offline: bool = False
    """Set HF_HUB_OFFLINE=1 on the training nodes."""
    cluster: Line | None = None
    """Profile of the cluster; by default the one that is found here, else `local`."""
    slurm: Slurm = Slurm()
    """What the job asks for, and its template."""
    gangrun: Own
    """Any key of an experiment file but those of sweeps, laid over what the recipe makes."""


@dataclass(frozen=True, slots=True)
class Job:
    """The experiment that a configuration ends in, and what is to be done with it."""

    experiment: Experiment
    script: str
    """Name of the script in the output directory."""
    output_dir: Path | None
    """An output directory outside of the record; None where it is the run's own."""
    logs: tuple[str, ...]
    """Names of the logs to look at, without `latest_` and `.log`."""
    dry_run: bool


class Setting:
    """The places of a job: its project, its outputs, its template."""

    def __init__(self, config: Training, given: Given, name: str) -> None:
        self.config, self.given = config, given
        self.file = Path(given.file or f"{name}.toml")
        self.name = config.job_name or self.file.stem
        self.project_dir = Path(config.project_dir or "").expanduser().absolute()
        self.output_dir: Path | None = None
        if config.output_dir is not None:
            self.output_dir = Path(os.path.normpath(self.project_dir / Path(config.output_dir).expanduser()))
        self.path = str(self.output_dir or RUN_DIR)
        """The output directory, as the components' files name it."""

    def template(self) -> tuple[str | None, list[Problem]]:
        """The template of one's own, and what is wrong with it."""
        keys = [key for key in TEMPLATES if self.given.at(*map(str, key)) is not None]
        paths = {key: str(self.given.at(*map(str, key))) for key in keys}
        problems = [
            self.problem(key, f"{paths[key]!r} conflicts with {dotted(keys[0])} = {paths[keys[0]]!r}", "keep one")
            for key in keys[1:]
            if paths[key] != paths[keys[0]]
        ]
        problems += [
            self.problem(key, f"there is no file {path}") for key, path in paths.items() if not Path(path).is_file()
        ]
        return (paths[keys[0]] if keys else None), problems

    def problem(self, key: Key, what: str, way_out: str = "") -> Problem:
        """A problem at the place of this key."""
        return locate(self.given.sources, str(self.file), key, what, way_out)

    def variables(self, **more: int) -> Table:
        """What a template of one's own may use."""
        out = verbatim(self.path) if self.output_dir else RUN_DIR
        return {
            "job_name": verbatim(self.name),
            "project_dir": verbatim(str(self.project_dir)),
            "output_dir": out,
            "orchestrator_output_dir": f"{out}/run_default",
            "config_dir": f"{out}/configs",
            "gpus_per_node": self.config.gpus_per_node,
            "hf_hub_offline": self.config.hf_hub_offline,
            **more,
        }

    def setup(self, logs: dict[str, str]) -> Table:
        """What prepares the job: the project's environment, limits, the fabric, and links to the logs by replica."""
        folder = f"{literal(str(self.output_dir))}/slurm" if self.output_dir else '"$RUN_DIR"/slurm'
        pairs = " ".join(f"{replica}={name}" for replica, name in logs.items())
        links = [
            f"mkdir -p -- {folder} && links=({pairs})",
            'for link in "${links[@]}"; do',
            f'  ln -sfn -- "$RUN_DIR/attempts/latest/logs/${{link%%=*}}.log" {folder}/latest_"${{link#*=}}".log',
            "done",
            *(
                [f'ln -sfn -- {literal(f"{self.output_dir}/checkpoints")} "$RUN_DIR"/checkpoints']
                if self.output_dir
                else []
            ),
        ]
        setup: Table = {"lines": [ENVIRONMENT, LIMITS, FABRIC, "\n  ".join(links)]}
        if venv := idle_venv(self.project_dir):
            setup["venv"] = str(venv)
        return setup

    def going_on(self, values: Table, tables: Table, *names: str) -> None:
        """Lets a later attempt that finds a checkpoint go on from the last one: the components of these names get a
        configuration of their own for it, by the command that they have."""
        values["resume"] = {"glob": CHECKPOINTS}
        for name in names:
            ckpt = tables[name].get("ckpt", {})
            if self.given.at("gangrun", "roles", name, "command") is not None or not isinstance(ckpt, dict):
                continue
            role, file = values["roles"][name], f"configs/resumed/{name}.toml"
            again = [word.replace(f"{RUN_DIR}/configs/{name}.toml", f"{RUN_DIR}/{file}") for word in role["command"]]
            if again != role["command"]:
                role["resume_command"] = again
                values["files"][file] = as_text({**tables[name], "ckpt": {**ckpt, "resume_step": -1}})

    def allocation(self, nodes: int) -> Table:
        """`[allocation]`: whole nodes, as they are, unless it is said how many CPUs are enough."""
        asked = self.given.at("slurm", default={})
        own: Table = {"nodes": nodes, "gpus": self.config.gpus_per_node}
        own.update({key: value for key, value in asked.items() if key not in ("template_path", "sbatch")})
        alone = {} if "cpus" in asked else {"exclusive": True}
        return {**own, "sbatch": {**alone, **asked.get("sbatch", {})}}

    def experiment(self, values: Table, nodes: Key, problems: list[Problem]) -> Experiment:
        """The experiment of what the recipe has made, with `[gangrun]` over it. Raises SpecError."""
        template, more = self.template()
        if problems or more:
            raise SpecError(sorted([*problems, *more], key=lambda one: (one.file, one.line)))
        config = self.config
        values = {"step": self.name, "workdir": str(self.project_dir), **values}
        if config.cluster is not None:
            values["cluster"] = config.cluster
        if template is not None:
            values["template"] = template
        if config.hf_hub_offline:
            for name in {"trainer", "orchestrator"} & values["roles"].keys():
                values["roles"][name]["env"] = {**values["roles"][name].get("env", {}), "HF_HUB_OFFLINE": "1"}
        sources: dict[Key, Source] = {}
        for key, at in {
            ("step",): ("job_name",),
            ("workdir",): ("project_dir",),
            ("cluster",): ("cluster",),
            ("template",): next((key for key in TEMPLATES if key in self.given.sources), ()),
            ("allocation",): ("slurm",),
            ("allocation", "nodes"): nodes,
            ("allocation", "gpus"): ("gpus_per_node",),
        }.items():
            if at in self.given.sources:
                sources[key] = _renamed(self.given.sources[at], at)
        over: dict[Key, Source] = {}
        for at, source in self.given.sources.items():
            if at[0] == "slurm" and len(at) > 1:
                sources[("allocation", *at[1:])] = _renamed(source, at)
            if at[0] == "gangrun" and len(at) > 1:
                over[at[1:]] = _renamed(source, at)
        values, sources = merge(values, sources, config.gangrun, over)
        made = experiment_of(values, self.file, sources)
        _refuse_items(made)
        return made


def _refuse_items(made: Experiment) -> None:
    """Raises SpecError for tables of `[gangrun]` that are about the items of a sweep."""
    for table in ("sweep", "pool", "campaign"):
        if getattr(made.spec, table) is not None:
            key = next((key for key in made.sources if key[:1] == (table,)), (table,))
            way_out = "call it once for each, with the flags that differ"
            raise SpecError([made.problem(key, "is about many items, and this is one job", way_out)])


def command(words: Sequence[str], config: str, **known: str) -> list[str]:
    """A component's command with `{config}`, the path of its configuration, and further names filled in."""
    filled = []
    for word in words:
        for name, value in {"config": f"{RUN_DIR}/configs/{config}.toml", **known}.items():
            word = word.replace(f"{{{name}}}", value)  # noqa: PLW2901
        filled.append(word)
    return filled


def by_torchrun(words: Sequence[str]) -> Table:
    """The launcher for the trainer's command, which may begin with a script, with -m, or with a program."""
    plain = words[0] == "-m" or words[0].endswith(".py")
    return {"type": "torchrun", **({} if plain else {"no_python": True})}


def as_json(words: list[str]) -> str:
    """A list as one word that pydantic's and other command lines read as a list."""
    return json.dumps(words)


def _renamed(source: Source, key: Key) -> Source:
    return Source(source.file, source.line, dotted(key))


ENVIRONMENT = "if [[ -f .env ]]; then set -a && source ./.env && set +a; fi"
"""The project's variables, read where the job runs, so that no secret is in the script."""
LIMITS = 'ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)" # files open at once'
FABRIC = """\
# NCCL_IB_HCA: the InfiniBand ports that are up here, if there are any and nobody has chosen.
infiniband() {
  local port state layer found=''
  for port in "$1"/class/infiniband/*/ports/*; do
    [[ -r $port/state ]] || continue
    read -r state <"$port/state" || continue
    read -r layer <"$port/link_layer" || continue
    [[ $layer == InfiniBand && $state == *ACTIVE* ]] || continue
    found+=,$(basename "${port%/ports/*}"):${port##*/}
  done
  [[ -z $found || -n ${NCCL_IB_HCA:-} ]] || export NCCL_IB_HCA="=${found#,}"
}
infiniband /sys""".replace("\n", "\n  ")
