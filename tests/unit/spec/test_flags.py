"""Flags of sbatch as keys of `[allocation]`."""

from __future__ import annotations

from typing import Any

import pytest

from gangrun.errors import UsageError
from gangrun.spec.flags import allocation


@pytest.mark.parametrize(
    ("words", "table"),
    [
        ("", {}),
        ("--cpus-per-task=32 --time=3-00:00:00", {"cpus": 32, "time": "3-00:00:00"}),
        ("-c 32 -t60 -p a100 -N2", {"cpus": 32, "time": "60m", "partition": "a100", "nodes": 2}),
        ("--time 90:30", {"time": "5430s"}),
        ("--gres=gpu:4", {"gpus": 4}),
        ("--gres=gpu", {"gpus": 1}),
        ("--gres=gpu:a100:4", {"gpus": 4, "sbatch": {"gres": "gpu:a100:4"}}),
        ("--gres=gpu:2,nvme:1", {"gpus": 2, "sbatch": {"gres": "gpu:2,nvme:1"}}),
        ("--gpus-per-node=h100:8", {"gpus": 8, "sbatch": {"gres": "gpu:h100:8"}}),
        ("--gpus=8 --nodes=2", {"nodes": 2, "gpus": 4}),
        ("--qos=low --account=me --mem=256gb", {"qos": "low", "account": "me", "mem": "256gb"}),
        ("--exclusive --mail-type=FAIL --hold", {"sbatch": {"exclusive": True, "mail-type": "FAIL", "hold": True}}),
        ("--time=1:00:00 --time=2:00:00", {"time": "2:00:00"}),
    ],
)  # fmt: skip
def test_they_mean(words: str, table: dict[str, Any]) -> None:
    assert allocation(words.split()) == table


@pytest.mark.parametrize(
    "words",
    [
        *("fast", "--", "--time", "--time --mem=1G", "--nodes=1-4", "--gpus=2 --nodes=0"),
        *("--gpus=3 --nodes=2", "--gpus=-1", "-?x"),
    ],
)
def test_they_cannot_mean(words: str) -> None:
    with pytest.raises(UsageError):
        allocation(words.split())
