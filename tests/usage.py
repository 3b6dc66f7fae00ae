"""Runs with what monitors would have written in them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from gangrun.record.rundir import RunDir

BEGIN = 1_795_200_000.0


def line(**values: Any) -> str:
    return json.dumps(values, separators=(",", ":")) + "\n"


def head(host: str = "node1", **more: Any) -> str:
    values = {"v": 1, "t": BEGIN, "host": host, "every": 15.0, "gpus": 0, "cpus": 8, "mem": 16384, "asked": True}
    return line(**{**values, **more})


def written(folder: Path, *nodes: str, attempt: int = 1) -> RunDir:
    """A run directory whose nodes' files hold these texts."""
    run = RunDir(folder / "exp" / "step_0" / "261121_120000")
    place = run.attempt(attempt).path / "usage"
    place.mkdir(parents=True, exist_ok=True)
    for node, text in enumerate(nodes):
        (place / f"{node}.jsonl").write_text(text)
    return run


def day(node: int, *, gpus: int = 8, replicas: int = 8, hours: float = 24, every: int = 15) -> str:
    """A node as it is through a day: samples that look like none before them."""
    dice = random.Random(node)
    names = [f"trainer.{node * replicas + index}" for index in range(replicas)]
    lines = [
        head(f"node{node}", gpus=gpus, cpus=112, mem=512_000),
        line(t=BEGIN, given={name: [str(index * gpus // replicas)] for index, name in enumerate(names)}),
        line(
            t=BEGIN, devices=[[str(gpu), f"GPU-{node:04}-{gpu}", "NVIDIA H100 80GB HBM3", 81559] for gpu in range(gpus)]
        ),
    ]
    for sample in range(1, int(hours * 3600 / every) + 1):
        use = {
            name: [round(dice.uniform(0, 12), 2), dice.randrange(3000, 8000), round(dice.uniform(0, 300), 1), 0.0]
            for name in names
        }
        rows = [
            [dice.randrange(101), dice.randrange(80), dice.randrange(40_000, 80_000), dice.randrange(40, 80),
             round(dice.uniform(80, 700), 1)]
            for _ in range(gpus)
        ]  # fmt: skip
        job = [round(dice.uniform(2, 90), 2), dice.randrange(30_000, 60_000)]
        lines.append(line(t=BEGIN + sample * every, job=job, r=use, g=rows))
    return "".join(lines)
