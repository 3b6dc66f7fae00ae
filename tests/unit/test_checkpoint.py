"""Which checkpoint is the newest, and what is said where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gangrun.node import checkpoint


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("weights")
    return folder


@pytest.mark.parametrize(
    ("names", "pattern", "chosen"),
    [
        (["model_9.pth", "model_10.pth"], "model_*.pth", "model_10.pth"),
        (["model_0030.pth", "model_best_rfm_31_0.9.pth"], "model_*.pth", "model_0030.pth"),
        (["model_0030.pth", "model_0030_0.pth"], "model_*.pth", "model_0030.pth"),
        (["checkpoints/step-2/a", "checkpoints/step-11/a"], "checkpoints/step-*/", "checkpoints/step-11"),
        (["epoch=2-step=300.ckpt", "epoch=10-step=9.ckpt"], "epoch=*-step=*.ckpt", "epoch=10-step=9.ckpt"),
        (["a/b/model_3.pth", "model_2.pth"], "**/model_*.pth", "a/b/model_3.pth"),
        (["weights.npz"], "weights.npz", "weights.npz"),
        (["model_1.pth", "model_2.pth.part"], "model_*.pth", "model_1.pth"),
    ],
)
def test_newest_is_the_highest_number(tmp_path: Path, names: list[str], pattern: str, chosen: str) -> None:
    folder = make(tmp_path / "a [b]", *names)
    assert checkpoint.newest(folder, pattern.rstrip("/")) == (folder / chosen, "")


def test_an_empty_file_was_never_written(tmp_path: Path) -> None:
    make(tmp_path, "model_1.pth")
    (tmp_path / "model_2.pth").touch()
    assert checkpoint.newest(tmp_path, "model_*.pth") == (tmp_path / "model_1.pth", "")


def test_why_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.found(tmp_path / "no", "m_*") == (None, f"there is no {tmp_path / 'no'}")
    assert checkpoint.found(tmp_path, "m_*") == (None, f"nothing in {tmp_path} is called m_*")
    make(tmp_path, "m_best", "m_last")
    why = f"of m_* in {tmp_path} none has a number for every * and something in it: m_best, m_last"
    assert checkpoint.found(tmp_path, "m_*") == (None, why)
    (tmp_path / "empty").touch()
    assert checkpoint.found(tmp_path / "empty", "m_*") == (None, f"{tmp_path / 'empty'} is empty")


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, checkpoint.__file__, *words], capture_output=True, text=True)


def test_own_checkpoints_come_first(tmp_path: Path) -> None:
    make(tmp_path, "pre/model_9.pth")
    words = ("--own", tmp_path / "own", "model_*.pth", "--from", tmp_path / "pre", "model_*.pth")
    assert run(*words).stdout == f"{tmp_path}/pre/model_9.pth\n"
    make(tmp_path, "own/model_1.pth")
    assert run(*words).stdout == f"{tmp_path}/own/model_1.pth\n"


def test_in_a_first_attempt_nothing_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "own/model_1.pth")
    monkeypatch.setenv("GANGRUN_ATTEMPT", "001")
    assert run("--own", tmp_path / "own", "model_*.pth").stdout == "\n"
    monkeypatch.setenv("GANGRUN_ATTEMPT", "002")
    assert run("--own", tmp_path / "own", "model_*.pth").stdout == f"{tmp_path}/own/model_1.pth\n"


def test_nothing_of_its_own_is_no_failure_and_nothing_to_load_is(tmp_path: Path) -> None:
    first = run("--own", tmp_path, "model_*.pth")
    assert (first.returncode, first.stdout) == (0, "\n")
    second = run("--from", tmp_path, "model_*.pth")
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == f"gangrun: no checkpoint to load: nothing in {tmp_path} is called model_*.pth\n"
