"""What `gangrun gpus` shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.usage import BEGIN, day, head, line, written

from gangrun.views import gpus, gutil
from gangrun.views.figures import aligned, coarse, number, share, size, spark


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def node(host: str) -> str:
    text = head(host, gpus=2) + line(t=BEGIN, devices=[["0", "GPU-a", "H100", 81559], ["1", "GPU-b", "H100", 81559]])
    text += line(t=BEGIN, given={"trainer.0": ["0"]})
    for minute in range(1, 25):
        busy = 100 if minute % 2 else 0
        use = {"trainer.0": [4.0, 9000, 100.0, 1.0]}
        text += line(t=BEGIN + 60 * minute, r=use, g=[[busy, 0, 61000, 64, 600.0], [0, 0, 4, 30, 70.0]])
    return text


def test_one_row_for_each_gpu_and_each_replica(tmp_path: Path) -> None:
    run = written(tmp_path, node("node1"), node("node2") + line(t=BEGIN + 1440, note="nvidia-smi does not answer"))
    shown = gpus.lines(run, gpus.latest(run))
    assert shown[0].startswith("exp_step_0_261121_120000, attempt 1: 00:24:00 watched")
    assert shown[2] == "HOST   GPU  REPLICA    BUSY                      MEAN  NOW   IDLE  MEMORY    OF  POWER  HEAT"
    assert shown[3] == "node1  0    trainer.0  █▁█▁█▁█▁█▁█▁█▁█▁█▁█▁█▁█▁  50 %  0 %   50 %    60 G  80 G  600 W  64 C"
    assert shown[4] == "node1  1    -          ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁   0 %  0 %  100 %     4 M  80 G   70 W  30 C"
    assert shown[8] == "HOST   REPLICA    CPUS                      MEAN  NOW  MOST  OF  MEMORY   READ  WRITTEN"
    assert shown[9] == "node1  trainer.0  ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅   4.0  4.0   4.0   8   8.8 G  141 G    1.4 G"
    assert shown[-1] == "node2: nvidia-smi does not answer"


def test_why_there_are_no_samples(tmp_path: Path) -> None:
    run = written(tmp_path)
    attempt = run.attempt(1)
    assert gpus.lines(run, []) == [f"attempt 1 of {run.run_id} was not watched (monitor = false)"]
    attempt.status.mkdir()
    attempt.lives(gpus.MONITOR).write_text("1 start\n")
    assert gpus.lines(run, []) == [f"no samples of attempt 1 of {run.run_id} yet"]
    attempt.logs.mkdir()
    attempt.log(gpus.MONITOR).write_text("task.sh: line 9: exec: python3: not found\n")
    assert gpus.lines(run, [])[0].endswith("its monitor says: task.sh: line 9: exec: python3: not found")


def test_the_seeds_file(tmp_path: Path) -> None:
    run = written(tmp_path, node("node1"), head("node2"))
    [(name, parts)] = gutil.files(run, 1)
    lines = "".join(parts).splitlines()
    assert name == f"slurm-{run.run_id}.node1.gutil"
    names, units, first, second = (text.split() for text in lines[:4])
    assert names[:7] == ["#Date", "Time", "gpu", "pwr", "gtemp", "mtemp", "sm"]
    assert len(names) == len(units) == len(first) == len(second)
    assert dict(zip(names, first, strict=True)).items() >= {
        "#Date": "20261120", "Time": "18:41:00", "gpu": "0", "pwr": "600", "gtemp": "64", "mtemp": "-", "sm": "100",
        "mem": "0", "fb": "61000", "bar1": "-",
    }.items()  # fmt: skip
    assert second[2:4] == ["1", "70"]


def test_data_for_programs(tmp_path: Path) -> None:
    run = written(tmp_path, day(0, hours=0.1))
    data = gpus.as_data(run, gpus.latest(run))
    [one] = data["nodes"]
    assert (data["attempt"], one["host"], len(one["gpus"]), len(one["replicas"])) == (1, "node0", 8, 8)
    assert one["gpus"][3]["replicas"] == ["trainer.3"]


def test_figures() -> None:
    assert spark([0, 50, 100, None, 120], 100) == "▁▅█·█"
    assert spark([0, 0], 0) == "▁▁"
    assert coarse([1, 3, None, None, 5, 6], 3) == [2, None, 5.5]
    assert coarse([1], 3) == [1, 1, 1]
    assert [size(mib) for mib in (None, 0, 193, 8600, 41_000, 2_000_000)] == [
        "",
        "0 M",
        "193 M",
        "8.4 G",
        "40 G",
        "1,953 G",
    ]
    assert (share(0.384), share(None), number(3.14159), number(655.2, "W")) == ("38 %", "", "3.1", "655 W")
    assert list(aligned([("A", "N"), ("x", "10"), ("xy", "9")], "N")) == ["A    N", "x   10", "xy   9"]
    assert list(aligned([])) == []
