"""The directory that the processes of a job share, and that the last of them removes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gangrun.node.pool import folder
from gangrun.node.pool.folder import Folder, remove_abandoned


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder, "BASE", tmp_path)
    return tmp_path


def test_the_last_one_out_removes_it(base: Path) -> None:
    one, other = Folder("x"), Folder("x")
    assert one.path == other.path == base / "gangrun-ray-x"
    assert one.path.stat().st_mode & 0o777 == 0o700
    (one.path / "r" / "logs").mkdir(parents=True)
    (one.path / "said").write_text("words")
    (one.path / "latest").symlink_to(base)
    one.leave()
    assert (other.path / "r" / "logs").is_dir()
    other.leave()
    assert list(base.iterdir()) == []


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(base: Path) -> None:
    held = Folder("held")
    if not os.fork():
        Folder("left").path.joinpath("r").mkdir()
        os._exit(0)
    os.wait()
    (base / "gangrun-ray-new").mkdir()  # one that is only about to be held
    (base / "other").mkdir()
    (base / "gangrun-ray-link").symlink_to(base / "other")
    remove_abandoned()
    assert sorted(path.name for path in base.iterdir()) == [
        "gangrun-ray-held",
        "gangrun-ray-link",
        "gangrun-ray-new",
        "other",
    ]
    held.leave()


def test_one_that_is_open_to_others_is_not_taken(base: Path) -> None:
    (base / "gangrun-ray-x").mkdir()
    (base / "gangrun-ray-x").chmod(0o755)
    with pytest.raises(PermissionError, match="not ours alone"):
        Folder("x")
