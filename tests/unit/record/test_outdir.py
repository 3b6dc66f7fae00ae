"""An output directory that is not the run's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from gangrun.errors import InputError, RecordError
from gangrun.record.outdir import OutputDir


def test_what_cannot_be_deleted_is_named(small_disk: Path) -> None:
    (small_disk / "weights").touch()
    with pytest.raises(RecordError) as caught:  # the root of a file system
        OutputDir(small_disk.parent).clean([])
    assert str(small_disk) in str(caught.value)


def test_what_is_to_be_kept_is_looked_for_before_anything_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="--clean would delete"):
        OutputDir(tmp_path).clean([tmp_path / "a"])
    (tmp_path / "elsewhere").symlink_to("/etc")
    OutputDir(tmp_path).clean([Path("/etc")])
    assert not list(tmp_path.iterdir())
    assert Path("/etc/passwd").exists()
